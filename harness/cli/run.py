"""Commands that make runs: run, import-checkpoint."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.app import completion, defaults
from harness.cli.app.answer import note, show
from harness.cli.app.options import (
    COMPILE,
    PIPELINES,
    PRECISIONS,
    RUNS,
    Assignments,
    Json,
    RunsOut,
    choice,
    compile_modes,
    count,
)
from harness.cli.app.processes import (
    EXECUTION,
    Launcher,
    Nodes,
    Nproc,
    Partition,
    PrintSbatch,
    Time,
    refuse_of_a_job,
    start_all,
    together,
)
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.system.processes.slurm import Job


def run(
    ctx: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(help="Which recipe; harness recipes list names them.", autocompletion=completion.recipes),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(parser=count, metavar="N", help="Training steps: 250, 400k, 1.5M.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Train on this: a data set's name, a folder of images or latents, an .npz. Default: the recipe's.",
            autocompletion=completion.data_sets,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of weights, data order and noise. Default: the recipe's, 0.")
    ] = None,
    set_: Assignments = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Repeat the run of this config.yaml instead of a recipe.")
    ] = None,
    out: RunsOut = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve, count and estimate, do not train.")] = False,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Train only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over, even if the run is finished.")] = False,
    pipeline: Annotated[
        str | None,
        choice(
            PIPELINES,
            help="cached, or online-vae: encode the images of --data in every step. Default: the recipe's.",
            panel=EXECUTION,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        choice(PRECISIONS, help="fp32, tf32 or bf16. Default: the recipe's.", panel=EXECUTION),
    ] = None,
    compile_: Annotated[
        str | None,
        choice(
            COMPILE,
            name="--compile",
            parser=compile_modes,
            metavar="MODE",
            help="on, off, or auto: eager where it fails. Default: the recipe's.",
            panel=EXECUTION,
        ),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Images a process takes at once; gradients add up to the batch. Default: as many as fit.",
            rich_help_panel=EXECUTION,
        ),
    ] = None,
    data_residency: Annotated[
        str | None,
        choice(
            ("host", "gpu"),
            metavar="PLACE",
            help="host, or gpu: hold the whole set there. Default: the recipe's.",
            panel=EXECUTION,
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Only operations that give the same bits every time; one that has no such form ends the run.",
            rich_help_panel=EXECUTION,
        ),
    ] = False,
    nproc: Nproc = None,
    launcher: Launcher = "local",
    nodes: Nodes = 1,
    time: Time = "24:00:00",
    partition: Partition = None,
    print_sbatch: PrintSbatch = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, sample it and evaluate it. The same command again continues, or reports the finished run.

    Examples: harness run sddit-tiny · harness run sddit-s --steps 400k --nproc 8 · harness run dit-tiny --steps 2k
    --set learning_rate=5e-4
    """
    if (recipe is None) == (config is None):
        raise UsageError("name a recipe (harness recipes list shows them) or give --config, one of the two.")
    given = {
        "protocol.steps": ("--steps", steps),
        "protocol.data": ("--data", data),
        "protocol.pipeline": ("--pipeline", pipeline),
        "protocol.precision": ("--precision", precision),
        "protocol.compile": ("--compile", compile_),
        "execution.micro_batch": ("--micro-batch", micro_batch),
        "execution.residency": ("--data-residency", data_residency),
        "execution.deterministic": ("--deterministic", deterministic or None),
        "seed": ("--seed", seed),
    }
    assignments = defaults.in_order(given, set_)

    from harness.recipes import reading as recipes

    if recipe:
        recipes.load_recipe(recipe)  # refuse a wrong name before importing torch, which takes seconds
    if print_sbatch or launcher == "slurm":
        from harness.system.processes.slurm import Job

        name = str(recipe or (config and config.parent.name))
        return _slurm(Job(nodes, nproc or 1, time, partition, name, out / "slurm"), print_sbatch, as_json)
    if launcher != "local":
        raise UsageError(f"--launcher is {launcher!r}; it must be local or slurm.")
    refuse_of_a_job(ctx, launcher, print_sbatch)
    if not dry_run:
        if nproc and nproc > 1:
            with defaults.named(given):
                _refuse_unequal_shares(recipe or config or "", assignments, nproc)
        start_all(nproc)

    if dry_run:
        from harness.planning.plan import plan, resolve

        with defaults.named(given):
            cfg = resolve(recipe or config or "", assignments, note)
        return show(plan(cfg, nproc or 1), as_json, _plan_lines)

    import harness

    label = recipe or (config.absolute().parent.parent.name if config else "run")
    with defaults.named(given), together(label) as (world, progress):
        result = harness.run(
            recipe or config or "", assignments,
            out=out, evaluate=not no_eval, force=force, progress=progress, world=world,
        )  # fmt: skip
    if result is not None:  # the main process has it
        show(result.model_dump(mode="json"), as_json, _result_lines)


