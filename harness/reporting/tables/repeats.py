"""Runs that differ in their seed alone, and how they differ from a row of a published table."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.papers.published import Target, network_title
from harness.recipes.naming import digest
from harness.records import looks
from harness.records.looks import Scalar, measured_title, order
from harness.records.schema import Evaluation
from harness.records.trials import OF_AN_ARM, Setting, Trial, has_knobs

# Differences that keep two numbers apart, the weightiest first; all others come after these.
WEIGHTIEST = ("data", "metric", "network", "steps", "batch")


@dataclass(frozen=True)
class Repeats:
    """Runs of one method in one setting: the same knobs, steps, batch and sampling, one run a seed."""

    setting: Setting
    trials: tuple[Trial, ...]  # ordered by seed

    @property
    def first(self) -> Trial:
        """The run of the lowest seed, which has the method, the knobs and the budget of all."""
        return self.trials[0]

    @property
    def budget(self) -> tuple[int, int]:
        """Training steps, and images in each."""
        return self.first.steps, self.first.batch_size

    @property
    def patch(self) -> int | None:
        return self.first.run.config["network"].get("patch")

    @property
    def model(self) -> str:
        """ "SD-DiT-S/2", as the papers write it."""
        return f"{measured_title(self.first.method, self.first.knobs)}-{network_title(self.setting.size, self.patch)}"

    @cached_property
    def settings(self) -> dict[str, Scalar]:
        """The method's knobs and how it is sampled."""
        return self.first.settings | {"sampling.guidance_scale": self.first.evaluation.protocol.guidance_scale}

    def values(self, metric: str, step: int | None = None) -> dict[int, float]:
        """The metric by seed after `step`, the last one by default; seeds without it are absent."""
        found = {trial.seed: _evaluation(trial, step or trial.steps) for trial in self.trials}
        values = {seed: evaluation.metrics.get(metric, math.nan) for seed, evaluation in found.items() if evaluation}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}

    def is_default(self, but: Iterable[str] = ()) -> bool:
        """Whether the knobs that the paper's ablations vary, `but` these, have the paper's values."""
        knobs = self.first.knobs
        return has_knobs(self.first.method, knobs, {name: knobs[name] for name in but if name in knobs})

    def differences(self, targets: Iterable[Target]) -> dict[str, str]:
        """What keeps these runs from standing beside the published ones of their method, the weightiest first.

        A word and a phrase for each: {"data": "data digits instead of ImageNet 256"}. Empty means comparable. The
        device is not asked for, as a distance does not depend on it.
        """
        found = self.first.differences_from_paper() | self.first.own_differences_from_paper()
        for word in ("network", "steps", "batch", "device"):
            found.pop(word, None)
        found |= dict(self._against([target for target in targets if target.method == self.first.method]))
        return {word: found.pop(word) for word in WEIGHTIEST if word in found} | found

    def _against(self, targets: Sequence[Target]) -> Iterator[tuple[str, str]]:
        own = network_title(self.setting.size, self.patch)
        if not targets:
            yield "method", f"method {self.first.method}, of which there is none"
            return
        alike = [target for target in targets if target.network == own]
        if not alike:
            yield "network", f"network {own} instead of {_any_of(target.network for target in targets)}"
        for word, name in (("steps", "steps"), ("batch", "batch_size")):
            value = getattr(self.first, name)
            stated = [number for target in alike or targets if (number := getattr(target, name)) is not None]
            if stated and value not in stated:
                yield word, f"{word} {value} instead of {_any_of(map(str, stated))}"


def repeats_of(setting: Setting) -> list[Repeats]:
    """The setting's runs in groups, in the order of the methods; of two runs of one seed, the first by name."""
    groups: dict[str, dict[int, Trial]] = defaultdict(dict)
    for trial in sorted(setting.trials, key=lambda trial: (trial.seed, trial.run.name, str(trial.run.path))):
        own = Repeats(setting, (trial,))
        key = digest({"method": trial.method, **own.settings, "steps": trial.steps, "batch": trial.batch_size})
        groups[key].setdefault(trial.seed, trial)
    made = [Repeats(setting, tuple(group.values())) for group in groups.values()]

    def place(repeats: Repeats) -> tuple[Any, ...]:
        return order(repeats.first.method), repeats.budget, -len(repeats.trials), repr(repeats.settings)

    return sorted(made, key=place)


def titles_of(settings: Sequence[Setting]) -> dict[str, str]:
    """A title for each setting by its name; what else differs is added where two would be alike."""
    titles = looks.distinct([(setting.title, _conditions(setting)) for setting in settings])
    return {setting.name: title for setting, title in zip(settings, titles, strict=True)}


def _conditions(setting: Setting) -> dict[str, Scalar]:
    found = setting.trials[0].conditions
    own = (*OF_AN_ARM, "device.", "arithmetic.", "processes", "evaluation.guidance", "evaluation.features_")
    return {key: value for key, value in found.items() if not key.startswith(own)}


def _evaluation(trial: Trial, step: int) -> Evaluation | None:
    """The evaluation of the averaged weights after `step` under the protocol of the last one; None without one."""
    final = trial.evaluation
    if step == trial.steps:
        return final
    alike = (e for e in trial.run.evaluations.values() if e.step == step and e.weights == final.weights)
    return next((e for e in alike if e.protocol == final.protocol), None)


def _any_of(texts: Iterable[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} or {last}" if first else last
