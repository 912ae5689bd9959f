"""SIGKILL, SIGTERM and SIGINT at random moments of training, saving, encoding, sampling and evaluating.

The short form tries two kills of every kind; HARNESS_FAULTS=long tries 50, ten SIGTERMs and ten SIGINTs, and writes
the counts to reports/evidence/kills.json. Every command is a real one, in a process of its own. A failure is told with
the story, and HARNESS_FAULTS_SEED repeats it.
"""

import functools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import stories
from commands import End, children, interrupted, log_of, processor_seconds
from photographs import photographs
from positions import LONG, SEED, record
from stories import Story

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="moments are chosen by /proc")]

UNITS = {"training": "steps", "saving": "steps", "encoding": "shards", "sampling": "parts", "evaluating": "pieces"}
METHODS = ("dit", "maskdit", "mdt", "sddit")
MOST_KILLS = 8  # in one story: then it is left to end
STOPS = {signal.SIGTERM: 75, signal.SIGINT: 130}
TIMES = {signal.SIGKILL: 50, **dict.fromkeys(STOPS, 10)} if LONG else {signal.SIGKILL: 2}
WRITING_SECONDS = 0.02  # within which a file that is being written is hit


@dataclass
class Expected:
    """An uninterrupted telling of a story."""

    result: dict
    begins: float  # processor time until the first piece of work
    ends: float
    pieces: int


@dataclass
class Told:
    """What the tellings of a kind came to."""

    counts: Counter = field(default_factory=Counter)
    lost: int = 0  # pieces at most, of one kill
    problems: list[str] = field(default_factory=list)


class Theatre:
    """Tells stories in folders below `root`."""

    def __init__(self, root: Path):
        self._root, self._random = root, random.Random(SEED)
        self._number, self._expected = 0, {}
        self.stories = stories.all_of(METHODS, photographs(root / "photos", 10, 60, 80), _finished_run(root / "run"))

    def tell(self, story: Story, kill: signal.Signals, told: Told, most: int) -> None:
        """One story, killed up to `most` times."""
        expected = self._told_without_a_kill(story)
        folder, problems = self._folder(story), []
        kills, done = 0, set()
        while True:
            done |= story.finished(folder)
            before = len(stories.started(folder))
            victim = self._victim(story, expected, folder, kill, len(done)) if kills < most else None
            end = _give(story, folder, kill if victim else None, victim)
            fresh = stories.started(folder)[before:]
            repeated = done.intersection(fresh)
            if repeated:
                problems.append(f"made again although finished: {sorted(repeated)}")
            if not end.sent:
                break
            kills += 1
            writes = stories.writes(folder)
            worked = bool(fresh) or writes
            told.counts.update({"tried": 1, "at work": int(worked), "while a file was written": int(writes)})
            done |= story.finished(folder)
            told.lost = max(told.lost, len(set(fresh) - done))
            problems += _problems_of_a_stop(story, folder, end, kill)
        if end.code != 0:
            problems.append(f"ended with {end.code}: {log_of(folder).read_text()[-1500:]}")
        else:
            found = story.result(folder)
            problems += [f"differs: {key}" for key in expected.result if found.get(key) != expected.result[key]]
            problems += [f"came to be: {key}" for key in found if key not in expected.result]
            problems += _problems_when_repeated(story, folder)
        told.counts.update({"commands ended": 1, "survived": 0 if problems else kills})
        told.problems += [f"{story.kind}, {story.name}, {kills} kills: {problem}" for problem in problems]
        if not problems:
            shutil.rmtree(folder)

    def _told_without_a_kill(self, story: Story) -> Expected:
        key = story.kind, story.name
        if key not in self._expected:
            folder = self._folder(story)
            begins = 0.0

            def look(pid: int) -> int:
                nonlocal begins
                begins = begins if stories.started(folder) else processor_seconds(pid)
                return 0

            end = _give(story, folder, signal.SIGKILL, look)
            assert end.code == 0, log_of(folder).read_text()
            pieces = len(stories.started(folder))
            self._expected[key] = Expected(story.result(folder), begins, end.worked, pieces)
            shutil.rmtree(folder)
        return self._expected[key]

    def _victim(
        self, story: Story, expected: Expected, folder: Path, kill: signal.Signals, done: int
    ) -> Callable[[int], int]:
        """The process to hit, once it is to be hit: after so much work, or while a file is written."""
        if story.kind == "saving":
            first, delay = self._random.randrange(6), self._random.uniform(0, WRITING_SECONDS)

            def while_saving(pid: int) -> int:
                if stories.newest_checkpoint(folder) < first or not stories.saves(folder):
                    return 0
                time.sleep(delay)
                return pid

            return while_saving
        left = max(0.0, 1 - done / expected.pieces) * (expected.ends - expected.begins)
        after = self._random.uniform(0.95 * expected.begins, expected.begins + left)
        worker = story.kind == "encoding" and kill == signal.SIGKILL and self._random.random() < 0.5

        def after_so_much_work(pid: int) -> int:
            if processor_seconds(pid) < after:
                return 0
            return next(iter(children(pid)), pid) if worker else pid

        return after_so_much_work

    def _folder(self, story: Story) -> Path:
        self._number += 1
        folder = self._root / f"{self._number:04d}-{story.kind}-{story.name.replace(' ', '-')}"
        folder.mkdir()
        story.prepare(folder)
        return folder


