"""The README.md of an exported network: a model card, filled in from its record. What is not known says so."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from harness.papers.deviations import DEVIATIONS, Deviation
from harness.recipes.reading import about, families, load_recipe
from harness.records.evidence import Evidence
from harness.records.folders.departures import departures
from harness.records.looks import look, measured_title
from harness.records.schema import Export
from harness.records.store import Run
from harness.records.trials import settings
from harness.reporting.pages.render import render as rendered
from harness.reporting.tables.paper_tables import HOW_TO_READ, tables
from harness.reporting.tables.table import Table

NOT_RECORDED = "not recorded"
TASK = "class-conditional-image-generation"
Shapes = Mapping[str, Sequence[int]]  # the shape of each weight, by the weight's name


IMAGENET_TERMS = (
    "ImageNet is given for non-commercial research and education only, under the terms of access at image-net.org; "
    "its images belong to their owners, and neither they nor their latents are part of this folder. Whether weights "
    "trained on them may be used in another way is for their user to find out."
)
DATA_NOTES = {  # keys: how the data set's name begins
    "digits": "The digits are the test part of the UCI set Optical Recognition of Handwritten Digits, as scikit-learn "
    "ships it; the UCI repository gives it under CC BY 4.0.",
    "cifar10": "The authors of CIFAR-10 state no licence.",
    "synthetic": "Random numbers, drawn for measurements of speed.",
    "imagenet": IMAGENET_TERMS,
}
LIMITS = {
    "digits": "It draws handwritten digits of 8 x 8 pixels, nothing else, and says nothing about photographs.",
    "synthetic": "It was trained on random numbers: it draws nothing, and is good for measurements of speed alone.",
    "imagenet": "It draws what the classes of ImageNet show, with the errors and the bias of those photographs; among "
    "them are people who were not asked.",
}


def render(record: Export, config: Mapping[str, Any], shapes: Shapes, run: Run | None = None) -> str:
    """The card of `record`, whose network has the weights of these `shapes` and was trained as `config` says.

    `run` is the finished run that it is the last step of: its tables say how far the paper's numbers were met.
    """
    beside, not_beside = _agreement(record, run)
    compared = departures(config, record.manifest.command if record.manifest else "")
    unknown = f"{NOT_RECORDED}: this version has no recipe of that name."
    differing = ", ".join(departure.short for departure in compared.differing) or "none."
    context = {
        "record": record,
        "config": config,
        "protocol": config["protocol"],
        "manifest": record.manifest,
        "device": record.manifest and record.manifest.device,
        "result": record.result,
        "method": measured_title(config["method"], config["knobs"]),
        "title": look(config["method"]).title,
        "averaged": "averaged (EMA)" if record.weights == "ema" else "raw, not averaged",
        "num_weights": sum(map(math.prod, shapes.values())),
        "weights": _weights(shapes),
        "limits": _by_data(LIMITS, record),
        "data_note": _data_note(record),
        "departures": unknown if compared.recipe is None else differing,
        "repeats": compared.recipe and load_recipe(compared.recipe).repeats,
        "beside": beside,
        "not_beside": not_beside,
        "how_to_read": HOW_TO_READ,
        "deviations": deviations_of(config),
        "paper": about(config["method"]).paper,
    }
    card = rendered("model_card.md.j2", context, missing=NOT_RECORDED)
    return f"---\n{front_matter(record, config).strip()}\n---\n\n{card}"


def front_matter(record: Export, config: Mapping[str, Any]) -> str:
    """What Hugging Face's hub reads, as YAML. A value that is not finite is in the tables alone."""
    manifest = record.manifest
    measured = [
        EvalResult(
            task_type=TASK,
            dataset_type=evaluation.protocol.reference,
            dataset_name=f"{evaluation.protocol.reference} (sha256 {evaluation.protocol.reference_sha256[:12]})",
            metric_type=metric,
            metric_value=value,
            metric_name=f"{metric}, {name}",
        )
        for name, evaluation in record.evaluations.items()
        for metric, value in evaluation.metrics.items()
        if math.isfinite(value)
    ]
    tags = ["diffusion-transformer", config["method"], config["recipe"], config["formulation"], "image-generation"]
    return ModelCardData(
        model_name=record.run,
        license=record.license,
        library_name="dit-harness",
        tags=[*tags, *([] if manifest is None or manifest.data.real else ["random-data"])],
        metrics=sorted({result.metric_type for result in measured}) or None,
        eval_results=measured or None,
    ).to_yaml()


def deviations_of(config: Mapping[str, Any]) -> list[Deviation]:
    """Those of the harness's deviations from the papers that concern this network."""

    def concerns(deviation: Deviation) -> bool:
        words = set(re.findall(r"[\w-]+", deviation.concerns))
        named = {name for name in families() if about(name).title in words}
        elsewhere = (
            ("tiny" in words and config["size"] != "tiny")
            or ("iDDPM" in words and config["formulation"] != "iddpm")
            or (deviation.concerns == "MDT" and config["knobs"].get("relative_position"))
        )
        return not elsewhere and (not named or config["method"] in named)

    return [deviation for deviation in DEVIATIONS if concerns(deviation)]


def _data_note(record: Export) -> str:
    if record.imported:
        return f"What it was trained on: {NOT_RECORDED}. The method's paper trains on ImageNet. {IMAGENET_TERMS}"
    return _by_data(DATA_NOTES, record) or f"The licence of this data: {NOT_RECORDED}."


def _by_data(notes: Mapping[str, str], record: Export) -> str:
    """The note for the training data, by the beginning of its name; empty where there is none."""
    name = record.manifest.data.name.lower() if record.manifest else ""
    return next((note for beginning, note in notes.items() if name.startswith(beginning)), "")


def _agreement(record: Export, run: Run | None) -> tuple[list[Table], str]:
    """The rows of Tables 1 and 2 that have a published and a measured value; without any, the reason why."""
    if run is None or record.weights != "ema":
        return [], f"Published beside measured: {NOT_RECORDED}; that is of a finished run's averaged network."
    found, without = settings([run])
    own = tables(Evidence(runs=(run,), settings=tuple(found)))[:2]
    both = [table.frame["Published"].notna() & table.frame["Measured"].notna() for table in own]
    beside = [replace(table, frame=table.frame[rows]) for table, rows in zip(own, both, strict=True) if rows.any()]
    reasons = [why for table in own for why in table.frame["Comparable"][table.frame["Measured"].notna()]]
    reasons += [item.reason for item in without]
    return beside, f"No published number stands beside its own: {(reasons or [NOT_RECORDED])[0]}."


def _weights(shapes: Shapes) -> Counter[tuple[str, str]]:
    """How many weights have a name, with the numbers of repeated blocks as N, and a shape."""
    return Counter(
        (re.sub(r"\.\d+(?=\.[^.]+\.)", ".N", name), " x ".join(map(str, shape)) or "one number")
        for name, shape in shapes.items()
    )
