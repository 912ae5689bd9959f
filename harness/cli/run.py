"""Commands that make runs: run, import-checkpoint."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from harness.cli.app import completion, defaults, options
from harness.cli.app.answer import note, show
from harness.cli.app.layout import columns
from harness.cli.app.options import EXECUTION, RUNS, Assignments, Json, NumSteps, RunsOut, argument, option
from harness.cli.app.processes import (
    Launcher,
    Nodes,
    Nproc,
    Partition,
    PrintSbatch,
    Time,
    is_a_job,
    start_all,
    submit,
    together,
)
from harness.system.errors import UsageError


def run(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, argument("Which recipe; harness recipes list names them.", "RECIPE", completion.recipes)
    ] = None,
    steps: NumSteps = None,
    data: Annotated[
        str | None,
        option(
            "Train on this: a data set's name, a folder of images or latents, an .npz. Default: the recipe's.",
            "NAME|DIR",
            complete=completion.data_sets,
        ),
    ] = None,
    seed: Annotated[int | None, option("Seed of weights, data order and noise. Default: the recipe's, 0.", "N")] = None,
    set_: Assignments = None,
    with_: Annotated[
        list[str] | None, option("Also train by this method's loss or token policy; repeatable.", "METHOD", "--with")
    ] = None,
    config: Annotated[Path | None, option("Repeat the run of this config.yaml instead of a recipe.", "FILE")] = None,
    out: RunsOut = RUNS,
    dry_run: Annotated[bool, option("Resolve, count and estimate, do not train.", name="--dry-run")] = False,
    no_eval: Annotated[bool, option("Train only.", name="--no-eval")] = False,
    force: Annotated[bool, option("Start over, even if the run is finished.", name="--force")] = False,
    pipeline: Annotated[
        options.Pipeline | None,
        option(
            "cached, or online-vae: encode the images of --data in every step. Default: the recipe's.",
            "NAME",
            panel=EXECUTION,
        ),
    ] = None,
    precision: Annotated[
        options.Precision | None, option("fp32, tf32 or bf16. Default: the recipe's.", "NAME", panel=EXECUTION)
    ] = None,
    compile_: Annotated[
        options.CompileMode | None,
        option(
            "on, off, or auto: on where a run is long enough and it works. Default: the recipe's.",
            "MODE",
            "--compile",
            panel=EXECUTION,
        ),
    ] = None,
    micro_batch: Annotated[
        int | None,
        option(
            "Images a process takes at once; gradients add up to the batch. Default: as many as fit.",
            "N",
            panel=EXECUTION,
        ),
    ] = None,
    data_residency: Annotated[
        Literal["host", "gpu"] | None,
        option("host, or gpu: hold the whole set there. Default: the recipe's.", "PLACE", panel=EXECUTION),
    ] = None,
    deterministic: Annotated[
        bool,
        option(
            "Only operations that give the same bits every time; one that has no such form ends the run.",
            name="--deterministic",
            panel=EXECUTION,
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
        "knobs.additions": ("--with", with_ or None),
    }
    assignments = defaults.in_order(given, set_)

    from harness.planning import beforehand

    as_a_job = is_a_job(ctx, launcher, print_sbatch)
    if recipe:
        with defaults.named(given):
            reads_data = False if as_a_job else None if dry_run else True
            beforehand.refuse_wrong_settings(recipe, assignments, reads_data=reads_data)
    source = recipe or config or ""
    processes = nproc or 1
    if as_a_job:
        from harness.system.processes.slurm import Job, sbatch_script

        name = str(recipe or (config and config.parent.name))
        job = Job(nodes, processes, time, partition, name, out / "slurm")
        return submit(job, sbatch_script(job, _arguments_of_the_job()), print_sbatch, as_json)
    if dry_run or processes > 1:
        from harness.data.loader import rows_of
        from harness.planning.plan import plan, resolve
        from harness.system.processes.world import World

        with defaults.named(given):
            if dry_run:
                return show(plan(resolve(source, assignments, note), processes), as_json, _plan_lines)
            rows_of(resolve(source, assignments), World(size=processes))  # refuse a batch that they cannot share
    start_all(nproc)

    import harness

    label = recipe or (config.absolute().parent.parent.name if config else "run")
    with defaults.named(given), together(label) as (world, progress):
        result = harness.run(
            source, assignments, out=out, evaluate=not no_eval, force=force, progress=progress, world=world
        )
    if result is not None:  # the main process has it
        show(result.model_dump(mode="json"), as_json, _result_lines)


def import_checkpoint(
    file: Annotated[
        Path, argument("An official checkpoint of DiT, MaskDiT or MDT, or a DiT that diffusers saved.", "FILE")
    ],
    as_: Annotated[
        str, option("The recipe it was trained by, like dit-xl.", "RECIPE", "--as", complete=completion.recipes)
    ],
    set_: Assignments = None,
    out: RunsOut = RUNS,
    as_json: Json = False,
) -> None:
    """Make a run folder of a published checkpoint, which `sample` and `evaluate` accept. Nothing in it is executed.

    Examples: harness import-checkpoint DiT-XL-2-256x256.pt --as dit-xl · harness import-checkpoint
    DiT-XL-2-256/transformer --as dit-xl · harness import-checkpoint mdt.pt --as mdt-xl --out published
    """
    from harness.planning import beforehand

    beforehand.refuse_wrong_settings(as_, set_ or [])

    from harness.runs import importing

    folder = importing.import_checkpoint(file, importing.as_published(as_, set_ or []), out)
    show({"folder": str(folder)}, as_json, lambda answer: [Path(answer["folder"])])


def _arguments_of_the_job() -> list[str]:
    """This command's arguments without those of its start, with what is set written out."""
    from harness.system.processes import launch

    of_the_job = ("--nproc", "--launcher", "--nodes", "--time", "--partition")
    arguments = sys.argv[1:]
    for name in of_the_job:
        arguments = launch.without(arguments, name)
    arguments = [argument for argument in arguments if argument != "--print-sbatch"]
    return defaults.replayed(arguments, leaving_out=(*of_the_job, "--print-sbatch"))


