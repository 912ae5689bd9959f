"""What a waiting user is told: how fast, and how long still."""

from harness.system import progress
from harness.system.progress import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_pace_and_the_time_left_are_those_of_the_last_minute(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    pace = Pace(10_000, "images")
    for done in range(0, 1_001, 100):  # ten images a second for 100 s
        clock.now = done / 10
        told = pace.after(done)
    assert told == "10 images/s, 0:15:00 left"
    for done in range(2_000, 9_001, 1_000):  # a hundred a second
        clock.now += 10
        told = pace.after(done)
    assert told == "100 images/s, 0:00:10 left"


def test_parts_kept_from_an_earlier_try_do_not_count_as_fast(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    pace = Pace(50_000, "images")
    assert pace.after(40_000) == ""
    for second in range(1, 200):
        clock.now = second
        told = pace.after(40_000 + 10 * second)
    assert told.startswith("10 images/s")


def test_plain_lines_say_how_fast_and_how_long_still(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    plain = progress.PlainProgress("sample")
    plain.stage("drawing images", 500)
    clock.now = 25
    plain.advance(250)
    assert (
        capsys.readouterr().err
        == "sample: drawing images\nsample: drawing images: 250 of 500 images, 10 images/s, 0:00:25 left\n"
    )
