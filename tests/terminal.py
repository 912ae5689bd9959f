"""A real pseudo-terminal of a given size, and what a command writes to it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OF_THE_TERMINAL = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI", "TERM", "COLORTERM")


ROOT = str(Path(__file__).parent.parent)


class Shown(NamedTuple):
    """What a command wrote."""

    raw: str
    exit_code: int

    @property
    def lines(self) -> list[str]:
        """Without escape sequences; a line that is drawn anew counts each time."""
        return [part.rstrip() for line in ESCAPE.sub("", self.raw).split("\n") for part in line.split("\r")]


def run(
    *arguments: str,
    cwd: Path,
    columns: int = 80,
    stdout: bool = True,
    program: tuple[str, ...] = ("-m", "harness"),
    **environment: str,
) -> Shown:
    """`python -m harness ARGUMENTS` on a terminal that wide; without `stdout` only its stderr is one."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in OF_THE_TERMINAL}
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        env=clean | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT} | environment,
        stdin=other,
        stdout=other if stdout else subprocess.DEVNULL,
        stderr=other,
    )
    os.close(other)
    written = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:  # Linux: the last process that had the terminal is gone
            break
        if not part:
            break
        written += part
    os.close(main)
    return Shown(written.decode(), process.wait())
