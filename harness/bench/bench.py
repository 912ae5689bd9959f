"""Joins contenders, clock and floors into a bench."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch

import harness
from harness.bench import measure
from harness.bench.measure import Ceilings, Contender, Timed
from harness.bench.official import STEPS as OFFICIAL_STEPS
from harness.bench.official import official
from harness.bench.official_step import Setting
from harness.bench.ours import HarnessStep
from harness.data import sources
from harness.model.shape import shape_of
from harness.planning import floor
from harness.planning.cost import GIGA
from harness.planning.devices import device_named
from harness.planning.floor import VAE_PRECISION, Ceiling, Work
from harness.planning.plan import estimate_of, on_shapes, too_large
from harness.recipes import plugins
from harness.recipes.config import RunConfig
from harness.records import machine, provenance
from harness.records.bench_record import Bench, Entry, Floor
from harness.system import precision
from harness.system.errors import SetupError, UsageError
from harness.system.precision import default_device
from harness.system.progress import Progress

Maker = Callable[[], Contender]


def run(
    named: Sequence[tuple[str, RunConfig]],
    *,
    rounds: int,
    window_seconds: float,
    official_codes: Path | None,
    profile: Path | None,
    command: str,
    progress: Progress,
    save: Callable[[Bench], None],
) -> Bench:
    """Time the steps of these configurations side by side, with the official codes of their methods where given.

    `official_codes` is the folder that holds their checkouts, `profile` the one where traces go.

    `save` gets what was measured so far, marked as incomplete, after every contender that is warm and every round.

    Raises SetupError for a precision that the device lacks, or for what does not fit into its memory; UsageError for
    two contenders of one name.
    """
    device = default_device()
    for _, cfg in named:
        precision.require(cfg.protocol.precision, device)
    _refuse_equal_names([name for name, _ in named])
    _refuse_too_large(named, device)
    makers: list[tuple[str, RunConfig, Maker]] = [
        (name, cfg, partial(HarnessStep, name, cfg, device)) for name, cfg in named
    ]
    if official_codes is not None:
        _refuse_absent(official_codes, {cfg.method for _, cfg in named})
        makers += _officials(named, official_codes, device)
    used = {cfg.protocol.precision for _, cfg in named}
    encoding = {VAE_PRECISION[cfg.protocol.precision] for _, cfg in named if cfg.protocol.pipeline == "online-vae"}
    precisions = sorted(used | encoding)
    works = [floor.work_of(cfg, on_shapes(cfg)) for _, cfg in named]
    reached = measure.ceilings(precisions, device)
    ready: list[Timed] = []

    def record(traces: Path | None = None, incomplete: str | None = None) -> Bench:
        hardware = machine.describe(device)
        contenders = measure.equal_rounds(ready)
        return Bench(
            harness_version=harness.__version__,
            git_commit=provenance.git_state()[0],
            packages=provenance.installed() | plugins.packages(cfg.method for _, cfg in named),
            device=hardware,
            command=command,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            rounds=len(contenders[0].windows),
            matrix_flops_per_second=reached.flops_per_second,
            memory_bytes_per_second=reached.bytes_per_second,
            process_peak_rss_bytes=machine.peak_memory(device)[0] if device.type == "cpu" else None,
            entries=[
                _entry(timed, contenders[0], cfg, work, reached, hardware.name, profile=traces, device=device)
                for timed, (_, cfg, _), work in zip_longest(contenders, makers[: len(ready)], works[: len(ready)])
            ],
            incomplete=incomplete,
        )

    progress.stage("warming up", len(makers), "contenders")
    for number, (name, cfg, make) in enumerate(makers, start=1):
        try:
            ready.append(measure.warmed_up(make, device))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not machine.ran_out_of_memory(error):
                raise
            ours = number <= len(named)
            advice = str(too_large(cfg, device)) if ours else "it did not fit into memory; take a smaller --batch."
            raise SetupError(f"{name}: {advice}") from error
        progress.advance(number)
        warm = f"{number} of {len(makers)} contenders were warm, none was timed: each speed is its last untimed step's"
        save(record(incomplete=warm))
    num_windows = rounds * len(ready)
    progress.stage("timing", num_windows, "windows")

    def advance(done: int) -> None:
        progress.advance(done)
        if done % len(ready) == 0 and done < num_windows:
            save(record(incomplete=f"{done // len(ready)} of {rounds} rounds were timed"))

    measure.take_turns(
        ready,
        rounds=rounds,
        window_seconds=window_seconds,
        device=device,
        joules=measure.energy_counter(device),
        advance=advance,
    )
    if profile:
        save(record(incomplete="every round was timed, not every contender profiled"))
    reached = measure.best_ceilings(reached, measure.ceilings(precisions, device))
    return record(traces=profile)


def _refuse_equal_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} would be timed twice; name each recipe and each value once.")


def _refuse_absent(folder: Path, methods: set[str]) -> None:
    """Before anything is built. What is in the folders is found out when they are imported."""
    wanted = [OFFICIAL_STEPS[method].project.name for method in sorted(methods & OFFICIAL_STEPS.keys())]
    absent = [name for name in wanted if not (folder / name).is_dir()]
    if absent:
        raise UsageError(
            f"--official takes the folder that holds the official codes, and {folder} holds no "
            f"{' and no '.join(absent)}. Clone facebookresearch/DiT, Anima-Lab/MaskDiT or sail-sg/MDT (branch mdtv1) "
            "into it under those names."
        )


def _refuse_too_large(named: Sequence[tuple[str, RunConfig]], device: torch.device) -> None:
    """Before anything is built: all contenders' weights at once, and the activations of the one that steps."""
    available = machine.available_memory(device)
    if available is None:
        return
    held = 0
    for name, cfg in named:
        parts = estimate_of(cfg)["memory_parts"]
        held += sum(parts.values()) - parts["activations"]
        if held + parts["activations"] > available:
            raise SetupError(
                f"{name} would need {(held + parts['activations']) / 1e9:.0f} GB with the contenders before it, of "
                f"{available / 1e9:.0f} GB that are free. {too_large(cfg, device)} Or time fewer contenders at once."
            )


