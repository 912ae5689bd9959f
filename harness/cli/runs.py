"""`harness runs`: list, show, remove and export run folders."""

from pathlib import Path
from typing import Annotated, Literal

from harness.cli.app import completion
from harness.cli.app.answer import show
from harness.cli.app.application import App
from harness.cli.app.options import LATEST, RUNS, Below, Json, Roots, RunName, argument, option
from harness.system.errors import DataError, UsageError

runs_app = App(help="List, look into, remove and export run folders.")


@runs_app.command("list")
def runs_list(runs: Roots = None, as_json: Json = False) -> None:
    """Name every run folder with its steps, speed, distance and state, and every folder that is no run with the reason.

    The age is that of the last event a run recorded.

    Examples: harness runs list · harness runs list runs/ reports/demo/runs · harness runs list --json
    """
    from harness.cli import runs_text
    from harness.records.folders import listing

    roots = runs or [RUNS]
    entries = listing.survey(roots)
    document = {"roots": [str(root) for root in roots], "runs": [entry.as_json() for entry in entries]}
    show(document, as_json, runs_text.of_the_list)


@runs_app.command("show")
def runs_show(run: RunName, below: Below = RUNS, as_json: Json = False) -> None:
    """Print one run in full: settings that its recipe has otherwise, provenance, speed, evaluations, events, files.

    Examples: harness runs show sddit-tiny/seed0 · harness runs show runs/sddit-tiny/seed0-0123456789 --json
    """
    from harness.cli import runs_text
    from harness.records.finding import find_run, name_below
    from harness.records.folders import inspection

    folder = find_run(run, below)
    show(inspection.describe(folder, name_below(below, folder)), as_json, runs_text.of_one)


@runs_app.command("rm")
def runs_rm(
    runs: Annotated[
        list[str] | None, argument("Run folders, or their whole ids or names.", "RUN", completion.run_names)
    ] = None,
    yes: Annotated[bool, option("Remove them. Without it, only say what would go.", name="--yes")] = False,
    keep_records: Annotated[
        bool, option("Remove only checkpoints and samples.npz; figures need neither.", name="--keep-records")
    ] = False,
    unfinished: Annotated[
        bool, option("Of these runs, or of all, those that are unfinished.", name="--unfinished")
    ] = False,
    force: Annotated[bool, option("Also a run that was just written to.", name="--force")] = False,
    below: Below = RUNS,
    as_json: Json = False,
) -> None:
    """Remove run folders, or their weights alone. Nothing goes without --yes, and nothing outside --runs.

    Files that the harness did not write stay. A run that another command trains, samples or evaluates is refused, and
    so is an unfinished one that was written to within a minute: it may be running on a machine that shares no locks.

    Examples: harness runs rm dit-tiny/seed0-0123456789 · harness runs rm --unfinished --yes · harness runs rm
    runs/sddit-xl/seed0-0123456789 --keep-records --yes
    """
    from harness.cli import runs_text
    from harness.records.finding import find_run
    from harness.records.folders import listing, removal

    if not runs and not unfinished:
        raise UsageError("name the runs to remove, or say --unfinished; `harness runs list` names them.")
    folders = dict.fromkeys(find_run(run, below, exactly=True) for run in runs or [])
    entries = [listing.entry_of(folder) for folder in folders] if runs else listing.survey([below])
    wanted = [e for e in entries if e.state == "unfinished" or not unfinished]
    plans, refused = [], []
    for entry in wanted:
        try:
            plans.append(removal.plan(entry.path, below, keep_records=keep_records, force=force))
        except UsageError as error:
            if runs:  # named by the user: then nothing goes
                raise
            refused.append({"path": str(entry.path), "reason": str(error)})
    done = [removal.remove(plan, below) for plan in plans] if yes else plans
    document = {
        "removed": yes,
        "bytes": sum(each.bytes for each in done),
        "runs": [{**plan.as_json(), "error": each.error} for plan, each in zip(plans, done, strict=True)],
        "refused": refused,
    }
    show(document, as_json, runs_text.of_removals)
    if failed := [f"{each.entry.name}: {each.error}" for each in done if each.error]:
        raise DataError(f"not everything could be removed: {'; '.join(failed)}. Resolve that and repeat the command.")
    if plans and not yes:
        raise UsageError("nothing was removed. Add --yes to the command to remove what is listed.")


@runs_app.command("export")
def runs_export(
    runs: Annotated[
        list[str],
        argument("Run folders, folders of them, or parts of names: every run they fit.", "RUN", completion.run_names),
    ],
    to: Annotated[
        Literal["csv", "tensorboard", "wandb", "trackio"], option("csv, tensorboard, wandb or trackio.", "FORMAT")
    ],
    out: Annotated[Path | None, option("Where it goes. Default: reports/latest/FORMAT", "DIR")] = None,
    below: Below = RUNS,
    as_json: Json = False,
) -> None:
    """Write what runs logged and measured, by step, for another program. A second export replaces the first.

    wandb writes an offline run, which `wandb sync` uploads, unless WANDB_MODE says otherwise. The last three formats
    need their package: pip install 'dit-harness[FORMAT]'.

    Examples: harness runs export runs/ --to tensorboard · harness runs export sddit-tiny --to csv --out mine ·
    WANDB_MODE=online harness runs export runs/ --to wandb
    """
    from harness.records.finding import find_runs
    from harness.records.folders import history
    from harness.runs import trackers

    trackers.require(to)
    folders = list(dict.fromkeys(folder for run in runs for folder in find_runs(run, below)))
    histories, left_out = history.read_all(folders)
    target = out or LATEST / to
    files = trackers.export(histories, to, target)
    document = {
        "to": to,
        "runs": [
            {"run": h.name, "written": str(file), "state": h.state, "step": h.step}
            for h, file in zip(histories, files, strict=True)
        ],
        "left_out": [{"run": item.name, "reason": item.reason} for item in left_out],
        "open": trackers.how_to_open(to, target),
    }
    missing = [f"left out: {item.name}: {item.reason}" for item in left_out]
    partly = {"unfinished": "so far", "damaged": "what can be read of it,"}
    so_far = [
        f"{h.state}: {h.name}: {partly[h.state]} to step {h.step:,} of {h.settings.get('protocol.steps', '?')}"
        for h in histories
        if h.state in partly
    ]
    show(document, as_json, lambda answer: [*map(Path, files), *so_far, *missing, answer["open"]])
