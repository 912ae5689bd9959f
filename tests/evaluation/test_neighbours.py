from dataclasses import replace

import numpy as np
import pytest
import torch
from agreement import adm_precision_recall, density_and_coverage, inception_like
from torch import Tensor

from harness.evaluation.metrics import neighbours
from harness.evaluation.metrics.neighbours import ADM_FP16, Manifold
from harness.evaluation.networks.base import Features
from harness.system import torchvision_guard

torchvision_guard.install()

from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

BOTH = ("precision", "recall")


def shares(generated: Tensor, reference: Tensor, wanted=neighbours.METRICS, **kinds) -> tuple[float, ...]:
    return tuple(Manifold(reference, **kinds).shares(generated, wanted).values())


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """1,100 generated points and 700 of a reference, like Inception's: neither is cut evenly."""
    return inception_like(1_100, seed=1, drift=0.05), inception_like(700, seed=2)


@pytest.fixture(params=[64, 300, 1024], autouse=True)
def block(request, monkeypatch) -> int:
    """Every property holds however the points are cut into blocks."""
    monkeypatch.setitem(neighbours.BLOCK, "cpu", request.param)
    return request.param


def test_precision_and_recall_are_torch_fidelity_s(sets):
    theirs = prc_features_to_metric(*sets, prc_neighborhood=3, save_cpu_ram=True, verbose=False)
    precision, recall = shares(*sets, BOTH)
    assert (np.float32(precision), np.float32(recall)) == (theirs["precision"], theirs["recall"])
    assert 0.1 < precision < 0.9
    assert 0.1 < recall < 0.99


def test_precision_and_recall_are_adm_s_formula_in_float32(sets, real: Features):
    for generated, reference in (sets, sets[::-1], (real.pool[:800], real.pool[1000:])):
        assert shares(generated, reference, BOTH) == adm_precision_recall(generated.numpy(), reference.numpy())


def test_density_and_coverage_are_the_paper_s_formula(sets, real: Features):
    for generated, reference in (sets, (real.pool[:800], real.pool[1000:])):
        expected = density_and_coverage(generated.numpy(), reference.numpy())
        assert shares(generated, reference, ("density", "coverage")) == pytest.approx(expected, abs=1e-12)


def test_each_metric_is_the_same_alone_and_among_others(sets):
    generated, reference = (points[:300] for points in sets)
    together = Manifold(reference).shares(generated)
    manifold = Manifold(reference)  # asked several times
    for metric, value in together.items():
        assert manifold.shares(generated, [metric]) == {metric: value}
    assert list(manifold.shares(generated, ["coverage", "precision"])) == ["coverage", "precision"]


def test_a_collapsed_generator_is_precise_and_recalls_nothing_and_a_scattered_one_the_opposite(real: Features):
    few = real.pool[::3]
    noise = torch.randn(300, few.shape[1], generator=torch.Generator().manual_seed(0))
    collapsed = few[:1] + 1e-3 * noise
    precision, recall, density, coverage = shares(collapsed, few)
    assert precision == 1
    assert recall < 0.01
    assert density > 0
    assert coverage < 0.05
    assert shares(few, collapsed, BOTH) == (recall, precision)


@pytest.mark.parametrize("seed", range(6))
def test_a_tie_is_inside_for_precision_and_recall_and_outside_for_density_and_coverage(seed):
    """Distances between copies of a point are 0, or would be without rounding, which goes either way."""
    generator = torch.Generator().manual_seed(seed)
    copies = (3 + torch.rand(1, 500, generator=generator)).expand(30, -1)
    reference = torch.cat([copies, torch.rand(100, 500, generator=generator)])
    radii = Manifold(reference).radii(3)
    assert 0 <= radii[:30].min() <= radii[:30].max() < 0.01 < radii[30:].min()
    if radii[:30].max() == 0:
        precision, recall, density, coverage = shares(copies.contiguous(), reference)
        assert (precision, recall, density, coverage) == (1, 30 / 130, 0, 0)


def test_distances_of_points_far_from_zero_keep_their_digits(sets):
    """Squared lengths of 200,000 would leave a float32 nothing after the point."""
    generated, reference = (points[:300] for points in sets)
    assert shares(generated + 10, reference + 10, BOTH) == shares(generated, reference, BOTH)


def test_radii_do_not_count_a_point_as_its_own_neighbour():
    line = torch.arange(10.0)[:, None] ** 2
    radii = Manifold(line).radii(3)
    assert radii[0] == (9 - 0) ** 2  # after 1 and 4
    assert radii[3] == (9 - 1) ** 2  # after 4 and 16


@pytest.mark.parametrize("onednn", [True, False])
def test_the_precision_of_the_process_changes_nothing(sets, monkeypatch, onednn):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    generated, reference = (points[:200] for points in sets)
    expected = shares(generated, reference)
    matmul = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert shares(generated, reference) == expected
    finally:
        torch.set_float32_matmul_precision(matmul)


def test_without_onednn_the_values_are_the_same(sets, monkeypatch):
    generated, reference = (points[:200] for points in sets)
    expected = shares(generated, reference)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert shares(generated, reference) == expected


# ADM's float16 ---------------------------------------------------------------------------------------------------


def test_the_fp16_variant_rounds_as_adm_s_formula_in_float16(sets, block):
    arithmetic = replace(ADM_FP16, block=block)
    for factor in (1, 7):  # 7: products overflow where lengths do not, and the distance is then clipped at 0
        generated, reference = (factor * points for points in sets)
        expected = adm_precision_recall(generated.numpy(), reference.numpy(), half=True, block=block)
        assert shares(generated, reference, BOTH, arithmetic=arithmetic) == expected


def test_fp16_distances_raise_precision_and_recall_a_little(sets):
    """0.0005 to 0.003 at the sizes that published numbers have; of sets as small as these, a little more."""
    half, full = (shares(*sets, BOTH, **kind) for kind in ({"arithmetic": ADM_FP16}, {}))
    assert half != full
    for one, other in zip(half, full, strict=True):
        assert -0.002 < one - other < 0.02


def test_a_block_that_float16_cannot_hold_is_computed_in_float32(sets):
    """Squared lengths of 230,000 overflow; as in ADM, the whole block is then not rounded at all."""
    generated, reference = (points[:300] * 20 for points in sets)
    expected = shares(generated, reference, BOTH)
    assert shares(generated, reference, BOTH, arithmetic=ADM_FP16) == expected
    one = torch.cat([sets[0][:299], generated[:1]])  # a single point is enough
    assert shares(one, one.flip(0), BOTH, arithmetic=ADM_FP16) == shares(one, one.flip(0), BOTH)


def test_adm_s_blocks_are_ten_thousand_points():
    assert (ADM_FP16.block, ADM_FP16.symmetric) == (10_000, False)
