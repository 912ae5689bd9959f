"""What training takes, drawn: memory, and speed against arithmetic."""

from dataclasses import replace

import pytest
from bench_records import H200, bench, contender
from matplotlib.figure import Figure
from run_folders import write_run

from harness.records.bench_record import Floor
from harness.records.evidence import Count, Counts, Evidence, gather
from harness.records.schema import Device
from harness.report.drawing.sheet import Drawing
from harness.report.figures import memory, speed_cost

A100 = Device(name="NVIDIA A100", kind="cuda", count=1, threads=16)
METHODS = ("dit", "maskdit", "mdt", "sddit")


@pytest.fixture
def every_method(run_folder, tmp_path) -> Evidence:
    """The four methods with seeds 1 and 2 on a CPU."""
    for method in METHODS:
        for seed in (1, 2):
            run_folder(method, seed=seed, speed=10.0 + seed)
    return gather([tmp_path])


def points_of(figure: Figure) -> list[dict[str, tuple[list[float], list[float]]]]:
    """For each axes: named markers and where they are."""
    found = [{line.get_gid(): line.get_data() for line in axes.get_lines() if line.get_gid()} for axes in figure.axes]
    return [{name: (list(x), list(y)) for name, (x, y) in lines.items()} for lines in found if lines]


def bars_of(figure: Figure) -> list[dict[str, list[float]]]:
    found = []
    for axes in figure.axes:
        bars: dict[str, list[float]] = {}
        for patch in axes.patches:
            if patch.get_gid():
                bars.setdefault(patch.get_gid(), []).append(patch.get_width())
        found.append(bars)
    return found


def told(drawing: Drawing) -> str:
    return " ".join(drawing.notes)


# Memory ----------------------------------------------------------------------------------------------------------


def test_kinds_of_memory_and_devices_never_share_axes(run_folder, tmp_path):
    for device, method, seed, gigabytes in (
        (H200, "dit", 0, 4),
        (H200, "dit", 1, 5),
        (H200, "sddit", 0, 7),
        (A100, "dit", 0, 5),
    ):
        peak = {"peak_memory_bytes": gigabytes * 10**9, "peak_memory_kind": "device allocated"}
        write_run(tmp_path / "runs" / device.name, method, seed=seed, device=device, **peak)
    write_run(tmp_path / "runs" / "whole", "dit", seed=2, device=H200)
    run_folder("dit")  # on a CPU: the whole process
    timed = bench(entries=(contender(peak_allocated_bytes=3 * 10**9),))
    drawing = memory.make(replace(gather([tmp_path / "runs"]), benches=(timed,)))
    measured = [row for row in drawing.rows if row["quality"] == "measured"]
    panels = {row["panel"]: (row["kind"], row["device"]) for row in measured}
    assert sorted(panels.values()) == [
        ("bench, device allocated", "NVIDIA H200"),
        ("device allocated", "NVIDIA A100"),
        ("device allocated", "NVIDIA H200"),
        ("process RSS", "Intel Xeon Processor, 2 threads"),
        ("process RSS", "NVIDIA H200"),
    ]
    assert {(row["label"], row["gigabytes"], row["n"]) for row in measured if row["device"] == "NVIDIA H200"} == {
        ("DiT", 4.5, 2),
        ("SD-DiT", 7.0, 1),
        ("dit-s cached", 3.0, 1),
        ("DiT", 0.9, 1),
    }


def test_bars_are_the_csv(every_method):
    drawing = memory.make(every_method)
    drawn = [(name, width) for bars in bars_of(drawing.figure) for name, widths in bars.items() for width in widths]
    assert sorted(drawn) == sorted((f"bar/{row['label']}", row["gigabytes"]) for row in drawing.rows)


def test_digitised_memory_is_hatched_and_an_unprinted_one_is_named_but_not_drawn(every_method):
    drawing = memory.make(every_method)
    qualities = {(row["label"], row["gigabytes"]): row["quality"] for row in drawing.rows}
    for axes in drawing.figure.axes:
        for patch in axes.patches:
            if patch.get_gid():
                quality = qualities[patch.get_gid().removeprefix("bar/"), patch.get_width()]
                assert (patch.get_hatch() is not None) == (quality == "digitised")
    assert ("SD-DiT-XL/2", 45.0) in qualities
    assert "Not shown: MDT-XL/2 (SD-DiT App.B)" in told(drawing)


def test_groups_of_bars_beyond_the_room_are_counted(run_folder, tmp_path):
    for batch in range(1, memory.MAX_PANELS + 3):
        run_folder("dit", protocol={"batch_size": batch})
    drawing = memory.make(gather([tmp_path]))
    assert sum(row["quality"] == "measured" for row in drawing.rows) == memory.MAX_PANELS
    assert "2 more groups" in told(drawing)


