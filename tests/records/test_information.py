import math

import pytest
from tiny_run import run

from harness.records.information import share_told, warning

LN_K = math.log(256)
KNOBS = {"num_prototypes": 256}


def lines(**logged: float) -> list[dict]:
    return [{"step": step, **{name.replace("_", "/"): value for name, value in logged.items()}} for step in range(9)]


def test_what_is_logged_comes_before_what_the_loss_suggests():
    logged = lines(loss_cls=LN_K, loss_patches=LN_K, information_cls=0.0, information_patches=LN_K / 2)
    assert share_told("sddit", KNOBS, logged) == pytest.approx(0.25)
    assert warning("sddit", KNOBS, logged) is None


@pytest.mark.parametrize(("patches", "told"), [(1.0, 0.0), (0.99, 0.005), (0.5, 0.25)])
def test_an_older_log_is_judged_by_the_distance_of_the_loss_from_ln_k(patches, told):
    logged = lines(loss_cls=LN_K, loss_patches=patches * LN_K)
    assert share_told("sddit", KNOBS, logged) == pytest.approx(told)
    assert (warning("sddit", KNOBS, logged) is None) == (told > 0.01)


def test_only_the_last_lines_count():
    early = lines(information_cls=LN_K, information_patches=LN_K)
    assert share_told("sddit", KNOBS, early + lines(information_cls=0.0, information_patches=0.0)) == 0


@pytest.mark.parametrize("logged", [[], lines(loss=1.0), lines(loss_cls=math.nan), lines(loss_cls=True)[:0]])
def test_a_log_without_the_loss_says_nothing(logged):
    assert share_told("sddit", KNOBS, logged) is None
    assert share_told("dit", {}, lines(loss_cls=LN_K)) is None
    assert warning("sddit", KNOBS, logged) is None


def test_a_run_whose_targets_tell_nothing_says_so_once_and_keeps_it_in_its_result(tmp_path):
    uniform = "teacher_temperature=[10, 10]"
    result, _, notes = run(tmp_path, uniform, method="sddit")
    (kept,) = [note for note in result.notes if "told nothing" in note]
    assert notes.count(kept) == 1
    for setting in ("teacher_temperature=[0.01, 0.01]", "discriminate=false"):
        result, _, notes = run(tmp_path, setting, method="sddit")
        assert not any("told nothing" in note for note in [*notes, *result.notes])
