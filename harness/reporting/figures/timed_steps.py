"""Timed training steps, each at the arithmetic of its step: of runs, of benches and of SD-DiT Fig. 3.

A row is one marker: what was timed, at the arithmetic of its step, with that of its VAE where the step has one. Its
speed is the mean of runs or the median of a bench's windows; `low` and `high` are one standard deviation from it, or
the lowest and highest window; `n` counts seeds or windows.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.papers.sddit import numbers as published
from harness.recipes.naming import digest
from harness.records.bench_record import Bench, Entry
from harness.records.evidence import Evidence
from harness.records.looks import look, measured_title
from harness.records.schema import Device
from harness.records.store import Run
from harness.records.trials import Spread, has_knobs
from harness.reporting.drawing.sheet import Row

GIGA = 1e9
PUBLISHED_SIZE, PUBLISHED_BATCH = "s", 256  # SD-DiT Fig. 3
ONLINE = "online-vae"
ONE_RATE = ("fp32", "tf32")  # precisions of a step whose VAE computes in the same one


# A device, its number of processes, and the row of what was timed there, or why it has no row.
Timed = tuple[Device, int, Row | str]


def measured(evidence: Evidence) -> Iterator[Timed]:
    """Runs that differ in nothing but seed and length as one point, and every contender of every bench."""
    yield from _of_runs(evidence.runs, _encoders(evidence.benches))
    yield from _of_benches(evidence.benches)


def ceilings(benches: Iterable[Bench], name: str) -> dict[str, float]:
    """The highest rate that any bench of machine `name` reached, by precision, in 1e9 multiply-accumulates a second."""
    found: dict[str, float] = {}
    for bench in benches:
        if machine(bench.device, 1) == name:
            for precision, flops in bench.matrix_flops_per_second.items():
                if _positive(flops):
                    found[precision] = max(found.get(precision, 0.0), flops / 2 / GIGA)
    return found


def figure3(evidence: Evidence) -> tuple[list[Row], list[str], list[dict[str, Any]]]:
    """The published speeds whose arithmetic is counted here, the models whose is not, and those without a speed."""
    points, missing = published.figure3()
    counts = {point["method"]: _counted(evidence, point["method"]) for point in points}
    placed: list[Row] = [
        {
            "source": "published",
            "name": point["model"],
            "method": point["method"],
            "title": look(point["method"]).title,
            "size": PUBLISHED_SIZE,
            "batch_size": PUBLISHED_BATCH,
            "pipeline": "not stated",
            "precision": "fp32",
            "compiled": False,
            "usual_knobs": True,
            "gmacs_per_image": gmacs,
            "of_these_vae": None,
            "images_per_sec": point["steps_per_sec"] * PUBLISHED_BATCH,
            "low": None,
            "high": None,
            "n": None,
        }
        for point in points
        if (gmacs := counts[point["method"]]) is not None
    ]
    return placed, [point["model"] for point in points if counts[point["method"]] is None], missing


# Runs and benches ------------------------------------------------------------------------------------------------


def _of_runs(runs: Iterable[Run], encoders: Mapping[tuple[str, str], float]) -> Iterator[Timed]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        why = _why_not(run, encoders)
        if why:
            yield run.result.device, run.result.world_size, why
        else:
            groups[digest(_way(run))].append(run)
    for members in groups.values():
        result, protocol, knobs = members[0].result, members[0].config["protocol"], members[0].config["knobs"]
        speed = Spread.of([run.result.steps_per_sec * protocol["batch_size"] for run in members])
        vae = encoders[_encoder_of(members[0])] if protocol.get("pipeline") == ONLINE else None
        row = {
            "source": "run",
            "name": " ".join(run.name for run in members),
            "method": result.method,
            "title": measured_title(result.method, knobs),
            "size": result.size,
            "batch_size": protocol["batch_size"],
            "pipeline": str(protocol.get("pipeline")),
            "precision": str(protocol.get("precision")),
            "compiled": protocol.get("compile") is True if result.compiled is None else result.compiled,
            "usual_knobs": has_knobs(result.method, knobs),
            "gmacs_per_image": result.gmacs_step + (vae or 0),
            "of_these_vae": vae,
            "images_per_sec": speed.mean,
            "low": None if speed.sd is None else max(speed.mean - speed.sd, speed.mean / 100),
            "high": None if speed.sd is None else speed.mean + speed.sd,
            "n": speed.n,
        }
        yield result.device, result.world_size, row


def _why_not(run: Run, encoders: Mapping[tuple[str, str], float]) -> str | None:
    batch, speed = run.config["protocol"].get("batch_size"), run.result.steps_per_sec
    if not isinstance(batch, int) or batch < 1 or speed is None or not _positive(speed):
        return "runs without a speed: all their steps were warm-up"
    if not _positive(run.result.gmacs_step):
        return "runs without a count of their arithmetic"
    if run.config["protocol"].get("pipeline") == ONLINE and _encoder_of(run) not in encoders:
        return "runs that encode in the step, as no bench here counts their VAE (`harness bench --pipeline online-vae`)"
    return None


def _way(run: Run) -> dict[str, Any]:
    config, result = run.config, run.result
    aside = {"steps", "data"}
    return {
        "machine": machine(run.result.device, run.result.world_size),
        "method": result.method,
        "size": result.size,
        "network": config["network"],
        "knobs": config["knobs"],
        "protocol": {key: value for key, value in config["protocol"].items() if key not in aside},
        "execution": {key: value for key, value in _mapping(config.get("execution")).items() if "every" not in key},
        "arithmetic": run.manifest.precision,
        "compiled": result.compiled,
        "gmacs": result.gmacs_step,
    }


def _of_benches(benches: Iterable[Bench]) -> Iterator[Timed]:
    for bench in benches:
        for entry in bench.entries:
            made, speed = entry.conditions, entry.images_per_sec
            if entry.gmacs_step is None or made.get("code") != "harness":
                row: Row | str = "contenders of other code, whose arithmetic is not modelled"
            elif made.get("pipeline") == ONLINE and _vae_of(bench, entry) is None:
                row = "contenders that encode in the step, whose record does not tell the VAE's arithmetic"
            elif not (_positive(entry.gmacs_step) and _positive(speed.lowest) and _positive(speed.median)):
                row = "contenders without a speed or an arithmetic above zero"
            else:
                method, knobs = str(made.get("method")), _mapping(made.get("knobs"))
                vae = _vae_of(bench, entry)
                row = {
                    "source": "bench",
                    "name": entry.name,
                    "method": method,
                    "title": measured_title(method, knobs),
                    "size": _size_of(made),
                    "batch_size": entry.num_images,
                    "pipeline": str(made.get("pipeline")),
                    "precision": str(made.get("precision")),
                    "compiled": bool(made.get("compiled")),
                    "usual_knobs": has_knobs(method, knobs),
                    "gmacs_per_image": entry.gmacs_step + (vae or 0),
                    "of_these_vae": vae,
                    "images_per_sec": speed.median,
                    "low": speed.lowest,
                    "high": speed.highest,
                    "n": len(entry.windows),
                }
            yield bench.device, 1, row


def _vae_of(bench: Bench, entry: Entry) -> float | None:
    """GMAC of encoding one image in this contender's step; None where it encodes none or the record does not say.

    Older records have no field for it: there it is part of the arithmetic of the floor, together with the step's own.
    """
    if entry.conditions.get("pipeline") != ONLINE:
        return None
    if entry.gmacs_vae is not None:
        return entry.gmacs_vae
    precision = str(entry.conditions.get("precision"))
    rate = bench.matrix_flops_per_second.get(precision)
    seconds = next((floor.arithmetic_seconds for floor in entry.floors if floor.of.startswith("ceilings")), None)
    if rate is None or seconds is None or precision not in ONE_RATE or not entry.gmacs_step:
        return None
    return seconds * rate / 2 / GIGA / entry.num_images - entry.gmacs_step


def _encoders(benches: Iterable[Bench]) -> dict[tuple[str, str], float]:
    """GMAC of encoding an image, by VAE and size of the network, which goes with the size of the images."""
    found = {}
    for bench in benches:
        for entry in bench.entries:
            if entry.conditions.get("code") == "harness" and (macs := _vae_of(bench, entry)):
                found[str(entry.conditions.get("vae")), _size_of(entry.conditions)] = macs
    return found


def _encoder_of(run: Run) -> tuple[str, str]:
    return str(run.config["protocol"].get("vae")), run.result.size


def _counted(evidence: Evidence, method: str) -> float | None:
    """GMAC per image and step of the method's recipe of size S with its usual knobs, from counts, runs or benches."""
    recipe = f"{method}-{PUBLISHED_SIZE}"
    count = evidence.count(recipe)
    if count and _positive(count.gmacs_step):
        return count.gmacs_step
    for run in evidence.runs:
        if run.result.recipe == recipe and has_knobs(method, run.config["knobs"]) and _positive(run.result.gmacs_step):
            return run.result.gmacs_step
    for bench in evidence.benches:
        for entry in bench.entries:
            made = entry.conditions
            usual = made.get("recipe") == recipe and has_knobs(method, _mapping(made.get("knobs")))
            if usual and "--set" not in bench.command and entry.gmacs_step and _positive(entry.gmacs_step):
                return entry.gmacs_step
    return None


def _size_of(made: Mapping[str, Any]) -> str:
    return str(made.get("recipe", "")).partition("-")[2] or "?"


def machine(device: Device, processes: int) -> str:
    """Equal where speeds share axes."""
    return digest({"device": device.model_dump(mode="json"), "processes": processes})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
