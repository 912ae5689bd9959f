"""What a running command shows on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from typing import Any, Protocol

LINE_EVERY_SECONDS = 10.0
PACE_SECONDS = 60.0  # the pace is that of the last minute: parts kept from an earlier try take no time at all


class Progress(Protocol):
    """What a command tells whoever watches it."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int, unit: str = "images") -> None: ...
    def metrics(self, line: dict[str, Any]) -> None: ...
    def advance(self, done: int) -> None: ...


class Pace:
    """How many a second, over the last minute, and how long the rest will take at that."""

    def __init__(self, total: int, unit: str):
        self._total, self._unit = total, unit
        self._seen = deque([(time.monotonic(), 0)])

    def after(self, done: int) -> str:
        """ "52.1 images/s, 0:15:58 left", or nothing before two moments can be compared."""
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > PACE_SECONDS:
            self._seen.popleft()
        (since, before) = self._seen[0]
        if now - since < 1 or done <= before or done == self._total:
            return ""
        pace = (done - before) / (now - since)
        hours, seconds = divmod(round((self._total - done) / pace), 3600)
        return f"{pace:.3g} {self._unit}/s, {hours}:{seconds // 60:02d}:{seconds % 60:02d} left"


class NoProgress:
    """For the processes of a run that are not the main one."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int, unit: str = "images") -> None: ...
    def metrics(self, line: dict[str, Any]) -> None: ...
    def advance(self, done: int) -> None: ...
    def close(self) -> None: ...


class PlainProgress:
    """One line per stage, then one at most every few seconds: readable in a log file."""

    def __init__(self, label: str):
        self._label, self._stage, self._total, self._unit, self._last = label, "", 0, "", 0.0
        self._pace = Pace(0, "")

    def note(self, text: str) -> None:
        _say(f"{self._label}: {text}")

    def stage(self, name: str, total: int, unit: str = "images") -> None:
        self._stage, self._total, self._unit, self._last = name, total, unit, time.monotonic()
        self._pace = Pace(total, unit)
        _say(f"{self._label}: {name}")

    def metrics(self, line: dict[str, Any]) -> None:
        self._tick(line["step"], f"step {line['step']:,} of {self._total:,}, {describe(line)}")

    def close(self) -> None:
        """Nothing to put away."""

    def advance(self, done: int) -> None:
        pace = self._pace.after(done)
        self._tick(done, f"{self._stage}: {done:,} of {self._total:,} {self._unit}" + (f", {pace}" if pace else ""))

    def _tick(self, done: int, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_SECONDS or done == self._total:
            self._last = now
            _say(f"{self._label}: {text}")


class BarProgress:
    """A bar with the time left and the newest loss and speed."""

    def __init__(self, label: str):
        from rich.console import Console  # rich is not needed where there is no terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self._label, self._console = label, Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._pace = Pace(0, "")

    def note(self, text: str) -> None:
        self._console.print(f"{self._label}: {text}", markup=False, highlight=False)

    def stage(self, name: str, total: int, unit: str = "images") -> None:
        self._bar.stop()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{self._label} {name}", total=total, detail="")
        self._pace = Pace(total, unit)
        self._bar.start()

    def metrics(self, line: dict[str, Any]) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=line["step"], detail=describe(line))

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, detail=self._pace.after(done).partition(",")[0])

    def close(self) -> None:
        self._bar.stop()


def describe(line: dict[str, Any]) -> str:
    """The newest log line in a few words."""
    speed = line["steps_per_sec"]
    return f"loss {line['loss']:.4g}" + (f", {speed:.1f} steps/s" if speed else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
