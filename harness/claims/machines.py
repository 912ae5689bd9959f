"""Speed and memory of two methods side by side: on one machine, with one network, batch and arithmetic.

There are two sources. The contenders of a bench take turns, so that whatever slows the machine slows both: each
process gives one ratio, and the processes of equal benches are counted. Runs were made one after another: their means
are compared. Both methods may read latents, or one of them may encode its images in every step. A speed on a CPU is
told and decides nothing: the papers' sentences are about GPUs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from harness.claims.arms import (
    Arm,
    Published,
    Side,
    TwoArms,
    Value,
    mdt_lite,
    two_arms,
    unchosen_differences,
)
from harness.claims.comparison import Claimed, Comparison, Values
from harness.claims.intervals import geometric_mean
from harness.claims.verdict import Found
from harness.recipes.naming import digest, without_later_defaults
from harness.records.bench_record import Bench, Entry
from harness.records.evidence import Evidence
from harness.records.looks import SHORT_HASH, device_title, measured_title
from harness.records.schema import Device
from harness.records.store import Run
from harness.records.trials import DEMO_DATA, DEMO_SIZE, Scale, Trial, has_knobs

Pipelines = tuple[str, str]  # how the first arm reads its data, and the second
LATENTS: Pipelines = ("cached", "cached")
OTHER_ENCODES: Pipelines = ("cached", "online-vae")

OF_THE_METHOD = {"recipe", "method", "formulation", "knobs", "attention", "notes", "pipeline", "vae"}
PAPER_BATCHES = {256: "256 images on one GPU", 32: "32 images on one GPU, the share of one of eight"}
PAPER_LATENT = {"channels": 4, "side": 32}
PAPER_SHARE = 32  # images a GPU: the paper's batch of 256 over its eight
MEMORY_MARGIN = 0.02  # assumed: an allocator's peak repeats to within that for one shape and version
ON_A_CPU = "a GPU's speed: the sentence is about eight A100, and this was measured on {device}"
NOT_IN_TURNS = "Mean speeds of whole runs, made one after another: what slowed the machine for a while is in them."


@dataclass(frozen=True)
class Quantity:
    """What is compared on a machine."""

    name: str
    claimed: Claimed
    of_trial: Value
    exact: bool = False
    margin: float = 0.0


def _peak(trial: Trial) -> int | None:
    """On a device only: the peak of a process on a CPU is mostly its libraries and its data."""
    result = trial.run.result
    return result.peak_memory_bytes if result.peak_memory_kind == "device allocated" else None


SPEED = Quantity("steps/s", "above", lambda trial: trial.speed)
MEMORY = Quantity("peak memory", "below", _peak, exact=True, margin=MEMORY_MARGIN)


@dataclass(frozen=True)
class Versus:
    """Two arms whose speed or memory is compared."""

    quantity: Quantity
    a: Arm
    b: Arm
    published: Published | None = None
    pipelines: Pipelines = LATENTS

    def comparison(self, labels: tuple[str, str], values: Values, **of_the_source: Any) -> Comparison:
        subject, other = labels
        if self.pipelines == OTHER_ENCODES:
            subject, other = f"{subject} on latents", f"{other} encoding in the step"
        return Comparison(
            subject,
            other,
            self.quantity.name,
            values,
            self.quantity.claimed,
            published=self.published and self.published[0] / self.published[1],
            exact=self.quantity.exact,
            margin=self.quantity.margin,
            **of_the_source,
        )


@dataclass(frozen=True)
class Measured:
    """One comparison, where it was made, and the runs behind it, where it was made of runs."""

    place: str  # equal for comparisons that were made in the same place
    title: str
    scale: Scale
    size: str
    comparison: Comparison
    runs: tuple[Run, ...] = ()


class Index:
    """The evidence, and its runs by machine."""

    def __init__(self, evidence: Evidence):
        self.evidence = evidence
        self.machines = machines(evidence.runs)

    def measured(self, versus: Versus) -> Iterator[Measured]:
        yield from (found for one in self.machines.items() if (found := _of_runs(versus, *one)) is not None)
        yield from _of_benches(versus, self.evidence.benches)


def machines(runs: Iterable[Run]) -> dict[str, list[Trial]]:
    """Runs of one machine, network, batch and arithmetic: their speed and memory may be compared.

    Runs without a distance belong to them too.
    """
    groups: dict[str, list[Trial]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.name, str(run.path))):
        trial = Trial(run, metric="")  # its distance is not used
        config, protocol = run.config, run.config["protocol"]
        # A clip and another optimizer take time in every step; their defaults came later than the oldest runs.
        later = without_later_defaults("protocol", protocol)
        conditions: dict[str, Any] = {
            "machine": trial.machine,
            "size": run.result.size,
            "network": config["network"],
            "block": without_later_defaults("block", config.get("block", {})),
            "input": config.get("input"),
            "batch": protocol.get("batch_size"),
            "precision": protocol.get("precision"),
            **{name: later[name] for name in ("optimizer", "clip") if name in later},
        }
        if isinstance(conditions["batch"], int):
            groups[digest(conditions)].append(trial)
    return dict(sorted(groups.items()))


# From runs ------------------------------------------------------------------------------------------------------------


def _of_runs(versus: Versus, machine: str, trials: Sequence[Trial]) -> Measured | None:
    """From the means of whole runs, on the data that has most pairs."""
    kinds: dict[tuple[str, str], list[Trial]] = defaultdict(list)  # keys: pipeline and data
    for trial in trials:
        protocol = trial.run.config["protocol"]
        kinds[str(protocol.get("pipeline")), str(protocol.get("data"))].append(trial)
    best: TwoArms | None = None
    for kind_a, kind_b in product(sorted(kinds), repeat=2):
        same = versus.pipelines[0] == versus.pipelines[1]
        if (kind_a[0], kind_b[0]) != versus.pipelines or (same and kind_a != kind_b):
            continue
        value = versus.quantity.of_trial
        arms = two_arms(Side(versus.a, kinds[kind_a], value), Side(versus.b, kinds[kind_b], value))
        if arms and (best is None or _fewest(arms) > _fewest(best)):
            best = arms
    if best is None:
        return None
    run = trials[0].run
    result, protocol, device = run.result, run.config["protocol"], device_title(run.result.device)
    differences = [] if _on_eight(run) else [f"device {device} instead of 8 x A100"]
    differences += _of_the_step(protocol.get("precision"), bool(result.compiled))
    own = best.comparison(versus.quantity.name, versus.quantity.claimed)
    comparison = versus.comparison(
        best.labels,
        own.values,
        seeds=own.seeds,
        names=own.names,
        void=_void(versus, result.device),
        differences=(*differences, *own.differences),
        notes=(*([NOT_IN_TURNS] if versus.quantity is SPEED else []), *own.notes),
    )
    return Measured(
        place=machine[:SHORT_HASH],
        title=f"{device}, size {result.size}, batch {protocol['batch_size']}, {protocol.get('precision')}, "
        f"{'compiled' if result.compiled else 'eager'}: training runs",
        scale=_scale(run),
        size=result.size,
        comparison=comparison,
        runs=tuple(trial.run for side in best.trials for trial in side),
    )


def _fewest(arms: TwoArms) -> int:
    return min(map(len, arms.trials))


def _void(versus: Versus, device: Device) -> str:
    """Why a speed decides nothing, where it was measured on a CPU."""
    slow = versus.quantity is SPEED and device.kind != "cuda"
    return ON_A_CPU.format(device=device_title(device)) if slow else ""


def _scale(run: Run) -> Scale:
    config, data = run.config, run.manifest.data.name.lower()
    if data == DEMO_DATA and run.result.size == DEMO_SIZE:
        return "demo"
    shape = config.get("input") or {}
    on_latents = all(shape.get(key) == value for key, value in PAPER_LATENT.items())
    as_paper = on_latents and config["network"].get("patch") == 2 and config["protocol"].get("batch_size") == 256
    return "paper" if as_paper and run.result.device.kind == "cuda" else "other"


def _on_eight(run: Run) -> bool:
    return "A100" in run.result.device.name and run.result.world_size == 8


def _of_the_step(precision: str | None, compiled: bool) -> list[str]:
    """How a step differs from the paper's, which is in Float32 and, as far as the paper says, not compiled."""
    found = [] if precision == "fp32" else [f"precision {precision} instead of fp32"]
    return found + (["compiled"] if compiled else [])


