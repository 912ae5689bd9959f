import json
import re
from pathlib import Path

import pytest
from run_folders import XEON, write_run
from typer.testing import CliRunner

from harness.cli import app
from harness.papers import claims
from harness.papers.deviations import DEVIATIONS
from harness.records.evidence import gather
from harness.records.schema import Device
from harness.records.store import find_runs
from harness.reporting import report
from harness.reporting.pages.render import render
from harness.reporting.tables import paper_tables
from harness.reporting.tables.table import NOTHING
from harness.system.errors import DataError, UsageError


def compose(root: Path) -> str:
    """The report without its figures, which take longer to draw than all else."""
    evidence = gather([root])
    beside = [*paper_tables.tables(evidence), paper_tables.context(evidence)]
    return render("report.md.j2", report.compose(evidence, claims.judge(evidence), [], beside, folder=root))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> list[dict[str, str]]:
    """The first Markdown table of `text`, by its header."""
    (first, *_) = [part for part in re.split(r"\n{2,}", text.strip()) if part.startswith("|")]
    lines = first.splitlines()
    header, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def text(four_methods) -> str:
    return compose(four_methods)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A whole report, of three seeds of four methods and a run that did not finish."""
    root = tmp_path_factory.mktemp("report")
    for seed in (0, 1, 2):
        for i, method in enumerate(("dit", "maskdit", "mdt", "sddit")):
            write_run(root / "runs", method, seed=seed, speed=10.0 - i + 0.1 * seed, distance=5.0 - i - 0.1 * seed)
    write_run(root / "runs", "mdt", seed=7, finished=False)
    report.write([root / "runs"], root / "out", records=True)
    return root


def test_a_report_has_its_figures_tables_and_verdicts_beside_it(written):
    out = written / "out"
    text = (out / "report.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w.]+\.(?:png|svg|csv))\)", text))
    assert len(named) >= 2 * 8
    assert all((out / name).is_file() for name in named)
    assert all((out / name).with_suffix(".svg").is_file() for name in named if name.endswith(".png"))
    for number in (1, 2, 3, 4):
        assert {(out / f"table{number}.{kind}").is_file() for kind in ("md", "tex", "csv")} == {True}
    judged = json.loads((out / "claims.json").read_text())
    assert {each["claim"] for each in judged} == {claim.id for claim in claims.claims_of()}
    assert (out / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[:3] == ["Summary", "Claims", "Figures"]
    assert "12 finished runs in 1 setting" in section(text, "Summary")


def test_a_report_of_the_kept_records_which_are_no_weights_is_the_same_report(written, tmp_path):
    archive = written / "out" / "runs"
    assert len(find_runs([archive])[0]) == 12
    report.write([archive], tmp_path / "again", formats=["md"])
    again = (tmp_path / "again" / "report.md").read_text(encoding="utf-8")
    told = (written / "out" / "report.md").read_text(encoding="utf-8")
    for title in ("Claims", "Tables", "All metrics", "Training"):
        assert section(again, title) == section(told, title)
    for name in ("figure3.svg", "figure5.png", "table2.tex"):
        assert (tmp_path / "again" / name).read_bytes() == (written / "out" / name).read_bytes()
    names = {path.name for path in archive.rglob("*") if path.is_file()}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "result.json"} <= names
    assert not any(name.endswith((".safetensors", ".pt", ".npz")) for name in names)


def test_runs_of_one_name_from_two_machines_are_both_kept(tmp_path):
    for name, device in (("a", XEON), ("b", Device(name="NVIDIA H200", kind="cuda", count=1, threads=16))):
        write_run(tmp_path / name, "dit", device=device)
    report.keep(gather([tmp_path]).runs, (), tmp_path / "kept")
    assert len(find_runs([tmp_path / "kept"])[0]) == 2


def test_a_format_that_does_not_exist_is_refused_before_anything_is_written(four_methods, tmp_path):
    with pytest.raises(UsageError, match="md or html"):
        report.write([four_methods], tmp_path / "out", formats=["pdf"])
    assert not (tmp_path / "out").exists()


# Checks ----------------------------------------------------------------------------------------------------------


def ask(*arguments: object):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_check_passes_where_nothing_claims_to_be_the_papers_and_agrees_with_itself(written, tmp_path):
    done = ask(
        written / "runs", "--out", tmp_path, "--format", "md", "--check", "--against", written / "out" / "claims.json"
    )
    assert done.exit_code == 0, done.output


def test_a_check_ends_with_6_where_an_earlier_verdict_turned_round(written, tmp_path):
    earlier = json.loads((written / "out" / "claims.json").read_text())
    judged = next(each for each in earlier if each["verdict"] == "reproduced" and each["comparisons"])
    judged["verdict"] = "not reproduced"
    (tmp_path / "claims.json").write_text(json.dumps(earlier))
    done = ask(written / "runs", "--out", tmp_path, "--format", "md", "--check", "--against", tmp_path / "claims.json")
    assert done.exit_code == 6
    assert judged["claim"] in done.output


@pytest.mark.parametrize("text", ["{}", "[1]", "[" * 100_000, ""])
def test_what_is_no_list_of_verdicts_is_refused(text, tmp_path):
    (tmp_path / "claims.json").write_text(text)
    with pytest.raises(DataError, match=r"claims\.json"):
        report.earlier_claims(tmp_path / "claims.json")


# What the report says ---------------------------------------------------------------------------------------------


def test_paper_and_measured_stand_side_by_side_with_the_reason_they_differ(text):
    rows = {row["Method"]: row for row in table(section(text, "Every measured point of Fig. 3"))}
    sddit = rows["SD-DiT 80%"]
    assert (sddit["Paper, steps/s"], sddit["Paper, FID-50K"]) == ("9.2", "48.39")
    assert (sddit["Measured, steps/s"], sddit["Measured, distance"]) == ("5.1", "11.9")
    assert sddit["Distance is"] == "fd-digits@1k"
    assert (sddit["Paper, speed / DiT"], sddit["Measured, speed / DiT"]) == ("1.829", "0.5")
    assert (sddit["Paper, FID / DiT"], sddit["Measured, distance / DiT"]) == ("0.707", "2.333")
    assert sddit["n"] == "1"
    assert sddit["Comparable with the paper"].startswith("no: network, data, steps")
    assert rows["MaskDiT 50%"]["Paper, FID-50K"] == "missing"


def test_what_was_not_measured_keeps_its_published_row_and_other_patches_stand_beside_none(run_folder, tmp_path):
    run_folder("dit")
    run_folder("sddit", knobs={"mask_ratio": 0.5})
    rows = {row["Method"]: row for row in table(section(compose(tmp_path), "Every measured point of Fig. 3"))}
    assert rows["MDT 100% + 70%"]["Paper, FID-50K"] == "53.46"
    assert rows["MDT 100% + 70%"]["Measured, distance"] == "not measured"
    assert rows["SD-DiT 50%"]["Paper, FID-50K"] == NOTHING
    assert rows["SD-DiT 80%"]["Measured, steps/s"] == "not measured"


def test_metrics_and_training_costs_are_listed_with_units(text):
    rows = {row["Method"]: row for row in table(section(text, "All metrics"))}
    assert rows["MaskDiT 50%"]["fd-digits@1k"] == "21.3"
    assert rows["MaskDiT 50%"]["class_accuracy-digits@1k"] == "0.9"
    assert rows["MaskDiT 50%"]["Untrained / final"] == "14.08"  # 300 / 21.3
    lite = {row["Method"]: row for row in table(section(text, "Training"))}["MDT-lite 100% + 70%"]
    assert lite["Images/s"] == "358.4"  # 5.6 steps of 64
    assert lite["Peak memory, GiB"] == "0.8382"
    assert lite["Memory is"] == "process RSS"
    assert lite["Parameters, M"] == "1.1"
    assert lite["GMAC step / DiT"] == "1.833"


def test_every_deviation_is_listed_and_no_folder_of_the_machine(text, tmp_path):
    concerns = [row["Concerns"] for row in table(section(text, "Deviations from the papers"))]
    assert concerns == [deviation.concerns for deviation in DEVIATIONS]
    assert str(tmp_path) not in text


def test_every_environment_is_told_apart(run_folder, tmp_path):
    run_folder("dit")
    run_folder("dit", seed=1, device=Device(name="NVIDIA H200", kind="cuda", count=1, threads=16))
    text = section(compose(tmp_path), "Environment")
    assert text.count("| Device") == 2
    assert "NVIDIA H200" in text
    assert "torch 2.13.0" in text
    assert "c" * 40 in text


def test_what_was_left_out_and_what_is_missing_are_listed(run_folder, tmp_path):
    run_folder("dit")
    run_folder("mdt", finished=False)
    run_folder("sddit", speed=None)
    text = compose(tmp_path)
    failed = [row["Why"] for row in table(section(text, "Failed and unfinished runs"))]
    assert len(failed) == 1
    assert "unfinished" in failed[0]
    assert "no steps per second" in section(text, "Left out")
    assert "MaskDiT-S/2" in section(text, "Published values this report does not have")


def test_n_of_one_is_said_and_several_seeds_have_a_spread(run_folder, tmp_path, text):
    assert "n = 1 seed each, so the spread is unknown" in section(text, "Summary")
    for seed in (1, 2):
        run_folder("dit", seed=seed, speed=10.2 + seed, distance=5.1)
    text = compose(tmp_path / "runs")
    assert "n = 1 to 3 seeds" in section(text, "Summary")
    rows = {row["Method"]: row for row in table(section(text, "Every measured point of Fig. 3"))}
    assert rows["DiT 100%"]["Measured, steps/s"] == "11.2 ± 1.0"
    assert rows["SD-DiT 80%"]["Measured, steps/s"] == "5.1"


def test_hours_are_added_up_and_energy_is_not_invented(written):
    rows = {row["What"]: row for row in table(section((written / "out" / "report.md").read_text(), "Time and energy"))}
    assert rows["all"]["Runs"] == "12"
    assert rows["all"]["Hours"] == f"{12 * 66 / 3600:.2f}"
    assert {row["Energy, J per trained image"] for row in rows.values()} == {"not measured"}


def test_text_from_a_run_cannot_break_the_tables(run_folder, tmp_path):
    run_folder("dit", protocol={"data": "a|b # c <img src=x> `d` [e](f)"})
    text = compose(tmp_path)
    assert "<img" not in text.replace(r"\<", "")
    assert "[e](f)" not in text
    rows = {row["Fact"]: row["Value"] for row in table(section(text, "Environment"))}
    assert rows["Data"].startswith(r"a\|b # c \<img src=x\> \`d\` \[e\](f), 1797 images")
