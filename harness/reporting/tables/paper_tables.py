"""Tables 1 to 3 of the SD-DiT paper, each published value beside what was measured, and later methods for context.

A measured value is in the row of a published one where method, size, steps and metric are the same. Runs of any other
setting have rows of their own below, under their own metric, and no difference is computed for them. Where something
else differs, precision or a knob, the row names the difference.
"""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.papers.published import Target, target_of
from harness.papers.sddit import numbers as published
from harness.papers.sddit.numbers import COMPONENTS
from harness.recipes.naming import digest
from harness.records.evidence import Evidence
from harness.records.panels import FINAL, describe, differing
from harness.reporting.tables.paper_settings import table4
from harness.reporting.tables.repeats import Repeats, repeats_of, titles_of
from harness.reporting.tables.table import Cell, Table, frame_of

Row = dict[str, Cell]
Printed = Mapping[str, Any]  # a published value with its model, steps and source, and the `target` it was measured on

MEASURED_AS = {
    "FID-50K": "fid50k",
    "sFID": "sfid50k",
    "IS": "is50k",
    "Precision": "precision50k",
    "Recall": "recall50k",
}
PRINTED_AS = {name: metric for metric, name in MEASURED_AS.items()}
TWO_DECIMALS = ("FID-50K", "Precision", "Recall")  # as the papers print them; the data keep no zeros at the end
FAMILIES = ("fid", "fd", "sfid", "sfd", "is", "precision", "recall")  # of metrics, in the order of Table 2
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

FULL = next(iter(COMPONENTS))
ABLATED = ("mask_ratio", "discriminate")


def tables(evidence: Evidence) -> list[Table]:
    """Tables 1 to 4, published beside measured."""
    found = [group for setting in evidence.settings for group in repeats_of(setting)]
    titles = titles_of(evidence.settings)
    return [_table1(found, titles), _table2(found, titles), _table3(found, titles), table4(evidence.runs)]


def context(evidence: Evidence) -> Table:
    """FID-50K of the paper's and of later methods, and of what was measured under the same conditions."""
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
    for group in (group for setting in evidence.settings for group in repeats_of(setting)):
        if _is_paper_scale(group) and group.is_default() and (group.steps, group.batch_size) == (400_000, 256):
            mean, sd = _mean_and_sd(group.values("fid50k").values())
            conditions = f"measured here: {group.setting.title}; n = {len(group.values('fid50k'))}"
            rows.append(
                {
                    "Compared at": "400k x 256",
                    "Model": group.model,
                    "FID-50K": mean,
                    "FID-50K, SD": sd,
                    "Conditions": conditions,
                    "Source": "measured",
                }
            )
    places = {group: i for i, group in enumerate(dict.fromkeys(row["Compared at"] for row in rows))}
    return Table(
        "context",
        "Later methods, for context",
        frame_of(sorted(rows, key=lambda row: places[row["Compared at"]])),
        "FID-50K on ImageNet 256, lower is better. 400k x 256: after 400,000 steps of 256 images, without guidance. "
        "80 epochs: as long, at another batch. longest: each method's longest published training. Many of the later "
        "methods use a pretrained vision encoder, which SD-DiT does not. missing: no text with the value was found.",
        {"FID-50K": ",.2f"},
    )


# Tables 1 and 2 --------------------------------------------------------------------------------------------------