# From benches ---------------------------------------------------------------------------------------------------------


def _of_benches(versus: Versus, benches: Iterable[Bench]) -> Iterator[Measured]:
    """From contenders whose conditions are equal but for the method and the pipelines; equal benches are one place."""
    places: dict[str, list[tuple[Bench, Entry, Entry]]] = defaultdict(list)
    for bench in benches:
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in bench.entries:
            made = entry.conditions
            if made.get("code") == "harness" and isinstance(made.get("recipe"), str) and made.get("method"):
                shared = {key: value for key, value in made.items() if key not in OF_THE_METHOD}
                place = {
                    **shared,
                    "images": entry.num_images,
                    "size": _size(entry),
                    "changed": "--set" in bench.command,
                }
                groups[digest({**place, "device": bench.device.model_dump(mode="json")})].append(entry)
        for where, entries in groups.items():
            a, b = (_contender(entries, *each) for each in zip((versus.a, versus.b), versus.pipelines, strict=True))
            if a and b and _value(versus.quantity, a) and _value(versus.quantity, b):
                places[where].append((bench, a, b))
    yield from (_of_contenders(versus, place, processes) for place, processes in places.items())


def _contender(entries: Iterable[Entry], arm: Arm, pipeline: str) -> Entry | None:
    asked = (arm.method, pipeline)
    alike = (entry for entry in entries if (entry.conditions["method"], entry.conditions.get("pipeline")) == asked)
    return next((entry for entry in alike if has_knobs(arm.method, _knobs(entry))), None)


