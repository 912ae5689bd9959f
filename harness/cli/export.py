"""The command that writes a run's network with its model card: export."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from harness.cli.app.answer import progress_for, show
from harness.cli.app.options import RUNS, Below, Json, RunName, option

EXPORTS = Path("exports")


def export(
    run: RunName,
    step: Annotated[int | None, option("The checkpoint of this step. Default: newest.", "N")] = None,
    weights: Annotated[
        Literal["ema", "raw"], option("ema: averaged, what is sampled; raw: as trained.", "KIND")
    ] = "ema",
    license_: Annotated[str | None, option("Of these weights, like mit. Default: unknown.", "ID", "--license")] = None,
    format_: Annotated[
        Literal["safetensors", "diffusers"],
        option(
            "safetensors; diffusers: a DiT for its DiTTransformer2DModel, in the folder transformer/.",
            "NAME",
            "--format",
        ),
    ] = "safetensors",
    out: Annotated[Path | None, option("The folder to write. Default: exports/RECIPE-RUN", "DIR")] = None,
    force: Annotated[bool, option("Replace an earlier export in that folder.", name="--force")] = False,
    below: Below = RUNS,
    as_json: Json = False,
) -> None:
    """Write a run's network as safetensors, with its configuration, a record of where it comes from, and a model card.

    The folder is opened by `harness sample` and `harness evaluate`, and its weights by the safetensors library alone.
    An imported checkpoint keeps the licence of its official repository.

    Examples: harness export sddit-tiny/seed0 · harness export runs/dit-s/seed0-0123456789 --step 400000 --license mit
    --out dit-s-400k · harness sample exports/sddit-tiny-seed0-0123456789
    """
    from harness.records.finding import find_run
    from harness.reporting import model_card
    from harness.runs import exporting

    folder = find_run(run, below)
    others = [f"step{step}" if step is not None else "", "" if weights == "ema" else weights]
    others += ["" if format_ == "safetensors" else format_]
    target = out or EXPORTS / "-".join([*folder.resolve().parts[-2:], *filter(None, others)])
    with closing(progress_for("export")) as progress:
        record = exporting.export(
            folder, target, card=model_card.render,
            step=step, weights=weights, license=license_, force=force, progress=progress, format=format_,
        )  # fmt: skip
    facts = record.model_dump(mode="json", include={"run", "weights", "step", "weights_sha256", "license", "files"})
    show({"folder": str(target), **facts, "evaluations": sorted(record.evaluations)}, as_json, lambda _: [target])
