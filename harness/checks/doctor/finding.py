"""What a check says, in words that can be pasted anywhere: no name of host or user, no path of somebody's home."""

import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from harness.system.errors import one_line

Status = Literal["ok", "warning", "failure"]

PLACES = ("HARNESS_FEATURES", "HARNESS_VAE", "HARNESS_CACHE", "HARNESS_DATA", "HF_HOME", "TORCH_HOME")
SHOWN = 300  # characters of an error
SHORTEST_NAME = 4  # of a host: a shorter one may be part of any word


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it stands, what was found, and the sentence that mends it ("" for nothing)."""

    name: str
    status: Status
    found: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


class Check(NamedTuple):
    """A question about the machine. `ask` answers with findings, and may raise anything."""

    theme: str
    name: str
    ask: Callable[[], Finding | Iterable[Finding]]
    limit_seconds: float = 15.0


def ok(name: str, found: str, mend: str = "") -> Finding:
    return Finding(name, "ok", private(found), private(mend))


def warning(name: str, found: str, mend: str) -> Finding:
    return Finding(name, "warning", private(found), private(mend))


def failure(name: str, found: str, mend: str) -> Finding:
    return Finding(name, "failure", private(found), private(mend))


def crashed(check: Check, error: BaseException) -> Finding:
    """For a check that raised: the line of its exception, and the mend where that names one."""
    found = f"{type(error).__name__}: {one_line(error)}"[:SHOWN]
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "harness":
        return failure(check.name, found, "Install what is missing: pip install dit-harness, or -e . in its checkout.")
    return failure(check.name, found, "Mend what the message names; see also the findings before this one.")


def in_brief(error: BaseException) -> str:
    """What it says on one line, not longer than SHOWN; its kind where it says nothing."""
    return one_line(error, SHOWN) or type(error).__name__


def private(text: str) -> str:
    """The text with folders by their variables, the home folder as ~, and without the host's name."""
    for name in PLACES:
        folder = os.environ.get(name, "")
        if len(folder) > 1:
            text = text.replace(folder.rstrip("/"), f"${name}")
    home = str(Path.home())
    if home != "/":
        text = text.replace(home, "~")
    host = socket.gethostname()
    if len(host) >= SHORTEST_NAME and host not in ("localhost", "linux"):
        text = text.replace(host, "localhost")
    return text


def in_words(size: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit in ("bytes", "KiB") else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
