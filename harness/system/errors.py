"""Errors that a user can correct, each with the exit code that the command ends with.

A message says what is wrong, why, and what to do. Anything that is not a HarnessError is a bug and ends with 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class HarnessError(Exception):
    """An error that a user can correct. `exit_code` is what the command ends with."""

    exit_code = 1


class UsageError(HarnessError):
    """The command asks for something that does not exist or is out of range."""

    exit_code = 2


class SetupError(HarnessError):
    """The machine or its installation cannot do what was asked."""

    exit_code = 3


class DataError(HarnessError):
    """Data, a reference, a checkpoint, a run folder or a disk is missing, damaged or full."""

    exit_code = 4


class Diverged(HarnessError):
    """Training produced a loss that is not finite."""

    exit_code = 5


class OutOfTolerance(HarnessError):
    """A check was carried out and failed."""

    exit_code = 6


class Preempted(HarnessError):
    """SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2 arrived. A run that trained continues from its checkpoint when repeated."""

    exit_code = 75


class Interrupted(HarnessError):
    """SIGINT (Ctrl-C) arrived. A run that trained continues from its checkpoint when repeated."""

    exit_code = 130


def one_line(text: object, most: int | None = None) -> str:
    """`text`, or what an error says, without line breaks and letters that cannot be seen, cut after `most` letters."""
    letters = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(letters.split())[:most]


def some_of(texts: Iterable[str], most: int = 5) -> str:
    """The first `most` texts, and how many more there are."""
    texts = list(texts)
    return ", ".join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


def unknown(kind: str, name: str, choices: Iterable[str], *, see: str = "") -> UsageError:
    """The error for a name that does not exist: the nearest names first, then all of them, or where to `see` them."""
    choices = sorted(choices)
    near = get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"no {kind} is called {name!r}. {hint}{see or 'Available: ' + ', '.join(choices)}.")
