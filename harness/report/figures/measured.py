"""What several figures share of what was measured: a method's runs in a setting, their mean, and notes on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from harness.records.evidence import Evidence
from harness.records.looks import measured_title
from harness.records.trials import Setting, Trial
from harness.report.drawing.sheet import Row
from harness.report.figures.figure3 import Spread

MOST_SETTINGS = 4  # panels of one figure
MDT_LITE = "MDT-lite: MDT without its relative position bias."


@dataclass(frozen=True)
class Measured:
    """The distances after the last step of runs that differ in their seed alone."""

    trials: tuple[Trial, ...]
    distance: Spread

    @property
    def seeds(self) -> str:
        return " ".join(str(trial.seed) for trial in self.trials)

    @property
    def runs(self) -> str:
        return " ".join(trial.run.name for trial in self.trials)

    @property
    def title(self) -> str:
        return measured_title(self.trials[0].method, self.trials[0].knobs)


def measured(setting: Setting, method: str, budget: tuple[int, int], **knobs: Any) -> Measured | None:
    """The method at this budget (steps, batch) with these knobs, the other ones as its paper has them; None: no run."""
    trials = setting.select(method, steps=budget[0], batch_size=budget[1], **knobs)
    return Measured(trials, Spread.of([trial.distance for trial in trials])) if trials else None


def paper_first(evidence: Evidence) -> list[Setting]:
    """The settings, those at the paper's scale before the others."""
    return sorted(evidence.settings, key=lambda setting: setting.scale != "paper")


def title_of(setting: Setting, budget: tuple[int, int]) -> str:
    return f"Measured: {setting.title}, {budget[0]} steps, batch {budget[1]}"


def conditions(setting: Setting, model: str = "S/2") -> Iterator[str]:
    """The note on how far a setting is from the conditions of a figure that the paper draws of `model`."""
    differences = dict(setting.differences)
    network = f"{setting.size}/{setting.trials[0].run.config['network'].get('patch')}"
    differences.pop("network", None)
    if network.lower() != model.lower():
        differences = {"network": f"network {network} instead of {model}", **differences}
    if differences:
        yield f"Not the paper's conditions: {'; '.join(differences.values())}."


def counted(values: Iterable[tuple[str, Spread]]) -> str:
    """One sentence on the number of seeds behind each of the named values."""
    values = list(values)
    numbers = sorted({value.n for _, value in values})
    if numbers == [1]:
        return "n = 1: one seed each, so no spread is known."
    if len(numbers) == 1:
        return f"Mean and standard deviation over n = {numbers[0]} seeds each."
    each = ", ".join(f"{name} n = {value.n}" for name, value in values)
    return f"Mean and standard deviation over n seeds: {each}."


def how_to_measure(sweep: str, what: str, evidence: Evidence, partly: Iterable[str] = ()) -> str:
    """The note of a figure that nothing was measured for, at the scale of the runs there are; `partly` tells what is.

    A sweep is of the paper's scale unless it is told otherwise.
    """
    partly = "; ".join(partly)
    has = f" So far: {partly}." if partly else ""
    scale = " --scale tiny" if {setting.scale for setting in evidence.settings} == {"demo"} else ""
    return f"Not measured yet: {what}.{has} `harness sweep {sweep}{scale}` measures it."


def not_drawn(number: int) -> list[str]:
    """The note on settings for which there is no room."""
    if number < 1:
        return []
    more = f"{count(number, 'more setting')} {'is' if number == 1 else 'are'} not drawn"
    return [f"{more}; name fewer runs to see {'it' if number == 1 else 'them'}."]


def kinds(rows: Iterable[Row]) -> str:
    """Which kinds of points a figure has, for its text alternative."""
    return "published and measured" if any(row["kind"] == "measured" for row in rows) else "published only"


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
