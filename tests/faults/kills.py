"""SIGKILL, SIGTERM and SIGINT at random moments of training, saving, encoding, sampling and evaluating.

    python tests/faults/kills.py --kills 50 --seed 1        # at least 50 kills of each kind; rows for reports/evidence
    python tests/faults/kills.py --kills 3 --only sampling --out /tmp/faults

Every command is a real one, in a process of its own. A failure is told with the story, and the seed repeats it.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: this process forks, and may have no other thread

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import forked
import stories
from ledger import REPORTS, Fault, Ledger
from stories import Story

KINDS = ("training", "saving", "encoding", "sampling", "evaluating")
METHODS = ("dit", "maskdit", "mdt", "sddit")
MOST_KILLS = 8  # of one story: then it is left to end
STOPS = {signal.SIGTERM: 75, signal.SIGINT: 130}
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

    def __init__(self, root: Path, seed: int):
        self._root, self._random = root, random.Random(seed)
        self._number, self._expected = 0, {}
        self._run = root / "run"
        self._run.mkdir()
        self._make_a_run()
        self.stories = stories.all_of(METHODS, _photographs(root / "photos"), self._run)

    def tell(self, story: Story, kill: signal.Signals, told: Told, most: int) -> None:
        """One story, killed up to `most` times."""
        expected = self._told_without_a_kill(story)
        folder, problems = self._folder(story), []
        kills, done = 0, set()
        while True:
            done |= story.finished(folder)
            before = len(stories.started(folder))
            victim = self._victim(story, expected, folder, kill, len(done)) if kills < most else None
            end = self._give(story, folder, kill if victim else None, victim)
            fresh = stories.started(folder)[before:]
            repeated = done.intersection(fresh)
            if repeated:
                problems.append(f"made again although finished: {sorted(repeated)}")
            if not end.sent:
                break
            kills += 1
            writes = stories.writes(folder)
            told.counts.update({"tried": 1, "at work": bool(fresh) or writes, "writing": writes})
            done |= story.finished(folder)
            told.lost = max(told.lost, len(set(fresh) - done))
            problems += self._problems_of_a_stop(story, folder, end, kill)
        if end.code != 0:
            problems.append(f"ended with {end.code}: {(folder.parent / f'{folder.name}.log').read_text()[-1500:]}")
        else:
            found = story.result(folder)
            problems += [f"differs: {key}" for key in expected.result if found.get(key) != expected.result[key]]
            problems += [f"came to be: {key}" for key in found if key not in expected.result]
            problems += self._problems_when_repeated(story, folder)
        told.counts.update({"stories": 1, "survived": 0 if problems else kills, "repeated": len(problems)})
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
                begins = begins if stories.started(folder) else forked.processor_seconds(pid)
                return 0

            end = self._give(story, folder, signal.SIGKILL, look)
            assert end.code == 0, (folder.parent / f"{folder.name}.log").read_text()
            pieces = len(stories.started(folder))
            self._expected[key] = Expected(story.result(folder), begins, end.worked, pieces)
            shutil.rmtree(folder)
            print(f"{story.kind}, {story.name}: {pieces} pieces from {begins:.2f} to {end.worked:.2f} s", flush=True)
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
            if forked.processor_seconds(pid) < after:
                return 0
            return next(iter(forked.children(pid)), pid) if worker else pid

        return after_so_much_work

    def _give(
        self, story: Story, folder: Path, kill: signal.Signals | None = None, victim: Callable[[int], int] | None = None
    ) -> forked.End:
        log = folder.parent / f"{folder.name}.log"
        return forked.command(
            story.arguments, folder, log,
            before=stories.count_pieces(folder), kill=kill, victim=victim or (lambda pid: 0),
        )  # fmt: skip

    def _problems_of_a_stop(self, story: Story, folder: Path, end: forked.End, kill: signal.Signals) -> list[str]:
        if kill == signal.SIGKILL:
            return []
        problems = []
        if end.code != STOPS[kill]:
            problems.append(f"{kill.name} ended it with {end.code} in place of {STOPS[kill]}")
        log = (folder.parent / f"{folder.name}.log").read_text()
        if "Traceback" in log and "at_fork" not in log:  # a signal at the moment of the fork, which this suite makes
            problems.append(f"{kill.name}: {log[-1500:]}")
        if story.kind in ("training", "saving"):
            steps = {int(piece.split()[1]) for piece in stories.started(folder)}
            if max(steps, default=0) != stories.newest_checkpoint(folder):
                problems.append(f"stopped after step {max(steps)}, saved {stories.newest_checkpoint(folder)}")
        return problems

    def _problems_when_repeated(self, story: Story, folder: Path) -> list[str]:
        """A command that has ended is reported, and what it made stays as it is."""
        before, pieces = stories.identities(folder), len(stories.started(folder))
        end = self._give(story, folder)
        problems = [] if end.code == 0 else [f"repeated, it ended with {end.code}"]
        if fresh := stories.started(folder)[pieces:]:
            problems.append(f"made again although all was finished: {fresh}")
        if story.again:
            after = stories.identities(folder)
            problems += [f"written again: {name}" for name in after if after[name] != before.get(name)]
        return problems

    def _folder(self, story: Story) -> Path:
        self._number += 1
        folder = self._root / f"{self._number:04d}-{story.kind}-{story.name.replace(' ', '-')}"
        folder.mkdir()
        story.prepare(folder)
        return folder

    def _make_a_run(self) -> None:
        """A finished run, images of it in a file, and a cache with all that measuring needs of the digits."""
        known = os.environ.get("HARNESS_CACHE")
        if known and os.path.isdir(known):  # the classifier of the digits may be there already: seconds to train
            shutil.copytree(known, self._run / "cache")
        self._must(stories.run_arguments("dit", steps=4, checkpoint_every=2, untrained="false"))
        found = next(self._run.glob("runs/*/seed*")).relative_to(self._run)
        self._must(("sample", str(found), "--num", str(stories.IMAGES), "--npz"))
        shutil.move(next(self._run.glob(f"{found}/samples/*/samples.npz")), self._run / "samples.npz")
        shutil.rmtree(self._run / found / "samples")
        shutil.rmtree(self._run / found / "features")
        (self._run / stories.PIECES).unlink()

    def _must(self, arguments: tuple[str, ...]) -> None:
        log = self._root / "run.log"
        end = forked.command(arguments, self._run, log, before=stories.count_pieces(self._run))
        assert end.code == 0, log.read_text()


def _photographs(folder: Path) -> Path:
    """Twenty pieces of two photographs, a class each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(photograph[20 * number :][:60, :80]).save(folder / name / f"{number}.png")
    return folder


