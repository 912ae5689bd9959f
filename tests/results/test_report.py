import re
from pathlib import Path

import pytest

from harness.results import report, tables
from harness.results.compare import compare_runs
from harness.results.deviations import DEVIATIONS
from harness.results.schema import Device
from harness.results.store import load_runs


def compose(root: Path) -> str:
    """The report's text, without its figures, which take longer to draw than all else."""
    runs, left_out = load_runs([root])
    return report.compose(runs, compare_runs(runs, left_out))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> list[dict[str, str]]:
    """The first Markdown table of `text`, by its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def text(four_methods) -> str:
    return compose(four_methods)


def test_the_report_stands_beside_its_figure_and_starts_with_the_summary(four_methods, tmp_path):
    path = report.write([four_methods], tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "out" / "report.md"
    assert text.index("## Summary") < text.index("## Figure 3")
    for name in re.findall(r"\]\((figure3\.\w+)\)", text):
        assert (path.parent / name).exists()
    assert "4 finished runs in 1 group of equal conditions" in section(text, "Summary")


def test_paper_and_measured_stand_side_by_side_with_the_reason_they_differ(text):
    rows = {row["Method"]: row for row in table(section(text, "Figure 3, paper against measured"))}
    sddit = rows["SD-DiT 80%"]
    assert (sddit["Paper, steps/s"], sddit["Paper, FID-50K"]) == ("9.2", "48.39")
    assert (sddit["Measured, steps/s"], sddit["Measured, distance"]) == ("5.1", "11.9 (fd-digits@1k)")
    assert (sddit["Paper, speed / DiT"], sddit["Measured, speed / DiT"]) == ("1.829", "0.5")
    assert (sddit["Paper, FID / DiT"], sddit["Measured, distance / DiT"]) == ("0.707", "2.333")
    assert sddit["n"] == "1"
    assert sddit["Comparable with the paper"].startswith("no: network, data, steps")
    assert rows["MaskDiT 50%"]["Paper, FID-50K"] == "missing"


def test_a_method_that_was_not_measured_keeps_its_published_row(run_folder, tmp_path):
    run_folder("dit")
    text = compose(tmp_path)
    rows = {row["Method"]: row for row in table(section(text, "Figure 3, paper against measured"))}
    assert rows["MDT 100% + 70%"]["Paper, FID-50K"] == "53.46"
    assert rows["MDT 100% + 70%"]["Measured, distance"] == "not measured"


def test_a_run_with_other_patches_does_not_stand_beside_the_papers_point(run_folder, tmp_path):
    run_folder("sddit", knobs={"mask_ratio": 0.5})
    text = compose(tmp_path)
    rows = {row["Method"]: row for row in table(section(text, "Figure 3, paper against measured"))}
    assert rows["SD-DiT 50%"]["Paper, FID-50K"] == tables.NOTHING
    assert rows["SD-DiT 80%"]["Measured, steps/s"] == "not measured"


def test_all_metrics_and_the_learning_ratio_are_listed(text):
    rows = {row["Method"]: row for row in table(section(text, "All metrics"))}
    assert rows["MaskDiT 50%"]["fd-digits@1k"] == "21.3"
    assert rows["MaskDiT 50%"]["class_accuracy-digits@1k"] == "0.9"
    assert rows["MaskDiT 50%"]["Untrained / final"] == "14.08"  # 300 / 21.3


def test_training_costs_are_listed_with_units(text):
    rows = {row["Method"]: row for row in table(section(text, "Training"))}
    lite = rows["MDT-lite 100% + 70%"]
    assert lite["Images/s"] == "358.4"  # 5.6 steps of 64
    assert lite["Peak memory, GiB"] == "0.8382"
    assert lite["Memory is"] == "process RSS"
    assert lite["Parameters, M"] == "1.1"
    assert lite["GMAC step / DiT"] == "1.833"


def test_every_environment_is_told_apart(run_folder, tmp_path):
    run_folder("dit")
    run_folder("dit", seed=1, device=Device(name="NVIDIA H200", kind="cuda", count=1, threads=16))
    text = section(compose(tmp_path), "Environment")
    assert text.count("| Device") == 2
    assert "NVIDIA H200" in text
    assert "torch 2.13.0" in text
    assert "c" * 40 in text


def test_every_deviation_is_told(text):
    concerns = [row["Concerns"] for row in table(section(text, "Deviations from the papers"))]
    assert concerns == [deviation.concerns for deviation in DEVIATIONS]


def test_what_was_left_out_and_what_is_missing_are_listed(run_folder, tmp_path):
    run_folder("dit")
    run_folder("mdt", finished=False)
    run_folder("sddit", speed=None)
    text = compose(tmp_path)
    reasons = [row["Why"] for row in table(section(text, "Left out"))]
    assert len(reasons) == 2
    assert "unfinished" in reasons[0]
    assert "no steps per second" in reasons[1]
    assert "MaskDiT-S/2" in section(text, "Published values this report does not have")


def test_n_of_one_is_said_and_several_seeds_have_a_spread(run_folder, tmp_path, text):
    assert "n = 1 seed each, so the spread is unknown" in section(text, "Summary")
    for seed in (1, 2):
        run_folder("dit", seed=seed, speed=10.2 + seed, distance=5.1)
    text = compose(tmp_path / "runs")
    assert "n = 1 to 3 seeds" in section(text, "Summary")
    rows = {row["Method"]: row for row in table(section(text, "Figure 3, paper against measured"))}
    assert rows["DiT 100%"]["Measured, steps/s"] == "11.2 ± 1"
    assert rows["SD-DiT 80%"]["Measured, steps/s"] == "5.1"


def test_the_same_runs_give_the_same_report(four_methods, tmp_path, text):
    assert report.write([four_methods], tmp_path / "out").read_text(encoding="utf-8") == text


def test_a_report_names_no_folder_of_the_person_who_made_it(text, tmp_path):
    assert str(tmp_path) not in text


def test_text_from_a_run_cannot_break_the_tables(run_folder, tmp_path):
    run_folder("dit", protocol={"data": "a|b\n\n# c <img src=x> `d` [e](f)"})
    text = compose(tmp_path)
    assert "\n# c" not in text
    assert "<img" not in text.replace(r"\<", "")
    assert "[e](f)" not in text
    rows = {row["Fact"]: row["Value"] for row in table(section(text, "Environment"))}
    assert rows["Data"].startswith(r"a\|b # c \<img src=x\> \`d\` \[e\](f), 1797 images")


def test_large_and_small_numbers_keep_their_digits():
    assert [tables.number(value) for value in (400_000, 0.0001234, 68.40, 7_000_000.0, None)] == [
        "400,000",
        "0.0001234",
        "68.4",
        "7,000,000",
        tables.NOTHING,
    ]
