"""A bench, or an estimate of one, in Markdown and for a terminal."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

from harness.records.bench_record import Bench, Entry, Spread
from harness.reporting.pages.render import render

NOT_KNOWN = "N/A"  # this device has no data sheet in the table, or the code is not modelled
COLUMNS = 80
FACTS = ("pipeline", "data", "vae", "attention", "micro_batch", "activation_checkpointing", "cuda_graphs", "commit")


def markdown(bench: Bench) -> str:
    """The whole of a bench: what was measured, how each step was made, where it was measured."""
    context = {"bench": bench, "form": form, "ratio": _ratio, "median_steps": _median_steps, "FACTS": FACTS}
    return render("bench.md.j2", context | {"GIB": 2**30})


def form(value: float | Spread | None, spec: str, unit: float = 1.0) -> str:
    """A number in a `unit`, a spread as "median (lowest to highest)", and None as N/A."""
    if isinstance(value, Spread):
        return f"{value.median:{spec}} ({value.lowest:{spec}} to {value.highest:{spec}})"
    return NOT_KNOWN if value is None else format(value / unit, spec)


def _ratio(entry: Entry, other: Entry) -> str:
    """The ratio of one contender's speed to another's, round by round."""
    pairs = zip(entry.windows, other.windows, strict=True)
    values = [(a.steps / a.seconds) / (b.steps / b.seconds) for a, b in pairs]
    return form(Spread(median=statistics.median(values), lowest=min(values), highest=max(values)), ".2f")


def _median_steps(entry: Entry) -> float:
    return statistics.median(window.steps for window in entry.windows)


def lines(bench: Bench) -> list[str]:
    """The speeds for a terminal, 80 columns wide if the names are short."""
    width = max(len(entry.name) for entry in bench.entries)
    rows = [f"{'':<{width}} {'steps/s':>9} {'lowest-highest':>15} {'ratio':>6} {'x floor':>7} {'MFU':>5} {'wait':>5}"]
    for entry in bench.entries:
        speed, ratio = entry.steps_per_sec, entry.ratio
        rows.append(
            f"{entry.name:<{width}} {speed.median:>9.4g} {f'{speed.lowest:.3g}-{speed.highest:.3g}':>15} "
            f"{ratio.median:>6.3g} {form(entry.over_floor, '.2f'):>7} {form(entry.mfu, '.0%'):>5} "
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
        parts = ", ".join(
            f"{name} {gmacs:.3g}" for name, gmacs in work["gmacs_forward_parts"].items() if gmacs >= 0.001
        )
        found += [
            f"{document['recipe']}, {work['precision']}, batch {document['batch_size']}, {document['pipeline']}, "
            f"{document['params'] / 1e6:.2f} M parameters",
            f"  arithmetic  {work['gmacs_step']:.4g} GMAC an image"
            + (f", {ratio:.3g} times {first['recipe']}'s" if document["recipe"] != first["recipe"] else "")
            + ("," if work["gmacs_vae"] else ""),
            *([f"              and {work['gmacs_vae']:.4g} of the VAE in the step"] if work["gmacs_vae"] else []),
            *textwrap.wrap(f"forward: {parts}", COLUMNS, initial_indent=" " * 14, subsequent_indent=" " * 14),
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
