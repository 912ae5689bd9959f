"""What decides a run, hashed into its name."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST_LENGTH = 10  # characters of the hash in a run's name
NOT_IN_ID = {"recipe", "size", "execution"}  # these change a weight by rounding at most, and no image

# Not in the id while it has its default, so that older runs keep theirs.
ADDED_LATER: dict[tuple[str, str], Any] = {
    ("evaluation", "decode_precision"): "fp32",
    ("evaluation", "also_first"): [],
    ("protocol", "optimizer"): "adamw",
    ("protocol", "clip"): None,
    ("protocol", "warmup"): 0,
    ("protocol", "cooldown"): 0,
    ("knobs", "project_start"): "zero",
    ("knobs", "version"): 1,
    ("knobs", "teacher_level"): "sigma",
    ("knobs", "shared_noise"): False,
    ("knobs", "student_sigma"): None,
    ("knobs", "teacher"): "average",
    ("knobs", "discriminative_weight"): 1.0,
    ("knobs", "stop_gradient"): "none",
    ("knobs", "head_layers"): 3,
    ("knobs", "head_norm"): False,
    ("protocol", "size"): None,
    ("sampling", "sde_diffusion"): "2t",
    ("sampling", "sde_last_step"): 0.04,
    ("flow", "path"): "linear",
    ("flow", "prediction"): "velocity",
    ("flow", "times"): "uniform",
    ("flow", "shift"): 1.0,
    ("flow", "direction"): 0.0,
    ("flow", "data_scale"): 1.0,
    ("block", "mlp"): "gelu",
    ("block", "norm"): "layer",
    ("block", "rotary"): False,
    ("block", "qk_norm"): False,
}
OF_A_SIZE = {"project_start"}
SECTIONS_ADDED_LATER = {"flow", "block"}


def identity(document: Mapping[str, Any]) -> str:
    """The hash behind a run's name, of a resolved configuration as a plain document, like config.yaml's."""
    facts = {key: value for key, value in document.items() if key not in NOT_IN_ID | {"schema_version"}}
    for section in {section for section, _ in ADDED_LATER}:
        if isinstance(facts.get(section), dict):
            facts[section] = without_later_defaults(section, facts[section])
    return digest({key: value for key, value in facts.items() if value or key not in SECTIONS_ADDED_LATER})


def without_later_defaults(section: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A section's settings without those that came later and have their default: runs of before and after are alike."""
    later = {field: default for (where, field), default in ADDED_LATER.items() if where == section}
    return {key: value for key, value in settings.items() if key not in later or value != later[key]}


def later_defaults(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of those of these knobs that came later, but for one that the recipe of a size sets."""
    later = {field: default for (section, field), default in ADDED_LATER.items() if section == "knobs"}
    return {field: default for field, default in later.items() if field in knobs and field not in OF_A_SIZE}


def with_later_settings(document: dict[str, Any]) -> dict[str, Any]:
    """An older run's configuration with the settings that came after it, at their defaults: those it was made with.

    Knobs differ from method to method, so one that came later is left out at its default, of newer runs too.
    """
    document = {section: {} for section in SECTIONS_ADDED_LATER} | document
    for (section, field), default in ADDED_LATER.items():
        if section != "knobs" and isinstance(document.get(section), dict):
            document[section] = {field: default, **document[section]}
    if isinstance(document.get("knobs"), dict):
        document["knobs"] = without_later_defaults("knobs", document["knobs"])
    return document


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
