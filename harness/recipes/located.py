"""YAML texts whose faults are told by file, line and column.

harness.recipes.config.plain_values reads the values. This module says where in the text each of them stands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from harness.recipes.config import Settings, expected, plain_values, shortened
from harness.system.errors import DataError, one_line, unknown

PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
TEXT = "tag:yaml.org,2002:str"

Path = tuple[str | int, ...]  # keys of mappings and places in lists, from the top of the text
Model = TypeVar("Model", bound=Settings)


class Fault(NamedTuple):
    """One thing that is wrong in a text."""

    file: str
    line: int  # from 1, as editors count
    column: int
    what: str  # what is wrong, why, and what to do

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.what}"


class Faulty(DataError):
    """A text with faults: a line for each."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line, fault.column)))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True)
class Located:
    """A YAML text as plain values, and where each of them stands."""

    file: str
    text: str
    value: Any

    @cached_property
    def root(self) -> yaml.Node | None:
        """The text as nodes, each with its mark."""
        return yaml.compose(self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def fault(self, path: Path, what: str, *, name: bool = False) -> Fault:
        """A fault of the value at `path`, or of its name, the key before it; of what it would stand in without it."""
        node, key = self.root, None
        for step in path:
            key, below = _below(node, step)
            if below is None:
                break
            node = below
        mark = (key if name and key is not None else node) if node is not None else None
        line, column = (mark.start_mark.line, mark.start_mark.column) if mark is not None else (0, 0)
        return Fault(self.file, line + 1, column + 1, what)

    def read(self, path: Path, value: Any, model: type[Model], what: str, faults: list[Fault]) -> Model | None:
        """The value at `path` as a `model`, called `what` in messages; None where `faults` were added."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            faults += [self._told(path, model, what, problem) for problem in error.errors()]
            return None

    def _told(self, path: Path, model: type[Settings], what: str, problem: Any) -> Fault:
        place, kind = tuple(problem["loc"]), problem["type"]
        name = str(place[-1]) if place else what
        if kind == "extra_forbidden":
            return self.fault((*path, *place), str(unknown(f"field of {what}", name, model.model_fields)), name=True)
        if kind == "missing" and isinstance(place[-1], int):
            few = f"{'.'.join(map(str, place[:-1]))} of {what} has too few entries: {place[-1] + 1} are needed."
            return self.fault((*path, *place[:-1]), few)
        if kind == "missing":
            meaning = model.model_fields[name].description if name in model.model_fields else None
            return self.fault(path, f"{what} has no {name!r}{f': {meaning}' if meaning else ''}. Add it.")
        whose = f"{'.'.join(map(str, place))} of {what}" if place else what
        must = expected(problem["msg"])
        must = "a mapping, name: value" if kind in ("model_type", "dict_type") else must
        return self.fault((*path, *place), f"{whose} is {shortened(problem['input'])}; it must be {must}.")


def located(text: str, file: str) -> Located:
    """The text of a YAML file. Raises Faulty where it is no YAML of plain values, or has one name twice."""
    try:
        found = Located(file, text, plain_values(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        said = f"this is no YAML: {one_line(error.problem or error.context)}. Mend the text there or just before."
        raise Faulty([Fault(file, line + 1, column + 1, said)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        said = f"this letter, {error.character!r}, may not stand in YAML. Remove it."
        raise Faulty([Fault(file, line + 1, column + 1, said)]) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Faulty(list(_strange(text, file)) or [Fault(file, 1, 1, f"it has {one_line(error)}.")]) from None
    twice = [_fault(file, key, _twice(key)) for key in _doubled(found.root)]
    if twice:
        raise Faulty(twice)
    return found


def _below(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The key and the value at `step` of a mapping, the value alone of a list; nothing where there is none."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), (None, None))
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None, None


def _doubled(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """The keys that a mapping has a second time: of two values the first would be lost in silence."""
    for mapping in _nodes(node):
        if isinstance(mapping, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in mapping.value:
                if key.value in seen:
                    yield key
                seen.add(key.value)


def _strange(text: str, file: str) -> Iterator[Fault]:
    """The values that are no texts, numbers, truth values or null, and the names that are no texts."""
    try:
        nodes = list(_nodes(yaml.compose(text, Loader=yaml.SafeLoader)))
    except (RecursionError, yaml.YAMLError):
        return
    for node in nodes:
        if node.tag not in PLAIN:
            kind = node.tag.rpartition(":")[2]
            yield _fault(file, node, f"this is a {kind}, not a text or a number. Put it in quotes.")
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != TEXT:
                yield _fault(file, key, f"the name {key.value!r} is no text. Put it in quotes.")


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Every node below `root` once, however many aliases stand for it."""
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _fault(file: str, node: yaml.Node, what: str) -> Fault:
    return Fault(file, node.start_mark.line + 1, node.start_mark.column + 1, what)


def _twice(key: yaml.Node) -> str:
    return f"the name {key.value!r} stands here a second time, so the first value would be lost. Remove one of them."
