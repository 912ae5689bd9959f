"""What counting decides, at any scale and without a run: parameters, arithmetic, and what a published speed would ask.

The counts are those of `harness recipes count --out counts.json`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.claims.arms import unchosen_differences
from harness.claims.comparison import Comparison
from harness.claims.machines import Index
from harness.claims.verdict import Found
from harness.records.evidence import Evidence
from harness.records.looks import look

PARAMETERS_WITHIN = 0.001
WHERE: dict[str, Any] = {"scale": "paper", "title": "the networks, counted", "name": "counts"}
ARITHMETIC = "arithmetic"
STEP: dict[str, Any] = {"scale": "paper", "title": "the arithmetic of a step, counted", "name": ARITHMETIC}
GMACS, TFLOPS = 1e9, 1e12
FLOPS_PER_MAC = 2


@dataclass(frozen=True)
class Parameters:
    """The networks that are sampled have the paper's numbers of parameters, in millions, to within 0.1%."""

    published: Mapping[str, float]  # millions of parameters by recipe
    fitted: tuple[str, ...] = ()  # recipes that were fitted to that number, so that it tests nothing

    def __call__(self, index: Index) -> Iterator[Found]:
        comparisons, lacking, remarks = [], [], []
        for recipe, millions in self.published.items():
            counted = _parameters(index.evidence, recipe)
            if counted is None:
                lacking.append(f"no count of {recipe}")
                continue
            params, source = counted
            network = _titled(recipe)
            remarks.append(f"{network} {params / 1e6:.2f} M, paper {millions} M")
            if recipe in self.fitted:
                remarks[-1] += " (fitted to it, so no check)"
                continue
            comparisons.append(
                Comparison(
                    subject=network,
                    other="the paper's",
                    quantity="parameters",
                    values=((params / 1e6,), (millions,)),
                    claimed="within",
                    bound=1 + PARAMETERS_WITHIN,
                    exact=True,
                    names=((source,), ()),
                )
            )
        yield Found(
            tuple(comparisons),
            tuple(lacking),
            remarks=tuple(remarks),
            **WHERE,
        )


def _parameters(evidence: Evidence, recipe: str) -> tuple[int, str] | None:
    """Parameters of the network that a recipe samples: from its count, else from a run of it with the paper's knobs."""
    count = evidence.count(recipe)
    if count is not None:
        return count.params, f"count of {recipe}"
    for run in evidence.runs:
        method, size = run.result.method, run.result.size
        ours = f"{method}-{size}" == recipe and run.config["network"].get("patch") == 2
        if ours and not unchosen_differences(method, run.config["knobs"]):
            return run.result.params, run.name
    return None


@dataclass(frozen=True)
class StepAtMost:
    """A training step of one recipe takes at most `times` the arithmetic of another's."""

    a: str  # a recipe, or one with settings: "sddit-s:discriminate=false"
    b: str
    times: float

    def __call__(self, index: Index) -> Iterator[Found]:
        found = [(name, index.evidence.count(name)) for name in (self.a, self.b)]
        lacking = tuple(f"no count of {name}" for name, count in found if count is None)
        counts = [count.gmacs_step for _, count in found if count is not None]
        if lacking:
            yield Found(lacking=lacking)
            return
        comparison = Comparison(
            subject=_titled(self.a),
            other=_titled(self.b),
            quantity="multiply-accumulates of a training step",
            values=((counts[0],), (counts[1],)),
            claimed="below",
            bound=self.times,
            exact=True,
            names=((f"count of {self.a}",), (f"count of {self.b}",)),
        )
        remark = f"{counts[0]:.4g} and {counts[1]:.4g} GMAC an image; at most {self.times:g} times is asked"
        yield Found((comparison,), remarks=(remark,), **STEP)


@dataclass(frozen=True)
class Reachable:
    """A published speed asks for at most a `share` of the arithmetic that the devices can do."""

    recipe: str
    speed: float  # published, training steps a second
    batch: int
    devices: int
    tflops: float  # of one device at its peak, in the precision that the paper names
    share: float

    def __call__(self, index: Index) -> Iterator[Found]:
        count = index.evidence.count(self.recipe)
        if count is None:
            yield Found(lacking=(f"no count of {self.recipe}",))
            return
        asked = self.speed * self.batch * count.gmacs_step * GMACS * FLOPS_PER_MAC
        comparison = Comparison(
            subject=f"the arithmetic of {_titled(self.recipe)} at {self.speed:g} steps/s",
            other="the peak",
            quantity=f"TFLOP/s on {self.devices} devices of {self.tflops:g}",
            values=((asked / TFLOPS,), (self.devices * self.tflops,)),
            claimed="below",
            bound=self.share,
            exact=True,
            names=((f"count of {self.recipe}",), ()),
        )
        remark = f"{asked / TFLOPS:.4g} of {self.devices * self.tflops:g} TFLOP/s; at most {self.share:.0%} is asked"
        yield Found((comparison,), remarks=(remark,), **STEP)


def _titled(recipe: str) -> str:
    """ "SD-DiT-S/2 discriminate=false"."""
    name, *settings = recipe.split(":")
    method, _, size = name.partition("-")
    return " ".join([f"{look(method).title}-{size.upper()}/2", *settings])
