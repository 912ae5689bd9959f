"""The atlas: quotes count once, protocols stand apart, a spread is of those who trained; and the gaps beside it."""

from dataclasses import replace

import pytest

from harness.papers import documents, published
from harness.papers.atlas import Number, agree, atlas, evaluations, source_of, spread_of
from harness.papers.gaps import gaps
from harness.system.errors import DataError, UsageError


def training(method: str, size: str, words: str, **chosen):
    (found,) = [each for each in atlas(method, size, **chosen).trainings if words in each.title]
    return found


def number(value: str, **more) -> Number:
    own = {"by": "A", "of": "A", "model": "X-B/2", "length": "400k steps", "steps_k": 400.0, "batch": 256}
    how = {"guidance": "without guidance", "sampler": "DDPM 250 steps", "reference": "ADM's", "quality": "table"}
    return Number(float(value), value, **{**own, **how, "sources": ("a table",), **more})


def test_every_published_number_of_samples_says_who_printed_it():
    rows = published.rows()
    rows = rows[rows["metric"].isin(published.SAMPLES) & rows["value"].notna()]
    for row in rows.to_dict("records"):
        assert source_of(row)["by"], row


def test_a_source_that_no_entry_names_is_refused():
    with pytest.raises(DataError, match=r"'a new paper'.* Add one"):
        source_of({"source": "a new paper", "series": "w/o CFG"})


def test_every_entry_of_the_sources_is_of_some_row_and_stands_once():
    files = [folder / published.SOURCES for folder in published.folders() if (folder / published.SOURCES).is_file()]
    entries = [entry for file in files for entry in published.read(file)]
    assert len({(entry["source"], entry["series"]) for entry in entries}) == len(entries)
    rows = published.rows()
    for entry in entries:
        of_series = rows["series"] == entry["series"] if entry["series"] else rows["series"] == rows["series"]
        assert (rows["source"].str.startswith(entry["source"]) & of_series).any(), entry
        assert bool(entry["evidence"]) or not entry["reference"] + entry["sampler"], entry


def test_no_table_is_entered_twice():
    """One source prints one value of one metric, training and setting once. A paper may quote it again elsewhere."""
    for file in (file for file in published.tables() if file.name == "by_table.csv"):
        rows = published.read(file)
        keys = [tuple(row[key] for key in row if key != "quality") for row in rows]
        assert len(set(keys)) == len(keys)


# Recipes -------------------------------------------------------------------------------------------------------------


def test_sit_b_after_400k_steps_has_the_numbers_of_five_who_trained_it_and_quotes_count_for_none():
    found = training("sit", "b", "400k steps")
    counted = {(number.by, number.text) for number in found.numbers if number.counted}
    assert {("SiT", "33.0"), ("Dispersive", "36.49"), ("DiverseDiT", "36.8"), ("Contrastive FM", "42.28")} <= counted
    assert {(number.by, number.of) for number in found.numbers if number.quote} == {("REPA", "SiT"), ("SRA", "SiT")}
    assert not any(number.counted for number in found.numbers if number.quote)
    assert (found.spread.trainings, found.spread.low, found.spread.high) == (5, 33.0, 42.28)


def test_numbers_of_other_samplers_stand_in_other_groups():
    groups = {group.protocol: group for group in training("sit", "b", "400k steps").groups}
    of_sde = groups["SDE Euler-Maruyama 250 steps"]
    assert {number.by for number in of_sde.numbers} == {"SiT", "REPA", "SRA"}
    assert [number.text for number in groups["SDE Euler-Maruyama 50 steps"].numbers] == ["42.28"]
    assert all(len({number.protocol for number in group.numbers}) == 1 for group in groups.values())


def test_dit_xl_was_trained_twice_and_sampled_alike():
    (group,) = training("dit", "xl", "400k steps").groups
    assert (group.spread.trainings, group.spread.low, group.spread.high) == (2, 18.1, 19.47)
    assert group.spread.relative == pytest.approx(19.47 / 18.1 - 1)


def test_three_trainings_of_one_framework_are_three():
    assert training("dit", "b", "400k steps", patch=4).spread.trainings == 3


def test_changed_settings_are_left_out_and_counted():
    found = atlas("sddit", "s")
    assert {number.text for each in found.trainings for number in each.numbers} == {"48.39"}
    assert found.left_out == len([row for row in published.rows().itertuples() if is_ablation(row)])


def is_ablation(row) -> bool:
    places = ("SD-DiT Tab.3", "SD-DiT Fig.5", "SD-DiT Fig.6")
    return row.figure_or_table in places and row.model == "SD-DiT-S/2" and row.value == row.value


