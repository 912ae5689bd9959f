"""The tables of a paper, each published value beside what was measured, and later methods for context.

The paper's tables.yaml has their titles, captions, methods and knobs. A measured value is in the row of a published one
where method, size, steps and metric are the same. Runs of any other setting have rows of their own below, under their
own metric, and no difference is computed for them. Where something else differs, precision or a knob, the row names the
difference.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.papers import specified
from harness.papers.published import Target, target_of
from harness.papers.sddit import numbers as published
from harness.recipes.naming import digest
from harness.records.evidence import Evidence
from harness.records.looks import describe, differing
from harness.records.trials import Spread
from harness.reporting.tables.paper_settings import settings_table
from harness.reporting.tables.repeats import Repeats, repeats_of, titles_of
from harness.reporting.tables.table import METRIC_ORDER, Cell, Table, family, frame_of

Row = dict[str, Cell]
Printed = Mapping[str, Any]  # a published value with its model, steps and source, and the `target` it was measured on
Titles = Mapping[str, str]  # the title of each setting, by the setting's name

MEASURED_AS = {
    "FID-50K": "fid50k",
    "sFID": "sfid50k",
    "IS": "is50k",
    "Precision": "precision50k",
    "Recall": "recall50k",
}
PRINTED_AS = {name: metric for metric, name in MEASURED_AS.items()}
TWO_DECIMALS = ("FID-50K", "Precision", "Recall")  # as the papers print them; the data keep no zeros at the end
FAMILIES = METRIC_ORDER[:7]  # those of Table 2
OF_THE_PAPER = "ImageNet 256"
NOT_MEASURED = "not measured"
NOT_BUILT = "for context: not trained here"

MODEL = ("Setting", "Model", "Training steps", "Batch", "Metric")
VALUES = ("Published", "Measured", "Measured, SD", "n", "Difference", "Difference, %")
JUDGED = ("Comparable", "Source")
FORMATS = {
    "Published": ",.2f",
    "Difference": "+z,.2f",
    "Difference, %": "+z,.1f",
    "Published / full": ".2f",
    "Measured / full": ".2f",
}
HOW_TO_READ = (
    "Measured: mean over n seeds, ± their standard deviation where n is above 1. Difference: measured minus published, "
    "and in % of the published value. Comparable: whether the runs were made as the published ones, or what differs."
)


def tables(evidence: Evidence) -> list[Table]:
    """Tables 1 to 4, published beside measured."""
    said = specified("tables.yaml")
    found = [group for setting in evidence.settings for group in repeats_of(setting)]
    titles = titles_of(evidence.settings)
    made = [
        _results("table1", said["table1"], found, titles),
        _results("table2", said["table2"], found, titles),
        _components(said["table3"], found, titles),
    ]
    return [*made, settings_table(evidence.runs, said["table4"])]


def context(evidence: Evidence) -> Table:
    """FID-50K of the paper's and of later methods, and of what was measured under the same conditions."""
    said = specified("tables.yaml")["context"]
    rows: list[Row] = [
        {
            "Compared at": record["group"],
            "Model": record["model"],
            "FID-50K": "missing" if record["quality"] == "missing" else _as_printed(record),
            "FID-50K, SD": None,
            "Conditions": record["protocol"],
            "Source": _source(record),
        }
        for record in published.context().to_dict("records")
    ]
    budget = (said["budget"]["steps"], said["budget"]["batch"])
    for group in (group for setting in evidence.settings for group in repeats_of(setting)):
        if _is_paper_scale(group) and group.is_default() and group.budget == budget:
            fid = Spread.of(list(group.values("fid50k").values()))
            row: Row = {"Compared at": said["budget"]["group"], "Model": group.model, "Source": "measured"}
            conditions = f"measured here: {group.setting.title}; n = {fid.n}"
            rows.append({**row, "FID-50K": fid.mean, "FID-50K, SD": fid.sd, "Conditions": conditions})
    places = {place: i for i, place in enumerate(dict.fromkeys(row["Compared at"] for row in rows))}
    frame = frame_of(sorted(rows, key=lambda row: places[row["Compared at"]]))
    return Table("context", said["title"], frame, said["caption"], {"FID-50K": ",.2f"})


# Published rows, each with the runs beside it ------------------------------------------------------------------------


