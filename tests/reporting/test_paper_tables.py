import math
import statistics
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import pytest
from claim_worlds import A100
from run_folders import XEON, write_run

from harness.papers.sddit import numbers as published
from harness.recipes.reading import load_recipe
from harness.records.evidence import Evidence
from harness.records.folders.departures import knob_defaults
from harness.records.store import Run, load_run
from harness.records.trials import settings
from harness.reporting.tables import paper_settings
from harness.reporting.tables.paper_tables import context, tables
from harness.reporting.tables.table import Table

NUMBER = count()
OF_DIGITS = ("fd-digits@1k", "sfd-digits@1k", "is-digits@1k", "precision-digits@1k")


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory) -> Path:
    run.root = tmp_path_factory.mktemp("runs")


def run(
    method: str = "sddit",
    size: str = "s",
    *,
    seed: int = 0,
    fid: float = 50.0,
    metrics: Mapping[str, float] | None = None,
    at: Mapping[int, float] | None = None,
    knobs: Mapping[str, object] | None = None,
    protocol: Mapping[str, object] | None = None,
    sampling: Mapping[str, object] | None = None,
) -> Run:
    """A finished run as its recipe makes it; `at` are FIDs of evaluations before the last step."""
    recipe = load_recipe(f"{method}-{size}").document
    defaults = {name: value for name, (value, _) in knob_defaults(method).items()}
    folder = write_run(
        run.root / str(next(NUMBER)),
        method,
        size=size,
        seed=seed,
        distance=fid,
        metrics=metrics,
        milestones=at,
        knobs={**defaults, **recipe["knobs"], **(knobs or {})},
        protocol={**recipe["protocol"], **(protocol or {})},
        evaluation={**recipe["sampling"], **(sampling or {})},
        device=XEON if size == "tiny" else A100,
        world_size=1 if size == "tiny" else 8,
    )
    return load_run(folder)


def evidence(*runs: Run) -> Evidence:
    found, left_out = settings(runs)
    assert not left_out
    return Evidence(tuple(runs), tuple(found))


def rows(table: Table, **where: object) -> list[dict]:
    """The rows of a table with these cells, without their empty ones."""
    wanted = {name.replace("_", " "): value for name, value in where.items()}
    found = [
        {name: cell for name, cell in row.items() if cell is not None and cell == cell}
        for row in table.frame.to_dict("records")
    ]
    return [row for row in found if all(row.get(name) == value for name, value in wanted.items())]


def shown(table: Table, column: str, **where: object) -> list[str]:
    """The column as a reader sees it, of the rows with these cells."""
    kept = [row in rows(table, **where) for row in rows(table)]
    return list(table.shown[column][kept])


# Tables 1 and 2 --------------------------------------------------------------------------------------------------


def test_every_published_value_appears_as_the_paper_prints_it():
    table1, table2, table3, _ = tables(Evidence())
    assert shown(table1, "Published") == (
        ["68.40", "53.46", "48.39", "43.47", "34.33", "28.62", "9.62", "12.15", "9.60", "9.66", "9.01"]
    )
    assert shown(table3, "Published") == ["53.72", "62.84", "58.92"]
    metrics = [row["Metric"] for row in rows(table2, Model="SD-DiT-XL/2")]
    assert dict(zip(metrics, shown(table2, "Published", Model="SD-DiT-XL/2"), strict=True)) == {
        "FID-50K": "7.21",
        "sFID": "5.17",
        "IS": "144.68",
        "Precision": "0.72",
        "Recall": "0.61",
    }
    assert shown(table2, "Published", Model="VQGAN") == ["15.78", "78.3"]
    assert len(table2.frame) == len(published.table("2"))
    assert all(row["Source"].startswith("arXiv:2403.17004v1 Table ") for row in (*rows(table1), *rows(table2)))


def test_three_seeds_stand_beside_the_published_value_with_mean_spread_and_difference():
    fids = (47.0, 49.5, 50.2)
    table1 = tables(evidence(*(run(seed=seed, fid=fid) for seed, fid in enumerate(fids))))[0]
    (row,) = rows(table1, Model="SD-DiT-S/2")
    mean = statistics.fmean(fids)
    assert row["n"] == 3
    assert row["Measured"] == pytest.approx(mean)
    assert row["Measured, SD"] == pytest.approx(statistics.stdev(fids))
    assert row["Difference"] == pytest.approx(mean - 48.39)
    assert row["Difference, %"] == pytest.approx(100 * (mean - 48.39) / 48.39)
    assert row["Comparable"] == "yes"
    assert shown(table1, "Measured", Model="SD-DiT-S/2") == ["48.9 ± 1.7"]
    assert shown(table1, "Difference", Model="SD-DiT-S/2") == ["+0.51"]


