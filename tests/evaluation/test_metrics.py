import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.data.sources import Dataset
from harness.evaluation.metrics import neighbours
from harness.evaluation.metrics.measure import (
    Reference,
    cross_check,
    measure,
    refuse,
    standard_errors,
    unmeasurable_spread,
)
from harness.evaluation.metrics.statistics import gaussian_of
from harness.evaluation.networks.base import FeatureNetwork, Features
from harness.recipes.metric_names import BEYOND, NAMED, OF_POINTS, PAPER, called, default, meant, metric_name, require
from harness.system.errors import DataError, UsageError

ALL = tuple(metric for metric in NAMED if metric != "cmmd")  # what digits give


def some(features: Features, rows) -> Features:
    return Features(*(part[rows] for part in features))


def reference_of(features: Features) -> Reference:
    return Reference(gaussian_of(features.pool), gaussian_of(features.spatial), features.pool)


def network_called(name: str, spatial_size: int | None = 2023, num_classes: int | None = None) -> FeatureNetwork:
    return SimpleNamespace(name=name, spatial_size=spatial_size, num_classes=num_classes)


INCEPTION, CLIP = network_called("inception"), network_called("clip", None)
DIGITS = network_called("digits", 112, "digits")


@pytest.fixture(scope="module")
def halves(real: Features) -> tuple[Features, Reference]:
    order = torch.randperm(1_600, generator=torch.Generator().manual_seed(0)).reshape(2, 800)
    return some(real, order[0]), reference_of(some(real, order[1]))


@pytest.fixture(scope="module")
def labels(digits: Dataset) -> torch.Tensor:
    order = torch.randperm(1_600, generator=torch.Generator().manual_seed(0))
    return digits.labels[order[:800]]


# Values ----------------------------------------------------------------------------------------------------------


