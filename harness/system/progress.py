"""What a running command shows on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Task

LINE_EVERY_SECONDS = 10.0
PACE_SECONDS = 60.0  # the pace is that of the last minute, since parts kept from an earlier try take no time at all


class Progress(Protocol):
    """What a command shows while it works."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int, unit: str = "images") -> None: ...
    def metrics(self, line: dict[str, Any]) -> None: ...
    def advance(self, done: int) -> None: ...


class NoProgress:
    """Shows nothing, for the processes of a run that are not the main one."""

    def note(self, text: str) -> None: ...
    def stage(self, name: str, total: int, unit: str = "images") -> None: ...
    def metrics(self, line: dict[str, Any]) -> None: ...
    def advance(self, done: int) -> None: ...
    def close(self) -> None: ...


class PlainProgress:
    """One line per stage, then one at most every few seconds: readable in a log file."""

    bar = False

    def __init__(self, label: str):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._label, self._name, self._unit, self._last = label, "", "", 0.0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            disable=not self.bar,  # it still counts, and knows the pace
            speed_estimate_period=PACE_SECONDS,
            get_time=time.monotonic,
        )
        self._stage = self._bar.add_task("", total=0, detail="", visible=False)

    def note(self, text: str) -> None:
        self._say(text)

    def stage(self, name: str, total: int, unit: str = "images") -> None:
        self._name, self._unit, self._last = name, unit, time.monotonic()
        self._bar.stop()
        self._bar.remove_task(self._stage)
        self._stage = self._bar.add_task(f"{self._label} {name}", total=total, detail="")
        if self.bar:
            self._bar.start()
        else:
            self._say(name)

    def metrics(self, line: dict[str, Any]) -> None:
        speed = line["steps_per_sec"]
        newest = f"loss {line['loss']:.4g}" + (f", {speed:.1f} steps/s" if speed else "")
        self._bar.update(self._stage, completed=line["step"], detail=newest)
        self._tick(line["step"], f"step {line['step']:,} of {self._task.total:,}, {newest}")

    def advance(self, done: int) -> None:
        self._bar.update(self._stage, completed=done)
        speed, seconds = self._task.speed, self._task.time_remaining
        pace = f"{speed:.3g} {self._unit}/s" if speed else ""
        self._bar.update(self._stage, detail=pace)
        left = f", {pace}, {timedelta(seconds=seconds)} left" if pace and seconds else ""
        self._tick(done, f"{self._name}: {done:,} of {self._task.total:,} {self._unit}{left}")

    def close(self) -> None:
        self._bar.stop()

    @property
    def _task(self) -> "Task":
        return self._bar.tasks[0]

    def _tick(self, done: int, text: str) -> None:
        now = time.monotonic()
        if not self.bar and (now - self._last >= LINE_EVERY_SECONDS or done == self._task.total):
            self._last = now
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"{self._label}: {text}", file=sys.stderr, flush=True)


class BarProgress(PlainProgress):
    """A bar with the time left and the newest loss and speed."""

    bar = True

    def _say(self, text: str) -> None:
        self._console.print(f"{self._label}: {text}", markup=False, highlight=False)
