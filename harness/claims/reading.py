"""Claims as content: a claims.yaml becomes claims that can be judged, or a list of its faults by line and column.

harness.claims.schema says what may stand in one. What is looked up here: arms, knobs, recipes and numbers by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.claims import Claim, Test
from harness.claims.arms import Arm, Published
from harness.claims.machines import LATENTS, MEMORY, OTHER_ENCODES, SPEED, SideBySide
from harness.claims.places import Distances
from harness.claims.schema import (
    ASKS,
    OF_ARITHMETIC,
    OF_DISTANCE,
    OF_MEMORY,
    OF_PARAMETERS,
    OF_SPEED,
    ArmOf,
    Ask,
    AskAtMost,
    AskFaster,
    At,
    ClaimOf,
    Document,
    Number,
    OfTwo,
    Pair,
)
from harness.claims.verdict import Found
from harness.recipes.located import Fault, Faulty, Located, Path, located
from harness.recipes.reading import families, recipe_names
from harness.records.folders.departures import knob_names
from harness.records.trials import VARIED
from harness.system.errors import unknown

ON_MACHINES, COUNTED = (OF_SPEED, OF_MEMORY), (OF_PARAMETERS, OF_ARITHMETIC)
LISTED = "`harness recipes list` names all"
NOT_COMPARED = (*ON_MACHINES, *COUNTED)  # yardsticks that are no distance between images


@dataclass(frozen=True)
class Entry:
    """A claim as its file has it, and as it is judged."""

    said: ClaimOf
    claim: Claim
    numbers: tuple[str, ...]  # names of the published numbers behind it
    line: int


@dataclass(frozen=True)
class Claims:
    """A claims.yaml."""

    entries: tuple[Entry, ...]
    numbers: Mapping[str, Number]
    source: Located


def read(text: str, file: str) -> Claims:
    """The claims of a claims.yaml. Raises Faulty, with every fault that it has."""
    source = located(text, file)
    faults: list[Fault] = []
    document = source.read((), source.value, Document, "a claims.yaml", faults)
    if document is None:
        raise Faulty(faults)
    numbers = _each(source, "numbers", document.numbers, Number, faults)
    arms = _each(source, "arms", document.arms, ArmOf, faults)
    faulty = {*document.numbers, *document.arms} - {*numbers, *arms}
    names = _Names(source, faults, arms, numbers, faulty)
    entries = [entry for place, said in enumerate(document.claims) if (entry := names.entry(place, said))]
    seen: dict[str, int] = {}
    for entry in entries:
        if entry.said.id in seen:
            what = f"the claim of line {seen[entry.said.id]} has the id {entry.said.id!r} too. Choose another."
            faults.append(Fault(file, entry.line, source.fault(("claims", 0), "").column, what))
        seen.setdefault(entry.said.id, entry.line)
    if not faults:  # a claim with a fault may be the one that uses them
        used = {name for entry in entries for name in entry.numbers}
        for kind, known, wanted in (("numbers", numbers, used), ("arms", arms, names.arms_used)):
            faults += [
                source.fault((kind, name), f"no claim uses {name!r}. Remove it.", name=True)
                for name in known
                if name not in wanted
            ]
    if faults:
        raise Faulty(faults)
    return Claims(tuple(entries), numbers, source)


def _each(source: Located, kind: str, said: Mapping[str, Any], model: Any, faults: list[Fault]) -> dict[str, Any]:
    read = {name: source.read((kind, name), value, model, f"{kind}: {name}", faults) for name, value in said.items()}
    return {name: value for name, value in read.items() if value is not None}


@dataclass
class _Names:
    """Looks up names while one claim after another is made; what is wrong becomes a fault."""

    source: Located
    faults: list[Fault]
    arms: Mapping[str, ArmOf]
    numbers: Mapping[str, Number]
    faulty: set[str]  # numbers and arms that are there, and have a fault of their own
    size: str = ""
    arms_used: set[str] = field(default_factory=set)
    _ask: Path = ()  # where the ask stands that is made now
    _used: dict[str, None] = field(default_factory=dict)  # numbers of the claim that is made now

    def entry(self, place: int, value: Any) -> Entry | None:
        """The claim at that place of the list; None where it has a fault."""
        path: Path = ("claims", place)
        before = len(self.faults)
        said = self.source.read(path, value, ClaimOf, "a claim", self.faults)
        if said is None:
            return None
        at = said.at
        self.size, self._used = at.size if at else "", {}
        for here, what in _contradictions(said):
            self.faults.append(self.source.fault((*path, *here), what, name=True))
        asks = [ask for i, each in enumerate(said.asks) if (ask := self._read((*path, "asks", i), said, each))]
        if (
            said.yardstick in ON_MACHINES
            and len({(ask.predicate, getattr(ask, "encoding", False)) for ask in asks}) > 1
        ):
            what = "the asks of one claim of speed or memory must be alike, encoding included. Make them two claims."
            self.faults.append(self.source.fault((*path, "asks"), what, name=True))
        made = [self._made((*path, "asks", i), ask) for i, ask in enumerate(asks)]
        for i, name in enumerate(said.published):
            self._ask = path
            self.number(name, "published", i)
        if len(self.faults) > before or self.faulty & self._used.keys():
            return None
        printed = said.printed or ", ".join(f"{name} {self.numbers[name].value:g}" for name in self._used)
        test = _untested(said.untested) if said.untested else _test(said, at, asks, made)
        claim = Claim(
            said.id, said.place, said.statement, printed, test, said.command or "", said.note, said.by_construction
        )
        return Entry(said, claim, tuple(self._used), self.source.fault(path, "").line)

    def _read(self, path: Path, claim: ClaimOf, value: Any) -> Ask | None:
        """One predicate of a claim."""
        name = value.get("predicate") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in ASKS:
            said = str(unknown("predicate", str(name), ASKS)) if name else "an ask needs a predicate, like lower"
            self.faults.append(self.source.fault((*path, "predicate"), said))
            return None
        kind = claim.yardstick if claim.yardstick in NOT_COMPARED else OF_DISTANCE
        if kind not in ASKS[name].yardsticks:
            fitting = ", ".join(each for each, ask in ASKS.items() if kind in ask.yardsticks)
            what = f"{name} cannot be asked of {claim.yardstick}; that takes {fitting}."
            self.faults.append(self.source.fault((*path, "predicate"), what))
            return None
        return self.source.read(path, value, ASKS[name], f"the predicate {name}", self.faults)

    def _made(self, path: Path, ask: Ask) -> Any:
        self._ask = path
        made = ask.made(self)
        if isinstance(ask, OfTwo):
            self._alike(made.a, made.b)
        return made

    def arm(self, name: str, *place: str | int) -> Arm:
        """The arm called `name`, or that method with its paper's knobs."""
        said = self.arms.get(name)
        where: Path = ("arms", name) if said else (*self._ask, *place)
        self.arms_used.add(name)
        if name in self.faulty:
            return Arm(name)
        if said is None and name not in families():
            self._fault(where, str(unknown("arm or method", name, [*self.arms, *families()])))
            return Arm(name)
        arm = Arm(said.method, said.knobs, said.steps, said.guided) if said else Arm(name)
        if arm.method not in families():
            self._fault((*where, "method"), str(unknown("method", arm.method, families())))
        elif self.size and f"{arm.method}-{self.size}" not in recipe_names():
            what = f"there is no recipe {arm.method}-{self.size}. Name another size, or say in `untested` why not."
            self._fault((*self._ask[:2], "at", "size"), what)
        known = knob_names(arm.method)
        for knob in arm.knobs:
            if known and knob not in known:
                self._fault((*where, "knobs", knob), str(unknown(f"knob of {arm.method}", knob, known)), name=True)
        return arm

    def recipe(self, name: str, *place: str | int) -> str:
        recipe, *settings = name.split(":")
        wrong = [setting for setting in settings if "=" not in setting]
        if wrong:
            self._fault((*self._ask, *place), f"{wrong[0]!r} has no '='; write a setting like mask_ratio=0.", name=True)
        if recipe not in recipe_names():
            self._fault((*self._ask, *place), str(unknown("recipe", recipe, recipe_names(), see=LISTED)), name=True)
        return name

    def number(self, name: str, *place: str | int) -> float:
        self._used[name] = None
        if name in self.numbers:
            return self.numbers[name].value
        if name not in self.faulty:
            self._fault((*self._ask, *place), str(unknown("number", name, self.numbers, see="Add it to numbers")))
        return 1.0

    def pair(self, names: Pair | None, *place: str | int) -> Published | None:
        if names is None:
            return None
        return self.number(names[0], *place, 0), self.number(names[1], *place, 1)

    def _alike(self, a: Arm, b: Arm) -> None:
        """Arms of one method are compared where all other knobs are equal, so both have to name the same ones."""
        alone = {*a.knobs} ^ {*b.knobs} if a.method == b.method else set()
        if alone := alone - {*VARIED}:
            what = f"one arm names {', '.join(sorted(alone))} and the other does not. Give both a value of it."
            self._fault((*self._ask, "arms"), what)

    def _fault(self, path: Path, what: str, *, name: bool = False) -> None:
        fault = self.source.fault(path, what, name=name)
        if fault not in self.faults:  # an arm that several claims name is wrong once
            self.faults.append(fault)


