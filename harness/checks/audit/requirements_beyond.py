"""Requirements R11 to R20: targets, comparability, compute, checkpoints, tests, reuse, and this audit itself."""

import csv
import json
import tomllib
from importlib.resources import files
from pathlib import Path

from harness.checks.audit.checkout import Checkout
from harness.checks.audit.finding import CHECKS, FAILED, NOT_KEPT, OK
from harness.checks.audit.part import Part, Requirement, Seen, judge
from harness.claims.deviations import DEVIATIONS
from harness.claims.verdicts import INCONCLUSIVE, NOT_REPRODUCED
from harness.recipes import plugins
from harness.records.schema import SCHEMA_VERSION, Result

TOO_GOOD = r"better than (the )?publish|too good|suspicious"
BADGE = r"!\[[^\]]*\]\([^)]*badge"  # one that is shown; a word about badges is none


def targets(seen: Seen) -> Requirement:
    """R11: distances at known times, and hours to a stated one."""
    curves = [one for one in seen.finished if len({e.step for e in one.run.all_evaluations.values() if e.step}) > 1]
    timed = [one for one in curves if one.run.result and one.run.result.steps_per_sec]
    return judge(
        "R11",
        "time to a target, with the ratio defined",
        [
            Part(bool(timed), f"{len(timed)} of {len(seen.finished)} runs have a distance at several known times"),
            seen.project(
                "hours to a stated distance are tabulated",
                lambda c: c.mentions(r"hours_to|time_to|hours to (reach|fid|a )", "reports/*/*.csv", "reports/*/*.md"),
                "no table gives the hours to a stated distance",
            ),
        ],
    )


def convergence(seen: Seen) -> Requirement:
    """R12: measured beside published, and a flag where it is too good."""
    published = sum('"published_ratio": null' not in text and '"published_ratio"' in text for text in _verdicts(seen))
    return judge(
        "R12",
        "results better than published are flagged too",
        [
            seen.project(
                "measured ratios stand beside the published",
                lambda c: published > 0,
                "measured ratios do not stand beside published ones",
            ),
            seen.project(
                "a result too good is flagged",
                lambda c: c.mentions(TOO_GOOD, "harness/claims/checks.py"),
                "nothing flags a result that is better than published",
            ),
        ],
    )


def _verdicts(seen: Seen) -> list[str]:
    """Each committed judgement, as JSON."""
    if seen.checkout is None:
        return []
    judged = [json.loads(p.read_text(encoding="utf-8")) for p in seen.checkout.files("reports/*/claims.json")]
    return [json.dumps(one) for document in judged for one in (document if isinstance(document, list) else [])]


def evaluation(seen: Seen) -> Requirement:
    """R13: conditions and networks of each metric, images as npz, a self-test."""
    return judge(
        "R13",
        "how each metric was made stands beside it",
        [
            seen.every("every condition recorded", "conditions"),
            seen.every("networks as pinned", "features"),
            seen.project(
                "images written as npz, and read again by numpy, are tested",
                lambda c: all(word in c.text("tests/**/test_*npz*.py") for word in ("write_npz(", "np.load(")),
                "no test writes images as npz and reads them by numpy",
            ),
            seen.project(
                "the evaluator's self-test is attached",
                lambda c: c.has("reports/**/*self*test*"),
                "no self-test of the evaluator is attached",
            ),
        ],
    )


def comparability(seen: Seen) -> Requirement:
    """R14: a source for each published number, and honest names of measured ones."""
    rows = sourced = 0
    for path in (files("harness.claims") / "published").iterdir():
        if not path.name.endswith(".csv") or path.name in ("protocols.csv",):
            continue
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            rows += 1
            sourced += bool(row.get("source"))
    return judge(
        "R14",
        "quoted numbers apart from measured, protocols apart",
        [
            Part(rows > 0 and sourced == rows, f"{sourced} of {rows} published numbers have a source"),
            seen.every("metrics named by N and network", "names"),
        ],
    )


def compute(seen: Seen) -> Requirement:
    """R15: time and memory of each run, those that failed, energy."""
    told = [result for result in seen.results if result.wall_seconds > 0 and result.peak_memory_bytes]
    hours = sum(result.wall_seconds for result in seen.results) / 3600
    stopped = len(seen.audited) - len(seen.finished)
    energy = [field for field in Result.model_fields if "joule" in field or "energy" in field]
    return judge(
        "R15",
        "compute of every run, and in all",
        [
            Part(
                bool(told) and len(told) == len(seen.finished),
                f"time and memory of {len(told)} runs, {hours:.2f} h in all",
            ),
            Part(stopped > 0, f"{stopped} unfinished runs are among them")
            if stopped
            else Part(False, "failed and preliminary runs are not among them"),
            Part(bool(energy), "energy is recorded" if energy else "runs record no energy"),
        ],
    )


