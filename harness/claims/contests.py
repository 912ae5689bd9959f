"""Two methods' speed or memory side by side: on one machine, with one network, batch and arithmetic.

There are two sources. Contenders of one bench take turns, so that what slows the machine meets both: their ratio round
by round. Runs were made one after another: the ratio of their means, paired by seed. Either may be on latents alone,
or set a method that encodes its images in every step against one that reads latents.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.claims.comparisons import MDT_LITE, WITHOUT_POSITIONS, Arm, Pool, knob_differences, paired
from harness.claims.verdicts import Comparison
from harness.recipes.config import digest
from harness.records.bench_record import Bench, Entry
from harness.records.evidence import Evidence
from harness.records.looks import measured_title
from harness.records.panels import SHORT_HASH, device_title
from harness.records.store import Run
from harness.records.trials import DEMO_DATA, DEMO_SIZE, Scale, Trial, has_knobs

Quantity = Literal["steps/s", "peak memory"]
Pipelines = tuple[str, str]  # of the two arms
LATENTS: Pipelines = ("cached", "cached")
OTHER_ENCODES: Pipelines = ("cached", "online-vae")

OF_THE_METHOD = {"recipe", "method", "formulation", "knobs", "attention", "notes", "pipeline", "vae"}
PAPER_BATCHES = {256: "256 images on one GPU", 32: "32 images on one GPU, the share of one of eight"}
PAPER_LATENT = {"channels": 4, "side": 32}
MEMORY_MARGIN = 0.02  # assumed: an allocator's peak repeats to within that for one shape and version
NOT_IN_TURNS = "Mean speeds of whole runs, made one after another: what slowed the machine for a while is in them."


@dataclass(frozen=True)
class Contest:
    """One comparison, where it was made, and the runs behind it, where it was made of runs."""

    name: str
    title: str
    scale: Scale
    size: str
    comparison: Comparison
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Machine:
    """Runs of one machine, network, batch and arithmetic, by pipeline and data: their speeds may be compared."""

    name: str
    first: Run
    pools: dict[tuple[str, str], Pool]


def machines(runs: Iterable[Run]) -> list[Machine]:
    """The runs in groups whose speeds and memory may be compared; those without a distance belong to them too."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for run in runs:
        trial = Trial(run, metric="")  # its distance, if it has one, is not asked for
        config = run.config
        conditions = {
            "machine": trial.machine,
            "size": run.result.size,
            "network": config["network"],
            "input": config.get("input"),
            "batch": config["protocol"].get("batch_size"),
            "precision": config["protocol"].get("precision"),
        }
        if isinstance(conditions["batch"], int):
            groups[digest(conditions)].append(trial)
    made = []
    for name, trials in sorted(groups.items()):
        by_kind: dict[tuple[str, str], list[Trial]] = defaultdict(list)
        for trial in sorted(trials, key=lambda trial: (trial.run.name, str(trial.run.path))):
            protocol = trial.run.config["protocol"]
            by_kind[str(protocol.get("pipeline")), str(protocol.get("data"))].append(trial)
        pools = {kind: Pool(members) for kind, members in sorted(by_kind.items())}
        made.append(Machine(name[:SHORT_HASH], trials[0].run, pools))
    return made


def of_runs(
    found: Iterable[Machine],
    quantity: Quantity,
    arms: tuple[Arm, Arm],
    pipelines: Pipelines,
    published: tuple[float, float] | None,
) -> Iterator[Contest]:
    """From the runs' own speeds or peaks; on each machine, the data with most pairs. Memory only where a device had it.

    The peak of a process on a CPU is mostly its libraries and its data, so it says little about a step.
    """
    a, b = arms
    value = _speed if quantity == "steps/s" else _memory
    for machine in found:
        best = None
        for kind_a, pool_a in machine.pools.items():
            for kind_b, pool_b in machine.pools.items():
                if (kind_a[0], kind_b[0]) != pipelines or (len(set(pipelines)) == 1 and kind_a != kind_b):
                    continue
                pairs = paired(pool_a, a, pool_b, b, value, value)
                if pairs and (best is None or pairs.n > best.n):
                    best = pairs
        if best is None:
            continue
        result, protocol = machine.first.result, machine.first.config["protocol"]
        scale = _scale_of_run(machine.first)
        device = device_title(result.device)
        notes = [NOT_IN_TURNS] if quantity == "steps/s" else []
        on_eight = "A100" in result.device.name and result.world_size == 8
        differences = [] if on_eight else [f"device {device} instead of 8 x A100"]
        differences += _of_the_step(protocol.get("precision"), bool(result.compiled))
        yield Contest(
            name=machine.name,
            title=f"{device}, size {result.size}, batch {protocol['batch_size']}, {protocol.get('precision')}, "
            f"{'compiled' if result.compiled else 'eager'}: training runs",
            scale=scale,
            size=result.size,
            comparison=best.comparison(
                quantity,
                _claimed(quantity),
                published,
                **_told(best.labels, pipelines),
                **_exactness(quantity),
                notes=notes,
                differences=differences,
            ),
            runs=tuple(trial.run for trial in (*best.trials_a, *best.trials_b)),
        )