def _plan_lines(plan: dict[str, Any]) -> list[str]:
    import yaml

    from harness.planning import estimate

    config = yaml.safe_dump(plan["config"], sort_keys=False).splitlines()
    return [*_cost_lines(plan), *estimate.lines(plan["estimate"]), "", *config]


def _cost_lines(result: dict[str, Any]) -> list[str]:
    arithmetic = f"{result['gmacs_forward']:.4g} GMAC forward, {result['gmacs_step']:.4g} GMAC a step"
    return [
        f"{result['recipe']}, seed {result['seed']}, {result['steps']:,} steps, run {result['run_id']}",
        *columns([["parameters", f"{result['params'] / 1e6:.2f} M"], ["arithmetic/image", arithmetic]], indent="  "),
    ]


def _result_lines(result: dict[str, Any]) -> list[str]:
    speed, memory = result["steps_per_sec"], result["peak_memory_bytes"]
    timed = f"{speed:.2f} steps/s over {result['timed_steps']:,} steps" if speed else "all warm-up"
    rows = [
        ["speed", timed + (", compiled" if result["compiled"] else "")],
        ["peak memory", f"{memory / 2**30:.2f} GiB ({result['peak_memory_kind']})"],
        ["time", f"{result['wall_seconds']:.0f} s"],
    ]
    before = result["evaluations"].get("untrained", {}).get("metrics", {})
    metrics = [
        [name, f"{value:.4f}", f"untrained {before[name]:.4f}" if name in before else ""]
        for name, value in result["evaluations"].get("final", {}).get("metrics", {}).items()
    ]
    notes = [f"  {note}" for note in result["notes"]]
    return [*_cost_lines(result), *columns(rows, indent="  "), *notes, *columns(metrics, indent="  ")]
