import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.sources import Dataset
from harness.errors import DataError
from harness.evaluation.distances import (
    class_accuracy,
    frechet_distance,
    inception_score,
    measure,
    metric_name,
    precision_and_recall,
)
from harness.evaluation.features import FeatureNetwork, Features


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exactly(mean: Tensor, deviations: Tensor, seed: int) -> Tensor:
    """500 points whose sample mean is `mean` and whose sample covariance is diagonal, with these deviations."""
    points = noise(500, len(mean), seed=seed)
    points = points - points.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T
    return whitened * deviations + mean


def some(features: Features, indices: Tensor | slice) -> Features:
    return Features(*(part[indices] for part in features))


def changed(features: Features, part: str, value: float) -> Features:
    values = getattr(features, part).clone()
    values[2, 3] = value
    return features._replace(**{part: values})


def test_frechet_distance_is_the_closed_form_for_known_gaussians():
    mean, wide, narrow = torch.arange(6).double(), torch.linspace(1, 3, 6).double(), torch.linspace(2, 0.5, 6).double()
    a, b = exactly(torch.zeros(6).double(), wide, seed=1), exactly(mean, narrow, seed=2)
    closed_form = (mean**2).sum() + ((wide - narrow) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(closed_form.item(), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_takes_its_mean_in_float64():
    """The true shift is 2**-11 in each of 4 features; float32 sums of these 20,001 numbers are not that exact."""
    points = (noise(20_001, 4) + 4096).float()
    assert frechet_distance(points, points + 2**-11) == pytest.approx(4 * 2**-22, rel=1e-2)


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")  # clean-fid passes it
@pytest.mark.filterwarnings("ignore:Matrix is singular")  # SciPy about a feature that is 0 for every digit
@pytest.mark.parametrize("part", ["pool", "spatial"])
def test_frechet_distance_agrees_with_clean_fid(real: Features, part):
    from cleanfid import fid  # after distances, which has made torchvision importable

    features = getattr(real, part)
    a, b = features[:900].double().numpy(), features[900:].double().numpy()
    theirs = fid.frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(features[:900], features[900:]) == pytest.approx(theirs, rel=1e-6)


def test_frechet_distance_of_a_set_from_itself_is_zero_in_any_order(real: Features):
    assert frechet_distance(real.pool, real.pool.flip(0)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("count", [700, 5_000, 12_000])
def test_inception_score_is_the_exponent_of_the_information_between_image_and_class(count):
    logits = 3 * noise(count, 10)
    scores = []
    for block in np.split(logits.softmax(1).numpy(), range(5_000, count, 5_000)):
        marginal = block.mean(0)
        scores.append(np.exp((block * np.log(block)).sum(1).mean() - (marginal * np.log(marginal)).sum()))
    assert inception_score(logits) == pytest.approx(np.mean(scores), rel=1e-12)


def test_inception_score_runs_from_one_to_the_number_of_classes():
    assert inception_score(torch.zeros(600, 10)) == pytest.approx(1)
    assert inception_score(100 * torch.eye(10).repeat(60, 1)) == pytest.approx(10)


def test_inception_score_takes_images_in_the_order_given():
    sorted_by_class = 100 * torch.eye(10).repeat_interleave(1_000, 0)
    assert inception_score(sorted_by_class) == pytest.approx(5)  # two blocks of five classes each
    assert inception_score(100 * torch.eye(10).repeat(1_000, 1)) == pytest.approx(10)


def test_a_collapsed_generator_is_precise_and_recalls_nothing_and_a_scattered_one_the_opposite(real: Features):
    collapsed = (real.pool[:1] + 1e-3 * noise(500, real.pool.shape[1])).float()
    precision, recall = precision_and_recall(collapsed, real.pool)
    assert precision == 1
    assert recall < 0.01
    assert precision_and_recall(real.pool, collapsed) == (recall, precision)


def test_class_accuracy_is_the_share_of_images_of_the_class_asked_for():
    assert class_accuracy(torch.eye(4), torch.tensor([0, 1, 3, 2])) == 0.5


def test_half_of_the_digits_is_near_the_other_half_and_noise_is_far(network: FeatureNetwork, real, digits: Dataset):
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits), generator=generator)[:1_600].reshape(2, 800)
    halves = measure(some(real, order[0]), digits.labels[order[0]], some(real, order[1]), "digits")
    static = network(torch.randint(256, (800, 8, 8, 1), generator=generator).to(torch.uint8))
    far = measure(static, torch.arange(800) % 10, real, "digits")
    assert halves["fd-digits@800"] < 1 < 20 < far["fd-digits@800"]
    assert halves["sfd-digits@800"] < 2 < 20 < far["sfd-digits@800"]
    assert far["is-digits@800"] < 2 < 8 < halves["is-digits@800"]
    assert far["precision-digits@800"] < 0.1 < 0.8 < halves["precision-digits@800"]
    assert far["recall-digits@800"] < 0.1 < 0.8 < halves["recall-digits@800"]
    assert far["class_accuracy-digits@800"] < 0.2 < 0.98 < halves["class_accuracy-digits@800"]


def test_class_accuracy_is_not_claimed_for_inception_whose_classes_are_numbered_otherwise(real, digits: Dataset):
    names = set(measure(real, digits.labels, real, "inception"))
    assert names == {"fid1797", "sfid1797", "is1797", "precision1797", "recall1797"}


@pytest.mark.parametrize(
    ("metric", "network", "n", "name"),
    [
        ("fd", "digits", 1_000, "fd-digits@1k"),
        ("class_accuracy", "digits", 1_797, "class_accuracy-digits@1797"),
        ("sfd", "digits", 1_500, "sfd-digits@1.5k"),
        ("is", "digits", 50, "is-digits@50"),
        ("fd", "digits", 1_050, "fd-digits@1050"),
        ("fd", "inception", 50_000, "fid50k"),
        ("sfd", "inception", 10_000, "sfid10k"),
        ("recall", "inception", 50_000, "recall50k"),
    ],
)
def test_a_metric_s_name_carries_the_number_of_images_and_the_network(metric, network, n, name):
    assert metric_name(metric, network, n) == name


@pytest.mark.parametrize("part", Features._fields)
@pytest.mark.parametrize("kind", ["generated", "reference"])
def test_features_that_are_not_finite_are_refused(real: Features, part, kind):
    sound, broken = some(real, slice(50)), changed(some(real, slice(50)), part, float("nan"))
    generated, reference = (broken, sound) if kind == "generated" else (sound, broken)
    with pytest.raises(DataError, match=rf"1 of the [\d,]+ {part} features of the {kind} images"):
        measure(generated, torch.zeros(50), reference, "digits")


def test_too_few_images_for_three_neighbours_are_refused(real: Features):
    with pytest.raises(DataError, match=r"4 generated images are too few.*at least 5"):
        measure(some(real, slice(4)), torch.zeros(4), real, "digits")
    with pytest.raises(DataError, match="4 reference images are too few"):
        measure(some(real, slice(5)), torch.zeros(5), some(real, slice(4)), "digits")
    measure(some(real, slice(5)), torch.zeros(5), some(real, slice(5)), "digits")


@pytest.mark.parametrize("part", Features._fields)
def test_features_of_two_networks_are_not_compared(real: Features, part):
    other = real._replace(**{part: getattr(real, part)[:, :-1]})
    with pytest.raises(DataError, match=f"{part} features each, reference images"):
        measure(real, torch.zeros(1797), other, "digits")


def test_every_generated_image_needs_a_label(real: Features):
    with pytest.raises(DataError, match="10 labels for 1797 generated images"):
        measure(real, torch.zeros(10), real, "digits")
