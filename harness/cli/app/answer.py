"""How every command answers: stdout, stderr and exit codes."""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from harness.cli.app import layout
from harness.cli.app.layout import shown
from harness.cli.app.state import state
from harness.system.errors import DataError, HarnessError, Interrupted, UsageError

NARROWEST_BAR = 60  # columns; a bar has no room in fewer


AGAIN = "Repeat the command."
CONTINUES = "The same command continues from the last checkpoint, or starts where there is none yet."
CONTINUES_IT = "The same command continues it."


def answering(command: Callable[..., None], when_stopped: str) -> Callable[..., None]:
    """The command, which ends with its error's exit code and a line: what is wrong, why, and what to do.

    `when_stopped` says what to do after a signal has ended the command.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from harness.system.processes.signals import preemption_raises

        with ending(when_stopped), preemption_raises(when_stopped):
            command(*args, **kwargs)

    return wrapped


@contextmanager
def ending(when_stopped: str = AGAIN) -> Iterator[None]:
    """Turns what a block ends with into typer.Exit with its exit code, after saying it."""
    try:
        yield
    except (typer.Exit, SystemExit):
        raise
    except UsageError as error:
        _fail(f"{_of_option(str(error))}{_where_taken()}", error.exit_code)
    except HarnessError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(f"SIGINT: stopped. {when_stopped}", Interrupted.exit_code)
    except BrokenPipeError:
        # The reader of our output has ended. What Python still flushes at exit must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:  # this program opens nothing but files: the disk is full, read-only or missing
        advice = "Free some space or choose another folder with --out, then repeat the command."
        _fail(f"{error}. {advice}", DataError.exit_code)
    except Exception as error:
        hint = "" if state.debug else " This is a bug in the harness; --debug shows the traceback."
        _fail(f"{type(error).__name__}: {error}.{hint}", HarnessError.exit_code)


def _fail(message: str, exit_code: int) -> None:
    if state.debug:
        traceback.print_exc()
    lines = map(shown, f"error: {message}".split("\n"))  # a name or a file's text may hold what a terminal obeys
    print(fitted("\n".join(lines)), file=sys.stderr)
    raise typer.Exit(exit_code)


def _of_option(said: str) -> str:
    """The message behind the name of the option whose value it shows, unless it names that option itself."""
    words = said.casefold()  # names of metrics are shown in lower case
    texts = {flag: value for flag, value in state.typed.items() if isinstance(value, str) and value}
    shown = [flag for flag, value in texts.items() if repr(value).casefold() in words]
    return said if len(shown) != 1 or shown[0] in said else f"{shown[0]}: {said}"


def _where_taken() -> str:
    """Name the options that came from a file or a variable, so that a wrong value can be found."""
    if not state.taken:
        return ""
    return f" Set, not typed: {', '.join(f'{option} by {taken.origin}' for option, taken in state.taken.items())}."


def fitted(message: str) -> str:
    """A message in lines of the terminal that stderr is, broken between words; elsewhere as it is."""
    return "\n".join(layout.fitted(message.splitlines(), sys.stderr)) if sys.stderr.isatty() else message


def show(document: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], Iterable[str | Path]]) -> None:
    """Print a command's answer: the document itself, or what `lines` makes of it, as `layout.fitted` fits it."""
    print(json.dumps(document, indent=2) if as_json else "\n".join(layout.fitted(lines(document))))


def live() -> bool:
    """Whether stderr is a terminal that can redraw its lines, and this is no job of a CI server."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def note(text: str) -> None:
    """Say something beside the answer, unless only errors are wanted."""
    if not state.quiet:
        print(fitted(text), file=sys.stderr, flush=True)


def progress_for(label: str, *, shown: bool = True):
    """A bar on a terminal, plain lines elsewhere; nothing where another process shows it or --quiet is given."""
    from harness.system import progress

    if not shown or state.quiet:
        return progress.NoProgress()
    bar = live() and layout.width(sys.stderr) >= NARROWEST_BAR
    return progress.BarProgress(label) if bar else progress.PlainProgress(label)
