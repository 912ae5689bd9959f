"""The words of findings: errors in one line, and texts without private names."""

import os
import socket
from pathlib import Path

from harness.system.errors import one_line

PLACES = ("HARNESS_FEATURES", "HARNESS_VAE", "HARNESS_CACHE", "HARNESS_DATA", "HF_HOME", "TORCH_HOME")
SHOWN = 300  # characters of an error
SHORTEST_NAME = 4  # letters; a shorter name of a host may be part of any word


def in_brief(error: BaseException) -> str:
    """The kind of an error and what it says, on one line of at most SHOWN characters."""
    return f"{type(error).__name__}: {one_line(error)}"[:SHOWN]


def private(text: str) -> str:
    """The text with folders by their variables, the home folder as ~, and without the host's name.

    Users paste findings into public reports.
    """
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
