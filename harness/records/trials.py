"""Finished runs as trials, and the settings within which their distances and speeds may be compared.

Distances do not depend on the device, so a setting may have runs of several machines. Speeds are compared on one.
"""

import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from harness.recipes.config import ADDITIONS
from harness.recipes.metric_names import parts_of, read_as
from harness.recipes.naming import digest, later_defaults, without_later_defaults
from harness.recipes.reading import about, published_steps
from harness.records import looks
from harness.records.looks import FINAL, LONGEST_NAME, OF_THE_METHOD, SHORT_HASH, Scalar, device_title, flat, order
from harness.records.schema import Evaluation
from harness.records.store import LeftOut, Run
from harness.system.groups import grouped

Scale = Literal["paper", "demo", "other"]
PAPER_METRIC = "fid50k"
DEMO_DATA, DEMO_SIZE = "digits", "tiny"

# The two arms of a comparison may differ in these settings. All other settings of their protocols must be equal.
OF_AN_ARM = {"protocol.steps", "protocol.batch_size", "protocol.compile"}
OF_GUIDANCE = {"guidance_scale", "guidance_channels", "guidance_interval", "guidance_power"}
OF_ROUNDING = {"features_device", "features_batch"}
VARIED = ("mask_ratio", "discriminate", "teacher_sigma")  # knobs that the papers' ablations vary


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1 in the denominator) over n seeds; with one seed there is no deviation."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Trial:
    """One finished run with a Fréchet distance."""

    run: Run
    metric: str  # the distance's name

    @property
    def method(self) -> str:
        return self.run.result.method

    @property
    def seed(self) -> int:
        return self.run.result.seed

    @property
    def steps(self) -> int:
        return self.run.result.steps

    @property
    def batch_size(self) -> int:
        return int(self.run.config["protocol"]["batch_size"])

    @property
    def knobs(self) -> dict[str, Any]:
        return self.run.config["knobs"]

    @property
    def speed(self) -> float | None:
        """Training steps per second; None when all steps were warm-up."""
        value = self.run.result.steps_per_sec
        return value if value is not None and math.isfinite(value) and value > 0 else None

    @property
    def distance(self) -> float:
        """The run's Fréchet distance after its last step: `metric` is its name."""
        return self.evaluation.metrics[self.metric]

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation after the last step."""
        return self.run.result.evaluations[FINAL]

    @cached_property
    def conditions(self) -> dict[str, Scalar]:
        """What must be equal for two runs to share a panel: training, network, data, hardware and evaluation."""
        config, result, manifest = self.run.config, self.run.result, self.run.manifest
        device = result.device
        return {
            "size": result.size,
            **flat("network", config["network"]),
            **flat("protocol", without_later_defaults("protocol", config["protocol"])),
            "data.name": manifest.data.name,
            "data.sha256": manifest.data.sha256,
            "device.name": device.name,
            "device.kind": device.kind,
            "device.count": device.count,
            "device.threads": device.threads,
            "processes": result.world_size,
            **flat("arithmetic", manifest.precision),
            "metric": self.metric,
            "weights": self.evaluation.weights,
            **flat("evaluation", self.evaluation.protocol.model_dump(mode="json", exclude=OF_THE_METHOD)),
        }

    @cached_property
    def settings(self) -> dict[str, Scalar]:
        """What may differ between two runs of one panel: the method's knobs, its formulation, how it is sampled."""
        return {
            **flat("knobs", self.run.config["knobs"]),
            **looks.chosen(self.run.config),
            **flat("sampling", self.evaluation.protocol.model_dump(mode="json", include=OF_THE_METHOD)),
        }

    def differences_from_paper(self) -> dict[str, str]:
        """What keeps the run from standing beside SD-DiT Fig. 3 (Sec. 4.1, 4.2): a word and a phrase for each.

        Empty means comparable. The paper states neither TF32 nor the input pipeline, so these are not compared.
        """
        config, result = self.run.config, self.run.result
        protocol, size, patch = config["protocol"], result.size, config["network"].get("patch")
        data, guidance = self.run.manifest.data.name, self.evaluation.protocol.guidance_scale
        on_eight = "A100" in result.device.name and result.world_size == 8
        asked = (
            ("network", f"{size}/{patch}", "S/2", size.lower() == "s" and patch == 2),
            ("data", data, "ImageNet 256", data.lower().startswith("imagenet")),
            ("steps", protocol.get("steps"), "400000", protocol.get("steps") == 400_000),
            ("batch", protocol.get("batch_size"), "256", protocol.get("batch_size") == 256),
            ("learning rate", protocol.get("learning_rate"), "0.0001", protocol.get("learning_rate") == 1e-4),
            ("precision", protocol.get("precision"), "fp32", protocol.get("precision") == "fp32"),
            ("optimizer", protocol.get("optimizer"), "adamw", protocol.get("optimizer", "adamw") == "adamw"),
            ("gradient clipping", protocol.get("clip"), "none", protocol.get("clip") is None),
            ("warm-up", protocol.get("warmup"), "0", not protocol.get("warmup")),
            ("cooldown", protocol.get("cooldown"), "0", not protocol.get("cooldown")),
            ("metric", self.metric, "FID-50K", self.metric == PAPER_METRIC),
            ("guidance", guidance, "none", guidance is None),
            ("device", device_title(result.device), "8 x A100", on_eight),
        )
        return {word: f"{word} {ours} instead of {theirs}" for word, ours, theirs, same in asked if not same}

    def own_differences_from_paper(self) -> dict[str, str]:
        """What keeps the run from being its method as printed: knobs and sampling, in which runs of a panel differ."""
        sampling, found = self.evaluation.protocol, knob_differences(self.method, self.knobs)
        own = looks.formulation_title(self.run.config)
        published = looks.published_title(self.method, self.run.result.size) or sampling.formulation
        if own != published:
            found["formulation"] = f"formulation {own} instead of {published}"
        steps = published_steps(sampling.sampler)
        if sampling.num_steps != steps:
            found["sampler steps"] = f"sampler steps {sampling.num_steps} instead of {steps or 'another sampler'}"
        return found

    @cached_property
    def curve(self) -> dict[int, float]:
        """Distance by training step, of the averaged weights and under the conditions of the last step's."""
        final = self.evaluation.protocol
        alike = [
            e
            for e in self.run.evaluations.values()
            if e.step and e.weights == "ema" and e.protocol == final
            if math.isfinite(e.metrics.get(self.metric, math.nan))
        ]
        found = {e.step: e.metrics[self.metric] for e in alike if e.step is not None}
        return dict(sorted(found.items()))

    @cached_property
    def guided(self) -> dict[float, float]:
        """Distance after the last step by guidance scale, everything else as without guidance."""
        plain = _without_guidance(self.evaluation)
        return {
            e.protocol.guidance_scale: e.metrics[self.metric]
            for e in self.run.evaluations.values()
            if e.step == self.steps
            and e.protocol.guidance_scale not in (None, 1)
            and _without_guidance(e) == plain
            and math.isfinite(e.metrics.get(self.metric, math.nan))
        }

    @cached_property
    def variant(self) -> str:
        """Equal for runs that differ in nothing but their seed, steps, batch and the knobs that ablations vary."""
        return self.variant_but(())

    def variant_but(self, chosen: Iterable[str]) -> str:
        """The same for runs that may also differ in the `chosen` knobs, which an arm names."""
        final = self.run.result.evaluations.get(FINAL)
        sampled = final.protocol.model_dump(mode="json", include=OF_THE_METHOD | OF_GUIDANCE) if final else {}
        rest = {name: value for name, value in self.knobs.items() if name not in {*VARIED, *chosen}}
        return digest({"formulation": looks.formulation_title(self.run.config), **sampled, "knobs": rest})

    @cached_property
    def as_published(self) -> bool:
        """Whether it has its method's own formulation with the recipe's settings, and is sampled without guidance."""
        final = self.run.result.evaluations.get(FINAL)
        guided = final is not None and final.protocol.guidance_scale not in (None, 1)
        formulation = final.protocol.formulation if final else self.run.config["formulation"]
        own = looks.formulation_title({**self.run.config, "formulation": formulation})
        return own == (looks.published_title(self.method, self.run.result.size) or own) and not guided

    @cached_property
    def machine(self) -> str:
        """Runs with equal machines may be compared by their speeds and memory: hardware, arithmetic, compiler.

        And by the allocator of the host's memory, where the host is what computes.
        """
        result = self.run.result
        kept = self.run.manifest.allocator == "kept" and result.device.kind == "cpu"
        return digest(
            {
                **({"allocator": "kept"} if kept else {}),
                "device": result.device.model_dump(mode="json"),
                "processes": result.world_size,
                "arithmetic": self.run.manifest.precision,
                "compiled": result.compiled or self.run.config["protocol"].get("compile"),
            }
        )


