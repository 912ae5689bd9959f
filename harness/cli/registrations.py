"""`harness claims register` and `registered`: what is announced before the runs, and beside it what they say."""

import re
import shlex
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from harness.cli.app.answer import show
from harness.cli.app.layout import width
from harness.cli.app.options import RUNS, Json, Roots, argument, option, seed_list
from harness.cli.claims import claims_app
from harness.system.errors import UsageError

if TYPE_CHECKING:
    from harness.claims.registration import Registration

ARM = "A recipe with settings, like sddit-mini:mask_ratio=0:learning_rate=0.004."
YARDSTICK = "Like denoiser_error or fd-own; less must be better."
EXPECT = "What the first arm's mean will be, beside the second's: lower, higher or equal."
WITHIN = "With --expect equal: how far the two may differ, like 0.02."
NAMED = "The file's name, of small letters, digits and hyphens."
INDENT = "  "


@claims_app.command("register")
def register(
    first: Annotated[str, argument(ARM, "FIRST")],
    second: Annotated[str, argument("The other arm.", "SECOND")],
    expect: Annotated[Literal["lower", "higher", "equal"], option(EXPECT, "WORD")],
    why: Annotated[str, option("What it would say, as a sentence.", "TEXT")],
    name: Annotated[str, option(NAMED, "NAME")],
    within: Annotated[float | None, option(WITHIN, "SHARE", min=1e-6, max=0.999999)] = None,
    yardstick: Annotated[str, option(YARDSTICK, "METRIC")] = "denoiser_error",
    seeds: Annotated[str, option("The seeds of each arm.", "LIST")] = "0,1,2",
    out: Annotated[Path, option("The runs' folder; the file goes into registered/ in it.", "DIR")] = RUNS,
    as_json: Json = False,
) -> None:
    """Write down which runs will decide a comparison and what is expected of them, before they exist.

    Only these runs count, and only when all are finished. The report shows what was expected beside what was found.

    Examples: harness claims register sddit-mini sddit-mini:discriminate=false --expect higher --why "L_D harms the
    denoiser" --name l-d-harms · harness claims register dit-s sit-s --expect equal --within 0.02 --why "Flow matching
    is no worse" --name flow --yardstick fid50k
    """
    import harness
    from harness.claims import registration
    from harness.planning.plan import resolve
    from harness.recipes.metric_names import read_as
    from harness.records.provenance import git_state
    from harness.records.store import find_runs

    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(f"--name is {name!r}; it must be small letters, digits and hyphens, like l-d-harms.")
    read_as(yardstick, ())  # refuses one of which less is not better
    chosen = seed_list(seeds)

    def arm(text: str) -> registration.Arm:
        recipe, *settings = text.split(":")
        found = [resolve(recipe, [*settings, f"seed={seed}"]) for seed in chosen]
        names = tuple(f"{cfg.recipe}/{cfg.run_id}" for cfg in found)
        return registration.Arm(recipe=recipe, settings=tuple(settings), runs=names)

    arms = arm(first), arm(second)
    finished = {run.name for run in find_runs([out])[0]} if out.is_dir() else set()
    made = registration.Registration(
        harness_version=harness.__version__,
        git_commit=git_state()[0],
        registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
        first=arms[0],
        second=arms[1],
        yardstick=yardstick,
        expected=expect,
        within=within,
        seen=tuple(sorted(finished & {run for each in arms for run in each.runs})),
    )
    path = out / registration.FOLDER / f"{name}.json"
    registration.write(made, path)
    document = {
        "registered": str(path),
        "sha256": made.sha256,
        "seen": list(made.seen),
        "runs": _commands(made, chosen),
    }
    show(document, as_json, lambda _: _announced(path, made, document["runs"]))


@claims_app.command("registered")
def registered(runs: Roots = None, as_json: Json = False) -> None:
    """Show every registration beside what its runs say.

    Examples: harness claims registered · harness claims registered reports/mini
    """
    from harness.claims import registration
    from harness.records.store import find_runs

    roots = runs or [RUNS]
    found = registration.below(roots)
    if not found:
        show({"registered": []}, as_json, lambda _: ["Nothing is registered there; `harness claims register` does it."])
        return
    outcomes = registration.outcomes(found, find_runs(roots)[0])
    document = [
        {
            **outcome.registration.model_dump(mode="json"),
            "name": outcome.name,
            "sha256": outcome.registration.sha256,
            "finished": outcome.finished,
            "looked_at": list(outcome.looked_at),
            **{key: outcome.judgement.as_json()[key] for key in ("verdict", "effect", "ratio", "interval", "n")},
        }
        for outcome in outcomes
    ]
    show({"registered": document}, as_json, lambda answer: _lines(answer["registered"]))


def _commands(made: "Registration", seeds: list[int]) -> list[str]:
    """One of each arm and seed, to be copied into a shell."""
    arms = [
        (arm.recipe, [part for setting in arm.settings for part in ("--set", setting)])
        for arm in (made.first, made.second)
    ]
    return [
        shlex.join(["harness", "run", recipe, "--seed", str(seed), *settings])
        for recipe, settings in arms
        for seed in seeds
    ]


def _announced(path: Path, made: "Registration", commands: Sequence[str]) -> list[str]:
    seen = f"{len(made.seen)} of its runs are finished already; the report says so." if made.seen else ""
    return [f"{path}, sha256 {made.sha256}", *([seen] if seen else []), "Its runs:", *commands]


def _lines(found: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for each in found:
        total = len(each["first"]["runs"]) + len(each["second"]["runs"])
        expected = each["expected"] + (f" within {each['within']:g}" if each["within"] else "")
        said = each["effect"] or f"{each['finished']} of {total} runs are finished"
        lines += [f"{each['name']}: {each['verdict']}"]
        told = [f"{each['why'].removesuffix('.')}. Expected: {expected}. Found: {said}."]
        if each["looked_at"]:
            told.append(f"{len(each['looked_at'])} of its runs had begun before it was registered.")
        lines += [
            line
            for text in told
            for line in textwrap.wrap(text, width(), initial_indent=INDENT, subsequent_indent=INDENT)
        ]
    return lines
