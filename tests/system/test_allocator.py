"""Freed memory that is kept where there is glibc, and honestly not elsewhere. In processes of their own: it cannot be
undone."""

import os
import subprocess
import sys

import pytest

from harness.system import allocator

BLOCK = 64 << 20  # above 32 MiB, the largest that glibc by itself takes from the heap
ROUNDS = 5
LOOK = f"""
import resource
from harness.system import allocator
{{first}}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range({ROUNDS + 1}):
    before = faults() if number == 1 else 0 if number == 0 else before
    block = b"x" * {BLOCK}
    del block
print(allocator.state(), faults() - before)
"""

glibc = pytest.mark.skipif(not allocator.has_glibc(), reason="another C library than GNU's")


def looked(first: str = "allocator.keep_freed_memory()", **environment: str) -> tuple[str, int]:
    """The state after `first`, and how many pages were mapped while a block was taken and freed again and again."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(allocator.OWN)}
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(first=first)],
        env=clean | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    state, faults = done.stdout.split()
    return state, int(faults)


@glibc
def test_a_block_that_is_freed_and_taken_again_is_not_mapped_anew():
    state, faults = looked()
    unset, faults_unset = looked("pass")
    assert (state, unset) == ("kept", "default")
    assert faults < ROUNDS <= faults_unset


@glibc
def test_what_the_users_environment_says_of_the_allocator_stays():
    assert looked(MALLOC_TOP_PAD_="0")[0] == "default"
    assert looked(GLIBC_TUNABLES="glibc.malloc.top_pad=0")[0] == "default"


@pytest.mark.parametrize("error", [ValueError, OSError, AttributeError])
def test_without_glibc_nothing_is_set_and_nothing_is_said(error, monkeypatch):
    def confstr(name):
        raise error(name)

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("looked for a library"))
    for name in [name for name in os.environ if name.startswith(allocator.OWN)]:
        monkeypatch.delenv(name)
    allocator.keep_freed_memory()
    assert allocator.state() == "default"
