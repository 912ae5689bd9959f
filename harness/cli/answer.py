"""How every command answers: stdout, stderr and exit codes."""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import DataError, HarnessError, Interrupted, UsageError

settings = {"debug": False}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Roots = Annotated[
    list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Run folders, or folders of them. Default: runs/")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")
]


def answers(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command with the exit code of its error and one line that says what, why and how to mend it."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from harness.signals import preemption_raises

        try:
            with preemption_raises():
                command(*args, **kwargs)
        except typer.Exit:
            raise
        except HarnessError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted. The same command continues from the last checkpoint.", Interrupted.exit_code)
        except BrokenPipeError:
            # The reader of our output has gone. What Python still flushes at exit must not fail a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:  # files are all this program opens: a disk that is full, read-only or gone
            mend = "Free some space or choose another folder with --out, then repeat the command."
            _fail(f"{error}. {mend}", DataError.exit_code)
        except Exception as error:
            hint = "" if settings["debug"] else " This is a bug in the harness; --debug shows the traceback."
            _fail(f"{type(error).__name__}: {error}.{hint}", HarnessError.exit_code)

    return wrapped


def _fail(message: str, exit_code: int) -> None:
    if settings["debug"]:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(exit_code)


def show(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """Print a command's answer: the document itself, or what `lines` makes of it."""
    print(json.dumps(document, indent=2) if as_json else "\n".join(lines(document)))


def count(text: str) -> int:
    """Parses an option like --steps 400k."""
    from harness.config import parse_count

    try:
        return parse_count(text)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def listed(text: str) -> list[str]:
    """The parts of an option like --precision bf16,fp32."""
    return [part.strip() for part in text.split(",") if part.strip()]


def compile_modes(text: str) -> str:
    """Parses an option like --compile auto, or a list of them."""
    for mode in listed(text):
        if mode not in ("on", "off", "auto"):
            raise typer.BadParameter(f"--compile is {mode!r}; it must be on, off or auto.")
    return text


def progress_for(label: str, *, shown: bool = True):
    """A bar on a terminal, plain lines elsewhere; nothing where another process shows it."""
    from harness import progress

    if not shown:
        return progress.NoProgress()
    return progress.BarProgress(label) if sys.stderr.isatty() else progress.PlainProgress(label)
