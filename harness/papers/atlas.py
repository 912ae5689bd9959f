"""Every published number of one recipe: who printed it, how it was sampled and measured, and how far they lie apart.

A recipe is a method's network (size, patch, resolution) with the method's usual settings; rows of other settings are
left out. Its numbers form a `Training` for each length of training, with and without guidance. In it those of an equal
protocol form a `Group`: equal guidance and sampler as the sources tell them, which may be incompletely.

A number that one paper quotes from another counts once. `sources.csv` of harness/papers/* says of each source, by the
beginning of its text, who printed it and which methods its authors trained; a number of any other method is a quote.
A quote counts only where nothing else tells the number that it quotes.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from harness.papers import folders, published
from harness.papers.published import SOURCES, Row, network_title
from harness.records.looks import from_title
from harness.system.errors import DataError, UsageError
from harness.system.groups import grouped

FID = "FID-50K"
PIXELS = (256, 512)
UNGUIDED = "without guidance"
ALL = "all"  # a source whose authors trained every method of its rows
USUAL = re.compile(r"(512 )?(w/o )?CFG\b|guided$|.*guidance|[OS]DE\b|as cited$|quoted from |third party$|-$")
BALANCED = "class-balanced sampling"


@dataclass(frozen=True)
class Number:
    """A published value of one recipe."""

    value: float
    text: str  # as printed, without zeros at the end
    by: str  # who printed it
    of: str  # whose number it is: another's where it is a quote
    model: str
    length: str  # of the training: "400k steps"
    steps_k: float  # thousands, or NaN
    batch: int | None
    guidance: str
    sampler: str
    reference: str  # the set of real images that the distance is to
    quality: str
    sources: tuple[str, ...]
    differs: bool = False  # a quote of a number that its origin prints otherwise
    counted: bool = True

    @property
    def quote(self) -> bool:
        return self.by != self.of

    @property
    def protocol(self) -> str:
        return self.sampler if self.guidance == UNGUIDED else f"{self.guidance}, {self.sampler}"

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the network for an image (NFE), without those that guidance adds."""
        return evaluations(self.sampler)


@dataclass(frozen=True)
class Spread:
    """How far the counted numbers lie apart."""

    trainings: int  # n: who trained, each once
    low: float
    high: float

    @property
    def relative(self) -> float | None:
        """How far the highest lies above the lowest, in parts of the lowest; None of one training."""
        return self.high / self.low - 1 if self.trainings > 1 else None


@dataclass(frozen=True)
class Group:
    """The numbers of an equal protocol, the lowest first."""

    protocol: str
    numbers: tuple[Number, ...]

    @property
    def titled(self) -> str:
        """The protocol, with its NFE where a step takes more than one evaluation."""
        nfe = self.numbers[0].evaluations
        return self.protocol if nfe is None or f"{nfe} step" in self.protocol else f"{self.protocol} (NFE {nfe})"

    @property
    def spread(self) -> Spread:
        """Of the counted numbers."""
        return spread_of(self.numbers)


@dataclass(frozen=True)
class Training:
    """A recipe trained for one length, with or without guidance: its groups, the largest first."""

    title: str
    groups: tuple[Group, ...]

    @property
    def numbers(self) -> tuple[Number, ...]:
        return tuple(number for group in self.groups for number in group.numbers)

    @property
    def spread(self) -> Spread:
        """Over all protocols: it holds what sampling differs in too."""
        return spread_of(self.numbers)


@dataclass(frozen=True)
class Atlas:
    """The trainings of a recipe, the shortest first, and how many of its numbers are of other settings."""

    name: str  # "sit-b-2"
    title: str
    metric: str
    trainings: tuple[Training, ...]
    left_out: int


def atlas(
    method: str, size: str, *, patch: int = 2, pixels: int = 256, steps: int | None = None, metric: str = FID
) -> Atlas:
    """Every published number of a recipe, after `steps` steps or after any.

    Raises UsageError for a method without published numbers, and where the recipe has none.
    """
    if metric not in published.SAMPLES:
        raise UsageError(f"{metric!r} is no metric of samples. Available: {', '.join(sorted(published.SAMPLES))}.")
    table = published.of_method(published.rows(), method)
    network = network_title(size, patch)
    title = f"{table['method'].iloc[0]}, {network}, {pixels} x {pixels} pixels"
    table = table[(table["metric"] == metric) & table["value"].notna()]
    rows = [row for row in table.to_dict("records") if _is_of(row, network, pixels)]
    if steps is not None:
        rows = [row for row in rows if row["training_steps_k"] * 1000 == steps]
    if not rows:
        after = f" after {steps:,} steps" if steps is not None else ""
        others = sorted({str(model) for model in table["model"]})
        known = f"It has numbers of {', '.join(others)}." if others else f"No source prints {metric} for this method."
        raise UsageError(f"no {metric} is published of {title}{after}. {known}")
    usual = [row for row in rows if not _setting(row)]
    name = "-".join([from_title(str(rows[0]["method"])), size, str(patch), *([str(pixels)] if pixels != 256 else [])])
    return Atlas(name, title, metric, _trainings(_number(row) for row in usual), len(rows) - len(usual))