def _value(quantity: Quantity, entry: Entry) -> float | None:
    """What one process found: its peak, or the mean speed over its rounds."""
    if quantity is MEMORY:
        return entry.peak_allocated_bytes
    return geometric_mean([window.steps / window.seconds for window in entry.windows]) if entry.windows else None


def _of_contenders(versus: Versus, place: str, processes: Sequence[tuple[Bench, Entry, Entry]]) -> Measured:
    bench, a, b = processes[0]
    made, device, size = a.conditions, device_title(bench.device), _size(a)
    changed = "--set" in bench.command
    scale: Scale = "other"
    if not changed and bench.device.kind == "cuda" and a.num_images in PAPER_BATCHES:
        scale = "paper"
    elif not changed and size == DEMO_SIZE:
        scale = "demo"
    labels = measured_title(a.conditions["method"], _knobs(a)), measured_title(b.conditions["method"], _knobs(b))
    differences = [
        f"{label}: {text}"
        for label, entry in zip(labels, (a, b), strict=True)
        for text in unchosen_differences(entry.conditions["method"], _knobs(entry))
    ]
    if scale == "paper":
        differences += [f"device {device}, {PAPER_BATCHES[a.num_images]}, instead of 8 x A100"]
        differences += _of_the_step(made.get("precision"), bool(made.get("compiled")))
    notes = [f"The bench changed the recipes: {bench.command}"] if changed else []
    notes += mdt_lite(labels)
    if "online-vae" in versus.pipelines and b.conditions.get("vae") == "random":
        notes.append("The VAE in the step has random weights; its speed is that of a trained one.")
    found = [
        (_value(versus.quantity, ours) or 0, _value(versus.quantity, theirs) or 0) for _, ours, theirs in processes
    ]
    names = [f"bench {each.device.name} {each.measured_at}: {x.name} / {y.name}" for each, x, y in processes]
    comparison = versus.comparison(
        labels,
        (tuple(ours for ours, _ in found), tuple(theirs for _, theirs in found)),
        unit="process",
        names=(tuple(names), ()),
        differences=tuple(differences),
        notes=tuple(notes),
        void=_void(versus, bench.device),
    )
    return Measured(
        place=place[:SHORT_HASH],
        title=f"{device}, size {size}{' (changed)' if changed else ''}, batch {a.num_images}, {made.get('precision')}, "
        f"{'compiled' if made.get('compiled') else 'eager'}: bench",
        scale=scale,
        size=size,
        comparison=comparison,
    )