def test_images_of_512_pixels_stand_apart():
    small, large = (
        {number.text for each in atlas("dit", "xl", pixels=pixels).trainings for number in each.numbers}
        for pixels in (256, 512)
    )
    assert "12.03" in large
    assert not small & {"12.03", "11.93", "13.78"}


def test_a_quote_counts_where_nothing_else_tells_the_number():
    (only,) = training("mdt", "s", "400k steps").numbers
    assert (only.text, only.by, only.of, only.counted) == ("53.46", "SD-DiT", "MDT", True)


def test_a_quote_that_its_origin_prints_otherwise_does_not_count():
    found = training("sit", "xl", "7000k steps, batch 256, without")
    (wrong,) = [number for number in found.numbers if number.differs]
    assert (wrong.text, wrong.by, wrong.of, wrong.counted) == ("8.61", "LightningDiT", "SiT", False)
    assert found.spread.high == 8.3


def test_a_quote_that_tells_no_steps_stands_at_the_training_of_its_origin():
    found = training("maskdit", "xl", "2075k steps")
    assert {(number.by, number.counted) for number in found.numbers} == {("MaskDiT", True), ("REPA", False)}


def test_steps_choose_a_training_and_what_is_not_published_is_told_with_what_is():
    assert [each.title for each in atlas("dit", "xl", steps=400_000).trainings] == [
        "DiT-XL/2, 400k steps, batch 256, without guidance"
    ]
    with pytest.raises(UsageError, match=r"no FID-50K is published of SRA, S/2.* It has numbers of SiT-B/2"):
        atlas("sra", "s")
    with pytest.raises(UsageError, match=r"'FID' is no metric of samples. Available: FID-10K"):
        atlas("dit", "xl", metric="FID")


# Parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("33.0", "33.02", True), ("19.47", "19.5", True), ("19.47", "19.4", False), ("8.3", "8.61", False)],
)
def test_two_texts_print_one_number_where_they_round_to_the_same(one, other, same):
    assert agree(number(one), number(other)) == same
    assert agree(number(other), number(one)) == same


def test_the_spread_of_one_training_has_no_ratio_and_of_two_it_is_the_highest_over_the_lowest():
    first, second = number("10.0"), number("11.0", by="B", of="B")
    assert spread_of([first]).relative is None
    assert spread_of([first, replace(first, value=12.0)]).relative is None
    assert spread_of([first, second]).relative == pytest.approx(0.1)
    quote = number("99.0", by="C", of="A", counted=False)
    assert spread_of([first, second, quote]) == spread_of([first, second])


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [("DDPM 250 steps", 250), ("EDM Heun 40 steps", 79), ("MeanFlow 1 step", 1), ("ODE dopri5", None)],
)
def test_a_sampler_that_tells_its_steps_tells_its_evaluations(sampler, calls):
    assert evaluations(sampler) == calls


# Gaps ----------------------------------------------------------------------------------------------------------------


def test_six_of_the_gaps_of_the_sd_dit_paper_lie_below_the_spread_of_one_recipe():
    found = gaps()
    assert found.known == training("dit", "xl", "400k steps").groups[0].spread
    assert sorted(gap.values for gap in found.below("lower")) == [
        (7.21, 7.41),
        (9.01, 9.6),
        (9.01, 9.62),
        (16.78, 17.22),
        (48.39, 50.3),
        (63.4, 66.2),
    ]
    assert [gap.values for gap in found.below("comparable")] == [(9.66, 9.6), (6.74, 6.65)]
    assert all(gap.values[0] < gap.values[1] for gap in found.of("lower"))


def test_the_known_spread_is_that_of_the_rows(monkeypatch):
    rows = published.rows()
    rows.loc[rows["series"] == "PyTorch", ["value", "value_text"]] = [9.0, "9.0"]
    monkeypatch.setattr(published, "_rows", lambda: rows)
    assert gaps().known_relative == pytest.approx(19.47 / 9.0 - 1)


def test_a_gap_of_numbers_that_are_not_published_is_refused(monkeypatch):
    said = dict(documents("gaps.yaml"))["sddit"]
    said["pairs"][0]["lower"]["steps"] = 401
    monkeypatch.setattr("harness.papers.gaps.documents", lambda name: iter([("sddit", said)]))
    with pytest.raises(DataError, match="0 published numbers fit"):
        gaps()
    with pytest.raises(UsageError, match=r"no paper with a gaps.yaml is called 'dit'"):
        gaps("dit")