def negatives(seen: Seen) -> Requirement:
    """R16: judgements that are not in favour, and deviations."""
    verdicts = _verdicts(seen)
    poor = sum(f'"{verdict}"' in text for text in verdicts for verdict in (NOT_REPRODUCED, INCONCLUSIVE))
    kinds = {deviation.kind for deviation in DEVIATIONS}
    return judge(
        "R16",
        "negative results shown, deviations listed",
        [
            seen.project(
                f"{poor} of {len(verdicts)} committed judgements are not in favour",
                lambda c: poor > 0,
                "no committed judgement is negative or open",
            ),
            Part({"changed", "assumed"} <= kinds, f"{len(DEVIATIONS)} deviations listed, with what is assumed"),
        ],
    )


def checkpoints(seen: Seen) -> Requirement:
    """R17: hashes of the weights, their format, a model card."""
    kept = [one for one in seen.audited if one.findings["checkpoints"].status != NOT_KEPT]
    good = [one for one in kept if one.findings["checkpoints"].status == OK]
    hashed = Part(len(good) == len(kept), f"{len(good)} of {len(kept)} runs' checkpoints match their hashes")
    return judge(
        "R17",
        "checkpoints that load without the code, with a card",
        [
            hashed if kept else Part(None, "these records keep no weights"),
            _are_safetensors(seen),
            seen.project(
                "a model card",
                lambda c: c.has("docs/**/*model*card*", "harness/**/*card*"),
                "no template of a model card",
            ),
        ],
    )


def _are_safetensors(seen: Seen) -> Part:
    """By the files' own headers: a length, and tensors by name in JSON."""
    found = [path for one in seen.audited for path in (one.run.folder / "checkpoints").glob("step-*/ema.*")]
    good = sum(map(_is_safetensors, found))
    if not found:
        return Part(None, "no file of weights to read")
    return Part(good == len(found), f"{good} of {len(found)} files of weights are safetensors")


def _is_safetensors(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= path.stat().st_size - 8 else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict)


def tests(seen: Seen) -> Requirement:
    """R18: tests, CI and what it keeps."""
    count = len(seen.checkout.files("tests/**/test_*.py")) if seen.checkout else 0
    return judge(
        "R18",
        "tests and CI",
        [
            seen.project(f"{count} test files", lambda c: count > 0, "no tests"),
            seen.project(
                "resume and process counts are tested",
                lambda c: c.has("tests/training/test_processes.py") and c.has("tests/test_end_to_end.py"),
                "resume and process counts are not tested",
            ),
            seen.project("CI on the user's side", lambda c: c.has(".github/workflows/*.y*ml"), "no CI workflow"),
            seen.project(
                "which keeps its report",
                lambda c: c.mentions("upload-artifact", ".github/workflows/*"),
                "CI keeps no report",
            ),
            seen.project("a badge", lambda c: c.mentions(BADGE, "README.md"), "the README shows no badge"),
        ],
    )


def reuse(seen: Seen) -> Requirement:
    """R19: a worked method of another package, API pages, a CHANGELOG, schema versions."""
    readable = sum(one.findings["records"].status != FAILED for one in seen.audited)
    return judge(
        "R19",
        "made to be extended",
        [
            seen.project(
                "a worked fifth method in a package of its own, which the harness finds by its entry point",
                _has_worked_method,
                "no worked fifth method in a package of its own",
            ),
            seen.project("API pages", lambda c: c.has("mkdocs.y*ml"), "no API pages"),
            seen.project("a CHANGELOG", lambda c: c.has("CHANGELOG*"), "no CHANGELOG"),
            Part(
                readable == len(seen.audited),
                f"documents of schema version {SCHEMA_VERSION} in {readable} of {len(seen.audited)} runs",
            ),
        ],
    )


def _has_worked_method(checkout: Checkout) -> bool:
    """Whether a package below docs/ names a module that is there, in the group that the harness searches."""
    for path in checkout.files("docs/**/pyproject.toml"):
        points = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {})
        for module in points.get(plugins.GROUP, {}).values():
            if (path.parent / f"{module.replace('.', '/')}.py").is_file():
                return True
    return False


def itself(seen: Seen) -> Requirement:
    """R20: what this audit checked, and what it had nothing to check by."""
    failed = sum(one.failed for one in seen.audited)
    open_ = sorted({check for one in seen.audited for check, f in one.findings.items() if f.status == NOT_KEPT})
    told = f"{len(CHECKS)} checks on {len(seen.audited)} runs, {failed} failed"
    unseen = f"nothing to check by in some: {', '.join(open_)}" if open_ else "every check had its evidence"
    return judge("R20", "an audit by machine", [Part(failed == 0, told), Part(not open_, unseen)])