def _officials(
    named: Sequence[tuple[str, RunConfig]], folder: Path, device: torch.device
) -> Iterator[tuple[str, RunConfig, Maker]]:
    """The official codes of the recipes of `named`, for the batch and precision of each one's first variant.

    Where a code's own precision is another one, and the device has it, it runs in that too.
    """
    done: set[str] = set()
    for _, cfg in named:
        if cfg.method not in OFFICIAL_STEPS or cfg.recipe in done:
            continue
        done.add(cfg.recipe)
        own = OFFICIAL_STEPS[cfg.method].own_precision.name
        precisions: list[str] = [cfg.protocol.precision]
        if device.type == "cuda" and own != cfg.protocol.precision:
            precisions.insert(0, own)
        for asked in precisions:
            name = f"official {OFFICIAL_STEPS[cfg.method].project.name} {cfg.size} {asked}"
            yield name, cfg, partial(_official, name, cfg, folder, device, None if asked == own else asked)


def _official(name: str, cfg: RunConfig, folder: Path, device: torch.device, precision: str | None) -> Contender:
    data = sources.load(sources.SYNTHETIC, shape=cfg.input)
    clean, labels = data.read(torch.arange(max(cfg.protocol.batch_size, len(data))) % len(data))
    on_gpu = device.type == "cuda"
    setting = Setting(
        shape=shape_of(cfg),
        batch_size=cfg.protocol.batch_size,
        device=device,
        precision=precision if on_gpu else cfg.protocol.precision,
        compile=None if on_gpu else False,
        latents=clean,
        labels=labels,
        name=name,
    )
    return official(cfg.method, folder / OFFICIAL_STEPS[cfg.method].project.name, setting)


def _entry(
    timed: Timed,
    first: Timed,
    cfg: RunConfig,
    work: Work | None,
    reached: Ceilings,
    device_name: str,
    *,
    profile: Path | None,
    device: torch.device,
) -> Entry:
    floors = _floors(work, reached, device_name) if work else []
    speed = timed.steps_per_sec
    here = next((f.seconds for f in floors if f.of == MEASURED_HERE), None)
    sheet = device_named(device_name)
    peak = sheet and sheet.peak(cfg.protocol.precision)
    return Entry(
        name=timed.contender.name,
        conditions=timed.conditions,
        num_images=timed.contender.num_images,
        first_step_seconds=timed.first_step_seconds,
        warmup_steps=timed.warmup_steps,
        warmup_seconds=timed.warmup_seconds,
        windows=timed.windows,
        steps_per_sec=speed,
        images_per_sec=measure.spread([w.steps * timed.contender.num_images / w.seconds for w in timed.windows]),
        ratio=measure.ratio(timed, first),
        data_wait_share=timed.data_wait_share,
        peak_allocated_bytes=timed.peak_allocated_bytes,
        peak_reserved_bytes=timed.peak_reserved_bytes,
        gmacs_step=work and work.cost.total,
        gmacs_vae=work and (work.vae_gmacs or None),
        bytes_step=work and work.traffic.total,
        floors=floors,
        over_floor=here and timed.step_seconds / here,
        mfu=work and peak and speed.median * 2 * GIGA * (work.cost.total + work.vae_gmacs) * work.images / peak,
        joules_per_image=timed.joules_per_image,
        top_operators=tuple(measure.profiled(timed.contender, profile, device)) if profile else (),
    )


MEASURED_HERE = "ceilings measured here"


def _floors(work: Work, reached: Ceilings, device_name: str) -> list[Floor]:
    rate = reached.flops_per_second
    vae = rate.get(VAE_PRECISION[work.precision])
    found = [Ceiling(MEASURED_HERE, rate[work.precision], reached.bytes_per_second, vae)]
    sheet = device_named(device_name)
    if sheet:
        found.append(floor.ceiling_of(sheet, work.precision)._replace(name=f"data sheet of {sheet.name}"))
    return [
        Floor(
            of=known.device,
            arithmetic_seconds=known.arithmetic_seconds,
            memory_seconds=known.memory_seconds,
            seconds=known.seconds,
        )
        for known in (floor.floor_of(work, ceiling) for ceiling in found)
    ]