@dataclass(frozen=True)
class Setting:
    """Trials of one network on one data set under one training and evaluation protocol, steps and batch apart."""

    name: str
    title: str
    scale: Scale
    size: str
    metric: str
    trials: tuple[Trial, ...]
    differences: dict[str, str]  # what differs from the paper's conditions; empty: comparable with it

    @property
    def batch_size(self) -> int:
        """The batch of most of its runs."""
        return Counter(trial.batch_size for trial in self.trials).most_common(1)[0][0]

    @property
    def methods(self) -> list[str]:
        return sorted({trial.method for trial in self.trials}, key=order)

    def at_its_budget(self) -> dict[str, tuple[Trial, ...]]:
        """For each method its runs with the paper's knobs at the setting's main budget; empty where it has none."""
        steps, batch_size = self.budget()
        return {method: self.select(method, steps=steps, batch_size=batch_size) for method in self.methods}

    def budget(self, methods: Iterable[str] = ()) -> tuple[int, int]:
        """Steps and batch at which most of `methods` (all of them by default), then most runs, were trained."""
        wanted = set(methods) or set(self.methods)
        own = [trial for trial in self.trials if trial.method in wanted]
        groups = grouped(own, lambda trial: (trial.steps, trial.batch_size))
        if not groups:
            return self.trials[0].steps, self.batch_size
        return max(groups, key=lambda key: (len({t.method for t in groups[key]}), len(groups[key]), -key[0], -key[1]))

    def select(
        self, method: str, *, steps: int | None = None, batch_size: int | None = None, **knobs: Any
    ) -> tuple[Trial, ...]:
        """The runs of a method, one a seed, with these knobs and the paper's values for the others that it varies.

        Where runs differ in anything that no ablation of the paper varies, those of the largest group are taken, of the
        method's own formulation without guidance where there are any.
        """
        found = [
            trial
            for trial in self.trials
            if trial.method == method
            and (steps is None or trial.steps == steps)
            and (batch_size is None or trial.batch_size == batch_size)
            and has_knobs(method, trial.knobs, knobs)
        ]
        groups: dict[tuple[str, int, int], dict[int, Trial]] = defaultdict(dict)
        for trial in sorted(found, key=lambda trial: (trial.seed, trial.run.name)):
            groups[trial.variant, trial.steps, trial.batch_size].setdefault(trial.seed, trial)
        if not groups:
            return ()
        published = {key: any(trial.as_published for trial in group.values()) for key, group in groups.items()}
        best = max(groups, key=lambda key: (published[key], len(groups[key]), -min(groups[key])))
        return tuple(groups[best].values())

    def values_of(self, method: str, knob: str) -> list[Any]:
        """The values of a knob among the method's runs, in order; texts after numbers."""
        own = [trial.knobs[knob] for trial in self.trials if trial.method == method and knob in trial.knobs]
        values = {repr(value): value for value in own}
        return sorted(values.values(), key=lambda value: (isinstance(value, str), value))


