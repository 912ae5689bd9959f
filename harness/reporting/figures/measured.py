"""What several figures share: the columns of a value with its spread and source, their panels' titles, and notes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.records.evidence import Evidence
from harness.records.looks import look, measured_title
from harness.records.trials import Setting, Spread, Trial
from harness.reporting.drawing.sheet import Panel


def of_runs(trials: Sequence[Trial], values: Sequence[float]) -> dict[str, Any]:
    """The columns of a value measured in each of these runs, which differ in their seed alone."""
    spread = Spread.of(values)
    return {
        "value": spread.mean,
        "value_sd": spread.sd,
        "n": spread.n,
        **behind(trials),
        "source": "measured",
        "quality": "measured",
        "protocol": None,
    }


def behind(trials: Iterable[Trial]) -> dict[str, str]:
    """The columns that name the runs behind a value."""
    trials = list(trials)
    return {"seeds": " ".join(str(trial.seed) for trial in trials), "runs": " ".join(t.run.name for t in trials)}


def of_paper(row: Any) -> dict[str, Any]:
    """The same columns of a row of the published tables."""
    unknown = {"value_sd": None, "n": None, "seeds": None, "runs": None}
    return {
        "value": float(row.value),
        **unknown,
        "source": row.source,
        "quality": row.quality,
        "protocol": row.protocol,
    }


def logged(trial: Trial, name: str) -> dict[int, float]:
    """The finite values of metrics.jsonl called `name`, by step."""
    found: dict[int, float] = {}
    for line in trial.run.metrics:
        step, value = line.get("step"), line.get(name)
        if type(step) is int and type(value) in (int, float) and value is not None and abs(value) < 1e300:  # no nan
            found[step] = float(value)
    return found


def marks(axes: Axes, x: Any, y: Any, method: str, *, hollow: bool = False, **more: Any) -> None:
    """Markers of a method, joined unless `more` has no line style, in the method's colour; hollow where published."""
    _, colour, marker = look(method)
    filled = {"color": colour, "marker": marker, "markerfacecolor": "white" if hollow else colour}
    axes.plot(x, y, **filled | {"clip_on": False} | more)


def band(axes: Axes, x: pd.Series, mean: pd.Series, sd: pd.Series, colour: str, **more: Any) -> None:
    """One standard deviation around a curve; nothing where a point of it has none."""
    if sd.notna().all():
        axes.fill_between(list(x), list(mean - sd), list(mean + sd), color=colour, alpha=0.2, linewidth=0, **more)


def curve(axes: Axes, x: pd.Series, line: pd.DataFrame, **more: Any) -> None:
    """The means of a method with a band of one standard deviation, from the columns method, label, mean and sd."""
    method, label, mean = line["method"].iloc[0], line["label"].iloc[0], line["mean"]
    sizes = {"linewidth": 1.2, "markersize": 3.5, "markeredgewidth": 0}
    marks(axes, x, mean, method, label=label, clip_on=True, zorder=3, **sizes | more)
    band(axes, x, mean, line["sd"], look(method).colour, zorder=2)


def title_of_runs(trials: Sequence[Trial]) -> str:
    return measured_title(trials[0].method, trials[0].knobs)


def paper_first(evidence: Evidence) -> list[Setting]:
    """The settings, those at the paper's scale before the others."""
    return sorted(evidence.settings, key=lambda setting: setting.scale != "paper")


def letter(number: int) -> str:
    """What a panel is called: (a), (b), ... and (27), (28) after (z)."""
    return f"({ascii_lowercase[number]})" if number < len(ascii_lowercase) else f"({number + 1})"


def conditions(setting: Setting, model: str = "S/2") -> Iterator[str]:
    """The note on how far a setting is from the conditions of a figure that the paper draws of `model`."""
    differences = dict(setting.differences)
    network = f"{setting.size}/{setting.trials[0].run.config['network'].get('patch')}"
    differences.pop("network", None)
    if network.lower() != model.lower():
        differences = {"network": f"network {network} instead of {model}", **differences}
    if differences:
        yield f"Not the paper's conditions: {'; '.join(differences.values())}."


def counted(numbers: Mapping[str, int]) -> str:
    """One sentence on the number of seeds behind each of the named values."""
    different = sorted(set(numbers.values()))
    if different == [1]:
        return "n = 1: one seed each, so no spread is known."
    if len(different) == 1:
        return f"Mean and standard deviation over n = {different[0]} seeds each."
    each = ", ".join(f"{name} n = {number}" for name, number in numbers.items())
    return f"Mean and standard deviation over n seeds: {each}."


def how_to_measure(sweep: str, what: str, evidence: Evidence, partly: Iterable[str] = ()) -> str:
    """The note of a figure for which nothing was measured, at the scale of the runs there are; `partly` says what is.

    A sweep has the paper's scale unless its command names another.
    """
    partly = "; ".join(partly)
    has = f" So far: {partly}." if partly else ""
    scale = " --scale tiny" if {setting.scale for setting in evidence.settings} == {"demo"} else ""
    return f"Not measured yet: {what}.{has} `harness sweep {sweep}{scale}` measures it."


def kinds(panels: Iterable[Panel]) -> str:
    """Which kinds of points a figure has, for its text alternative."""
    measured = any(row["kind"] == "measured" for panel in panels for row in panel.rows)
    return "published and measured" if measured else "published only"
