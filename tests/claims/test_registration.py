"""What was registered decides: its runs alone, all of them, and as they were written down."""

import json

import pytest
from run_folders import write_run

from harness.claims import registration
from harness.claims.registration import Arm, Registration
from harness.records.schema import write_record
from harness.records.store import find_runs
from harness.reporting.tables import registered
from harness.system.errors import DataError, UsageError

WRITTEN = "2026-02-01T00:00:00+00:00"
AFTER = "2026-02-02T00:00:00+00:00"


def runs_of(root, method, distances, started_at=AFTER):
    """The names of the runs of seeds 0, 1, ... with these distances."""
    folders = [
        write_run(root, method, seed=seed, distance=distance, started_at=started_at)
        for seed, distance in enumerate(distances)
    ]
    return tuple(f"{folder.parent.name}/{folder.name}" for folder in folders)


def announced(first, second, **more):
    said = {
        "expected": "lower",
        "within": None,
        "yardstick": "fd-digits",
        "why": "SD-DiT is better than DiT",
        "seen": (),
    }
    arms = {
        name: Arm(recipe=runs[0].split("/")[0], settings=(), runs=runs)
        for name, runs in (("first", first), ("second", second))
    }
    return Registration(harness_version="0.1.0", git_commit=None, registered_at=WRITTEN, **arms, **{**said, **more})


def outcome_of(said, root):
    (found,) = registration.outcomes({"a-question": said}, find_runs([root])[0])
    return found


def test_all_registered_runs_together_decide(tmp_path):
    better, worse = runs_of(tmp_path, "sddit", (2.0, 2.1, 2.2)), runs_of(tmp_path, "dit", (4.0, 4.1, 4.2))
    assert outcome_of(announced(better, worse), tmp_path).judgement.verdict == "reproduced"
    assert outcome_of(announced(worse, better), tmp_path).judgement.verdict == "not reproduced"
    assert outcome_of(announced(worse, better, expected="higher"), tmp_path).judgement.verdict == "reproduced"


def test_nothing_is_judged_before_the_last_run_is_finished(tmp_path):
    better, worse = runs_of(tmp_path, "sddit", (2.0, 2.1, 2.2)), runs_of(tmp_path, "dit", (4.0, 4.1, 4.2))
    found = outcome_of(announced((*better, "sddit-tiny/seed3-0123456789"), worse), tmp_path)
    assert (found.judgement.verdict, found.finished, found.judgement.n) == ("not tested", 6, 0)
    assert found.judgement.missing == ("sddit-tiny/seed3-0123456789: it is not finished",)


def test_a_run_that_was_not_registered_does_not_count(tmp_path):
    better, worse = runs_of(tmp_path, "sddit", (2.0, 2.1, 2.2, 50.0)), runs_of(tmp_path, "dit", (4.0, 4.1, 4.2))
    found = outcome_of(announced(better[:3], worse), tmp_path)
    assert (found.judgement.verdict, found.judgement.n) == ("reproduced", 3)


def test_equal_needs_the_whole_interval_within_the_bound(tmp_path):
    ours, theirs = runs_of(tmp_path, "sddit", (4.0, 4.02, 3.98)), runs_of(tmp_path, "dit", (4.01, 4.0, 3.99))
    assert (
        outcome_of(announced(ours, theirs, expected="equal", within=0.05), tmp_path).judgement.verdict == "reproduced"
    )
    narrow = outcome_of(announced(ours, theirs, expected="equal", within=0.001), tmp_path)
    assert narrow.judgement.verdict == "inconclusive"


def test_runs_that_had_begun_before_are_told(tmp_path):
    early = runs_of(tmp_path, "sddit", (2.0, 2.1, 2.2), started_at="2026-01-31T23:59:59+00:00")
    late = runs_of(tmp_path, "dit", (4.0, 4.1, 4.2))
    assert outcome_of(announced(early, late), tmp_path).looked_at == early
    assert outcome_of(announced(late, early, seen=(late[0],)), tmp_path).looked_at == (late[0], *early)


def test_false_discoveries_are_controlled_over_all_registrations(tmp_path):
    ours, theirs = runs_of(tmp_path, "sddit", (3.70, 3.74, 3.72)), runs_of(tmp_path, "dit", (4.0, 3.88, 4.0))
    null = announced(runs_of(tmp_path, "maskdit", (4.0, 3.87, 3.99)), theirs)
    runs = find_runs([tmp_path])[0]
    for among, verdict in ((0, "reproduced"), (20, "inconclusive")):
        said = {"one": announced(ours, theirs), **{f"null-{place}": null for place in range(among)}}
        assert registration.outcomes(said, runs)[0].judgement.verdict == verdict


def test_a_registration_is_read_as_it_was_written_and_refused_when_it_was_changed(tmp_path):
    said = announced(("dit-tiny/a",), ("dit-tiny/b",))
    path = tmp_path / registration.FOLDER / "a-question.json"
    registration.write(said, path)
    assert registration.below([tmp_path]) == {"a-question": said}
    path.write_text(path.read_text().replace('"lower"', '"higher"'))
    with pytest.raises(DataError, match=r"a-question.json"):
        registration.below([tmp_path])


def test_a_registration_is_never_written_over(tmp_path):
    path = tmp_path / "registered" / "a-question.json"
    registration.write(announced(("dit-tiny/a",), ("dit-tiny/b",)), path)
    with pytest.raises(UsageError, match="never changed"):
        registration.write(announced(("dit-tiny/a",), ("dit-tiny/c",)), path)


@pytest.mark.parametrize(
    ("arms", "more", "words"),
    [
        ((("dit-tiny/a",), ("dit-tiny/a",)), {}, "both arms have the run dit-tiny/a"),
        ((("dit-tiny/a",), ("dit-tiny/b",)), {"expected": "equal"}, "--within"),
        ((("dit-tiny/a",), ("dit-tiny/b",)), {"within": 0.1}, "--within"),
    ],
)
def test_what_cannot_decide_is_refused(tmp_path, arms, more, words):
    with pytest.raises(UsageError, match=words):
        registration.write(announced(*arms, **more), tmp_path / "registered" / "a.json")


def test_two_registrations_of_one_name_are_refused(tmp_path):
    for root, other in (("one", "b"), ("two", "c")):
        path = tmp_path / root / "registered" / "a.json"
        path.parent.mkdir(parents=True)
        write_record(path, announced(("dit-tiny/a",), (f"dit-tiny/{other}",)))
    with pytest.raises(DataError, match="name of another registration"):
        registration.below([tmp_path])


def test_arms_are_called_by_what_they_do_not_share():
    arms = [Arm(recipe="sddit-tiny", settings=("a=1", *own), runs=("x",)) for own in (("b=2",), ())]
    said = announced(("x",), ("y",)).model_copy(update={"first": arms[0], "second": arms[1]})
    assert (said.of, said.labels) == ("sddit-tiny a=1", ("b=2", "without"))
    assert announced(("dit-tiny/a",), ("sit-tiny/b",)).labels == ("dit-tiny", "sit-tiny")


def test_the_table_has_a_line_a_registration_with_what_was_found(tmp_path):
    better, worse = runs_of(tmp_path, "sddit", (2.0, 2.1, 2.2)), runs_of(tmp_path, "dit", (4.0, 4.1, 4.2))
    (row,) = json.loads(
        registered.table([outcome_of(announced(better, worse), tmp_path)]).frame.to_json(orient="records")
    )
    assert (row["Expected"], row["Verdict"], row["Runs"]) == ("fd-digits below 1", "reproduced", "6 of 6")
    assert row["Found"].startswith("0.512 (0.4")