def knob_differences(method: str, knobs: Mapping[str, Any]) -> dict[str, str]:
    """A phrase for each knob that has not the value its paper prints."""
    return {
        name: f"{name} {knobs[name]} instead of {printed}"
        for name, printed in about(method).printed_knobs.items()
        if name in knobs and knobs[name] != printed
    }


def has_knobs(method: str, knobs: Mapping[str, Any], chosen: Mapping[str, Any] | None = None) -> bool:
    """Whether `knobs` are as `chosen`, and the paper's where its ablations vary them and nothing else was chosen."""
    same_additions = list(knobs.get(ADDITIONS) or ()) == list((chosen or {}).get(ADDITIONS) or ())
    paper = {name: value for name, value in about(method).printed_knobs.items() if name in VARIED and name in knobs}
    wanted = {**later_defaults(knobs), **paper, **(chosen or {})}
    return same_additions and all(name in knobs and knobs[name] == value for name, value in wanted.items())


def settings(runs: Iterable[Run], yardstick: str | None = None) -> tuple[list[Setting], list[LeftOut]]:
    """The runs in groups of comparable distances, the largest first, and those without a distance, each with why.

    `yardstick` is what is read in place of the Fréchet distance, as `distance_metric` takes it.
    """
    groups: dict[str, list[Trial]] = defaultdict(list)
    left_out = []
    for run in runs:
        trial = trial_of(run, yardstick)
        if isinstance(trial, Trial):
            groups[digest(_conditions(trial))].append(trial)
        else:
            left_out.append(LeftOut(run.path, trial))
    made = [_setting(name, members) for name, members in groups.items()]
    return sorted(made, key=lambda setting: (-len(setting.trials), setting.title, setting.name)), left_out


