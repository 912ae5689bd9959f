"""The sweeps: which runs a figure or a table of the paper needs. sweeps.yaml names them, at two scales."""

from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from harness.recipes.config import plain_values
from harness.system.errors import UsageError, unknown

ALL = "all"


class Member(NamedTuple):
    """A run of a sweep, but for its seed."""

    recipe: str
    assignments: tuple[str, ...]  # key=value, as --set takes them: the scale's, then its own
    own: tuple[str, ...]  # of these, what sets it apart from the sweep's other runs
    guided: tuple[float, ...]  # guidance scales of further evaluations

    @property
    def label(self) -> str:
        return " ".join([self.recipe, *(own for own in self.own if not own.startswith("data="))])


class Plan(NamedTuple):
    """The runs of a sweep at a scale."""

    members: tuple[Member, ...]
    seeds: tuple[int, ...]
    waiting_for_images: tuple[str, ...]  # runs that are left out until a folder of images is given
    settings: tuple[str, ...]  # what the scale sets for all of them, key=value


def names() -> list[str]:
    return list(_document()["sweeps"])


def scales() -> list[str]:
    return list(_document()["scales"])


def draws(name: str) -> str:
    """What of the paper the sweep called `name` draws again."""
    return _document()["sweeps"][name]["draws"]


def plan(name: str, scale: str, *, images: str | None = None) -> Plan:
    """The runs of the sweep `name` ("all": of every sweep) at `scale`; equal ones come once, with what any asks for.

    Raises UsageError for an unknown sweep or scale.
    """
    if name not in (*names(), ALL):
        raise unknown("sweep", name, [*names(), ALL])
    if scale not in scales():
        raise UsageError(f"--scale is {scale!r}; it must be {' or '.join(scales())}.")
    chosen = _document()["scales"][scale]
    members: dict[tuple[str, frozenset[str]], Member] = {}
    waiting = []
    for entry in (
        entry for each in (names() if name == ALL else [name]) for entry in _document()["sweeps"][each][scale]
    ):
        member = _member(entry, chosen)
        if entry.get("images"):
            if images is None:
                waiting.append(member.label)
                continue
            member = member._replace(
                assignments=(*member.assignments, f"data={images}"), own=(*member.own, f"data={images}")
            )
        key = (member.recipe, frozenset(member.own))
        members[key] = _with_all_wanted(member, members.get(key))
    return Plan(
        tuple(members.values()), tuple(chosen["seeds"]), tuple(dict.fromkeys(waiting)), tuple(chosen["settings"])
    )


def _member(entry: dict[str, Any], scale: dict[str, Any]) -> Member:
    recipe = entry["run"] if "-" in entry["run"] else f"{entry['run']}-{scale['size']}"
    own = tuple(entry.get("set", ()))
    curve = entry.get("curve")
    milestones = [f"{name}={curve}" for name in ("checkpoint_every", "keep_every", "evaluate_every")] if curve else []
    if curve and curve >= 10_000:  # hours between two: checkpoints come more often than milestones
        milestones = [f"keep_every={curve}", f"evaluate_every={curve}"]
    return Member(recipe, (*scale["settings"], *milestones, *own), own, tuple(entry.get("guided", ())))


def _with_all_wanted(member: Member, other: Member | None) -> Member:
    """Of two equal runs the one that evaluates more: its milestones, and the guidance scales of both."""
    if other is None:
        return member
    guided = tuple(dict.fromkeys((*other.guided, *member.guided)))
    more = max((other, member), key=lambda each: len(each.assignments))
    return more._replace(guided=guided)


@lru_cache
def _document() -> dict[str, Any]:
    return plain_values((files("harness") / "recipes" / "sweeps.yaml").read_text(encoding="utf-8"))