def tell(kinds: Sequence[str], kills: int, stops: int, seed: int, ledger: Ledger, root: Path, out: Path) -> list[str]:
    """At least `kills` SIGKILLs at work of each kind, and `stops` SIGTERMs and SIGINTs; returns what went wrong.

    Those that hit a command before its first piece of work are tried too, and not counted towards these.
    """
    theatre, problems = Theatre(root, seed), []
    for kind in kinds:
        of_kind = [story for story in theatre.stories if story.kind == kind]
        for number, most in ((signal.SIGKILL, kills), *((stop, stops) for stop in STOPS)):
            if not most:
                continue
            told = Told()
            while told.counts["at work"] < most and told.counts["stories"] < 10 * most:
                story = of_kind[told.counts["stories"] % len(of_kind)]
                theatre.tell(story, number, told, min(MOST_KILLS, most - told.counts["at work"]))
            ledger.add(_row(kind, number, told))
            ledger.write(out)  # now: the next kind takes its time
            problems += told.problems
            print(f"{kind}, {number.name}: {dict(told.counts)}, lost at most {told.lost}", *told.problems, sep="\n  ")
    return problems


UNITS = {"training": "steps", "saving": "steps", "encoding": "shards", "sampling": "parts", "evaluating": "pieces"}


def _row(kind: str, number: signal.Signals, told: Told) -> Fault:
    counts = told.counts
    return Fault(
        kind,
        f"{number.name} at a random moment, then the same command until it ends: the result is that of an "
        "uninterrupted one, byte for byte",
        counts["tried"],
        counts["survived"],
        f"{told.lost} {UNITS[kind]} that were under way",
        {
            "at work": counts["at work"],
            "while a file was written": counts["writing"],
            "commands ended": counts["stories"],
            "finished work repeated": sum("again" in problem for problem in told.problems),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs of each kind")
    parser.add_argument("--stops", type=int, default=10, help="SIGTERMs, and SIGINTs, of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path, default=REPORTS)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    ledger = Ledger("kills", seed=given.seed)
    root = Path(tempfile.mkdtemp(prefix="harness-kills-"))
    problems = tell(given.only, given.kills, given.stops, given.seed, ledger, root, given.out)
    print(given.out / "kills.json")
    if problems:
        sys.exit(f"{len(problems)} problems, seed {given.seed}; the folders of those stories are in {root}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