def test_half_of_the_digits_is_near_the_other_half_and_noise_is_far(network: FeatureNetwork, halves, labels):
    near = measure(*halves, ALL, labels=labels)
    noise = torch.randint(256, (800, 8, 8, 1), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    far = measure(network(noise), halves[1], ALL, labels=torch.arange(800) % 10)
    assert (near.notes, far.notes) == ([], [])
    near, far = near.values, far.values
    assert near["fd"] < 1 < 20 < far["fd"]
    assert near["sfd"] < 2 < 20 < far["sfd"]
    assert near["fd_infinity"] < near["fd"]
    assert abs(near["kid"]) < 0.01 < far["kid"]
    assert far["is"] < 2 < 8 < near["is"]
    for metric in ("precision", "recall", "precision_adm_fp16", "recall_adm_fp16", "coverage", "density"):
        assert far[metric] < 0.1 < 0.8 < near[metric]
    assert far["class_accuracy"] < 0.2 < 0.98 < near["class_accuracy"]
    for metric in ("precision", "recall"):
        assert near[f"{metric}_adm_fp16"] == pytest.approx(near[metric], abs=0.01)


def test_values_come_in_the_order_wanted_and_are_the_same_alone(halves):
    wanted = ("recall", "kid", "fd", "coverage", "precision")
    together = measure(*halves, wanted).values
    assert tuple(together) == wanted
    for metric in wanted:
        assert measure(*halves, [metric]).values == {metric: together[metric]}


def test_the_seed_decides_kid_and_the_distance_at_infinity_and_nothing_else(halves, labels):
    one, other = (measure(*halves, ALL, labels=labels, seed=seed).values for seed in (0, 1))
    assert {metric for metric in ALL if one[metric] != other[metric]} <= {"kid", "fd_infinity"}
    assert one["fd_infinity"] != other["fd_infinity"]


def test_an_inception_score_of_sorted_images_is_not_given_but_explained():
    logits = 100 * torch.eye(10).repeat_interleave(600, 0)
    generated = Features(torch.zeros(6_000, 2), None, logits)
    found = measure(generated, Reference(None, None, None), ["is"])
    assert found.values == {}
    [note] = found.notes
    assert note.startswith("is left out: the inception score would be")
    mixed = generated._replace(logits=logits[torch.randperm(6_000, generator=torch.Generator().manual_seed(0))])
    assert measure(mixed, Reference(None, None, None), ["is"]).values["is"] == pytest.approx(10, rel=1e-2)


def test_class_accuracy_without_labels_is_left_out_with_a_note(halves):
    found = measure(*halves, ["fd", "class_accuracy"])
    assert set(found.values) == {"fd"}
    assert "class_accuracy" in found.notes[0]


def test_metrics_of_statistics_need_no_points_and_no_logits(halves):
    generated, reference = halves
    bare = generated._replace(spatial=None, logits=None)
    values = measure(bare, Reference(reference.pool, None, None), ["fd"]).values
    assert values == measure(*halves, ["fd"]).values


def test_adm_s_float16_is_used_for_the_metrics_named_so_and_no_others(halves, monkeypatch):
    nothing_is_far = replace(neighbours.ADM_FP16, distances=lambda u, v: torch.zeros(len(u.points), len(v.points)))
    plain = measure(*halves, ["precision", "recall"]).values
    monkeypatch.setattr(neighbours, "ADM_FP16", nothing_is_far)
    values = measure(*halves, ["precision", "precision_adm_fp16", "recall_adm_fp16", "recall"]).values
    assert values == {"precision_adm_fp16": 1, "recall_adm_fp16": 1, **plain}


# Standard errors -------------------------------------------------------------------------------------------------


def test_standard_errors_are_given_for_every_metric_and_repeat(halves, labels):
    errors = standard_errors(*halves, ALL, labels=labels)
    assert tuple(errors) == ALL
    assert all(error > 0 for error in errors.values())
    assert standard_errors(*halves, ("fd", "recall"), labels=labels) == {
        metric: pytest.approx(errors[metric], rel=1e-9) for metric in ("fd", "recall")
    }


def test_the_standard_error_of_a_mean_is_the_known_one(halves, labels):
    """Of class accuracy: the root of p (1 - p) / N. Over 30 seeds, since one estimate from 10 parts is rough."""
    generated, reference = halves
    flipped = torch.where(torch.arange(800) % 4 == 0, labels + 1, labels)
    share = measure(generated, reference, ["class_accuracy"], labels=flipped).values["class_accuracy"]
    errors = [
        standard_errors(generated, reference, ["class_accuracy"], labels=flipped, seed=seed)["class_accuracy"]
        for seed in range(30)
    ]
    assert np.mean(errors) == pytest.approx((share * (1 - share) / 800) ** 0.5, rel=0.15)


def test_metrics_that_a_part_is_too_small_for_have_no_standard_error_and_a_note(halves):
    generated, reference = some(halves[0], slice(49)), halves[1]
    assert set(standard_errors(generated, reference, ["fd", "precision", "fd_infinity"])) == {"fd"}
    note = unmeasurable_spread(["fd", "precision", "fd_infinity"], 49)
    assert note.startswith("precision, fd_infinity without a standard error: a 10th of 49 images")
    assert unmeasurable_spread(["fd", "precision"], 50) is None


# A second opinion ------------------------------------------------------------------------------------------------


def test_clean_fid_agrees_on_the_distances(halves, capsys):
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the global one is meant)
    generated, reference = halves[0]._replace(pool=halves[0].pool + 0.2), halves[1]
    reference = Reference(reference.pool, reference.spatial, reference.points[:500])  # KID draws 500 of 800
    checks = {check.metric: check for check in cross_check(generated, reference, (*PAPER, "kid"))}
    assert set(checks) == {"fd", "sfd", "kid"}
    ours = measure(generated, reference, ("fd", "sfd", "kid")).values
    for metric, check in checks.items():
        assert check.ours == ours[metric]
        assert check.difference == check.ours - check.theirs
        assert check.by == "clean-fid"
        assert check.theirs == pytest.approx(check.ours, rel=1e-5 if metric == "kid" else 1e-6)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert capsys.readouterr().out == ""


def test_a_cross_check_takes_values_that_are_known_already(halves):
    [check] = cross_check(*halves, ["fd", "precision"], values={"fd": 5.0})
    assert (check.ours, check.difference) == (5.0, 5.0 - check.theirs)


