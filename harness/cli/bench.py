"""`harness bench`: training steps side by side, and the least they can take."""

import os
import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.app import completion, defaults
from harness.cli.app.answer import progress_for, show
from harness.cli.app.options import COMPILE, LATEST, PIPELINES, PRECISIONS, Assignments, Json, argument, listed, option
from harness.system.errors import DataError, Interrupted, Preempted, UsageError

STARTS_OVER = "The same command starts over."
LONGEST_WINDOW = 86_400  # seconds
VARIED = "What is varied, each a LIST"
SWITCHED = ("on", "off")


def _varied(help: str, *choices: str, name: str | None = None, parser: Any = None) -> Any:
    complete = completion.listed_among(*choices) if choices else None
    return option(help, "LIST", name, panel=VARIED, complete=complete, parser=parser)


def compile_modes(text: str) -> str:
    """Parses --compile, a list of modes."""
    for mode in listed(text):
        if mode not in COMPILE:
            raise typer.BadParameter(f"--compile is {mode!r}; it must be on, off or auto.")
    return text


def bench(
    recipes: Annotated[list[str], argument("Which recipes; the first is divided by.", "RECIPE", completion.recipes)],
    precision: Annotated[str, _varied("fp32, tf32, bf16. Default: as the recipe has it.", *PRECISIONS)] = "",
    compile_: Annotated[
        str,
        _varied(
            "on, off, auto: on where a run is long enough and it works. Default: off.",
            *COMPILE,
            name="--compile",
            parser=compile_modes,
        ),
    ] = "",
    pipeline: Annotated[str, _varied("cached, online-vae: the VAE inside the step. Default: cached.", *PIPELINES)] = "",
    batch: Annotated[str, _varied("Images of a step. Default: as the recipe has it.")] = "",
    deterministic: Annotated[
        str, _varied("on, off: only operations that give the same bits every time. Default: off.", *SWITCHED)
    ] = "",
    micro_batch: Annotated[int | None, option("Images taken through the network at once.", "N", min=1)] = None,
    data: Annotated[
        str | None,
        option(
            "A data set, or folder. Default: random numbers, or what a recipe embeds.",
            "NAME|DIR",
            complete=completion.data_sets,
        ),
    ] = None,
    set_: Assignments = None,
    official: Annotated[
        Path | None, option("Folder with checkouts DiT/, MaskDiT/, MDT/: time the official codes too.", "DIR")
    ] = None,
    rounds: Annotated[int, option("Windows of each, in turns.", "N", min=1, max=10_000)] = 7,
    window: Annotated[float, option("About how long one window is.", "SECONDS")] = 1.0,
    estimate: Annotated[bool, option("Only say what a step takes, and its floor.", name="--estimate")] = False,
    nproc: Annotated[int, option("With --estimate: the batch shared by so many GPUs.", "N", min=1, max=65536)] = 1,
    profile: Annotated[bool, option("Also write a trace and the top operators.", name="--profile")] = False,
    out: Annotated[Path, option("Where the record, table and figure go.", "DIR")] = LATEST,
    as_json: Json = False,
) -> None:
    """Time training steps side by side: in one process, in turns, one factor varied at a time.

    The first value of each LIST holds for all; every other value is timed once more with the rest unchanged.

    Examples: harness bench dit-tiny sddit-tiny · harness bench dit-s sddit-s --precision bf16,tf32 --compile on,off ·
    harness bench dit-s sddit-s --pipeline cached,online-vae --batch 4 · harness bench --estimate dit-s sddit-xl --nproc
    8
    """
    if not 0 < window <= LONGEST_WINDOW:
        raise UsageError(f"--window is {window:g}; it must be a number of seconds above 0, at most {LONGEST_WINDOW}.")
    from harness.data import names
    from harness.planning import beforehand

    for recipe in recipes:
        beforehand.refuse_wrong_settings(recipe, set_ or [], reads_data=False)
    if data is not None and listed(pipeline)[:1] != ["online-vae"]:
        names.require(data)

    from harness.bench import matrix
    from harness.recipes.config import parse_count
    from harness.system.precision import default_device

    varied = {
        "protocol.precision": listed(precision),
        "protocol.compile": listed(compile_),
        "protocol.pipeline": listed(pipeline),
        "protocol.batch_size": [str(parse_count(size, "--batch")) for size in listed(batch)],
        "execution.deterministic": listed(deterministic),
    }
    assignments = [*(set_ or []), *([f"execution.micro_batch={micro_batch}"] if micro_batch is not None else [])]
    options = {
        "protocol.precision": ("--precision", precision or None),
        "protocol.compile": ("--compile", compile_ or None),
        "protocol.pipeline": ("--pipeline", pipeline or None),
        "protocol.batch_size": ("--batch", batch or None),
        "protocol.data": ("--data", data),
        "execution.deterministic": ("--deterministic", deterministic or None),
        "execution.micro_batch": ("--micro-batch", micro_batch),
    }
    with defaults.named(options):
        resident = default_device().type == "cuda"
        named = list(matrix.variants(recipes, varied, assignments, data=data, resident=resident))
    if estimate:
        from harness.planning.plan import expected_step
        from harness.reporting.tables.bench import estimate_lines

        documents = [expected_step(name, cfg, nproc) for name, cfg in named]
        return show({"estimates": documents}, as_json, lambda _: estimate_lines(documents))
    _time(named, rounds, window, official, profile, out, as_json)


def _time(
    named: list, rounds: int, window: float, official: Path | None, profile: bool, out: Path, as_json: bool
) -> None:
    from harness.bench import bench as joined
    from harness.records.bench_record import Bench
    from harness.records.schema import write_atomically, write_record
    from harness.reporting.drawing.sheet import save as draw
    from harness.reporting.figures import bench as bench_figure
    from harness.reporting.tables import bench as bench_tables
    from harness.system.processes.signals import preemption_raises

    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):  # found out now, not after the timing
        raise DataError(f"cannot write to {out}: {there} is no folder that can be written. Choose another --out.")
    saved: list[Bench] = []

    def save(measured: Bench) -> None:
        out.mkdir(parents=True, exist_ok=True)
        write_record(out / "bench.json", measured)
        write_atomically(out / "bench.md", bench_tables.markdown(measured))
        saved[:] = [measured]

    # The last part of each path alone: the folders would identify a person.
    typed = [Path(argument).name if "/" in argument else argument for argument in sys.argv[1:]]
    try:
        with closing(progress_for("bench")) as progress, preemption_raises(STARTS_OVER):
            measured = joined.run(
                named, rounds=rounds, window_seconds=window, official_codes=official,
                profile=out if profile else None, command=shlex.join(["harness", *typed]), progress=progress, save=save,
            )  # fmt: skip
    except (KeyboardInterrupt, Preempted) as stop:
        kept = "nothing was measured"
        if saved:
            draw(bench_figure.make(saved[0]), out)
            kept = f"{saved[0].incomplete}; that is in {out}/bench.json, marked as incomplete"
        code = Interrupted if isinstance(stop, KeyboardInterrupt) else Preempted
        raise code(f"the bench was stopped: {kept}. {STARTS_OVER}") from None
    save(measured)
    draw(bench_figure.make(measured), out)
    written = f"written: {out}/bench.json, .md, .png, .svg, .csv"
    show(measured.model_dump(mode="json"), as_json, lambda _: [*bench_tables.lines(measured), written])