def _results(name: str, said: Mapping[str, Any], found: Sequence[Repeats], titles: Titles) -> Table:
    """The published rows, each with the runs that belong beside it, then the runs that stand beside none."""
    records, every_metric = _printed(said["number"]), said["metrics"] == "all"
    targets = [record["target"] for record in records if record["target"]]
    rows: list[Row] = []
    beside = set()
    for record in records:
        groups = _beside(record, found)
        own = [group for group in groups if group.first.steps == _steps(record)]
        beside |= {(id(group), MEASURED_AS[record["metric"]]) for group in own}
        unmeasured: Row = {"Comparable": NOT_MEASURED if record["target"] else NOT_BUILT}
        measured = [_measured_beside(record, group, titles) for group in groups] or [unmeasured]
        rows += [_published(record) | each for each in measured]
    for group in filter(Repeats.is_default, found):
        for metric in _metrics(group) if every_metric else [group.setting.metric]:
            if (id(group), metric) not in beside:
                rows.append(_own_row(group, metric, found, titles, targets))
    if every_metric:
        rows.sort(key=lambda row: _metric_order(str(row["Metric"])))
    caption = said["caption"].format(how_to_read=HOW_TO_READ) + _in_full(found, titles)
    return Table(name, said["title"], frame_of(rows, (*MODEL, *VALUES, *JUDGED)), caption, FORMATS)


def _beside(record: Printed, found: Iterable[Repeats]) -> list[Repeats]:
    """The runs of a published row: those of its steps, else longer ones that were evaluated at its steps."""
    target = record["target"]
    if target is None or target.steps is None:
        return []
    alike = [
        group
        for group in found
        if _is_paper_scale(group)
        and group.is_default()
        and (group.first.method, group.setting.size.lower(), group.patch) == (target.method, target.size, target.patch)
        and target.batch_size in (None, group.first.batch_size)
        and group.values(MEASURED_AS[record["metric"]], target.steps)
    ]
    return [group for group in alike if group.first.steps == target.steps] or alike


def _measured_beside(record: Printed, group: Repeats, titles: Titles) -> Row:
    values = group.values(MEASURED_AS[record["metric"]], _steps(record))
    differences = group.differences([record["target"]])
    within = "" if differences.pop("steps", None) is None else f", within runs of {group.first.steps:,} steps"
    measured = {"Setting": titles[group.setting.name], **_measured(values, record["value"])}
    return {**measured, "Comparable": _comparable(differences) + within}


def _own_row(group: Repeats, metric: str, found: Sequence[Repeats], titles: Titles, targets: Sequence[Target]) -> Row:
    def place(other: Repeats) -> tuple[Any, ...]:
        return other.setting.name, other.model, other.budget

    alike = [other.settings for other in found if other.is_default() and place(other) == place(group)]
    return {
        **_place(group, metric, titles),
        "Model": group.model + describe(group.settings, differing(alike)),
        **_measured(group.values(metric)),
        "Comparable": _comparable(group.differences(targets)),
    }


def _metrics(group: Repeats) -> list[str]:
    names = dict.fromkeys(name for trial in group.trials for name in trial.evaluation.metrics)
    return [name for name in names if family(name) in FAMILIES and group.values(name)]


def _metric_order(name: str) -> tuple[bool, int, str]:
    return (name not in MEASURED_AS, FAMILIES.index(family(MEASURED_AS.get(name, name))), name)


# Components ----------------------------------------------------------------------------------------------------------


def _components(said: Mapping[str, Any], found: Sequence[Repeats], titles: Titles) -> Table:
    """The full method and the method without each component: a set of rows for each setting, steps and batch."""
    records = {record["series"]: record for record in _printed(said["number"])}
    ablated = {knob for knobs in said["components"].values() for knob in knobs}
    papers = (said["budget"]["size"], (said["budget"]["steps"], said["budget"]["batch"]))

    def is_the_papers(own: Mapping[str, Repeats]) -> bool:
        return any(
            _is_paper_scale(group) and (group.setting.size.lower(), group.budget) == papers for group in own.values()
        )

    sets: dict[str, dict[str, Repeats]] = defaultdict(dict)  # the components by name, of runs equal in all else
    for group in found:
        knobs = {"discriminate": True, **group.first.knobs}  # a run before the knob existed had the loss
        name = next((name for name, wanted in said["components"].items() if wanted.items() <= knobs.items()), None)
        if group.first.method == said["method"] and name is not None and group.is_default(but=ablated):
            rest = {key: value for key, value in group.settings.items() if key.removeprefix("knobs.") not in ablated}
            sets[digest({"setting": group.setting.name, "rest": rest, "budget": group.budget})][name] = group
    ordered = sorted(sets.values(), key=lambda own: not is_the_papers(own))
    if not any(map(is_the_papers, ordered)):
        ordered = [{}, *ordered]
    rows: list[Row] = []
    for own in ordered:
        beside = not own or is_the_papers(own)
        rows += [_component(name, records, own, beside, ablated, titles) for name in said["components"]]
    ratios = ("Published / full", "Measured / full", "Measured / full, SD", "Pairs")
    caption = said["caption"].format(how_to_read=HOW_TO_READ)
    caption += _in_full([group for own in ordered for group in own.values()], titles)
    columns = ("Setting", "Component", *MODEL[2:], *VALUES, *ratios, *JUDGED)
    return Table("table3", said["title"], frame_of(rows, columns), caption, FORMATS)


