"""What differs between where a run was made and where it is made again, and which comparison that allows."""

from collections.abc import Iterator
from typing import NamedTuple

from harness.records.schema import Manifest

EXACT, TOLERANT = "bit for bit", "within tolerance"
UNRECORDED = "not recorded"


class Difference(NamedTuple):
    """One fact about the environment that is not the same."""

    what: str
    then: str
    now: str
    decides: bool  # whether it forbids a comparison bit for bit


def differences(then: Manifest, now: Manifest) -> list[Difference]:
    """In the order: hardware, processes, precision, packages, code, versions that decide no bit."""
    return [difference for difference in _facts(then, now) if difference.then != difference.now]


def _facts(then: Manifest, now: Manifest) -> Iterator[Difference]:
    for field in ("name", "kind", "count", "threads", "cuda", "driver"):
        decides = field in ("name", "kind", "threads", "cuda")
        yield _fact(f"device {field}", getattr(then.device, field), getattr(now.device, field), decides)
    yield _fact("processes", then.world_size, now.world_size, True)
    for flag in sorted(then.precision.keys() | now.precision.keys()):
        yield _fact(flag, then.precision.get(flag), now.precision.get(flag), flag in then.precision)
    for package in sorted(then.packages.keys() | now.packages.keys()):
        recorded = package in then.packages  # a version that nobody wrote down forbids nothing
        yield _fact(package, then.packages.get(package), now.packages.get(package), recorded)
    yield _fact("commit", then.git_commit and then.git_commit[:10], now.git_commit and now.git_commit[:10], True)
    yield _fact("uncommitted changes", _short(then.git_diff_sha256), _short(now.git_diff_sha256), True)
    yield _fact("harness", then.harness_version, now.harness_version, True)
    yield _fact("Python", then.python, now.python, False)
    yield _fact("platform", then.platform, now.platform, True)


def _fact(what: str, then: object, now: object, decides: bool) -> Difference:
    before, after = (UNRECORDED if value is None else str(value) for value in (then, now))
    return Difference(what, before, after, decides)


def _short(sha256: str | None) -> str:
    return sha256[:10] if sha256 else "none"


def comparison(then: Manifest, found: list[Difference], *, completed: bool) -> tuple[str, str]:
    """Which comparison applies, and why. `completed`: settings were added that the older record does not have."""
    if then.device.kind != "cpu":
        return TOLERANT, "it ran on a GPU, whose kernels do not promise the same order of sums"
    deciding = [difference.what for difference in found if difference.decides]
    if completed:
        deciding.append("settings newer than the record")
    if deciding:
        return TOLERANT, f"not the same: {', '.join(deciding)}"
    return EXACT, "the same processor, threads, processes, packages and code"
