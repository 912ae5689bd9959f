"""Whether this process keeps the memory that it frees: a training step frees and takes the same sizes over and over."""

import ctypes
import os
from typing import Literal

Allocator = Literal["default", "kept"]

# Of glibc's malloc.h, with the bytes that they are set to. Below the first threshold memory comes from the heap, above
# it from the system; the heap's free end goes back to the system above the second; the heap grows by the last.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SIZES = {M_MMAP_THRESHOLD: 1 << 28, M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 1 << 26}
OWN = ("MALLOC_", "GLIBC_TUNABLES")  # environment variables by which a user sets glibc's allocator
_state: Allocator = "default"


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, up to 1 GiB at the end of the heap, in place of mapping it anew.

    By default activations of some megabytes are given back and taken again in every step, and the system clears each
    of their pages: up to a tenth of a step on a CPU. Does nothing where there is no glibc (macOS, musl), nor where the
    user's environment sets glibc's allocator.
    """
    global _state
    if not has_glibc() or any(name.startswith(OWN) for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    refused = [parameter for parameter, size in SIZES.items() if not mallopt(parameter, size)]
    _state = "default" if refused else "kept"


def state() -> Allocator:
    """What keep_freed_memory has done in this process, for the record."""
    return _state


def has_glibc() -> bool:
    """Whether this process runs on GNU's C library."""
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):  # Windows; macOS; musl
        return False
