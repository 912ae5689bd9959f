import numpy as np
import pytest
import torch
from agreement import cmmd as cmmd_in_float64
from agreement import inception_like

from harness.evaluation.metrics import kernels
from harness.evaluation.metrics.kernels import cmmd, kernel_distance
from harness.evaluation.networks.base import Features


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, Sec. 4, of all points, with the kernel (xy / D + 1)³."""

    def kernel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def mean_of_pairs(u: np.ndarray) -> float:
        values = kernel(u, u)
        return (values.sum() - np.trace(values)) / (len(u) * (len(u) - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * kernel(x, y).mean()


def test_kid_of_subsets_as_large_as_the_sets_is_the_unbiased_mmd(real: Features):
    x, y = real.pool[:300], real.pool[1000:1300]
    expected = unbiased_mmd(x.double().numpy(), y.double().numpy())
    assert kernel_distance(x, y) == pytest.approx(expected, abs=1e-5)  # float32 inside
    assert expected > 1e-3


def test_kid_of_two_halves_is_near_zero_and_of_something_else_is_not(real: Features):
    a, b = real.pool[::2], real.pool[1::2]
    assert abs(kernel_distance(a, b)) < 0.1 * kernel_distance(a + 0.3, b)


def test_kid_is_a_function_of_its_seed_and_touches_no_global_state(real: Features, capsys):
    halves = real.pool[:600], real.pool[600:]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the global one is meant)
    first, again, other = (kernel_distance(*halves, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("block", [64, 4096])
def test_cmmd_is_the_paper_s_formula_in_float64(monkeypatch, block):
    monkeypatch.setattr(kernels, "BLOCK", block)
    x, y = inception_like(500, seed=1, size=96, drift=0.05), inception_like(330, seed=2, size=96)
    assert cmmd(x, y) == pytest.approx(cmmd_in_float64(x.numpy(), y.numpy()), rel=1e-6)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x), rel=1e-6)


def test_cmmd_looks_at_directions_only_and_of_a_set_from_itself_is_zero(real: Features):
    x, y = real.pool[:200], real.pool[200:400]
    assert cmmd(7 * x, y) == pytest.approx(cmmd(x, y), rel=1e-6)
    assert cmmd(x, x.flip(0)) == pytest.approx(0, abs=1e-9)