def test_one_seed_has_no_spread_and_what_was_not_measured_says_so_and_has_no_numbers():
    table1 = tables(evidence(run("dit", fid=70.0)))[0]
    (row,) = rows(table1, Model="DiT-S/2")
    assert (row["n"], "Measured, SD" in row, shown(table1, "Measured", Model="DiT-S/2")) == (1, False, ["70"])
    (row,) = rows(table1, Model="SD-DiT-S/2")
    assert row["Comparable"] == "not measured"
    assert not {"Measured", "n", "Difference"} & row.keys()


@pytest.mark.parametrize(
    ("different", "why"),
    [
        ({"protocol": {"precision": "tf32"}}, "no: precision tf32 instead of fp32"),
        ({"knobs": {"num_prototypes": 4096}}, "no: num_prototypes 4096 instead of 8192"),
        ({"sampling": {"num_steps": 18}}, "no: sampler steps 18 instead of 40"),
    ],
)
def test_a_run_of_the_same_size_and_steps_tells_what_else_differs(different, why):
    (row,) = rows(tables(evidence(run(**different)))[0], Model="SD-DiT-S/2")
    assert row["Comparable"] == why
    assert row["Difference"] == pytest.approx(50.0 - 48.39)


@pytest.mark.parametrize(
    ("different", "why"),
    [
        ({"protocol": {"steps": 100_000}}, "no: steps 100000 instead of 400000"),
        ({"protocol": {"batch_size": 1024}}, "no: batch 1024 instead of 256"),
        ({"sampling": {"guidance_scale": 1.5}}, "no: guidance 1.5 instead of none"),
        ({"size": "l"}, "no: network L/2 instead of S/2, B/2 or XL/2"),
    ],
)
def test_a_run_of_other_steps_batch_guidance_or_size_has_its_own_row_without_a_difference(different, why):
    table1 = tables(evidence(run(**different)))[0]
    (published_row,) = rows(table1, Model="SD-DiT-S/2", Setting="ImageNet 256")
    assert "Measured" not in published_row
    (own,) = [row for row in rows(table1) if "Measured" in row]
    assert own["Comparable"] == why
    assert not {"Published", "Difference", "Difference, %"} & own.keys()


def test_another_data_set_and_metric_keep_their_name_and_are_subtracted_from_nothing():
    table1, table2, _, _ = tables(evidence(run("dit", "tiny", fid=1.4), run("sddit", "tiny", fid=0.9)))
    own = [row for row in rows(table1) if "Measured" in row]
    assert [(row["Model"], row["Metric"], row["Measured"]) for row in own] == [
        ("DiT-tiny/2", "fd-digits@1k", 1.4),
        ("SD-DiT-tiny/2", "fd-digits@1k", 0.9),
    ]
    for row in own:
        assert not {"Published", "Difference", "Difference, %"} & row.keys()
        assert row["Comparable"].startswith("no: data digits instead of ImageNet 256; also metric, network, steps")
    assert "data digits instead of ImageNet 256" in table1.caption
    assert {row["Metric"] for row in rows(table2) if "Measured" in row} == set(OF_DIGITS)


def test_runs_that_differ_in_more_than_their_seed_are_never_averaged():
    mixed = evidence(run(seed=0, fid=40.0), run(seed=1, fid=60.0, sampling={"num_steps": 18}), run("dit", seed=0))
    found = rows(tables(mixed)[0], Model="SD-DiT-S/2")
    assert sorted((float(row["Measured"]), row["n"]) for row in found) == [(40.0, 1), (60.0, 1)]


def test_rows_of_one_model_that_differ_in_a_knob_say_in_which():
    alike = evidence(run("maskdit", "tiny", seed=0), run("maskdit", "tiny", seed=1, knobs={"mae_weight": 0.5}))
    models = [row["Model"] for row in rows(tables(alike)[0]) if "Measured" in row]
    assert models == ["MaskDiT-tiny/2 (mae_weight 0.1)", "MaskDiT-tiny/2 (mae_weight 0.5)"]


def test_runs_of_the_ablations_are_not_the_methods_result():
    table1 = tables(evidence(run(knobs={"mask_ratio": 0.5}), run(knobs={"teacher_sigma": 0.3})))[0]
    assert not [row for row in rows(table1) if "Measured" in row]


