"""Which runs may stand on one axis, how their panel is called, and how it differs from the paper's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.schema import Device, Evaluation
from harness.records.store import Run

OF_THE_METHOD = {"formulation", "sampler", "num_steps", "nfe"}  # part of the method as published: these may differ
PAPER_SAMPLER_STEPS = {"ddpm": 250, "heun": 40}
# Only what the papers print, each with its place; a run that differs is not the paper's method.
PAPER_KNOBS: dict[str, dict[str, Any]] = {
    "maskdit": {  # MaskDiT Sec. 5 and its configurations
        "mask_ratio": 0.5,
        "mae_weight": 0.1,
        "decoder_width": 512,
        "decoder_depth": 8,
        "decoder_heads": 16,
    },
    "mdt": {"mask_ratio": 0.3, "decoder_depth": 2, "relative_position": True},  # MDT Sec. 3.3, branch mdtv1
    "sddit": {  # SD-DiT Sec. 4.1, Table 4
        "mask_ratio": 0.2,
        "discriminate": True,
        "teacher_sigma": 0.002,
        "num_prototypes": 8192,
        "decoder_depth": 8,
        "student_temperature": 0.1,
        "teacher_temperature": [0.09, 0.099],
        "teacher_temperature_epochs": 5,
        "teacher_momentum": [0.996, 0.999],
    },
}
PAPER_FORMULATIONS = {"dit": "iddpm", "mdt": "iddpm", "maskdit": "edm", "sddit": "edm"}
FINAL = "final"  # the name of the evaluation after the last step
SHORT_HASH = 8
LONGEST_NAME = 40

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Sample:
    """One run's point: its speed, and the distance of the images of its final evaluation."""

    run: Run
    evaluation: Evaluation
    metric: str
    speed: float  # steps per second
    distance: float

    @property
    def conditions(self) -> dict[str, Scalar]:
        """Everything that must be equal within a panel: training protocol, network, hardware, evaluation protocol."""
        config, result, manifest = self.run.config, self.run.result, self.run.manifest
        device = result.device
        return {
            "size": result.size,
            **_flat("network", config["network"]),
            **_flat("protocol", config["protocol"]),
            "data.name": manifest.data.name,
            "data.sha256": manifest.data.sha256,
            "device.name": device.name,
            "device.kind": device.kind,
            "device.count": device.count,
            "device.threads": device.threads,
            "processes": result.world_size,
            **_flat("arithmetic", manifest.precision),
            "metric": self.metric,
            "weights": self.evaluation.weights,
            **_flat("evaluation", self.evaluation.protocol.model_dump(mode="json", exclude=OF_THE_METHOD)),
        }

    @property
    def settings(self) -> dict[str, Scalar]:
        """What makes it a point of its own within its panel: the method's knobs and how it is sampled."""
        return {
            **_flat("knobs", self.run.config["knobs"]),
            **_flat("sampling", self.evaluation.protocol.model_dump(mode="json", include=OF_THE_METHOD)),
        }


def differing(documents: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Keys whose value is not the same in all of `documents`, in their order."""
    keys = dict.fromkeys(key for document in documents for key in document)
    return [key for key in keys if len({repr(document.get(key)) for document in documents}) > 1]


def describe(document: Mapping[str, Scalar], keys: Sequence[str]) -> str:
    """ " (learning_rate 0.0001, seed 1)", or nothing without keys."""
    parts = []
    for key in keys:
        value = document.get(key)
        text = str(value)[:SHORT_HASH] if key.endswith("sha256") else str(value)
        parts.append(f"{key.rpartition('.')[2]} {text}")
    return f" ({', '.join(parts)})" if parts else ""


def differences_from_paper(sample: Sample) -> dict[str, str]:
    """What keeps a measured point from standing beside SD-DiT Fig. 3 (Sec. 4.1, 4.2): a word and a phrase for each.

    Empty means comparable. The paper states neither TF32 nor the input pipeline, so they are not asked for.
    """
    config, device = sample.run.config, sample.run.result.device
    protocol, size, patch = config["protocol"], sample.run.result.size, config["network"].get("patch")
    data, guidance = sample.run.manifest.data.name, sample.evaluation.protocol.guidance_scale
    on_eight = "A100" in device.name and sample.run.result.world_size == 8
    asked = (
        ("network", f"{size}/{patch}", "S/2", size.lower() == "s" and patch == 2),
        ("data", data, "ImageNet 256", data.lower().startswith("imagenet")),
        ("steps", protocol.get("steps"), "400000", protocol.get("steps") == 400_000),
        ("batch", protocol.get("batch_size"), "256", protocol.get("batch_size") == 256),
        ("learning rate", protocol.get("learning_rate"), "0.0001", protocol.get("learning_rate") == 1e-4),
        ("precision", protocol.get("precision"), "fp32", protocol.get("precision") == "fp32"),
        ("metric", sample.metric, "FID-50K", sample.metric == "fid50k"),
        ("guidance", guidance, "none", guidance is None),
        ("device", device_title(device), "8 x A100", on_eight),
    )
    return {word: f"{word} {ours} instead of {theirs}" for word, ours, theirs, same in asked if not same}


def own_differences_from_paper(sample: Sample) -> dict[str, str]:
    """The same for what points of one panel need not share: the knobs the papers print, and the sampler's steps."""
    knobs, sampling = sample.run.config["knobs"], sample.evaluation.protocol
    asked = PAPER_KNOBS.get(sample.run.result.method, {})
    found = {
        name: f"{name} {knobs[name]} instead of {printed}"
        for name, printed in asked.items()
        if name in knobs and knobs[name] != printed
    }
    formulation = PAPER_FORMULATIONS.get(sample.run.result.method, sampling.formulation)
    if sampling.formulation != formulation:
        found["formulation"] = f"formulation {sampling.formulation} instead of {formulation}"
    steps = PAPER_SAMPLER_STEPS.get(str(sampling.sampler))
    if sampling.num_steps != steps:
        found["sampler steps"] = f"sampler steps {sampling.num_steps} instead of {steps or 'another sampler'}"
    return found


def device_title(device: Device) -> str:
    name = " ".join(re.sub(r"\((R|TM)\)|\bCPU\b", " ", device.name).split())
    if device.kind == "cpu":
        return f"{name}, {device.threads} thread{'s' if device.threads != 1 else ''}"
    return f"{device.count} x {name}" if device.count > 1 else name


def _flat(prefix: str, document: Mapping[str, object]) -> dict[str, Scalar]:
    flat: dict[str, Scalar] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat.update(_flat(f"{prefix}.{key}", value))
        else:
            flat[f"{prefix}.{key}"] = value if isinstance(value, str | int | float | bool | None) else repr(value)
    return flat
