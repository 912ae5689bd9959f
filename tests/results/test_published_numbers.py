import math

import pytest

from harness.errors import UsageError
from harness.results import published


def test_figure_3_holds_the_numbers_the_paper_prints():
    points, _ = published.figure3()
    assert {(p.model, p.steps_per_sec, p.fid50k, p.input_patches) for p in points} == {
        ("DiT-S/2", 5.03, 68.40, "100%"),
        ("MDT-S/2", 2.4, 53.46, "100% + 70%"),
        ("SD-DiT-S/2", 9.2, 48.39, "80%"),
    }


def test_the_point_the_paper_only_draws_has_a_reason_and_no_value():
    _, missing = published.figure3()
    assert [(p.model, p.input_patches, p.reason) for p in missing] == [
        ("MaskDiT-S/2", "50%", "drawn only, value not in the paper's text")
    ]


def test_table_1_holds_the_numbers_the_paper_prints():
    table = published.table1()
    assert list(zip(table["model"], table["training_steps_k"], table["value"], strict=True)) == [
        ("DiT-S/2", 400, 68.40),
        ("MDT-S/2", 400, 53.46),
        ("SD-DiT-S/2", 400, 48.39),
        ("DiT-B/2", 400, 43.47),
        ("MDT-B/2", 400, 34.33),
        ("SD-DiT-B/2", 400, 28.62),
        ("DiT-XL/2", 7000, 9.62),
        ("MaskDiT-XL/2", 1300, 12.15),
        ("MDT-XL/2", 1300, 9.60),
        ("SD-DiT-XL/2", 1100, 9.66),
        ("SD-DiT-XL/2", 1300, 9.01),
    ]


def test_every_row_has_a_source_and_a_known_quality_and_a_value_unless_it_is_missing():
    for row in published.rows().itertuples():
        assert row.source
        assert row.quality in published.QUALITIES
        assert (row.value_text == "") == (row.quality == "missing"), row
        assert math.isnan(row.value) == (row.value_text in ("", "100+70")), row


def test_the_tables_of_one_paper_agree_where_they_print_the_same_number():
    printed = {p.model: p.fid50k for p in published.figure3()[0]}
    table = published.table1().query("training_steps_k == 400")
    for model, value in zip(table["model"], table["value"], strict=True):
        assert printed.get(model, value) == value


def test_a_caller_cannot_change_the_published_numbers():
    rows = published.rows()
    rows["value"] = 0.0
    assert published.rows()["value"].max() > 100


def test_an_unknown_figure_is_answered_with_the_known_ones():
    assert "SD-DiT Tab.2" in published.names()
    with pytest.raises(UsageError, match=r"Did you mean .*SD-DiT Fig\.3"):
        published.select("SD-DiT Fig.33")
