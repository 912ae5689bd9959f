"""metrics.jsonl and events.jsonl of a run: what happened, and how fast."""

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from harness.records.schema import append_line, read_lines, write_atomically
from harness.system.errors import DataError

Report = Callable[[dict[str, Any]], None]  # one line of metrics.jsonl, as it is written
Observe = Callable[[int, nn.Module], dict[str, float]]  # (steps done, the averaged network) -> more for such a line


class Speed(NamedTuple):
    """Over all processes that worked on the run."""

    steps_per_sec: float | None  # mean over the timed steps
    steps_per_sec_sd: float | None  # over the windows between log lines
    timed_steps: int
    peak_memory_bytes: int | None  # the highest of any


class Logbook:
    """The logs of one run folder. Only the main process of a run writes; the others' calls do nothing."""

    def __init__(self, folder: Path, *, report: Report, note: Callable[[str], None], writes: bool):
        self._metrics, self._events = folder / "metrics.jsonl", folder / "events.jsonl"
        self._report, self._note, self._writes = report, note, writes

    def line(self, line: dict[str, Any]) -> None:
        if self._writes:
            _append(self._metrics, line)
            self._report(line)

    def event(self, event: str, **details: Any) -> None:
        if self._writes:
            _append(self._events, {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details})

    def note(self, text: str) -> None:
        """Show it to the user, and write it to events.jsonl."""
        if self._writes:
            self._note(text)
            self.event("note", text=text)

    def go_back_to(self, step: int, *, last_line: int) -> None:
        """Drop the lines after `step`, the checkpoint a run continues from: they come again.

        `last_line` is the step of the last line before it; 0: there was none.
        """
        if not self._writes:
            return
        lines, damaged = read_lines(self._metrics)
        whole = [line for line in lines if _is_whole(line)]
        damaged += len(lines) - len(whole)
        kept = [line for line in whole if line["step"] <= step]
        if damaged:
            self.note(f"metrics.jsonl had {damaged} damaged line(s), left out.")
        elif last_line and not any(line["step"] == last_line for line in kept):
            self.note(f"metrics.jsonl has lost lines up to step {last_line:,}: curves and the speed begin after it.")
        if damaged or len(kept) < len(lines):
            with _writing(self._metrics):
                write_atomically(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def speed(self) -> Speed:
        lines = [line for line in read_lines(self._metrics)[0] if _is_whole(line)]
        timed_steps = sum(line["timed_steps"] for line in lines)
        timed_seconds = sum(line["timed_seconds"] for line in lines)
        speeds = [line["steps_per_sec"] for line in lines if line["steps_per_sec"]]
        return Speed(
            timed_steps / timed_seconds if timed_steps else None,
            statistics.stdev(speeds) if len(speeds) > 1 else None,
            timed_steps,
            max((line["peak_memory_bytes"] for line in lines if line["peak_memory_bytes"]), default=None),
        )


def _is_whole(line: dict[str, Any]) -> bool:
    """Whether it has what is counted with; a line that a disk damaged may still be an object."""
    numbers = [line.get(name) for name in ("step", "timed_steps", "timed_seconds")]
    others = [line.get(name, "absent") for name in ("steps_per_sec", "peak_memory_bytes")]  # null where not measured
    return all(type(number) in (int, float) for number in (*numbers, *(other for other in others if other is not None)))


def _append(path: Path, document: dict[str, Any]) -> None:
    with _writing(path):
        append_line(path, document)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path.name} could not be written: {error.strerror or error}. Free some space or choose another --out, "
            "then repeat the command: it continues from the last checkpoint."
        ) from error