def trial_of(run: Run, yardstick: str | None = None) -> Trial | str:
    """The run as a trial, or why it is none."""
    evaluation = run.result.evaluations.get(FINAL)
    if evaluation is None:
        return f"no evaluation called {FINAL!r}: it ran with --no-eval; repeat the command without it"
    metric = distance_metric(evaluation.metrics, yardstick)
    if metric is None:
        return f"its {FINAL!r} evaluation has no metric called {yardstick or 'fid... or fd-...'}"
    if not math.isfinite(evaluation.metrics[metric]):
        return f"its {metric} is {evaluation.metrics[metric]}"
    if not isinstance(run.config["protocol"].get("batch_size"), int):
        return "damaged: config.yaml names no batch size"
    return Trial(run, metric)


def distance_metric(metrics: Iterable[str], yardstick: str | None = None) -> str | None:
    """The Fréchet distance among `metrics`: fid50k where there is one, else fid... or fd-... over most images.

    With a `yardstick` what that reads, as harness.recipes.metric_names.read_as says.
    """
    if yardstick is not None:
        return read_as(yardstick, metrics)
    names = [name for name in metrics if re.fullmatch(r"fid[\d.]+k?|fd-.*", name)]  # fid_infinity50k is no such name
    return PAPER_METRIC if PAPER_METRIC in names else min(names, key=lambda n: (-parts_of(n)[1], n), default=None)


def metric_title(metric: str) -> str:
    """Only 50,000 images through Inception are FID-50K; anything else keeps its own name."""
    return "FID-50K" if metric == PAPER_METRIC else metric


def _setting(name: str, members: Sequence[Trial]) -> Setting:
    first = members[0]
    differences = first.differences_from_paper()
    for word in ("steps", "batch", "device"):  # an arm's own, or of no weight for a distance
        differences.pop(word, None)
    return Setting(
        name=name[:SHORT_HASH],
        title=_title(first),
        scale=_scale(first),
        size=first.run.result.size,
        metric=first.metric,
        trials=tuple(sorted(members, key=lambda trial: (trial.run.name, str(trial.run.path)))),
        differences=differences,
    )


def _scale(trial: Trial) -> Scale:
    """paper: ImageNet 256 measured by FID-50K; demo: the tiny network on the embedded digits."""
    data = trial.run.manifest.data.name.lower()
    if data.startswith("imagenet") and trial.metric == PAPER_METRIC and trial.run.config["network"].get("patch") == 2:
        return "paper"
    return "demo" if data == DEMO_DATA and trial.run.result.size == DEMO_SIZE else "other"


def _title(trial: Trial) -> str:
    protocol = trial.run.config["protocol"]
    data = re.split(r"[\\/]", trial.run.manifest.data.name)[-1][:LONGEST_NAME]  # of a run on Windows too
    parts = [data, f"size {trial.run.result.size}"]
    parts += [str(protocol[key]) for key in ("precision", "pipeline") if key in protocol]
    return ", ".join(parts)


def _conditions(trial: Trial) -> Mapping[str, Scalar]:
    left = OF_AN_ARM | {f"evaluation.{name}" for name in OF_GUIDANCE | OF_ROUNDING} | {"processes"}
    kept = {key: value for key, value in trial.conditions.items() if key not in left}
    return {key: value for key, value in kept.items() if not key.startswith(("device.", "arithmetic."))}


def _without_guidance(evaluation: Evaluation) -> dict[str, Any]:
    return {"weights": evaluation.weights, **evaluation.protocol.model_dump(exclude=OF_GUIDANCE | OF_ROUNDING)}
