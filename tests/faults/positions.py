"""Where a file is damaged: bits flipped and ends cut at random, and what may come of it.

HARNESS_FAULTS=long tries many positions and writes the counts to reports/evidence/.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ledger import Fault, Ledger

LONG = os.environ.get("HARNESS_FAULTS") == "long"
SEED = int(os.environ.get("HARNESS_FAULTS_SEED", "7"))


class Damage(NamedTuple):
    what: str  # "bit 3 of byte 12", for the message of a test that fails
    content: bytes


def record(
    kind: str, what: str, tried: int, *, survived: int | None = None, lost: str = "nothing", suite: str = "damage",
    **details,
) -> None:  # fmt: skip
    """A row of the table of faults, in the long form."""
    if LONG:
        ledger = Ledger(suite, seed=SEED)
        ledger.add(Fault(kind, what, tried, tried if survived is None else survived, lost, details))
        ledger.write()


def damages(content: bytes, count: int, name: str) -> Iterator[Damage]:
    """`count` files that are `content` but for one flipped bit, or for a missing end; every third one is cut."""
    generator = random.Random(f"{SEED}, {name}")
    for number in range(count):
        if number % 3 == 2:
            length = generator.randrange(len(content)) if number > 2 else 0
            yield Damage(f"cut to {length} bytes", content[:length])
            continue
        byte, bit = generator.randrange(len(content)), generator.randrange(8)
        flipped = bytearray(content)
        flipped[byte] ^= 1 << bit
        yield Damage(f"bit {bit} of byte {byte}", bytes(flipped))


def try_all(
    path: Path, count: int, outcome: Callable[[], Any], clean: Any, equal: Callable[[Any, Any], bool]
) -> dict[str, int]:
    """Damage `path` in `count` ways, one after another. `outcome` reads it: what it gives, or a str that tells of it.

    Every damage must be told or give what is `clean`. Returns how many were told and how many harmless.
    """
    content = path.read_bytes()
    counts = {"detected": 0, "harmless": 0}
    try:
        for damage in damages(content, count, path.name):
            path.write_bytes(damage.content)
            try:
                found = outcome()
            except Exception as error:
                raise AssertionError(f"{path.name}, {damage.what}: {type(error).__name__}: {error}") from error
            if isinstance(found, str):
                assert found, f"{path.name}, {damage.what}: told, but nothing is said"
                assert "\n" not in found, f"{path.name}, {damage.what}: more than a line: {found}"
                counts["detected"] += 1
            else:
                assert equal(found, clean), f"{path.name}, {damage.what}: another result, and nothing is said"
                counts["harmless"] += 1
    finally:
        path.write_bytes(content)
    return counts
