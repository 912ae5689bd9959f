"""A bench, or an estimate of one, in Markdown and for a terminal."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.records.bench_record import Bench, Entry, Spread

NO_PEAK = "N/A"  # this device has no data sheet in the table, or the code is not modelled
EACH = "The speed of each row over that of the numbered contender, round by round: median, lowest and highest."
COLUMNS = 80
FACTS = ("pipeline", "data", "vae", "attention", "micro_batch", "activation_checkpointing", "cuda_graphs", "commit")


def markdown(bench: Bench) -> str:
    """The whole of a bench: what was measured, how each step was made, where it was measured."""
    blocks = [
        f"# Training steps on {bench.device.name}",
        _setting(bench),
        _speeds(bench.entries).to_markdown(index=False, disable_numparse=True),
        f"Ratios are to {bench.entries[0].name}, round by round. Each figure is a median; in brackets stand "
        "the lowest and the highest window. The floor is what the arithmetic or the fewest bytes take at the rates "
        "that this machine reached for a large matrix product and a large copy.",
        *(["## Each to each", EACH, _ratios(bench.entries)] if len(bench.entries) > 2 else []),
        "## What they take",
        _costs(bench.entries).to_markdown(index=False, disable_numparse=True),
        "## How each step was made",
        *(_made(entry) for entry in bench.entries),
    ]
    for entry in bench.entries:
        if entry.top_operators:
            blocks += [f"## Where {entry.name} spends its time", _operators(entry)]
    return "\n\n".join(blocks) + "\n"


def lines(bench: Bench) -> list[str]:
    """The speeds for a terminal, 80 columns wide if the names are short."""
    width = max(len(entry.name) for entry in bench.entries)
    rows = [f"{'':<{width}} {'steps/s':>9} {'lowest-highest':>15} {'ratio':>6} {'x floor':>7} {'MFU':>5} {'wait':>5}"]
    for entry in bench.entries:
        speed, ratio = entry.steps_per_sec, entry.ratio
        rows.append(
            f"{entry.name:<{width}} {speed.median:>9.4g} {f'{speed.lowest:.3g}-{speed.highest:.3g}':>15} "
            f"{ratio.median:>6.3g} {_or(entry.over_floor, '{:.2f}'):>7} {_or(entry.mfu, '{:.0%}'):>5} "
            f"{entry.data_wait_share:>5.0%}"
        )
        rows += [f"  {note}" for note in entry.conditions.get("notes", []) if entry.conditions["code"] == "harness"]
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in bench.matrix_flops_per_second.items())
    return [
        f"{bench.device.name}, {bench.device.threads} threads, {bench.rounds} rounds; ratio to {bench.entries[0].name}",
        f"measured here: {rates}, copy {bench.memory_bytes_per_second / 1e9:,.0f} GB/s",
        *rows,
    ]


def estimate_lines(documents: Sequence[dict[str, Any]]) -> list[str]:
    """What each recipe's step takes, and the least time it can take on each device, for a terminal."""
    found = []
    first = documents[0]
    for document in documents:
        work = document["work"]
        ratio = work["gmacs_step"] / first["work"]["gmacs_step"]
        parts = ", ".join(f"{name} {gmacs:.3g}" for name, gmacs in work["gmacs_parts"].items() if gmacs)
        found += [
            f"{document['recipe']}, {work['precision']}, batch {document['batch_size']}, {document['pipeline']}, "
            f"{document['params'] / 1e6:.2f} M parameters",
            f"  arithmetic  {work['gmacs_step']:.4g} GMAC an image, from {work['gmacs_source']}"
            + (f", {ratio:.3g} times {first['recipe']}'s" if document["recipe"] != first["recipe"] else "")
            + ("," if work["gmacs_vae"] else ""),
            *([f"              and {work['gmacs_vae']:.4g} of the VAE in the step"] if work["gmacs_vae"] else []),
            *textwrap.wrap(parts, COLUMNS, initial_indent=" " * 14, subsequent_indent=" " * 14),
            f"  traffic     {work['traffic_bytes'] / 1e9:.3g} GB a step at least",
            f"  memory      {document['memory_bytes'] / 1e9:.3g} GB",
            f"  {'floor of a step on':<24}{'ms':>9}{'steps/s':>10}  bound by",
        ]
        for floor in document["floors"]:
            device = f"{floor['processes']} x {floor['device']}"
            if floor["seconds"] is None:
                found.append(f"    {device:<22}{'no ' + floor['precision']:>9}")
                continue
            found.append(
                f"    {device:<22}{floor['seconds'] * 1e3:>9.3g}{floor['steps_per_second']:>10.4g}  {floor['binds']}"
            )
        found.append("")
    return found[:-1]


