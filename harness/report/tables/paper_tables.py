"""The tables of the SD-DiT paper, each published value beside what was measured, and later methods for context.

A measured value stands in a published row where method, size, steps and metric are the same. Runs of any other setting
have rows of their own below, under their own metric: nothing is subtracted from a number of another kind. Where
something else differs, precision or a knob, the difference is told with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness.papers.published import Target
from harness.papers.sddit import numbers as published
from harness.records.evidence import Evidence
from harness.records.panels import FINAL, describe, differing
from harness.report.figures.figure3 import Spread
from harness.report.tables.component_table import table3
from harness.report.tables.paper_rows import (
    FAMILIES,
    HOW_TO_READ,
    JUDGED,
    MEASURED_AS,
    MODEL,
    NOT_BUILT,
    NOT_MEASURED,
    OF_THE_PAPER,
    PRINTED_AS,
    SHARED,
    Printing,
    Row,
    comparable,
    difference,
    family,
    in_full,
    is_paper_scale,
    measured,
    metric_order,
    printing_of,
    printings,
)
from harness.report.tables.paper_settings import table4
from harness.report.tables.repeats import Repeats, repeats_of, titles_of
from harness.report.tables.table import Column, Table


def tables(evidence: Evidence) -> tuple[Table, Table, Table, Table]:
    """Tables 1 to 4, published beside measured."""
    found = [group for setting in evidence.settings for group in repeats_of(setting)]
    titles = titles_of(evidence.settings)
    return _table1(found, titles), _table2(found, titles), table3(found, titles), table4(evidence.runs)


def context(evidence: Evidence) -> Table:
    """FID-50K of the paper's and of later methods, and of what was measured under the same conditions."""
    rows: list[Row] = []
    for record in published.context().to_dict("records"):
        printing = printing_of(record)
        rows.append(
            {
                "Compared at": record["group"],
                "Model": printing.model,
                "FID-50K": "missing" if record["quality"] == "missing" else printing.cell,
                "Conditions": record["protocol"],
                "Source": printing.source,
            }
        )
    for group in (group for setting in evidence.settings for group in repeats_of(setting)):
        if is_paper_scale(group) and group.is_default() and (group.steps, group.batch_size) == (400_000, 256):
            value = Spread.of(list(group.values("fid50k").values()))
            rows.append(
                {
                    "Compared at": "400k x 256",
                    "Model": group.model,
                    "FID-50K": value.mean,
                    "FID-50K, SD": value.sd,
                    "Conditions": f"measured here: {group.setting.title}; n = {value.n}",
                    "Source": "measured",
                }
            )
    places = {group: i for i, group in enumerate(dict.fromkeys(row["Compared at"] for row in rows))}
    return Table(
        name="context",
        title="Later methods, for context",
        columns=(
            Column("Compared at"),
            Column("Model"),
            Column("FID-50K", "number", decimals=2, spread="FID-50K, SD"),
            Column("Conditions"),
            Column("Source"),
        ),
        rows=tuple(sorted(rows, key=lambda row: places[row["Compared at"]])),
        caption="FID-50K on ImageNet 256, lower is better. 400k x 256: after 400,000 steps of 256 images, without "
        "guidance. 80 epochs: as long, at another batch. longest: each method's longest published training. Many of "
        "the later methods use a pretrained vision encoder, which SD-DiT does not. missing: no text with the value "
        "was found.",
    )


# Tables 1 and 2 --------------------------------------------------------------------------------------------------


def _table1(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    return Table(
        name="table1",
        title="Table 1: FID by model and training steps",
        columns=(*MODEL, *SHARED, *JUDGED),
        rows=tuple(_against(printings("1"), found, titles, lambda group: [group.setting.metric])),
        caption=f"FID-50K on ImageNet 256 without guidance; lower is better. {HOW_TO_READ} Below the published rows "
        f"stand runs of other settings, each under its own metric.{in_full(found, titles)}",
    )


def _table2(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    rows = list(_against(printings("2"), found, titles, _metrics_of_table2))
    metrics = sorted({str(row["Metric"]) for row in rows}, key=metric_order)
    return Table(
        name="table2",
        title="Table 2: five metrics against generative models of its time",
        columns=(*MODEL, *SHARED, *JUDGED),
        rows=tuple(sorted(rows, key=lambda row: metrics.index(str(row["Metric"])))),  # stable: like under like
        caption="ImageNet 256; the paper quotes the models from VQGAN to LDM-4, and compares the others without "
        "guidance. Lower is better for FID and sFID, higher for IS, precision and recall. Each metric has its own "
        f"block of rows. {HOW_TO_READ}{in_full(found, titles)}",
    )


def _against(
    printings: Sequence[Printing],
    found: Sequence[Repeats],
    titles: Mapping[str, str],
    metrics_of: Callable[[Repeats], Iterable[str]],
) -> Iterator[Row]:
    """The published rows, each with the runs that belong beside it, then the runs that stand beside none."""
    targets = [printing.target for printing in printings if printing.target]
    beside = set()
    for printing in printings:
        groups = _beside(printing, found)
        beside |= {(id(g), MEASURED_AS[printing.metric]) for g in groups if g.steps == printing.steps}
        yield from (_row(printing, group, titles) for group in groups) if groups else [_row(printing, None, titles)]
    for group in found:
        if group.is_default():
            for metric in metrics_of(group):
                if (id(group), metric) not in beside:
                    yield _own_row(group, metric, found, titles, targets)


def _beside(printing: Printing, found: Iterable[Repeats]) -> list[Repeats]:
    """The runs of a published row: those of its steps, else longer ones that were evaluated at its steps."""
    target = printing.target
    if target is None or target.steps is None:
        return []
    alike = [
        group
        for group in found
        if is_paper_scale(group)
        and group.is_default()
        and (group.method, group.setting.size.lower(), group.patch) == (target.method, target.size, target.patch)
        and target.batch_size in (None, group.batch_size)
        and group.values(MEASURED_AS[printing.metric], target.steps)
    ]
    return [group for group in alike if group.steps == target.steps] or alike


def _row(printing: Printing, group: Repeats | None, titles: Mapping[str, str]) -> Row:
    row: Row = {
        "Setting": OF_THE_PAPER,
        "Model": printing.model,
        "Training steps": printing.steps,
        "Batch": printing.batch_size,
        "Metric": printing.metric,
        "Published": printing.cell,
        "Source": printing.source,
    }
    if group is None or printing.target is None:
        return row | {"Comparable": NOT_MEASURED if printing.target else NOT_BUILT}
    values = group.values(MEASURED_AS[printing.metric], printing.steps)
    row |= {"Setting": titles[group.setting.name]} | measured(values, printing.metric)
    row |= difference(Spread.of(list(values.values())).mean, printing)
    differences = group.differences([printing.target])
    within = "" if differences.pop("steps", None) is None else f", within runs of {group.steps:,} steps"
    return row | {"Comparable": comparable(differences) + within}


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
    name = PRINTED_AS.get(metric, metric)
    return {
        "Setting": titles[group.setting.name],
        "Model": group.model + describe(group.settings, differing(alike)),
        "Training steps": group.steps,
        "Batch": group.batch_size,
        "Metric": name,
        **measured(group.values(metric), name),
        "Comparable": comparable(group.differences(targets)),
    }


def _metrics_of_table2(group: Repeats) -> list[str]:
    names = {name for trial in group.trials for name in trial.run.result.evaluations[FINAL].metrics}
    return [name for name in names if family(name) in FAMILIES and group.values(name)]
