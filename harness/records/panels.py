"""What the papers print about their methods, and how settings and devices are written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.schema import Device

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


def device_title(device: Device) -> str:
    name = " ".join(re.sub(r"\((R|TM)\)|\bCPU\b", " ", device.name).split())
    if device.kind == "cpu":
        return f"{name}, {device.threads} thread{'s' if device.threads != 1 else ''}"
    return f"{device.count} x {name}" if device.count > 1 else name


def flat(prefix: str, document: Mapping[str, object]) -> dict[str, Scalar]:
    """A nested document as one level: {"protocol.steps": 600}."""
    found: dict[str, Scalar] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            found.update(flat(f"{prefix}.{key}", value))
        else:
            found[f"{prefix}.{key}"] = value if isinstance(value, str | int | float | bool | None) else repr(value)
    return found