def test_a_statistic_that_clean_fid_fails_on_is_left_out_and_logged(halves, monkeypatch, caplog):
    from cleanfid import fid

    def fails(*statistics):
        raise ValueError("Imaginary component 3.0")

    monkeypatch.setattr(fid, "frechet_distance", fails)
    with caplog.at_level(logging.WARNING):
        assert [check.metric for check in cross_check(*halves, ["fd", "kid"])] == ["kid"]
    assert "Imaginary component 3.0" in caplog.text


# Names -----------------------------------------------------------------------------------------------------------


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
        ("fd_infinity", "inception", 50_000, "fid_infinity50k"),
        ("kid", "inception", 50_000, "kid50k"),
        ("precision_adm_fp16", "inception", 50_000, "precision_adm_fp16@50k"),
        ("recall_adm_fp16", "digits", 1_000, "recall_adm_fp16-digits@1k"),
        ("fd", "inception-0a1b2c3d", 50_000, "fd-inception-0a1b2c3d@50k"),
        ("fd", "dinov2", 50_000, "fd-dinov2@50k"),
        ("cmmd", "clip", 50_000, "cmmd-clip@50k"),
    ],
)
def test_a_metric_s_name_carries_the_number_of_images_and_the_network(metric, network, n, name):
    assert metric_name(metric, network, n) == name


def test_only_published_inception_weights_give_a_name_that_begins_with_fid():
    for network in ("digits", "inception-random", "inception-0a1b2c3d", "dinov2", "clip"):
        assert not any(metric_name(metric, network, 50_000).startswith(("fid", "sfid")) for metric in NAMED)


def test_users_may_say_fid_and_all():
    assert called("fid, SFID,is,fid_infinity") == ["fd", "sfd", "is", "fd_infinity"]
    assert meant(called("all"), "inception") == (*PAPER, *BEYOND)
    assert meant(called("fid"), "inception") == ("fd",)
    with pytest.raises(UsageError, match=r"no metric is called 'precison'. Did you mean precision"):
        called("fd,precison")


@pytest.mark.parametrize("network", [INCEPTION, DIGITS, CLIP, network_called("dinov2", None)], ids=lambda n: n.name)
def test_all_is_everything_that_the_network_can_give(network):
    """But for precision and recall with float16 distances, which are there already with exact ones."""

    def given(metric: str) -> bool:
        try:
            refuse([metric], has_points=True, has_spatial_statistics=True, network=network)
        except DataError:
            return False
        return True

    found = meant(called("all"), network.name)
    assert sorted(found) == sorted(metric for metric in NAMED if given(metric) and not metric.endswith("_fp16"))


def test_no_metric_and_one_twice_are_refused():
    with pytest.raises(UsageError, match="each once"):
        require(["fd", "is", "fd"])
    with pytest.raises(UsageError, match="at least one"):
        require([])


@pytest.mark.parametrize("network", [INCEPTION, CLIP, DIGITS, network_called("inception-random")])
def test_the_default_metrics_of_a_network_are_ones_it_can_give(network):
    refuse(default(network.name), has_points=True, has_spatial_statistics=True, network=network)


# What cannot be computed ----------------------------------------------------------------------------------------------


def test_metrics_of_points_are_refused_against_statistics_and_what_remains_is_named():
    with pytest.raises(
        DataError, match=r"precision and recall cannot be computed.*statistics alone.*--metrics fd,sfd,is,"
    ):
        refuse(PAPER, has_points=False, has_spatial_statistics=True, network=INCEPTION)
    for metric in OF_POINTS - {"cmmd"}:
        with pytest.raises(
            DataError, match=rf"{metric} cannot be computed: .*--metrics fd,sfd,is, or give a reference"
        ):
            refuse([metric], has_points=False, has_spatial_statistics=True, network=INCEPTION)
    refuse(["fd", "sfd", "is", "fd_infinity"], has_points=False, has_spatial_statistics=True, network=INCEPTION)


