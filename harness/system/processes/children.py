"""Commands of the harness as processes of their own."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """`harness ARGUMENTS` while it runs; `options` are Popen's. What interrupts us lets it save before it ends."""
    with subprocess.Popen([sys.executable, "-m", "harness", *arguments], **options) as process:
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGTERM)  # the child saves a checkpoint, then exits
            process.wait()
            raise


def exit_code(returncode: int) -> int:
    """What a shell would say of a process that ended so: 128 and the signal's number where one killed it."""
    return returncode if returncode >= 0 else 128 - returncode
