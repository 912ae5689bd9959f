"""The README.md of an exported network: a model card, filled in from its record. What is not known says so."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from string import Template
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from harness.papers.deviations import DEVIATIONS, Deviation
from harness.recipes.reading import load_recipe
from harness.records.evidence import Evidence
from harness.records.export_record import CARD, Export
from harness.records.folders.departures import departures
from harness.records.looks import LOOKS, measured_title
from harness.records.schema import Evaluation
from harness.records.store import Run
from harness.records.trials import settings
from harness.report.tables.paper_rows import HOW_TO_READ
from harness.report.tables.paper_tables import tables
from harness.report.tables.table import Column, Row, Table, escape, number
from harness.system.errors import UsageError

NOT_RECORDED = "not recorded"
TASK = "class-conditional-image-generation"
Shapes = Mapping[str, Sequence[int]]  # of the weights, by name


class Paper(NamedTuple):
    authors: str
    title: str
    year: int
    arxiv: str


PAPERS = {
    "dit": Paper("Peebles and Xie", "Scalable Diffusion Models with Transformers", 2022, "2212.09748"),
    "maskdit": Paper("Zheng et al.", "Fast Training of Diffusion Models with Masked Transformers", 2023, "2306.09305"),
    "mdt": Paper("Gao et al.", "Masked Diffusion Transformer is a Strong Image Synthesizer", 2023, "2303.14389"),
    "sddit": Paper(
        "Zhu et al.",
        "SD-DiT: Unleashing the Power of Self-supervised Discrimination in Diffusion Transformer",
        2024,
        "2403.17004",
    ),
}

IMAGENET_TERMS = (
    "ImageNet is given for non-commercial research and education only, under the terms of access at image-net.org; "
    "its images belong to their owners, and neither they nor their latents are part of this folder. Whether weights "
    "trained on them may be used in another way is for their user to find out."
)
DATA_NOTES = {  # by the beginning of the data set's name
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
    title = f"{measured_title(config['method'], config['knobs'])}, recipe {config['recipe']}"
    own = {
        "front_matter": front_matter(record, config).strip(),
        "title": escape(title),
        "summary": escape(_summary(record, config)),
        "what": _facts("what", _what(record, config, shapes)),
        "limits": _bullets(_limits(record, config)),
        "data": _facts("data", _data(record)),
        "data_note": escape(_data_note(record)),
        "training": _facts("training", _training(record, config)),
        "departures": escape(_departures(record, config)),
        "evaluation": _evaluations(record),
        "agreement": _agreement(record, config, run),
        "deviations": _bullets(f"{d.concerns}: {d.here} (paper: {d.paper}; {d.kind})" for d in deviations_of(config)),
        "keys": _keys(shapes),
        "provenance": _facts("provenance", _provenance(record)),
        "files": _facts("files", {name: sha for name, sha in record.files.items() if name != CARD}, "File", "sha256"),
        "citation": _bullets(_citation(record, config)),
        "licence": escape(_licence(record)),
    }
    template = (files("harness.report") / "model_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(own)


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
        named = {name for name, known in LOOKS.items() if known.title in words}
        elsewhere = (
            ("tiny" in words and config["size"] != "tiny")
            or ("iDDPM" in words and config["formulation"] != "iddpm")
            or (deviation.concerns == "MDT" and config["knobs"].get("relative_position"))
        )
        return not elsewhere and (not named or config["method"] in named)

    return [deviation for deviation in DEVIATIONS if concerns(deviation)]


# What the sections say: a mapping becomes a table of two columns, None "not recorded" ---------------------------------


def _summary(record: Export, config: Mapping[str, Any]) -> str:
    kind = "averaged (EMA)" if record.weights == "ema" else "raw, not averaged"
    if record.imported:
        return (
            f"The weights of a checkpoint of {LOOKS[config['method']].title} that its official code saved, under the "
            "names that dit-harness gives them. It was not trained by dit-harness."
        )
    steps = config["protocol"]["steps"]
    whole = "" if record.step == steps else f" of {steps:,} that its configuration asks for"
    return f"The {kind} network after {record.step:,} training steps{whole}, trained by dit-harness."


def _what(record: Export, config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    network, sees = config["network"], config["input"]
    vae, sha256 = record.vae
    return {
        "Method": measured_title(config["method"], config["knobs"]),
        "Network": f"{network['depth']} blocks, {network['width']} wide, {network['num_heads']} heads, patches of "
        f"{network['patch']} x {network['patch']}",
        "Weights, buffers included": f"{sum(map(math.prod, shapes.values())):,}",
        "Formulation": config["formulation"],
        "Sees": f"{sees['channels']} x {sees['side']} x {sees['side']}, {sees['num_classes']:,} classes",
        "Between pixels and the network": f"the VAE {vae}, sha256 {sha256 or NOT_RECORDED}" if vae else "nothing",
        "Which weights": "averaged (EMA)" if record.weights == "ema" else "raw",
        "Training steps behind them": record.step if not record.imported else None,
    }


def _limits(record: Export, config: Mapping[str, Any]) -> list[str]:
    return [
        *filter(None, [_by_data(LIMITS, record)]),
        f"It knows the {config['input']['num_classes']:,} classes of its training data by number, and no words.",
        "What it draws was not looked through for harmful or private content, and nothing filters it.",
        "Its numbers hold under the conditions beside them and no others.",
    ]


def _data_note(record: Export) -> str:
    if record.imported:
        return f"What it was trained on: {NOT_RECORDED}. The method's paper trains on ImageNet. {IMAGENET_TERMS}"
    return _by_data(DATA_NOTES, record) or f"The licence of this data: {NOT_RECORDED}."


def _data(record: Export) -> dict[str, Any]:
    if record.manifest is None:
        return {"Name": None, "sha256": None, "Images": None}
    data = record.manifest.data
    return {"Name": data.name, "sha256": data.sha256, "Images": f"{data.num_images:,}", "Real": data.real}


def _training(record: Export, config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("Steps", "Batch", "Learning rate", "Precision", "Device", "Processes", "Time, evaluation included", "Seed")
    manifest, result, protocol = record.manifest, record.result, config["protocol"]
    if manifest is None:
        return dict.fromkeys(names)
    device = manifest.device
    known = (
        f"{record.step:,}",
        f"{protocol['batch_size']:,} images",
        f"{protocol['learning_rate']:g}, constant; AdamW, betas {protocol['betas'][0]:g} and "
        f"{protocol['betas'][1]:g}, weight decay {protocol['weight_decay']:g}",
        protocol["precision"],
        f"{device.count} x {device.name}" if device.kind == "cuda" else f"{device.name}, threads: {device.threads}",
        manifest.world_size,
        f"{result.wall_seconds:,.0f} s for {result.steps:,} steps" if result else None,
        manifest.seed,
    )
    return {
        **dict(zip(names, known, strict=True)),
        "Images seen": f"{record.step * protocol['batch_size']:,}",
        "Label dropout": protocol["label_dropout"],
        "Average": f"decay {protocol['ema_decay']:g}{', warmed up' if protocol['ema_warmup'] else ''}",
        "Flips": protocol["flips"],
        "Data pipeline": protocol["pipeline"],
        "Steps per second": result and result.steps_per_sec,
        "Peak memory": f"{result.peak_memory_bytes / 1e9:.2f} GB ({result.peak_memory_kind})"
        if result and result.peak_memory_bytes
        else None,
        "Compiled": result and result.compiled,
        "Attention kernel": result and result.attention,
    }


def _departures(record: Export, config: Mapping[str, Any]) -> str:
    found = departures(config, record.manifest.command if record.manifest else "")
    if found.recipe is None:
        return f"{NOT_RECORDED}: this version has no recipe of that name."
    return ", ".join(departure.short for departure in found.differing) or "none."


def _evaluations(record: Export) -> str:
    if not record.evaluations:
        return f"Metrics of these weights: {NOT_RECORDED}."
    return "\n\n".join(_evaluation(name, found, record) for name, found in record.evaluations.items())


def _evaluation(name: str, evaluation: Evaluation, record: Export) -> str:
    proof = (
        "The evaluation names these weights by their hash"
        if evaluation.weights_sha256 == record.weights_sha256
        else "The evaluation names the step of these weights, and does not record their hash"
    )
    rows = tuple(
        {"Metric": metric, "Value": value, "Standard error": evaluation.standard_errors.get(metric)}
        for metric, value in evaluation.metrics.items()
    )
    columns = (Column("Metric"), Column("Value", "number"), Column("Standard error", "number"))
    conditions = evaluation.protocol.model_dump(mode="json")
    known = {key.replace("_", " "): "none" if value is None else value for key, value in conditions.items()}
    parts = [
        f"### {escape(name)}",
        Table("metrics", "", columns, rows).markdown().strip(),
        f"{proof}. Each of these numbers under these conditions:",
        _facts("conditions", known, "Condition"),
    ]
    if evaluation.notes:
        parts.append(_bullets(evaluation.notes))
    return "\n\n".join(parts)


def _agreement(record: Export, config: Mapping[str, Any], run: Run | None) -> str:
    try:
        repeats = load_recipe(str(config["recipe"])).repeats
    except UsageError:
        repeats = NOT_RECORDED
    there_for = f"What its recipe repeats of the papers: {escape(repeats)}."
    if run is None or record.weights != "ema":
        return (
            f"{there_for}\n\nPublished beside measured: {NOT_RECORDED}; that is of a finished run's averaged network."
        )
    found, without = settings([run])
    own = tables(Evidence(runs=(run,), settings=tuple(found)))[:2]
    beside = [table for table in map(_beside, own) if table.rows]
    if beside:
        shown = [f"### {escape(table.title)}\n\n{table.markdown().strip()}" for table in beside]
        return "\n\n".join([there_for, HOW_TO_READ, *shown])
    reasons = [row["Comparable"] for table in own for row in table.rows if row.get("Measured") is not None]
    reasons += [item.reason for item in without]
    return f"{there_for}\n\nNo published number stands beside its own: {escape(str((reasons or [NOT_RECORDED])[0]))}."


def _beside(table: Table) -> Table:
    """The rows that have a published and a measured value."""
    rows = (row for row in table.rows if row.get("Published") is not None and row.get("Measured") is not None)
    return replace(table, rows=tuple(rows))


def _keys(shapes: Shapes) -> str:
    """The weights' names, with the numbers of repeated blocks as N."""
    groups: Counter[tuple[str, str]] = Counter()
    for name, shape in shapes.items():
        groups[re.sub(r"\.\d+(?=\.[^.]+\.)", ".N", name), " x ".join(map(str, shape)) or "one number"] += 1
    rows: list[Row] = [{"Name": name, "Shape": shape, "How many": n} for (name, shape), n in groups.items()]
    columns = (Column("Name"), Column("Shape"), Column("How many", "number", decimals=0))
    return Table("keys", "", columns, tuple(rows)).markdown().strip()


