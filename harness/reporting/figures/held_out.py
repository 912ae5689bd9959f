"""What the averaged network does on held-out images: its error by noise level and along training, and linear probes.

No image is drawn for it, so that it has no noise of a sampler. harness/evaluation/held_out.py says what is measured.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.records.evidence import Evidence
from harness.records.trials import Setting, Spread, Trial
from harness.reporting.drawing.scales import fit, short
from harness.reporting.drawing.sheet import Drawing, Panel, Row, drawing
from harness.reporting.figures import measured as shared

NAME = "held-out"
TITLE = "Held-out images: denoiser's error and linear probe"
LEVEL, TRAINING, PROBE = "error by sigma", "error by step", "probe"  # kinds of rows


def make(evidence: Evidence) -> Drawing:
    """For each setting the methods with the paper's knobs at its main budget: two panels of errors, then the probes."""
    panels = [panel for setting in shared.paper_first(evidence) for panel in _panels(setting)]
    methods = dict.fromkeys(row["label"] for panel in panels for row in panel.rows)
    notes = ["The band is one standard deviation over training seeds." if panels else _HOW]
    alternative = f"Error on held-out images and accuracy of linear probes of {', '.join(methods)}"
    return drawing(NAME, TITLE, alternative, panels, notes=notes)


_HOW = (
    "Not measured yet: a run measures it whose data have held-out images, like `harness run dit-tiny --data "
    "fashion-mnist`."
)


def _panels(setting: Setting) -> Iterator[Panel]:
    steps, batch_size = setting.budget()
    found = [[t for t in trials if t.evaluation.denoiser is not None] for trials in setting.at_its_budget().values()]
    groups = [trials for trials in found if trials]
    where = f"{setting.title}, {steps} steps, batch {batch_size}"
    counted = shared.counted({shared.title_of_runs(trials): len(trials) for trials in groups})
    levels = [row for trials in groups for row in _levels(setting, trials)]
    if levels:
        draw = partial(_draw_errors, x="sigma", label="sigma")
        yield Panel(f"Denoiser's error by noise level: {where}", levels, draw, (_WEIGHTED, counted))
    training = [row for trials in groups for row in _training(setting, trials)]
    if training:
        draw = partial(_draw_errors, x="step", label="Training steps")
        yield Panel(f"The same along training: {where}", training, draw, (_FEWER,))
    for trials in groups:
        if rows := list(_probe(setting, trials)):
            title = f"Linear probe of {shared.title_of_runs(trials)}: {where}"
            yield Panel(title, rows, _draw_probe, (_PROBED, shared.counted({"probe": len(trials)})), height=2.4)


_WEIGHTED = "EDM's lambda(sigma) times the squared error; 1 is what a network has that says nothing, where it is EDM's."
_FEWER = "Of fewer images and 8 levels, weighed as EDM's training draws them; the clock of the steps was stopped."
_PROBED = "Share of held-out images whose class a linear map of a block's output names; the network is told no label."


# Rows ------------------------------------------------------------------------------------------------------------


def _row(setting: Setting, trials: Sequence[Trial], kind: str, values: Sequence[float], **place: Any) -> Row:
    spread = Spread.of(values)
    return {
        "setting": setting.name,
        "setting_title": setting.title,
        "method": trials[0].method,
        "label": shared.title_of_runs(trials),
        "quantity": kind,
        "sigma": place.get("sigma"),
        "step": place.get("step"),
        "block": place.get("block"),
        "mean": spread.mean,
        "sd": spread.sd,
        "n": spread.n,
        **shared.behind(trials),
    }


def _levels(setting: Setting, trials: Sequence[Trial]) -> Iterator[Row]:
    found = [denoiser for trial in trials if (denoiser := trial.evaluation.denoiser) is not None]
    if any(one.sigmas != found[0].sigmas for one in found):
        return
    for level, sigma in enumerate(found[0].sigmas):
        yield _row(setting, trials, LEVEL, [one.by_sigma[level] for one in found], sigma=sigma)


def _training(setting: Setting, trials: Sequence[Trial]) -> Iterator[Row]:
    logged = [shared.logged(trial, "denoiser_error") for trial in trials]
    curves = [{step: error for step, error in curve.items() if error > 0} for curve in logged]
    for step in sorted(set.intersection(*map(set, curves))):
        yield _row(setting, trials, TRAINING, [curve[step] for curve in curves], step=step)


def _probe(setting: Setting, trials: Sequence[Trial]) -> Iterator[Row]:
    found = [probe for trial in trials if (probe := trial.evaluation.probe) is not None]
    if len(found) < len(trials) or any((one.blocks, one.sigmas) != (found[0].blocks, found[0].sigmas) for one in found):
        return
    for i, block in enumerate(found[0].blocks):
        for j, sigma in enumerate(found[0].sigmas):
            yield _row(setting, trials, PROBE, [one.accuracy[i][j] for one in found], block=block, sigma=sigma)


# Panels ----------------------------------------------------------------------------------------------------------


def _draw_errors(frame: pd.DataFrame, axes: Axes, *, x: str, label: str) -> None:
    for method, curve in frame.groupby("method", sort=False):
        shared.curve(axes, curve[x], curve, gid=f"{method}/{x}")
    axes.set(xlabel=label, ylabel="weighted error")
    fit(axes, "x", frame[x])
    fit(axes, "y", frame["mean"], frame["sd"], room=0.05)


def _draw_probe(frame: pd.DataFrame, axes: Axes) -> None:
    blocks, sigmas = list(dict.fromkeys(frame["block"])), list(dict.fromkeys(frame["sigma"]))
    accuracy = frame["mean"].to_numpy(float).reshape(len(blocks), len(sigmas))
    low, high = accuracy.min(), accuracy.max()
    axes.imshow(accuracy, aspect="auto", cmap="cividis", vmin=low, vmax=max(high, low + 1e-6))
    for (i, j), value in np.ndenumerate(accuracy):
        colour = "white" if value < (low + high) / 2 else "black"
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(sigmas)), [short(sigma) for sigma in sigmas])
    every = -(-len(blocks) // 12)  # names that fit
    axes.set_yticks(range(0, len(blocks), every), blocks[::every])
    axes.set(xlabel="sigma", ylabel="output of")
    axes.grid(False)
