"""`harness published` as a user reads it: in lines of the terminal's width, as CSV and JSON, and when asked wrong."""

import csv
import json
import re
from functools import partial

import command_line
import pytest
from command_line import flowing, too_wide

from harness.papers import published

ask = partial(command_line.invoke, "published", "list")
answer = partial(command_line.answer, "published", "list")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_everything_fits_the_terminal_and_is_plain_text(columns):
    text = answer(columns=columns)
    assert not too_wide(text, min(columns, 120))
    assert text.isascii()
    assert "\x1b" not in text
    assert not re.search(r"\bnan\b", text)


def test_a_figure_is_listed_with_values_sources_protocols_and_reasons():
    text = answer("--figure", "3")
    assert "\n  SD-DiT-S/2   400k x 256  steps/s 9.2   FID-50K            48.39    [1]\n" in text
    assert "\n  MaskDiT-S/2  400k x 256                steps_per_sec      missing  [8]\n" in text
    assert "[8] missing: drawn only; text says faster than DiT and MDT" in text
    assert "without guidance, ImageNet 256, EDM Heun 40 steps, 8 x A100 80 GB, Float32" in flowing(text)
    assert text.endswith("15 rows, 2 of them missing. --csv and --json print every column.\n")


def test_each_place_is_one_block():
    heads = [line for line in answer().splitlines()[:-1] if line and not line.startswith(" ")]
    assert sorted(heads) == sorted(published.rows()["figure_or_table"].unique())


def test_what_was_measured_from_a_drawing_is_marked():
    text = answer("--method", "MDT")
    assert " 1.21* " in text
    assert "* digitised: measured from a drawing, not printed" in text
    assert "*" not in answer("--figure", "3")


def test_json_and_csv_hold_every_column_of_every_row_and_missing_ones_can_be_asked_for():
    rows = json.loads(answer("--json"))["published"]
    assert len(rows) == len(published.rows())
    assert set(rows[0]) == set(published.rows().columns)
    table = json.loads(answer("--table", "2", "--method", "sddit", "--json"))["published"]
    values = {"FID-50K": 7.21, "sFID": 5.17, "IS": 144.68, "Precision": 0.72, "Recall": 0.61}
    assert {row["metric"]: row["value"] for row in table} == values
    as_csv = list(csv.DictReader(answer("--csv").splitlines()))
    assert len(as_csv) == len(rows)
    own = next(row for row in as_csv if row["figure_or_table"] == "SD-DiT Fig.3")
    assert own["value"] == "48.39"
    assert own["protocol"].startswith("400k steps, batch 256, without guidance")
    missing = json.loads(answer("--missing", "--json"))["published"]
    assert len(missing) == len(published.missing())
    assert all((row["quality"], row["value"], row["value_text"]) == ("missing", None, "") for row in missing)


def test_nothing_found_is_said_and_is_no_error():
    assert answer("--table", "1", "--missing").startswith("Nothing published fits")
    assert json.loads(answer("--table", "1", "--missing", "--json")) == {"published": []}
