"""Table 3 of the SD-DiT paper: what its loss and its masking bring, as published and as measured."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.recipes.config import digest
from harness.report.figures.figure3 import Spread
from harness.report.tables.paper_rows import (
    HOW_TO_READ,
    JUDGED,
    NOT_MEASURED,
    OF_THE_PAPER,
    PRINTED_AS,
    SHARED,
    Printing,
    Row,
    comparable,
    difference,
    in_full,
    is_paper_scale,
    measured,
    printings,
)
from harness.report.tables.repeats import Repeats
from harness.report.tables.table import Column, Table

COMPONENTS: dict[str, Mapping[str, float | bool]] = {  # as the published rows call them
    "full (mask 50%)": {"mask_ratio": 0.5, "discriminate": True},
    "w/o L_D (mask 50%)": {"mask_ratio": 0.5, "discriminate": False},
    "w/o mask (ratio 0)": {"mask_ratio": 0.0, "discriminate": True},
}
FULL = next(iter(COMPONENTS))
VARIED_HERE = ("knobs.mask_ratio", "knobs.discriminate")


def table3(found: Sequence[Repeats], titles: Mapping[str, str]) -> Table:
    """The full method, without its loss and without its mask: one set of rows for each setting, steps and batch."""
    published = {printing.series: printing for printing in printings("3")}
    sets = _ablations(found)
    rows = [row for own in sets if _is_table3(own) for row in _component_rows(own, published, titles)]
    rows = rows or list(_component_rows({}, published, titles))
    rows += [row for own in sets if not _is_table3(own) for row in _component_rows(own, published, titles)]
    return Table(
        name="table3",
        title="Table 3: what each component of SD-DiT brings",
        columns=(
            Column("Setting"),
            Column("Component"),
            Column("Training steps", "number"),
            Column("Batch", "number"),
            Column("Metric"),
            *SHARED,
            Column("Published / full", "number", decimals=2),
            Column("Measured / full", "number", decimals=2, spread="Measured / full, SD"),
            Column("Pairs", "number"),
            *JUDGED,
        ),
        rows=tuple(rows),
        caption="Lower is better. Full: SD-DiT with half of the patches masked; without the discriminative loss L_D "
        f"and its teacher; without masking. {HOW_TO_READ} Above 1, the ratio to the full method says that the "
        "component helps; ratios of FID-50K and of another distance are like in sign, not in size. A measured one is "
        "the geometric mean over pairs of runs of one seed."
        f"{in_full([group for own in sets for group in own.values()], titles)}",
    )


def _ablations(found: Iterable[Repeats]) -> list[dict[str, Repeats]]:
    """The components by name, of runs that differ in nothing else."""
    sets: dict[str, dict[str, Repeats]] = defaultdict(dict)
    for group in found:
        name = next((name for name, knobs in COMPONENTS.items() if knobs.items() <= _components(group).items()), None)
        if group.method == "sddit" and name is not None and group.is_default(but=("mask_ratio", "discriminate")):
            rest = {key: value for key, value in group.settings.items() if key not in VARIED_HERE}
            key = {"setting": group.setting.name, "rest": rest, "steps": group.steps, "batch": group.batch_size}
            sets[digest(key)][name] = group
    return list(sets.values())


def _components(group: Repeats) -> dict[str, Any]:
    return {"discriminate": True, **group.knobs}  # a run before the knob existed had the loss


def _is_table3(own: Mapping[str, Repeats]) -> bool:
    group = next(iter(own.values()))
    size, steps = group.setting.size.lower(), group.steps
    return is_paper_scale(group) and (size, steps, group.batch_size) == ("s", 400_000, 256)


def _component_rows(
    own: Mapping[str, Repeats], published: Mapping[str, Printing], titles: Mapping[str, str]
) -> Iterator[Row]:
    published_full = published[FULL]
    for name in COMPONENTS:
        printing, group = published[name], own.get(name)
        any_group = group or next(iter(own.values()), None)
        unlike = any_group is not None and not _is_table3(own)
        row: Row = {
            "Setting": titles[any_group.setting.name] if any_group else OF_THE_PAPER,
            "Component": name,
            "Training steps": any_group.steps if any_group else printing.steps,
            "Batch": any_group.batch_size if any_group else printing.batch_size,
            "Metric": PRINTED_AS.get(any_group.setting.metric, any_group.setting.metric) if any_group else "FID-50K",
            "Published": None if unlike else printing.cell,
            "Published / full": printing.value / published_full.value,
            "Comparable": NOT_MEASURED,
            "Source": printing.source,
        }
        if group is not None:
            values = group.values(group.setting.metric)
            row |= measured(values, str(row["Metric"])) | _paired(values, own.get(FULL))
            row |= {} if unlike else difference(Spread.of(list(values.values())).mean, printing)
            targets = [printing.target] if printing.target else []
            differences = group.differences(targets)
            for knob in ("mask_ratio", "discriminate"):  # the component itself
                differences.pop(knob, None)
            row["Comparable"] = comparable(differences)
        yield row


def _paired(values: Mapping[int, float], full: Repeats | None) -> Row:
    """The mean ratio to the full method's, over the seeds that both have."""
    whole = full.values(full.setting.metric) if full is not None else {}
    ratios = [value / whole[seed] for seed, value in values.items() if whole.get(seed, 0) > 0 and value > 0]
    if not ratios:
        return {"Pairs": 0}
    logs = Spread.of([math.log(ratio) for ratio in ratios])
    mean = math.exp(logs.mean)  # as the claims have it: a ratio and its inverse count alike
    return {"Measured / full": mean, "Measured / full, SD": logs.sd and mean * logs.sd, "Pairs": logs.n}