def _setting(bench: Bench) -> str:
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in bench.matrix_flops_per_second.items())
    peak = f" The process took {bench.process_peak_rss_bytes / 2**30:.1f} GiB." if bench.process_peak_rss_bytes else ""
    return (
        f"{bench.device.name}, {bench.device.threads} CPU threads, torch {bench.packages.get('torch')}, harness "
        f"{bench.harness_version} at {bench.git_commit or 'no commit'}, {bench.measured_at}. `{bench.command}`\n\n"
        f"One process, {bench.rounds} rounds of one window each, in turns and every second round backwards. This "
        f"machine reached {rates} for a large matrix product and {bench.memory_bytes_per_second / 1e9:.0f} GB/s for a "
        f"large copy.{peak}"
    )


def _speeds(entries: Sequence[Entry]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "": entry.name,
            "steps/s": _told(entry.steps_per_sec, "{:.4g}"),
            "images/s": _told(entry.images_per_sec, "{:.4g}"),
            "ratio": _told(entry.ratio, "{:.3g}"),
            "step / floor": _or(entry.over_floor, "{:.2f}"),
            "MFU": _or(entry.mfu, "{:.1%}"),
            "waits for data": f"{entry.data_wait_share:.1%}",
        }
        for entry in entries
    )


def _ratios(entries: Sequence[Entry]) -> str:
    """Of the row's speed to the column's, round by round."""
    rates = {entry.name: [w.steps / w.seconds for w in entry.windows] for entry in entries}

    def ratio(name: str, other: str) -> str:
        values = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    frame = pd.DataFrame(
        {"": f"{number}. {name}"}
        | {str(column): "" if name == other else ratio(name, other) for column, other in enumerate(rates, start=1)}
        for number, name in enumerate(rates, start=1)
    )
    return frame.to_markdown(index=False, disable_numparse=True)


def _costs(entries: Sequence[Entry]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "": entry.name,
            "GMAC an image": _or(entry.gmacs_step, "{:.4g}")
            + (f" + {entry.gmacs_vae:.4g} of the VAE" if entry.gmacs_vae else ""),
            "GB moved a step, at least": _or(entry.bytes_step and entry.bytes_step / 1e9, "{:.3g}"),
            "floor, ms": _or(
                entry.floors[0].seconds and entry.floors[0].seconds * 1e3 if entry.floors else None, "{:.3g}"
            ),
            "first step, s": f"{entry.first_step_seconds:.1f}",
            "warm-up, steps": entry.warmup_steps,
            "steps a window": f"{statistics.median(w.steps for w in entry.windows):.0f}",
            "peak allocated, GiB": _or(entry.peak_allocated_bytes and entry.peak_allocated_bytes / 2**30, "{:.2f}"),
            "reserved, GiB": _or(entry.peak_reserved_bytes and entry.peak_reserved_bytes / 2**30, "{:.2f}"),
            "J an image": _or(entry.joules_per_image, "{:.3g}"),
        }
        for entry in entries
    )


def _made(entry: Entry) -> str:
    made = entry.conditions
    words = [f"{key} {made[key]}" for key in FACTS if made.get(key) not in (None, False)]
    notes = [f"  - {note}" for note in made.get("notes", [])]
    notes += [f"  - without {left_out}" for left_out in made.get("left_out", [])]
    head = f"- **{entry.name}**: batch {entry.num_images}, {made.get('precision')}, "
    return "\n".join(
        [head + ("compiled" if made.get("compiled") else "eager") + "".join(f", {w}" for w in words), *notes]
    )


def _operators(entry: Entry) -> str:
    frame = pd.DataFrame(
        {
            "operator": row["operator"],
            "calls a step": f"{row['calls_a_step']:.0f}",
            "ms a step": f"{row['milliseconds_a_step']:.2f}",
            "share": f"{row['share']:.1%}",
        }
        for row in entry.top_operators
    )
    return frame.to_markdown(index=False, disable_numparse=True)


def _told(spread: Spread, form: str) -> str:
    return f"{form.format(spread.median)} ({form.format(spread.lowest)} to {form.format(spread.highest)})"


def _or(value: float | None, form: str) -> str:
    return NO_PEAK if value is None else form.format(value)