def _component(
    name: str,
    records: Mapping[str, Printed],
    own: Mapping[str, Repeats],
    beside: bool,
    ablated: Iterable[str],
    titles: Titles,
) -> Row:
    """A component's row, in which the published value stands `beside` the measured one where it may."""
    record, full = records[name], next(iter(records))
    row = {
        **_published(record),
        "Component": name,
        "Published / full": record["value"] / records[full]["value"],
        "Comparable": NOT_MEASURED,
    }
    del row["Model"]
    for group in list(own.values())[:1]:
        row |= _place(group, group.setting.metric, titles)
    if not beside:
        row["Published"] = None
    if name in own:
        group = own[name]
        values = group.values(group.setting.metric)
        differences = group.differences([record["target"]] if record["target"] else [])
        comparable = _comparable({word: text for word, text in differences.items() if word not in ablated})
        row |= _measured(values, record["value"] if beside else None) | _paired(values, own.get(full))
        row["Comparable"] = comparable
    return row


def _paired(values: Mapping[int, float], full: Repeats | None) -> Row:
    """The geometric mean ratio to the full method's values, over the seeds that both have."""
    whole = full.values(full.setting.metric) if full is not None else {}
    logs = [math.log(value / whole[seed]) for seed, value in values.items() if whole.get(seed, 0) > 0 and value > 0]
    if not logs:
        return {"Pairs": 0}
    spread = Spread.of(logs)
    ratio = math.exp(spread.mean)
    return {"Measured / full": ratio, "Measured / full, SD": spread.sd and ratio * spread.sd, "Pairs": spread.n}


# Cells of the rows ---------------------------------------------------------------------------------------------------


def _printed(number: str) -> list[Printed]:
    return [
        {**row, "target": target_of(row["method"], row["model"], row["training_steps_k"], row["batch_size"])}
        for row in published.table(number).to_dict("records")
    ]


def _published(record: Printed) -> Row:
    return {
        "Setting": OF_THE_PAPER,
        "Model": record["model"],
        "Training steps": _steps(record),
        "Batch": None if math.isnan(record["batch_size"]) else int(record["batch_size"]),
        "Metric": record["metric"],
        "Published": _as_printed(record),
        "Source": _source(record),
    }


def _place(group: Repeats, metric: str, titles: Titles) -> Row:
    return {
        "Setting": titles[group.setting.name],
        **dict(zip(("Training steps", "Batch"), group.budget, strict=True)),
        "Metric": PRINTED_AS.get(metric, metric),
    }


def _steps(record: Printed) -> int | None:
    return None if math.isnan(record["training_steps_k"]) else round(record["training_steps_k"] * 1000)


def _as_printed(record: Printed) -> str:
    return f"{record['value']:.2f}" if record["metric"] in TWO_DECIMALS else str(record["value_text"])


def _source(record: Printed) -> str:
    return f"{record['source']} ({record['quality']})"


def _measured(values: Mapping[int, float], beside: float | None = None) -> Row:
    """Mean and spread over the seeds, and the difference from the published value `beside` them."""
    spread = Spread.of(list(values.values()))
    row: Row = {"Measured": spread.mean, "Measured, SD": spread.sd, "n": spread.n}
    if beside is None:
        return row
    return row | {"Difference": spread.mean - beside, "Difference, %": 100 * (spread.mean / beside - 1)}


def _comparable(differences: Mapping[str, str]) -> str:
    """ "yes", or "no" with the weightiest difference in full and the others by their word."""
    if not differences:
        return "yes"
    first, *others = differences.items()
    if len(others) < 2:
        return f"no: {'; '.join(differences.values())}"
    return f"no: {first[1]}; also {', '.join(word for word, _ in others)}"


def _in_full(found: Iterable[Repeats], titles: Titles) -> str:
    """What every setting's runs differ in from the paper's, in a sentence each."""
    settings = {group.setting.name: group.setting for group in found}
    return "".join(
        f" {titles[name]} differs from the paper in: {'; '.join(setting.differences.values())}."
        for name, setting in settings.items()
        if setting.differences
    )


def _is_paper_scale(group: Repeats) -> bool:
    return group.setting.scale == "paper" and group.settings["sampling.guidance_scale"] in (None, 1)
