"""The claims of the papers in the tree: their numbers are published ones, and nothing in them is wrong."""

import re
from pathlib import Path

import pytest

from harness.papers import claims, published

ONE = """\
numbers:
  SD-DiT: {value: 48.39, table: SD-DiT Tab.1, model: SD-DiT-S/2}
claims:
  - id: a-claim-of-mine
    place: Table 1
    statement: SD-DiT has a low FID.
    untested: nothing to compare it with
    published: [SD-DiT]
"""


def check(tmp_path, text: str, *more) -> list[str]:
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    faults, _ = claims.check([file, *more])
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in faults]


def test_all_papers_pass():
    faults, counts = claims.check(claims.files())
    assert faults == []
    assert sum(counts.values()) == sum(len(claims.read(paper).entries) for paper in claims.names())


@pytest.mark.parametrize("paper", claims.names())
def test_every_number_equals_the_one_published_row_that_it_names(paper):
    for name, number in claims.read(paper).numbers.items():
        (row,) = claims.row_of(number)
        assert row["value"] == number.value, name
        assert (row["figure_or_table"], row["metric"]) == (number.table, number.metric)


@pytest.mark.parametrize("paper", claims.names())
def test_every_number_in_the_words_of_a_claim_is_a_published_one_and_it_has_a_place(paper):
    printed = {f"{value:g}" for value in published.rows()["value"]} | {"48.4", "5.4"}  # the text's roundings
    knobs = {"0.002", "0.2", "0.5", "0.9", "0.3"}
    knobs |= {f"{float(value):g}" for name in claims.read(paper).numbers for value in re.findall(r"\d+\.\d+", name)}
    for entry in claims.read(paper).entries:
        assert re.search(r"Table|Fig\.|Sec\.|App\.|README|abstract|page", entry.said.place), entry.said.id
        for number in re.findall(r"\d+\.\d+", entry.claim.published):
            assert f"{float(number):g}" in printed | knobs, (entry.said.id, number)


def test_a_number_without_a_row_with_two_or_with_another_value_is_a_fault(tmp_path):
    assert check(tmp_path, ONE) == []
    (said,) = check(tmp_path, ONE.replace("48.39", "48.93"))
    assert said == "claims.yaml:2:19: 'SD-DiT' is 48.93, and its published row says 48.39. Correct one of them."
    (said,) = check(tmp_path, ONE.replace("Tab.1", "Tab.9"))
    assert said.startswith("claims.yaml:2:11: no published rows fit 'SD-DiT'.")
    (said,) = check(tmp_path, ONE.replace(", model: SD-DiT-S/2", ""))
    assert re.match(r"claims\.yaml:2:11: \d+ published rows fit 'SD-DiT': .* Name more columns", said)


def test_an_id_that_another_file_has_is_a_fault(tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "claims.yaml"
    other.write_text(ONE)
    (said,) = check(tmp_path, ONE, other)
    assert (
        said == f"other/claims.yaml:4:9: {tmp_path}/claims.yaml has a claim 'a-claim-of-mine' too. Choose another id."
    )


def test_a_file_that_is_no_text_and_a_paper_without_its_title_are_faults(tmp_path):
    file = tmp_path / "claims.yaml"
    file.write_bytes(b"claims: \xff")
    assert "it is no UTF-8 text" in str(claims.check([file])[0][0])
    paper = tmp_path / "paper.yaml"
    paper.write_text("short: Mine\nyear: 2024\n")
    said = [str(fault) for fault in claims.check([paper])[0]]
    assert f"{paper}:1:1: a paper.yaml has no 'title'. Add it." in said


def test_the_example_of_the_docs_passes(tmp_path):
    page = (Path(__file__).parent.parent.parent / "docs" / "verdicts.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert check(tmp_path, example) == []