def _table1(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    rows = _against(_printed("1"), found, titles, lambda group: [group.setting.metric])
    return Table(
        "table1",
        "Table 1: FID by model and training steps",
        frame_of(rows, (*MODEL, *VALUES, *JUDGED)),
        f"FID-50K on ImageNet 256 without guidance; lower is better. {HOW_TO_READ} Below the published rows stand runs "
        f"of other settings, each under its own metric.{_in_full(found, titles)}",
        FORMATS,
    )


def _table2(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    rows = _against(_printed("2"), found, titles, _metrics_of_table2)
    return Table(
        "table2",
        "Table 2: five metrics against generative models of its time",
        frame_of(sorted(rows, key=lambda row: _metric_order(str(row["Metric"]))), (*MODEL, *VALUES, *JUDGED)),
        "ImageNet 256; the paper quotes the models from VQGAN to LDM-4, and compares the others without guidance. "
        "Lower is better for FID and sFID, higher for IS, precision and recall. Each metric has its own block of rows. "
        f"{HOW_TO_READ}{_in_full(found, titles)}",
        FORMATS,
    )


def _against(
    records: Sequence[Printed],
    found: Sequence[Repeats],
    titles: Mapping[str, str],
    metrics_of: Callable[[Repeats], Iterable[str]],
) -> Iterator[Row]:
    """The published rows, each with the runs that belong beside it, then the runs that stand beside none."""
    targets = [record["target"] for record in records if record["target"]]
    beside = set()
    for record in records:
        groups = _beside(record, found)
        beside |= {(id(group), MEASURED_AS[record["metric"]]) for group in groups if group.steps == _steps(record)}
        yield from [_row(record, group, titles) for group in groups] or [_unmeasured(record)]
    for group in found:
        if group.is_default():
            for metric in metrics_of(group):
                if (id(group), metric) not in beside:
                    yield _own_row(group, metric, found, titles, targets)


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
        and (group.method, group.setting.size.lower(), group.patch) == (target.method, target.size, target.patch)
        and target.batch_size in (None, group.batch_size)
        and group.values(MEASURED_AS[record["metric"]], target.steps)
    ]
    return [group for group in alike if group.steps == target.steps] or alike


def _unmeasured(record: Printed) -> Row:
    return _published(record) | {"Comparable": NOT_MEASURED if record["target"] else NOT_BUILT}


def _row(record: Printed, group: Repeats, titles: Mapping[str, str]) -> Row:
    values = group.values(MEASURED_AS[record["metric"]], _steps(record))
    differences = group.differences([record["target"]])
    within = "" if differences.pop("steps", None) is None else f", within runs of {group.steps:,} steps"
    return {
        **_published(record),
        "Setting": titles[group.setting.name],
        **_measured(values, record["value"]),
        "Comparable": _comparable(differences) + within,
    }


def _own_row(
    group: Repeats, metric: str, found: Sequence[Repeats], titles: Mapping[str, str], targets: Sequence[Target]
) -> Row:
    alike = [
        other.settings
        for other in found
        if other.is_default()
        and (other.setting.name, other.model, other.steps, other.batch_size)
        == (group.setting.name, group.model, group.steps, group.batch_size)
    ]
    return {
        "Setting": titles[group.setting.name],
        "Model": group.model + describe(group.settings, differing(alike)),
        "Training steps": group.steps,
        "Batch": group.batch_size,
        "Metric": PRINTED_AS.get(metric, metric),
        **_measured(group.values(metric)),
        "Comparable": _comparable(group.differences(targets)),
    }


def _metrics_of_table2(group: Repeats) -> list[str]:
    names = dict.fromkeys(name for trial in group.trials for name in trial.run.result.evaluations[FINAL].metrics)
    return [name for name in names if _family(name) in FAMILIES and group.values(name)]


def _metric_order(name: str) -> tuple[bool, int, str]:
    return (name not in MEASURED_AS, FAMILIES.index(_family(MEASURED_AS.get(name, name))), name)


def _family(metric: str) -> str:
    return re.split(r"[-@\d]", metric, maxsplit=1)[0]


# Table 3 ---------------------------------------------------------------------------------------------------------


def _table3(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    """The full method, without its loss and without its mask: one set of rows for each setting, steps and batch."""
    records = {record["series"]: record for record in _printed("3")}
    ablations = sorted(_ablations(found), key=lambda own: not _is_table3(own))
    if not any(map(_is_table3, ablations)):
        ablations = [{}, *ablations]
    rows = [row for own in ablations for row in _component_rows(own, records, titles)]
    ratios = ("Published / full", "Measured / full", "Measured / full, SD", "Pairs")
    return Table(
        "table3",
        "Table 3: what each component of SD-DiT brings",
        frame_of(rows, ("Setting", "Component", *MODEL[2:], *VALUES, *ratios, *JUDGED)),
        "Lower is better. Full: SD-DiT with half of the patches masked; without the discriminative loss L_D and its "
        f"teacher; without masking. {HOW_TO_READ} Above 1, the ratio to the full method says that the component helps; "
        "ratios of FID-50K and of another distance are like in sign, not in size. A measured one is the geometric mean "
        f"over pairs of runs of one seed.{_in_full([group for own in ablations for group in own.values()], titles)}",
        FORMATS,
    )


def _ablations(found: Iterable[Repeats]) -> list[dict[str, Repeats]]:
    """The components by name, of runs that differ in nothing else."""
    sets: dict[str, dict[str, Repeats]] = defaultdict(dict)
    for group in found:
        knobs = {"discriminate": True, **group.knobs}  # a run before the knob existed had the loss
        name = next((name for name, wanted in COMPONENTS.items() if wanted.items() <= knobs.items()), None)
        if group.method == "sddit" and name is not None and group.is_default(but=ABLATED):
            rest = {key: value for key, value in group.settings.items() if key.removeprefix("knobs.") not in ABLATED}
            key = {"setting": group.setting.name, "rest": rest, "steps": group.steps, "batch": group.batch_size}
            sets[digest(key)][name] = group
    return list(sets.values())


def _is_table3(own: Mapping[str, Repeats]) -> bool:
    return any(
        _is_paper_scale(group) and (group.setting.size.lower(), group.steps, group.batch_size) == ("s", 400_000, 256)
        for group in own.values()
    )


def _component_rows(
    own: Mapping[str, Repeats], records: Mapping[str, Printed], titles: Mapping[str, str]
) -> Iterator[Row]:
    of_the_paper = not own or _is_table3(own)
    for name in COMPONENTS:
        record = records[name]
        row = {
            **_published(record),
            "Component": name,
            "Published / full": record["value"] / records[FULL]["value"],
            "Comparable": NOT_MEASURED,
        }
        del row["Model"]
        for group in list(own.values())[:1]:
            metric = group.setting.metric
            row |= {
                "Setting": titles[group.setting.name],
                "Training steps": group.steps,
                "Batch": group.batch_size,
                "Metric": PRINTED_AS.get(metric, metric),
            }
        if not of_the_paper:
            row["Published"] = None
        if name in own:
            group = own[name]
            values = group.values(group.setting.metric)
            differences = group.differences([record["target"]] if record["target"] else [])
            for knob in ABLATED:
                differences.pop(knob, None)
            row |= _measured(values, record["value"] if of_the_paper else None) | _paired(values, own.get(FULL))
            row["Comparable"] = _comparable(differences)
        yield row


def _paired(values: Mapping[int, float], full: Repeats | None) -> Row:
    """The geometric mean ratio to the full method's values, over the seeds that both have."""
    whole = full.values(full.setting.metric) if full is not None else {}
    logs = [math.log(value / whole[seed]) for seed, value in values.items() if whole.get(seed, 0) > 0 and value > 0]
    if not logs:
        return {"Pairs": 0}
    mean, sd = _mean_and_sd(logs)
    ratio = math.exp(mean)
    return {"Measured / full": ratio, "Measured / full, SD": sd and ratio * sd, "Pairs": len(logs)}


# What the rows are made of ---------------------------------------------------------------------------------------


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


def _steps(record: Printed) -> int | None:
    return None if math.isnan(record["training_steps_k"]) else round(record["training_steps_k"] * 1000)


def _as_printed(record: Printed) -> str:
    return f"{record['value']:.2f}" if record["metric"] in TWO_DECIMALS else str(record["value_text"])


def _source(record: Printed) -> str:
    return f"{record['source']} ({record['quality']})"


def _measured(values: Mapping[int, float], beside: float | None = None) -> Row:
    """Mean and spread over the seeds, and the difference from the published value `beside` them."""
    mean, sd = _mean_and_sd(values.values())
    row: Row = {"Measured": mean, "Measured, SD": sd, "n": len(values)}
    return row if beside is None else row | {"Difference": mean - beside, "Difference, %": 100 * (mean / beside - 1)}


def _mean_and_sd(values: Collection[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _comparable(differences: Mapping[str, str]) -> str:
    """ "yes", or "no" with the weightiest difference in full and the others by their word."""
    if not differences:
        return "yes"
    first, *others = differences.items()
    if len(others) < 2:
        return f"no: {'; '.join(differences.values())}"
    return f"no: {first[1]}; also {', '.join(word for word, _ in others)}"


def _in_full(found: Iterable[Repeats], titles: Mapping[str, str]) -> str:
    """What every setting's runs differ in from the paper's, in a sentence each."""
    settings = {group.setting.name: group.setting for group in found}
    return "".join(
        f" {titles[name]} differs from the paper in: {'; '.join(setting.differences.values())}."
        for name, setting in settings.items()
        if setting.differences
    )


def _is_paper_scale(group: Repeats) -> bool:
    return group.setting.scale == "paper" and group.settings["sampling.guidance_scale"] in (None, 1)