def _provenance(record: Export) -> dict[str, Any]:
    own = {
        "Run": record.run,
        "Weights, sha256 of names and values": record.weights_sha256,
        "Configuration, sha256": record.config_sha256,
        "Configuration of the run, sha256": record.run_config_sha256,
        "Exported by": f"dit-harness {record.harness_version}",
    }
    if record.imported:
        read = record.imported
        return own | {
            "Imported from": read.file_name,
            "That file's sha256": read.file_sha256,
            "Imported by": f"dit-harness {read.harness_version}, {read.imported_at}",
        }
    if record.manifest is None:
        return own | dict.fromkeys(("Commit", "Trained by", "Started", "Command"))
    ran = record.manifest
    return own | {
        "Commit": ran.git_commit,
        "Changes that were not committed, sha256": ran.git_diff_sha256 or ("none" if ran.git_commit else None),
        "Trained by": f"dit-harness {ran.harness_version}, Python {ran.python}, {ran.platform}",
        "Versions": ", ".join(f"{name} {version}" for name, version in ran.packages.items()) or None,
        "Arithmetic": ", ".join(f"{name} {_word(value)}" for name, value in ran.precision.items()) or None,
        "Started": ran.started_at,
        "Command": ran.command or None,
    }


def _citation(record: Export, config: Mapping[str, Any]) -> list[str]:
    paper = PAPERS.get(config["method"])
    return [
        f"The dit-harness authors: dit-harness, a reproducibility benchmark harness for training-efficient diffusion "
        f"transformers, version {record.harness_version}.",
        f"{paper.authors}: {paper.title}. {paper.year}, arXiv:{paper.arxiv}."
        if paper
        else f"The paper of {config['method']}: {NOT_RECORDED}.",
    ]


def _licence(record: Export) -> str:
    if record.imported:
        return (
            f"{record.license}: that of the official repository of {LOOKS[record.imported.method].title}, which holds "
            f"if {record.imported.file_name} is its release. dit-harness itself is under the MIT licence."
        )
    if record.license == "unknown":
        return f"Of these weights: {NOT_RECORDED}. dit-harness itself is under the MIT licence."
    return f"{record.license}, as chosen by whoever exported them. dit-harness itself is under the MIT licence."


# Words ----------------------------------------------------------------------------------------------------------------


def _by_data(notes: Mapping[str, str], record: Export) -> str | None:
    """The note for the training data, by its name; None where there is none."""
    name = record.manifest.data.name.lower() if record.manifest else ""
    return next((note for beginning, note in notes.items() if name.startswith(beginning)), None)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)


def _facts(name: str, facts: Mapping[str, Any], what: str = "What", value: str = "Value") -> str:
    rows = tuple({what: key, value: NOT_RECORDED if fact is None else _word(fact)} for key, fact in facts.items())
    return Table(name, "", (Column(what), Column(value)), rows).markdown().strip()


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items) or "None."