def _size(entry: Entry) -> str:
    return str(entry.conditions["recipe"]).partition("-")[2]


def _knobs(entry: Entry) -> dict[str, Any]:
    return entry.conditions.get("knobs") or {}


# What claims ask ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide:
    """Compares speeds or memory wherever both arms of every pair were measured on one machine.

    At another size than the paper's the scale is another too. With `own_size` no other size is asked for: another claim
    does that.
    """

    quantity: Quantity
    size: str
    pairs: tuple[tuple[Arm, Arm, Published | None], ...]
    pipelines: Pipelines = LATENTS
    own_size: bool = False

    def __call__(self, index: Index) -> Iterator[Found]:
        places: dict[str, list[Measured]] = defaultdict(list)
        for a, b, published in self.pairs:
            for found in index.measured(Versus(self.quantity, a, b, published, self.pipelines)):
                if found.size == self.size or not self.own_size:
                    places[found.place].append(found)
        for name, measured in places.items():
            first = measured[0]
            elsewhere = first.scale == "paper" and first.size != self.size
            yield Found(
                comparisons=tuple(found.comparison for found in measured),
                lacking=() if len(measured) == len(self.pairs) else ("one of the methods on that machine",),
                scale="other" if elsewhere else first.scale,
                title=first.title,
                name=name,
            )


@dataclass(frozen=True)
class MemoryAtMost:
    """A GPU needs at most so much memory, with the paper's batch over its eight GPUs: 32 images on each."""

    arm: Arm
    size: str
    gibibytes: float
    at_most: float  # what is printed is rounded: the largest number it may stand for

    def __call__(self, index: Index) -> Iterator[Found]:
        for run in index.evidence.runs:
            result, protocol, peak = run.result, run.config["protocol"], _peak(Trial(run, metric=""))
            share = protocol.get("batch_size", 0) / max(result.world_size, 1)
            ours = (result.method, result.size, share) == (self.arm.method, self.size, PAPER_SHARE)
            if peak and ours and result.device.kind == "cuda" and has_knobs(result.method, run.config["knobs"]):
                device = device_title(result.device)
                title = f"{device}, {result.world_size} processes, {protocol.get('precision')}"
                yield self._found(title, run.name, peak, run.name, on_eight=_on_eight(run))
        for bench in index.evidence.benches:
            for entry in bench.entries:
                made, peak = entry.conditions, entry.peak_allocated_bytes
                if made.get("code") != "harness" or made.get("method") != self.arm.method or "--set" in bench.command:
                    continue
                ours = (_size(entry), entry.num_images, made.get("pipeline")) == (self.size, PAPER_SHARE, "cached")
                if peak and ours and has_knobs(self.arm.method, _knobs(entry)):
                    title = (
                        f"{device_title(bench.device)}, one process of {PAPER_SHARE} images, {made.get('precision')}"
                    )
                    source = f"bench {bench.device.name} {bench.measured_at}: {entry.name}"
                    yield self._found(title, entry.name, peak, source, on_eight=False)

    def _found(self, title: str, name: str, peak: int, source: str, *, on_eight: bool) -> Found:
        comparison = Comparison(
            subject=f"{self.arm.label()}-{self.size.upper()}/2",
            other=f"the paper's {self.gibibytes:g} GB",
            quantity="peak memory of a GPU",
            values=((peak / 2**30,), (self.gibibytes,)),
            claimed="below",
            bound=self.at_most / self.gibibytes,
            exact=True,
            names=((source,), ()),
            notes=("The paper says neither how it measured nor which gigabyte; a GB is taken as 2**30 bytes.",),
            differences=() if on_eight else (f"{title} instead of 8 x A100",),
        )
        return Found((comparison,), remarks=(f"{peak / 2**30:.1f} GB",), scale="paper", title=title, name=name)
