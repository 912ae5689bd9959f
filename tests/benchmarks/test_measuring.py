"""How long each metric takes, from features like Inception's of 10,000 images. Recorded, never gated: `make bench`.

The sizes of published numbers, 50,000 images, are in tests/evaluation/agreement.py.
"""

import pytest
import torch
from evaluation.agreement import GROUPS, POINTS, generated_set, reference_set

from harness.evaluation.metrics import measure as metrics
from harness.evaluation.metrics import neighbours
from harness.evaluation.metrics.statistics import FrechetFrom, gaussian_of
from harness.evaluation.networks.base import Features
from harness.recipes.metric_names import PAPER

IMAGES = 10_000


@pytest.fixture(scope="module")
def generated() -> tuple[Features, torch.Tensor]:
    return generated_set(IMAGES)


@pytest.fixture(scope="module")
def reference() -> metrics.Reference:
    pool, spatial = reference_set()
    return metrics.Reference(gaussian_of(pool), gaussian_of(spatial), pool[:POINTS].contiguous())


@pytest.mark.parametrize("wanted", [*GROUPS, PAPER], ids=lambda wanted: "+".join(wanted))
def test_measure(benchmark, generated, reference, wanted):
    features, labels = generated
    benchmark.extra_info["images"] = IMAGES
    benchmark.pedantic(
        metrics.measure, args=(features, reference, wanted), kwargs={"labels": labels}, rounds=2, warmup_rounds=1
    )


def test_statistics(benchmark, generated):
    benchmark.pedantic(gaussian_of, args=(generated[0].pool,), rounds=3, warmup_rounds=1)


def test_a_repeated_distance(benchmark, generated, reference):
    """Beside `fd` above: what a distance costs once the reference's root is known."""
    distance, gaussian = FrechetFrom(reference.pool), gaussian_of(generated[0].pool)
    benchmark.pedantic(distance, args=(gaussian,), rounds=3, warmup_rounds=1)


def test_nearest_neighbours_over_their_products(benchmark, generated):
    """The search of a set's own neighbours, and the matrix products that are its floor."""
    points = generated[0].pool
    benchmark.pedantic(lambda: neighbours.Manifold(points).radii(3), rounds=3, warmup_rounds=1)
    if benchmark.enabled:
        operations = points.shape[0] ** 2 * points.shape[1]  # half of all pairs, a product and a sum each
        benchmark.extra_info["gigaflops"] = round(operations / benchmark.stats.stats.median / 1e9)