def test_an_evaluation_on_the_way_stands_beside_the_value_of_its_steps():
    longer = [run(size="xl", seed=seed, fid=7.0 + seed, at={1_100_000: 9.5 + seed, 1_300_000: 9.0}) for seed in (0, 1)]
    table1, table2, _, _ = tables(evidence(*longer))
    measured = {(row["Model"], row["Training steps"]): row for row in rows(table1) if "Measured" in row}
    at_1100k = measured["SD-DiT-XL/2", 1_100_000]
    assert at_1100k["Difference"] == pytest.approx(10.0 - 9.66)
    assert at_1100k["Comparable"] == "yes, within runs of 2,400,000 steps"
    assert float(measured["SD-DiT-XL/2", 2_400_000]["Measured"]) == 7.5  # which Table 1 does not print
    (row,) = rows(table2, Model="SD-DiT-XL/2", Metric="FID-50K")
    assert (row["Difference"], row["Comparable"]) == (pytest.approx(7.5 - 7.21), "yes")


def test_each_metric_of_table_2_is_compared_with_its_own():
    found = {"fid50k": 7.5, "sfid50k": 5.0, "is50k": 140.0, "precision50k": 0.7, "recall50k": 0.6, "kid50k": 1.0}
    table2 = tables(evidence(run(size="xl", metrics=found)))[1]
    differences = {row["Metric"]: row["Difference"] for row in rows(table2) if "Difference" in row}
    assert differences == pytest.approx(
        {"FID-50K": 0.29, "sFID": -0.17, "IS": -4.68, "Precision": -0.02, "Recall": -0.01}, abs=1e-9
    )
    assert len(table2.frame) == len(published.table("2"))  # KID is not of this table


def test_like_metrics_stand_together_in_table_2():
    metrics = [row["Metric"] for row in rows(tables(evidence(run("dit", "tiny")))[1])]
    blocks = [metric for i, metric in enumerate(metrics) if i == 0 or metrics[i - 1] != metric]
    assert blocks == ["FID-50K", "sFID", "IS", "Precision", "Recall", *OF_DIGITS]


def test_mdt_without_its_relative_positions_is_not_the_papers_mdt():
    table1 = tables(evidence(run("mdt", knobs={"relative_position": False}, fid=55.0)))[0]
    (row,) = rows(table1, Model="MDT-S/2")
    assert row["Comparable"] == "no: relative_position False instead of True"


# Table 3 ---------------------------------------------------------------------------------------------------------


def components(size: str, full: Mapping[int, float], without_loss: Mapping[int, float], **more) -> list[Run]:
    half = {"mask_ratio": 0.5}
    return [
        *(run(size=size, seed=seed, fid=fid, knobs=half, **more) for seed, fid in full.items()),
        *(
            run(size=size, seed=seed, fid=fid, knobs={**half, "discriminate": False}, **more)
            for seed, fid in without_loss.items()
        ),
    ]


def test_the_ratio_to_the_full_method_is_paired_by_seed():
    runs = components("tiny", {0: 1.0, 1: 2.0, 2: 4.0}, {1: 3.0, 2: 5.0, 3: 99.0})
    table3 = tables(evidence(*runs))[2]
    row = next(row for row in rows(table3) if row.get("Metric") == "fd-digits@1k" and "w/o L_D" in row["Component"])
    assert row["Pairs"] == 2
    assert row["n"] == 3
    mean = math.sqrt(1.5 * 1.25)
    assert row["Measured / full"] == pytest.approx(mean)
    assert row["Measured / full, SD"] == pytest.approx(mean * statistics.stdev((math.log(1.5), math.log(1.25))))
    assert row["Published / full"] == pytest.approx(62.84 / 53.72)
    assert "Published" not in row
    assert "Difference" not in row
    assert row["Comparable"].startswith("no: data digits")
    assert "discriminate" not in row["Comparable"]


def test_components_at_the_papers_scale_stand_beside_its_values():
    table3 = tables(evidence(*components("s", {0: 54.0}, {0: 60.0})))[2]
    full, without_loss, without_mask = rows(table3)
    assert (full["Difference"], full["Comparable"]) == (pytest.approx(54.0 - 53.72), "yes")
    assert without_loss["Measured / full"] == pytest.approx(60 / 54)
    assert (without_mask["Comparable"], without_mask.get("Measured")) == ("not measured", None)


def test_components_of_other_steps_are_not_mixed():
    shorter = components("tiny", {0: 9.0}, {}, protocol={"steps": 100})
    table3 = tables(evidence(*components("tiny", {}, {0: 3.0}), *shorter))[2]
    own = [row for row in rows(table3) if row["Metric"] == "fd-digits@1k" and "Measured" in row]
    assert sorted((row["Training steps"], row["Pairs"]) for row in own) == [(100, 1), (1000, 0)]