def of_benches(
    benches: Iterable[Bench],
    quantity: Quantity,
    arms: tuple[Arm, Arm],
    pipelines: Pipelines,
    published: tuple[float, float] | None,
) -> Iterator[Contest]:
    """From contenders of one bench whose conditions are equal but for the method and the pipeline asked for."""
    for bench in benches:
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in bench.entries:
            made = entry.conditions
            if made.get("code") == "harness" and isinstance(made.get("recipe"), str) and made.get("method"):
                shared = {key: value for key, value in made.items() if key not in OF_THE_METHOD}
                groups[digest({**shared, "images": entry.num_images, "size": _size(entry)})].append(entry)
        for name, entries in groups.items():
            chosen = [_contender(entries, of, pipeline) for of, pipeline in zip(arms, pipelines, strict=True)]
            first, second = chosen
            if first is not None and second is not None:
                contest = _bench_contest(bench, name, first, second, quantity, pipelines, published)
                if contest is not None:
                    yield contest


def _bench_contest(
    bench: Bench,
    name: str,
    a: Entry,
    b: Entry,
    quantity: Quantity,
    pipelines: Pipelines,
    published: tuple[float, float] | None,
) -> Contest | None:
    if quantity == "steps/s":
        if len(a.windows) != len(b.windows) or not a.windows:
            return None
        pairs = zip(a.windows, b.windows, strict=True)
        ratios = tuple((x.steps / x.seconds) / (y.steps / y.seconds) for x, y in pairs)
    else:
        if not a.peak_allocated_bytes or not b.peak_allocated_bytes:
            return None
        ratios = (a.peak_allocated_bytes / b.peak_allocated_bytes,)
    made, device, size = a.conditions, device_title(bench.device), _size(a)
    changed = "--set" in bench.command
    scale: Scale = "other"
    if not changed and bench.device.kind == "cuda" and a.num_images in PAPER_BATCHES:
        scale = "paper"
    elif not changed and size == DEMO_SIZE:
        scale = "demo"
    differences = [
        f"{measured_title(e.conditions['method'], e.conditions.get('knobs') or {})}: {text}"
        for e in (a, b)
        for text in knob_differences(e.conditions["method"], e.conditions.get("knobs") or {})
    ]
    if scale == "paper":
        differences += [f"device {device}, {PAPER_BATCHES[a.num_images]}, instead of 8 x A100"]
        differences += _of_the_step(made.get("precision"), bool(made.get("compiled")))
    labels = tuple(measured_title(e.conditions["method"], e.conditions.get("knobs", {})) for e in (a, b))
    notes = [f"The bench changed the recipes: {bench.command}"] if changed else []
    if MDT_LITE in labels:
        notes.append(WITHOUT_POSITIONS)
    if "online-vae" in pipelines and b.conditions.get("vae") == "random":
        notes.append("The VAE in the step has random weights; its speed is that of a trained one.")
    told = _told(labels, pipelines)
    return Contest(
        name=digest({"group": name, "measured_at": bench.measured_at, "device": bench.device.model_dump()})[
            :SHORT_HASH
        ],
        title=f"{device}, size {size}{' (changed)' if changed else ''}, batch {a.num_images}, {made.get('precision')}, "
        f"{'compiled' if made.get('compiled') else 'eager'}: bench",
        scale=scale,
        size=size,
        comparison=Comparison(
            subject=told["subject"],
            other=told["other"],
            quantity=quantity,
            ratios=ratios,
            claimed=_claimed(quantity),
            published=published and published[0] / published[1],
            pairs="round",
            runs=(f"bench {bench.device.name} {bench.measured_at}: {a.name} / {b.name}",),
            differences=tuple(differences),
            notes=tuple(notes),
            **_exactness(quantity),
        ),
    )