def spread_of(numbers: Iterable[Number]) -> Spread:
    """The spread of the counted ones; there must be one."""
    counted = [number for number in numbers if number.counted]
    values = [number.value for number in counted]
    return Spread(len({number.of for number in counted}), min(values), max(values))


def agree(a: Number, b: Number) -> bool:
    """Whether two texts print the same number: equal after rounding to the decimals that both have."""
    decimals = min(len(text.partition(".")[2]) for text in (a.text, b.text))
    return abs(a.value - b.value) <= 0.5 * 10**-decimals + 1e-9


def evaluations(sampler: str) -> int | None:
    """Evaluations of the network that a sampler takes for an image, where its words tell.

    A step takes one; a step of Heun's method two, but for its last one in EDM (Karras et al. 2022, Algorithm 1).
    """
    steps = re.search(r"(\d+) steps?\b", sampler)
    if steps is None:
        return None
    return 2 * int(steps[1]) - 1 if "Heun" in sampler else int(steps[1])


# Rows ----------------------------------------------------------------------------------------------------------------


@cache
def _sources() -> list[dict[str, str]]:
    """The entries of all sources.csv, those of the longest beginnings first, those of a series before the others."""
    files = [folder / SOURCES for folder in folders() if (folder / SOURCES).is_file()]
    entries = [entry for file in files for entry in published.read(file)]
    return sorted(entries, key=lambda entry: (-len(entry["source"]), not entry["series"]))


def source_of(row: Row) -> dict[str, str]:
    """The entry of sources.csv for a row. Raises DataError where there is none."""
    said, series = str(row["source"]), row["series"]
    found = next((e for e in _sources() if said.startswith(e["source"]) and e["series"] in ("", series)), None)
    if found is None:
        raise DataError(f"no {SOURCES} has an entry for {said!r}. Add one: who printed it, which methods they trained.")
    return found


def _is_of(row: Row, network: str, pixels: int) -> bool:
    model = re.sub(r" \([^)]*\)", "", str(row["model"]))
    of = re.search(r" (256|512)$", model)
    return re.search(rf"-{network}(?!\d)", model) is not None and (int(of[1]) if of else PIXELS[0]) == pixels


def _setting(row: Row) -> str:
    """What a row changes of the method's usual settings; empty where nothing is."""
    if source_of(row)["series"]:  # the entry tells what the series is
        return ""
    if row["x_unit"] in ("mask_ratio", "sigma_T"):
        return f"{row['x_unit']} {row['x']}"
    words = re.sub(r" ?\([^)]*\)", "", str(row["series"])).split(", ")
    names = (row["method"], row["model"], BALANCED, "")
    return ", ".join(word for word in words if word not in names and not USUAL.match(word))


def _number(row: Row) -> Number:
    source = source_of(row)
    guidance, sampler = published.drawn_with(row)
    own = source["own"].split("; ")
    quoting = "quoting" in str(row["source"]) or (own != [ALL] and row["method"] not in own)
    sampler = re.sub(r" \([^)]*\)", "", sampler) or ("" if quoting else source["sampler"]) or "not noted"
    if sampler in (published.NOT_STATED, "not noted"):
        sampler = f"sampler {sampler}"
    if BALANCED in str(row["series"]):
        sampler += ", equally many images of each class"
    steps, batch = float(row["training_steps_k"]), float(row["batch_size"])
    length = f"{row['x']} epochs" if row["x_unit"] == "epochs" else "length not stated"
    return Number(
        value=float(row["value"]),
        text=str(row["value_text"]),
        by=source["by"],
        of=str(row["method"]) if quoting else source["by"],
        model=re.sub(r" \([^)]*\)| (256|512)$", "", str(row["model"])),
        length=length if math.isnan(steps) else f"{steps:g}k steps",
        steps_k=steps,
        batch=None if math.isnan(batch) else int(batch),
        guidance="guidance not stated" if guidance == published.NOT_STATED else guidance,
        sampler=sampler,
        reference=("" if quoting else source["reference"]) or "not noted",
        quality=str(row["quality"]),
        sources=(re.split(r"[,;] (?:value )?(?:read again|measured again|not compared again)", str(row["source"]))[0],),
    )