def _give(
    story: Story, folder: Path, kill: signal.Signals | None = None, victim: Callable[[int], int] | None = None
) -> End:
    before = functools.partial(stories.count_pieces, folder)
    return interrupted(story.arguments, folder, before=before, kill=kill, victim=victim or (lambda pid: 0))


def _problems_of_a_stop(story: Story, folder: Path, end: End, kill: signal.Signals) -> list[str]:
    if kill == signal.SIGKILL:
        return []
    problems = []
    if end.code != STOPS[kill]:
        problems.append(f"{kill.name} ended it with {end.code} in place of {STOPS[kill]}")
    log = log_of(folder).read_text()
    if "Traceback" in log and "at_fork" not in log:  # a signal at the moment of the fork, which this suite makes
        problems.append(f"{kill.name}: {log[-1500:]}")
    if story.kind in ("training", "saving"):
        steps = {int(piece.split()[1]) for piece in stories.started(folder)}
        if max(steps, default=0) != stories.newest_checkpoint(folder):
            problems.append(f"stopped after step {max(steps)}, saved {stories.newest_checkpoint(folder)}")
    return problems


def _problems_when_repeated(story: Story, folder: Path) -> list[str]:
    """A command that has ended is reported, and what it made stays as it is."""
    before, pieces = stories.identities(folder), len(stories.started(folder))
    end = _give(story, folder)
    problems = [] if end.code == 0 else [f"repeated, it ended with {end.code}"]
    if fresh := stories.started(folder)[pieces:]:
        problems.append(f"made again although all was finished: {fresh}")
    if story.again:
        after = stories.identities(folder)
        problems += [f"written again: {name}" for name in after if after[name] != before.get(name)]
    return problems


def _finished_run(folder: Path) -> Path:
    """A finished run, images of it in a file, and a cache with all that measuring needs of the digits."""
    folder.mkdir()
    shutil.copytree(os.environ["HARNESS_CACHE"], folder / "cache")  # the classifier may be there already

    def must(arguments: tuple[str, ...]) -> None:
        end = interrupted(arguments, folder, before=functools.partial(stories.count_pieces, folder))
        assert end.code == 0, log_of(folder).read_text()

    must(stories.run_arguments("dit", steps=4, checkpoint_every=2, untrained="false"))
    found = next(folder.glob("runs/*/seed*")).relative_to(folder)
    must(("sample", str(found), "--num", str(stories.IMAGES), "--npz"))
    shutil.move(next(folder.glob(f"{found}/samples/*/samples.npz")), folder / "samples.npz")
    shutil.rmtree(folder / found / "samples")
    shutil.rmtree(folder / found / "features")
    (folder / stories.PIECES).unlink()
    return folder


@pytest.fixture(scope="module")
def theatre(tmp_path_factory) -> Theatre:
    return Theatre(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize("kill", TIMES, ids=lambda kill: kill.name)
@pytest.mark.parametrize("kind", UNITS)
def test_a_killed_command_given_again_ends_as_if_it_had_not_been_killed(kind, kill, theatre):
    """Kills that hit a command before its first piece of work are tried too, and not counted towards the aim."""
    of_kind = [story for story in theatre.stories if story.kind == kind]
    told, aim = Told(), TIMES[kill]
    while told.counts["at work"] < aim and told.counts["commands ended"] < 10 * aim:
        story = of_kind[told.counts["commands ended"] % len(of_kind)]
        theatre.tell(story, kill, told, min(MOST_KILLS, aim - told.counts["at work"]))
    counts = dict(told.counts)
    record(
        kind,
        f"{kill.name} at a random moment, then the same command until it ends: the result is that of an "
        "uninterrupted one, byte for byte",
        counts.pop("tried"), survived=counts.pop("survived"), lost=f"{told.lost} {UNITS[kind]} that were under way",
        suite="kills", **counts, **{"finished work repeated": sum("again" in problem for problem in told.problems)},
    )  # fmt: skip
    assert not told.problems, "\n".join([f"seed {SEED}, {told.counts}", *told.problems])
    assert told.counts["at work"] >= aim
