"""The command line: in a process of its own, as a user starts it, or in this one."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from harness.cli import app

SMALL = ["--set", "width=16", "--set", "depth=3", "--set", "num_heads=2", "--set", "batch_size=8"]
QUICK_EVALUATION = ["--set", "num_images=60", "--set", "sampling.num_steps=3"]


def harness(*arguments, cwd, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, **options)


def invoke(*arguments, cwd=".", columns: int = 80) -> Result:
    """A command in this process. One that is refused ends with SystemExit, never with another exception."""
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [*map(str, arguments)], prog_name="harness", env={"COLUMNS": str(columns)})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def answer(*arguments, cwd=".", columns: int = 80) -> str:
    """What a command that succeeds prints on stdout."""
    done = invoke(*arguments, cwd=cwd, columns=columns)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments, exit_code: int, says: str, cwd=".") -> str:
    """What a command that ends with an error prints on stderr. It prints nothing on stdout."""
    done = invoke(*arguments, cwd=cwd)
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.output
    assert says in flowing(done.stderr)
    return done.stderr


def too_wide(text: str, columns: int = 80) -> list[str]:
    """Lines beyond `columns` that could be broken. One word, like a path, stays whole so that it can be copied."""
    return [line for line in text.splitlines() if len(line) > columns and " " in line.strip()]


def flowing(text: str) -> str:
    """The text as if no line were broken."""
    return " ".join(text.split())


def alive(pid: int) -> bool:
    """Whether the process has not ended, on Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