def _refuse_unequal_shares(source: str | Path, assignments: list[str], nproc: int) -> None:
    """UsageError, before any process starts, where `nproc` does not divide the batch of this run."""
    from harness.data.loader import rows_of
    from harness.planning.plan import resolve
    from harness.system.processes.world import World

    rows_of(resolve(source, assignments), World(size=nproc, local_size=nproc))


def import_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="An official checkpoint of DiT, MaskDiT or MDT v1, or a DiT that diffusers saved."
        ),
    ],
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="RECIPE",
            help="The recipe it was trained by, like dit-xl.",
            autocompletion=completion.recipes,
        ),
    ],
    set_: Assignments = None,
    out: RunsOut = RUNS,
    as_json: Json = False,
) -> None:
    """Make a run folder of a published checkpoint, which `sample` and `evaluate` accept. Nothing in it is executed.

    Examples: harness import-checkpoint DiT-XL-2-256x256.pt --as dit-xl · harness import-checkpoint
    DiT-XL-2-256/transformer --as dit-xl · harness import-checkpoint mdt.pt --as mdt-xl --out published
    """
    from harness.recipes import reading as recipes

    recipes.load_recipe(as_)  # refuse a wrong name before importing torch, which takes seconds

    from harness.runs import importing

    folder = importing.import_checkpoint(file, importing.as_published(as_, set_ or []), out)
    show({"folder": str(folder)}, as_json, lambda answer: [Path(answer["folder"])])


def _slurm(job: "Job", print_only: bool, as_json: bool) -> None:
    from harness.system.processes import launch, slurm

    of_the_job = ("--nproc", "--launcher", "--nodes", "--time", "--partition")
    arguments = sys.argv[1:]
    for option in of_the_job:
        arguments = launch.without(arguments, option)
    arguments = [argument for argument in arguments if argument != "--print-sbatch"]
    arguments = defaults.replayed(arguments, leaving_out=(*of_the_job, "--print-sbatch"))
    script = slurm.sbatch_script(job, arguments)
    if print_only:
        print(script, end="")
        return
    show({"job": slurm.submit(job, script)}, as_json, lambda answer: [answer["job"]])


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    import yaml

    from harness.planning import estimate

    config = yaml.safe_dump(plan["config"], sort_keys=False).rstrip()
    return [*_cost_lines(plan), *estimate.lines(plan["estimate"]), "", config]


def _cost_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['recipe']}, seed {result['seed']}, {result['steps']:,} steps, run {result['run_id']}",
        f"  parameters        {result['params'] / 1e6:.2f} M",
        f"  arithmetic/image  {result['gmacs_forward']:.4g} GMAC forward, {result['gmacs_step']:.4g} GMAC a step",
    ]


def _result_lines(result: dict[str, Any]) -> list[str]:
    speed, memory = result["steps_per_sec"], result["peak_memory_bytes"]
    lines = [
        *_cost_lines(result),
        "  speed             "
        + (f"{speed:.2f} steps/s over {result['timed_steps']:,} steps" if speed else "all warm-up")
        + (", compiled" if result["compiled"] else ""),
        *(f"  {note}" for note in result["notes"]),
        f"  peak memory       {memory / 2**30:.2f} GiB ({result['peak_memory_kind']})",
        f"  time              {result['wall_seconds']:.0f} s",
    ]
    before = result["evaluations"].get("untrained", {}).get("metrics", {})
    for name, value in result["evaluations"].get("final", {}).get("metrics", {}).items():
        lines.append(f"  {name:<28}{value:>10.4f}" + (f"   untrained {before[name]:.4f}" if name in before else ""))
    return lines