def _contradictions(said: ClaimOf) -> Iterator[tuple[Path, str]]:
    """What parts of a claim do not go together, each with the field."""
    if said.untested is not None:
        for name in ("asks", "command", "needs", "at"):
            if getattr(said, name):
                yield (name,), f"the claim is untested and has {name!r} too. Keep one of them."
        return
    if not said.asks:
        yield (), "a claim asks a predicate, or says in `untested` why no runs can test it. Add one of them."
    if said.command is None:
        yield (), "a claim has no 'command': the command whose runs test it. Add it."
    elif not said.command.startswith("harness "):
        yield ("command",), f"the command is {said.command!r}; it must begin with harness."
    if said.published:
        yield ("published",), "a claim that is tested names its numbers in its asks. Move them there."
    if said.yardstick in COUNTED:
        return
    if said.at is None:
        yield (), "a claim has no 'at': the size, and for distances the steps, at which the paper measured. Add it."
    elif said.at.steps is None and said.yardstick not in ON_MACHINES:
        yield ("at",), "at has no 'steps': the training steps after which the paper measured. Add them."


def _untested(reason: str) -> Test:
    return lambda index: (Found(lacking=(reason,)),)


def _test(said: ClaimOf, at: At | None, asks: Sequence[Ask], made: Sequence[Any]) -> Test:
    """What is asked of the evidence."""
    if at is None:
        return lambda index: (found for each in made for found in each(index))
    own_size = not at.elsewhere
    if said.yardstick == OF_SPEED:
        pipelines = OTHER_ENCODES if any(isinstance(ask, AskFaster) and ask.encoding for ask in asks) else LATENTS
        return SideBySide(SPEED, at.size, tuple((each.a, each.b, each.published) for each in made), pipelines, own_size)
    if said.yardstick == OF_MEMORY:
        if any(isinstance(ask, AskAtMost) for ask in asks):
            return lambda index: (found for each in made for found in each(index))
        pairs = tuple((each.a, each.b, each.published) for each in made)
        return SideBySide(MEMORY, at.size, pairs, own_size=own_size)
    assert at.steps is not None, "a claim of distances without steps has a fault"
    return Distances(
        at.size,
        at.steps,
        *made,
        batch=at.batch,
        paper_only=own_size,
        of_targets=said.needs == "live-targets",
        yardstick=None if said.yardstick == OF_DISTANCE else said.yardstick,
    )