# Trainings -----------------------------------------------------------------------------------------------------------


def _trainings(numbers: Iterable[Number]) -> tuple[Training, ...]:
    known = list(numbers)
    own = [number for number in known if not number.quote]
    made = []
    for (model, length, guided), members in grouped([_placed(number, own) for number in known], _kind).items():
        for batch, same in _by_batch(members).items():
            words = [model, length, f"batch {batch}" if batch else "batch not stated", guided]
            made.append((same[0].steps_k, Training(", ".join(words), _groups(same))))

    def order(entry: tuple[float, Training]) -> tuple[Any, ...]:
        return UNGUIDED not in entry[1].title, math.isnan(entry[0]), entry[0], entry[1].title

    return tuple(training for _, training in sorted(made, key=order))


def _by_batch(numbers: Sequence[Number]) -> dict[int | None, list[Number]]:
    """A number whose batch is not stated stands with those of the most frequent batch."""
    batches = [number.batch for number in numbers if number.batch]
    usual = max(batches, key=batches.count, default=None)
    return grouped(numbers, lambda number: number.batch or usual)


def _placed(number: Number, own: Sequence[Number]) -> Number:
    """A quote at the length and batch that its origin tells, which other papers write in epochs or not at all."""
    if not number.quote or any(_kind(other) == _kind(number) and agree(other, number) for other in own):
        return number
    origin = [other for other in own if other.by == number.of and agree(other, number)]
    origin = [other for other in origin if (_kind(other)[0], _kind(other)[2]) == (_kind(number)[0], _kind(number)[2])]
    if not origin:
        return number
    return replace(number, length=origin[0].length, steps_k=origin[0].steps_k, batch=origin[0].batch)


def _kind(number: Number) -> tuple[str, str, str]:
    guided = number.guidance not in (UNGUIDED, "guidance not stated")
    return number.model, number.length, "with guidance" if guided else number.guidance


def _groups(numbers: Sequence[Number]) -> tuple[Group, ...]:
    """The numbers by protocol. A quote has the protocol of the number that it quotes."""
    own: list[Number] = []
    for number in (number for number in numbers if not number.quote):
        same = next((i for i, other in enumerate(own) if _is_same(other, number)), None)
        if same is None:
            own.append(number)
        else:
            own[same] = _joined(own[same], number)
    for number in sorted((number for number in numbers if number.quote), key=lambda number: number.of):
        own = _with_quote(own, number)
    groups = [
        Group(protocol, tuple(sorted(members, key=lambda number: (number.value, not number.counted, number.by))))
        for protocol, members in grouped(own, lambda number: number.protocol).items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.spread.trainings, group.spread.low)))


def _with_quote(known: list[Number], quote: Number) -> list[Number]:
    same = next((i for i, other in enumerate(known) if other.by == quote.by and agree(other, quote)), None)
    if same is not None:  # the same authors quote it twice
        return [*known[:same], _joined(known[same], quote), *known[same + 1 :]]
    counted = [number for number in known if number.counted]
    original = next((number for number in counted if agree(number, quote)), None)
    if original is not None:
        return [*known, _beside(quote, original, differs=False)]
    origin = next((number for number in counted if number.of == quote.of), None)
    return [*known, quote if origin is None else _beside(quote, origin, differs=True)]


def _beside(quote: Number, original: Number, *, differs: bool) -> Number:
    return replace(
        quote,
        of=original.of,
        guidance=original.guidance,
        sampler=original.sampler,
        reference=original.reference,
        differs=differs,
        counted=False,
    )


def _is_same(a: Number, b: Number) -> bool:
    return a.by == b.by and a.protocol == b.protocol and agree(a, b)


def _joined(a: Number, b: Number) -> Number:
    """One number that two places print: as the one with more decimals, with both sources."""
    finer, other = (a, b) if len(a.text) >= len(b.text) else (b, a)
    return replace(finer, sources=tuple(dict.fromkeys([*finer.sources, *other.sources])), counted=a.counted)
