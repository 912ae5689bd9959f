"""The sweeps: which runs a figure or a table of a paper needs. The paper's sweeps.yaml names them, at two scales."""

from functools import lru_cache
from typing import Any, NamedTuple

from harness.papers import documents
from harness.system.errors import UsageError, unknown

ALL = "all"


class Member(NamedTuple):
    """A run of a sweep, but for its seed."""

    recipe: str
    assignments: tuple[str, ...]  # key=value, as --set takes them: the scale's, then its own
    own: tuple[str, ...]  # those assignments that set it apart from the sweep's other runs
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
    return list(_sweeps())


def scales(name: str | None = None) -> list[str]:
    """Those that the sweep `name` has runs of, or any sweep."""
    chosen = _sweeps().values() if name in (None, ALL) else [_sweeps()[name]]
    return list(dict.fromkeys(scale for sweep in chosen for scale in sweep["scales"] if scale in sweep))


def plan(name: str, scale: str, *, images: str | None = None) -> Plan:
    """The runs of the sweep `name` ("all": of every sweep) at `scale`; equal ones come once, with what any asks for.

    Raises UsageError for an unknown sweep or scale.
    """
    if name not in (*names(), ALL):
        raise unknown("sweep", name, [*names(), ALL])
    if scale not in scales():
        raise UsageError(f"--scale is {scale!r}; it must be {' or '.join(scales())}.")
    chosen = [sweep for each, sweep in _sweeps().items() if name in (each, ALL) and scale in sweep]
    if not chosen:
        known = " or ".join(scales(name))
        raise UsageError(f"--scale is {scale!r}, and the sweep {name} has no runs of it; say --scale {known}.")
    members: dict[tuple[str, frozenset[str]], Member] = {}
    waiting = []
    for sweep in chosen:
        for entry in sweep[scale]:
            member = _member(entry, sweep["scales"][scale])
            if entry.get("images"):
                if images is None:
                    waiting.append(member.label)
                    continue
                data = f"data={images}"
                member = member._replace(assignments=(*member.assignments, data), own=(*member.own, data))
            key = (member.recipe, frozenset(member.own))
            members[key] = _with_all_wanted(member, members.get(key))
    seeds = dict.fromkeys(seed for sweep in chosen for seed in sweep["scales"][scale]["seeds"])
    settings = dict.fromkeys(setting for sweep in chosen for setting in sweep["scales"][scale]["settings"])
    return Plan(tuple(members.values()), tuple(seeds), tuple(dict.fromkeys(waiting)), tuple(settings))


def _member(entry: dict[str, Any], scale: dict[str, Any]) -> Member:
    recipe = entry["run"] if "-" in entry["run"] else f"{entry['run']}-{scale['size']}"
    own = tuple(entry.get("set", ()))
    curve = entry.get("curve")
    milestones = [f"{name}={curve}" for name in ("checkpoint_every", "keep_every", "evaluate_every")] if curve else []
    if curve and curve >= 10_000:  # hours between two: checkpoints come more often than milestones
        milestones = [f"keep_every={curve}", f"evaluate_every={curve}"]
    return Member(recipe, (*scale["settings"], *milestones, *own), own, tuple(entry.get("guided", ())))


def _with_all_wanted(member: Member, other: Member | None) -> Member:
    """The one of two equal runs that evaluates more: it has its own milestones, and the guidance scales of both."""
    if other is None:
        return member
    guided = tuple(dict.fromkeys((*other.guided, *member.guided)))
    more = max((other, member), key=lambda each: len(each.assignments))
    return more._replace(guided=guided)


@lru_cache
def _sweeps() -> dict[str, dict[str, Any]]:
    """Every paper's sweeps by name, each with the scales of its paper."""
    return {
        name: {**sweep, "scales": document["scales"]}
        for _, document in documents("sweeps.yaml")
        for name, sweep in document["sweeps"].items()
    }