@pytest.mark.parametrize(
    ("metric", "network", "has_spatial", "reason"),
    [
        ("sfd", INCEPTION, False, "no statistics of spatial features"),
        ("sfd", CLIP, True, "clip gives no spatial features"),
        ("is", CLIP, True, "clip gives no classes"),
        ("class_accuracy", CLIP, True, "clip gives no classes"),
        ("class_accuracy", INCEPTION, True, "not numbered like the labels"),
        ("cmmd", INCEPTION, True, "defined on features by clip"),
    ],
)
def test_what_a_network_or_reference_does_not_give_is_refused_with_the_reason(metric, network, has_spatial, reason):
    with pytest.raises(DataError, match=reason) as caught:
        refuse(["fd", metric], has_points=True, has_spatial_statistics=has_spatial, network=network)
    assert str(caught.value).endswith("--metrics fd.")


def test_an_unknown_metric_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"no metric is called 'densty'. Did you mean density"):
        refuse(["fd", "densty"], has_points=True, has_spatial_statistics=True, network=DIGITS)


# Checks ----------------------------------------------------------------------------------------------------------


def broken(values: torch.Tensor, value: float) -> torch.Tensor:
    values = values.clone()
    values[2, 3] = value
    return values


@pytest.mark.parametrize("part", Features._fields)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(halves, part, value):
    generated, reference = halves
    generated = generated._replace(**{part: broken(getattr(generated, part), value)})
    with pytest.raises(DataError, match=rf"1 of the [\d,]+ {part} features of the generated images"):
        measure(generated, reference, PAPER)


def test_points_of_the_reference_that_are_not_finite_are_refused(halves):
    generated, reference = halves
    points = Reference(reference.pool, reference.spatial, broken(reference.points, float("nan")))
    with pytest.raises(DataError, match=r"1 of the [\d,]+ pool features of the reference images"):
        measure(generated, points, PAPER)


@pytest.mark.parametrize(
    ("metric", "fewest"), [("precision", 5), ("recall_adm_fp16", 5), ("fd", 2), ("fd_infinity", 20)]
)
def test_too_few_generated_images_are_refused(halves, metric, fewest):
    generated, reference = halves
    with pytest.raises(
        DataError, match=rf"{fewest - 1} generated images are too few: {metric} needs at least {fewest}"
    ):
        measure(some(generated, slice(fewest - 1)), reference, [metric])
    assert metric in measure(some(generated, slice(fewest)), reference, [metric]).values


def test_the_largest_number_of_images_that_is_needed_is_said_at_once(halves):
    generated, reference = halves
    with pytest.raises(DataError, match="1 generated images are too few: precision needs at least 5"):
        measure(some(generated, slice(1)), reference, ["fd", "is", "precision"])


@pytest.mark.parametrize(("metric", "fewest"), [("recall", 5), ("density", 7), ("coverage", 7), ("kid", 2)])
def test_too_few_reference_images_are_refused(halves, metric, fewest):
    generated, reference = halves
    few, enough = (Reference(None, None, reference.points[:count]) for count in (fewest - 1, fewest))
    with pytest.raises(DataError, match=f"{fewest - 1} reference images are too few: {metric} needs"):
        measure(generated, few, [metric])
    assert metric in measure(generated, enough, [metric]).values


def test_features_of_two_networks_are_not_compared(halves):
    generated, reference = halves
    with pytest.raises(DataError, match=r"63 pool features each, reference images 64"):
        measure(generated._replace(pool=generated.pool[:, 1:]), reference, ["precision"])
    with pytest.raises(DataError, match=r"63 pool features each, reference images 64"):
        measure(generated._replace(pool=generated.pool[:, 1:]), Reference(reference.pool, None, None), ["fd"])
    with pytest.raises(DataError, match=r"111 spatial features each, reference images 112"):
        measure(generated._replace(spatial=generated.spatial[:, 1:]), reference, ["sfd"])


def test_every_generated_image_needs_a_label(halves):
    with pytest.raises(DataError, match="10 labels for 800 generated images"):
        measure(*halves, ["class_accuracy"], labels=torch.zeros(10))
    with pytest.raises(DataError, match="10 labels for 800 generated images"):
        standard_errors(*halves, ["class_accuracy"], labels=torch.zeros(10))