def peaks(evidence: Evidence, of: Arm, size: str) -> Iterator[tuple[str, str, int, str, bool]]:
    """Peak memory of a GPU that trained 32 images a step: title, name, bytes, where from, whether on eight A100."""
    for run in evidence.runs:
        result, trial = run.result, Trial(run, metric="")
        share = run.config["protocol"].get("batch_size", 0) / max(result.world_size, 1)
        ours = (result.method, result.size, share, result.device.kind) == (of.method, size, 32, "cuda")
        peak = _memory(trial)
        if ours and has_knobs(of.method, run.config["knobs"]) and peak:
            device = device_title(result.device)
            on_eight = "A100" in result.device.name and result.world_size == 8
            precision = run.config["protocol"].get("precision")
            yield f"{device}, {result.world_size} processes, {precision}", run.name, peak, run.name, on_eight
    for bench in evidence.benches:
        for entry in bench.entries:
            made = entry.conditions
            if made.get("code") != "harness" or made.get("method") != of.method or "--set" in bench.command:
                continue
            alike = (_size(entry), entry.num_images, made.get("pipeline")) == (size, 32, "cached")
            if alike and entry.peak_allocated_bytes and has_knobs(of.method, made.get("knobs") or {}):
                title = f"{device_title(bench.device)}, one process of 32 images, {made.get('precision')}"
                source = f"bench {bench.device.name} {bench.measured_at}: {entry.name}"
                yield title, entry.name, entry.peak_allocated_bytes, source, False


def join(contests: Iterable[Contest]) -> list[list[Contest]]:
    """The contests of several pairs of arms that were made in the same place, place by place."""
    places: dict[str, list[Contest]] = defaultdict(list)
    for contest in contests:
        places[contest.name].append(contest)
    return list(places.values())


def at_size(contest: Contest, size: str) -> Contest:
    """The paper's statement is about one size; at another the scale is another too."""
    if contest.scale == "paper" and contest.size != size:
        return replace(contest, scale="other")
    return contest


def _of_the_step(precision: str | None, compiled: bool) -> list[str]:
    """How a step differs from the paper's Float32; it says nothing of compiling, and the codes of its time did not."""
    found = [] if precision == "fp32" else [f"precision {precision} instead of fp32"]
    return found + (["compiled"] if compiled else [])


def _contender(entries: Iterable[Entry], of: Arm, pipeline: str) -> Entry | None:
    for entry in entries:
        made = entry.conditions
        ours = made["method"] == of.method and made.get("pipeline") == pipeline
        if ours and has_knobs(of.method, made.get("knobs") or {}):
            return entry
    return None


def _size(entry: Entry) -> str:
    return str(entry.conditions["recipe"]).partition("-")[2]


def _scale_of_run(run: Run) -> Scale:
    config, data = run.config, run.manifest.data.name.lower()
    if data == DEMO_DATA and run.result.size == DEMO_SIZE:
        return "demo"
    shape = config.get("input") or {}
    on_latents = all(shape.get(key) == value for key, value in PAPER_LATENT.items())
    batch = config["protocol"].get("batch_size")
    as_paper = on_latents and config["network"].get("patch") == 2 and batch == 256
    return "paper" if as_paper and run.result.device.kind == "cuda" else "other"


def _speed(trial: Trial) -> float | None:
    return trial.speed


def _memory(trial: Trial) -> int | None:
    result = trial.run.result
    return result.peak_memory_bytes if result.peak_memory_kind == "device allocated" else None


def _claimed(quantity: Quantity) -> Literal["above", "below"]:
    return "above" if quantity == "steps/s" else "below"


def _exactness(quantity: Quantity) -> dict[str, Any]:
    return {} if quantity == "steps/s" else {"exact": True, "margin": MEMORY_MARGIN}


def _told(labels: Iterable[str], pipelines: Pipelines) -> dict[str, str]:
    subject, other = labels
    if pipelines == OTHER_ENCODES:
        return {"subject": f"{subject} on latents", "other": f"{other} encoding in the step"}
    return {"subject": subject, "other": other}