# Speed against arithmetic ----------------------------------------------------------------------------------------


def test_every_point_lies_at_its_arithmetic_and_speed_on_the_axes_of_its_device(every_method, run_folder, tmp_path):
    run_folder("dit", device=A100, speed=100.0)
    evidence = replace(gather([tmp_path]), benches=(bench(entries=(contender(), contender("mdt-s", gmacs=33.0))),))
    drawing = speed_cost.make(evidence)
    drawn = points_of(drawing.figure)
    expected = [
        {f"{row['source']}/{row['name']}": ([row["gmacs_per_image"]], [row["images_per_sec"]]) for row in rows}
        for panel in dict.fromkeys(row["panel"] for row in drawing.rows)
        if (rows := [row for row in drawing.rows if row["panel"] == panel])
    ]
    assert drawn == expected
    assert [len(points) for points in drawn] == [2, 1, len(METHODS), 2]  # H200, A100, the CPU, published DiT and MDT
    dit = next(row for row in drawing.rows if row["source"] == "run" and row["method"] == "dit" and row["n"] == 2)
    assert dit["images_per_sec"] == pytest.approx(11.5 * 64)  # of seeds 1 and 2
    assert dit["gmacs_per_sec"] == pytest.approx(0.06 * 11.5 * 64)


def test_the_ceiling_is_half_the_measured_operations_as_one_multiply_accumulate_is_two(tmp_path):
    drawing = speed_cost.make(Evidence(benches=(bench(entries=(contender(),), flops=100e9),)))
    measured = [row for row in drawing.rows if row["source"] == "bench"]
    assert [row["ceiling_gmacs_per_sec"] for row in measured] == [50.0]
    assert [(row["low"], row["images_per_sec"], row["high"]) for row in measured] == [(1, 2, 4)]


def test_published_speeds_stand_at_the_counted_arithmetic_with_the_ratio_that_follows():
    counted = {
        f"{method}-s": Count(params=1, gmacs_forward=1, gmacs_step=g) for method, g in (("dit", 10), ("sddit", 40))
    }
    drawing = speed_cost.make(Evidence(counts=(Counts(harness_version="0", recipes=counted),)))
    assert {(row["method"], row["gmacs_per_image"], row["images_per_sec"]) for row in drawing.rows} == {
        ("dit", 10, 5.03 * 256),
        ("sddit", 40, 9.2 * 256),
    }
    assert f"{5.03 * 10 / (9.2 * 40):.2f} times" in told(drawing)
    assert "not counted here: MDT-S/2" in told(drawing)
    assert "Not shown: MaskDiT-S/2" in told(drawing)
    for axes in drawing.figure.axes:
        assert all(line.get_markerfacecolor() == "white" for line in axes.get_lines() if line.get_gid())


def test_without_a_count_no_published_speed_is_drawn_and_the_note_says_how_to_count():
    drawing = speed_cost.make(Evidence(benches=(bench(entries=(contender("dit-tiny"),)),)))
    assert not [row for row in drawing.rows if row["source"] == "published"]
    assert "harness recipes count" in told(drawing)


def test_a_step_that_encodes_counts_its_vae_or_has_no_point():
    floor = Floor(of="ceilings measured here", arithmetic_seconds=6.0, memory_seconds=1, seconds=6.0)
    online = {"pipeline": "online-vae", "gmacs": 18.0}
    mixed = contender().conditions | {"pipeline": "online-vae", "precision": "bf16"}  # the VAE's products are fp32
    entries = (
        contender(**online, name="told", gmacs_vae=100.0),
        contender(**online, name="in the floor", floors=[floor]),
        contender(**online, name="unknown"),
        contender(**online, name="of two rates", floors=[floor], conditions=mixed),
    )
    timed = bench(entries=entries).model_copy(update={"matrix_flops_per_second": {"fp32": 100e9, "bf16": 500e9}})
    drawing = speed_cost.make(Evidence(benches=(timed,)))
    placed = {row["name"]: row["gmacs_per_image"] for row in drawing.rows if row["source"] == "bench"}
    assert placed == {"told": 118.0, "in the floor": pytest.approx(6.0 * 50 / 2)}  # seconds x 50 GMAC/s, of two images
    assert "Not drawn: 2 contenders that encode in the step" in told(drawing)


def test_code_whose_arithmetic_is_not_modelled_is_counted_but_has_no_point():
    foreign = contender(gmacs=None, name="official", conditions={"code": "facebookresearch/DiT"})
    drawing = speed_cost.make(Evidence(benches=(bench(entries=(contender(), foreign)),)))
    assert "official" not in {row["name"] for row in drawing.rows}
    assert "1 contenders of other code" in told(drawing)