# Table 4 ---------------------------------------------------------------------------------------------------------


def test_the_recipes_have_the_values_of_table_4():
    table4 = tables(Evidence())[3]
    printed = [row for row in rows(table4) if row["Source"].startswith("arXiv:2403.17004v1 Table 4")]
    assert {row["Key"]: row["Recipe as paper"] for row in printed if "Key" in row} == dict.fromkeys(
        (
            "protocol.batch_size",
            "protocol.learning_rate",
            "protocol.steps",
            "protocol.betas",
            "knobs.teacher_momentum",
            "knobs.student_temperature",
            "knobs.teacher_temperature",
            "knobs.teacher_temperature_epochs",
        ),
        "yes",
    )
    steps = [(row["Sizes"], row["Paper"], row["Recipe"]) for row in rows(table4, Key="protocol.steps")]
    assert steps == [("S/2, B/2", "400k", "400,000"), ("XL/2", "2400k", "2,400,000")]


def test_what_the_paper_does_not_say_is_told_as_assumed():
    (row,) = rows(tables(Evidence())[3], Key="knobs.decoder_heads")
    assert (row["Paper"], row["Recipe"], row["Recipe as paper"]) == ("not stated", "16", "not stated")
    assert row["Recipe's source"].startswith("assumed: ")


def test_runs_tell_their_own_values_and_why_they_are_not_the_papers():
    runs = [run(size="tiny", seed=seed) for seed in (0, 1)] + [run(size="tiny", protocol={"batch_size": 256})]
    (batch,) = rows(tables(evidence(*runs))[3], Key="protocol.batch_size")
    assert batch["Runs"] == "tiny: 64 (2 runs); tiny: 256 (1 run)"
    assert batch["Runs as paper"] == "in part: chosen for the demo"
    (momentum,) = rows(tables(evidence(*runs))[3], Key="knobs.teacher_momentum")
    assert momentum["Runs as paper"] == "yes"
    asked = tables(evidence(run(size="tiny", protocol={"learning_rate": 0.5})))[3]
    assert rows(asked, Key="protocol.learning_rate")[0]["Runs as paper"] == "no: asked for 0.5"


@pytest.mark.parametrize(
    ("printed", "value", "verdict"),
    [
        ("400k", 400_000, "yes"),
        ("1e-4", 0.0001, "yes"),
        ("from 0.996 to 0.999", [0.996, 0.999], "yes"),
        ("from 0.996 to 0.999", [0.999, 0.996], "no: 0.999, 0.996 instead of from 0.996 to 0.999"),
        ("8192", 256, "no: 256 instead of 8192"),
        ("second-order Heun", "heun", "yes"),
        ("ImageNet-1K, 256 x 256", "digits", "worded otherwise"),
        ("sigma_min", 0.002, "worded otherwise"),
        ("not stated", 3, "not stated"),
    ],
)
def test_a_printed_text_and_a_value_are_compared_by_number_or_by_word(printed, value, verdict):
    assert paper_settings.agreement(printed, value) == verdict


# Context and the whole -------------------------------------------------------------------------------------------


def test_later_methods_stand_in_the_context_with_what_was_measured_alike():
    table = context(evidence(run(fid=50.0), run(fid=60.0, protocol={"steps": 100})))
    models = {row["Model"] for row in rows(table)}
    assert {"SiT-XL/2+REPA", "EDT-XL/2", "SiT-XL/2"} <= models
    measured = [row for row in rows(table) if row["Source"] == "measured"]
    assert [(row["Compared at"], row["FID-50K"]) for row in measured] == [("400k x 256", 50.0)]
    missing = [row for row in rows(table) if "(missing)" in row["Source"]]
    assert missing
    assert all(row["FID-50K"] == "missing" for row in missing)


def test_the_order_in_which_runs_are_found_changes_nothing():
    runs = [
        *components("tiny", {0: 1.0, 1: 2.0}, {0: 1.5}),
        *(run(method, "tiny", seed=seed, fid=3.0 + seed) for method in ("dit", "sddit") for seed in (0, 1)),
        run(size="xl", at={1_100_000: 9.0}),
    ]
    there, back = (tables(evidence(*order)) for order in (runs, runs[::-1]))
    for one, other in zip(there, back, strict=True):
        assert (one.csv(), one.latex(), one.markdown()) == (other.csv(), other.latex(), other.markdown())
