"""What a waiting user reads: how fast, and how long still."""

import pytest

from harness.system import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_pace_and_the_time_left_are_those_of_the_last_minute(clock, capsys):
    plain = progress.PlainProgress("sample")
    plain.stage("drawing images", 10_000)
    assert capsys.readouterr().err == "sample: drawing images\n"
    for done in range(0, 1_001, 100):  # ten images a second for 100 s
        clock[0] = done / 10
        plain.advance(done)
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "sample: drawing images: 1,000 of 10,000 images, 10 images/s, 0:15:00 left"
    assert len(said) == 10
    for done in range(2_000, 9_001, 1_000):  # a hundred a second
        clock[0] += 10
        plain.advance(done)
    assert capsys.readouterr().err.endswith("9,000 of 10,000 images, 100 images/s, 0:00:10 left\n")


def test_parts_kept_from_an_earlier_try_do_not_count_as_fast(clock, capsys):
    plain = progress.PlainProgress("sample")
    plain.stage("drawing images", 50_000)
    plain.advance(40_000)
    assert "images/s" not in capsys.readouterr().err
    for second in range(1, 200):
        clock[0] = second
        plain.advance(40_000 + 10 * second)
    assert "10 images/s" in capsys.readouterr().err.splitlines()[-1]
