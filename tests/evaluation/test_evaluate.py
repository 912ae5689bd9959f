"""From images to an evaluation's record: the same from a run, a file and a folder; nothing done twice."""

import dataclasses

import numpy as np
import pytest
import torch
from small import tiny_config, trained_a_little
from tensor_images import TensorImages

import baselines
from harness.data.images.uint8 import to_uint8
from harness.data.latents import vae
from harness.evaluation import evaluate as module
from harness.evaluation.evaluate import evaluate, evaluate_images, yardstick
from harness.evaluation.generation import choose_labels
from harness.evaluation.images.image_sets import open_images
from harness.evaluation.networks import extract
from harness.recipes.naming import digest
from harness.system.errors import DataError, UsageError
from harness.system.processes.world import World
from harness.system.progress import NoProgress
from harness.system.weights import fingerprint

CPU = torch.device("cpu")
SMALL = ("width=16", "depth=3", "num_heads=2", "num_images=60", "sampling.num_steps=3", "sample_batch=25")
FIVE = ("fd", "sfd", "is", "precision", "recall")


@pytest.fixture
def cfg():
    return tiny_config("dit", *SMALL)


@pytest.fixture
def made(cfg):
    return trained_a_little(baselines.build(cfg).network)


def measured(network, cfg, folder, data, **changes):
    yard = yardstick("digits", "data", cfg.evaluation.metrics, device=CPU, data=data)
    arguments = {
        "name": "final", "step": 4, "vae": None, "folder": folder, "world": World(),
        "progress": NoProgress(), **changes,
    }  # fmt: skip
    return evaluate(network, cfg, yard, **arguments)


def test_an_evaluation_says_everything_that_its_numbers_depend_on(made, cfg, digits, tmp_path):
    evaluation = measured(made, cfg, tmp_path, digits)
    protocol = evaluation.protocol
    assert set(evaluation.metrics) == {
        f"{metric}-digits@60" for metric in ("fd", "sfd", "is", "precision", "recall", "class_accuracy")
    }
    assert (protocol.sampler, protocol.nfe, protocol.num_images, protocol.label_rule) == ("ddpm", 3, 60, "random")
    assert (protocol.reference, protocol.reference_images, protocol.reference_points) == ("digits", 1797, 1797)
    assert (protocol.features_batch, protocol.features_device, protocol.sample_precision) == (256, "cpu", "fp32")
    assert evaluation.weights_sha256 == fingerprint(made.state_dict())
    assert len(evaluation.samples_sha256) == 64


def test_metrics_of_the_first_images_are_those_of_an_evaluation_of_so_many(made, cfg, digits, tmp_path):
    several = tiny_config("dit", *SMALL, "num_images=120", "also_first=[60,80,500]")
    both = measured(made, several, tmp_path / "several", digits)
    assert both.also_first == [60, 80]
    assert {name.rpartition("@")[2] for name in both.metrics} == {"60", "80", "120"}
    alone = measured(made, cfg, tmp_path / "alone", digits)
    assert {name: both.metrics[name] for name in alone.metrics} == pytest.approx(alone.metrics, rel=1e-4, abs=1e-6)


def test_an_evaluation_says_where_its_time_went(made, cfg, digits, tmp_path):
    evaluation = measured(made, cfg, tmp_path, digits)
    assert list(evaluation.stage_seconds) == ["reference", "drawing", "decoding", "hashing", "features", "metrics"]
    assert all(seconds > 0 for seconds in evaluation.stage_seconds.values())
    assert 0.5 * evaluation.seconds < sum(evaluation.stage_seconds.values()) <= evaluation.seconds
    assert evaluation.sample_execution == "eager"


def test_how_the_network_was_called_is_said_with_the_time_it_took():
    compiled = tiny_config("dit", "sample_compile=true", "cuda_graphs=true")
    assert module.execution_of(compiled, CPU) == "compiled"
    assert module.execution_of(compiled, torch.device("cuda")) == "compiled, CUDA graphs"
    assert module.execution_of(tiny_config("dit", "cuda_graphs=true"), torch.device("cuda")) == "eager"


def test_how_latents_are_decoded_is_a_condition_of_the_images_and_without_a_vae_there_is_none(digits):
    yard, decoder = yardstick("digits", "data", FIVE, device=CPU, data=digits), vae.load("random-tiny")
    plain, half = (tiny_config("dit", f"decode_precision={precision}") for precision in ("fp32", "bf16"))
    assert [module.protocol_of(cfg, yard, decoder).decode_precision for cfg in (plain, half)] == ["fp32", "bf16"]
    conditions = [digest(module._of_the_images(module.protocol_of(cfg, yard, decoder))) for cfg in (plain, half)]
    assert conditions[0] != conditions[1]
    assert module.protocol_of(plain, yard, None) == module.protocol_of(half, yard, None)


def test_the_same_network_is_drawn_once(made, cfg, digits, tmp_path, monkeypatch):
    first = measured(made, cfg, tmp_path, digits)
    monkeypatch.setattr(module, "draw_images", None)  # calling it now would fail
    again = measured(made, cfg, tmp_path, digits, name="again")
    assert (again.sample_execution, set(again.stage_seconds)) == (None, {"reference", "metrics"})
    assert (again.metrics, again.samples_sha256) == (first.metrics, first.samples_sha256)
    assert not list((tmp_path / "samples").iterdir())  # the parts are gone


@pytest.mark.parametrize("content", [None, "{", '{"sha256": null}'])
def test_numbers_of_images_that_nobody_can_name_any_more_are_refused(content, made, cfg, digits, tmp_path, monkeypatch):
    """The record of the images goes while their features are extracted, which may take an hour."""
    real = extract.features_of

    def spoiling(*given, **options):
        features = real(*given, **options)
        for record in tmp_path.rglob("images.json"):  # the reference's features have none
            record.unlink() if content is None else record.write_text(content)
        return features

    with monkeypatch.context() as patch:
        patch.setattr(extract, "features_of", spoiling)
        with pytest.raises(DataError, match=r"images\.json is gone or was damaged .* Repeat the command"):
            measured(made, cfg, tmp_path, digits)
    assert measured(made, cfg, tmp_path, digits).samples_sha256


def test_other_weights_or_conditions_under_the_same_name_are_drawn_anew(made, cfg, digits, tmp_path):
    first = measured(made, cfg, tmp_path, digits)
    other = measured(trained_a_little(made, seed=1), cfg, tmp_path, digits)
    seeded = measured(made, tiny_config("dit", *SMALL, "evaluation.seed=1"), tmp_path, digits)
    assert len({first.samples_sha256, other.samples_sha256, seeded.samples_sha256}) == 3


def test_after_an_interruption_only_the_missing_parts_are_drawn(made, cfg, digits, tmp_path, monkeypatch):
    whole = measured(made, cfg, tmp_path / "whole", digits)
    calls = []

    class Interrupted(Exception):
        pass

    def extracting(*args, **kwargs):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(
            module.extract,
            "features_of",
            lambda images, *a, **k: (
                (_ for _ in ()).throw(Interrupted) if images.name == "generated" else real_features_of(images, *a, **k)
            ),
        )
        with pytest.raises(Interrupted):
            measured(made, cfg, tmp_path / "cut", digits)
    parts = sorted((tmp_path / "cut" / "samples").glob("*/*.npy"))
    assert len(parts) == 3
    parts[1].unlink()
    original = module.draw_images.__globals__["generate"]
    monkeypatch.setitem(
        module.draw_images.__globals__, "generate",
        lambda *a, **k: calls.append(k["first"]) or original(*a, **k),
    )  # fmt: skip
    again = measured(made, cfg, tmp_path / "cut", digits)
    assert calls == [25]
    assert again.samples_sha256 == whole.samples_sha256
    assert again.metrics == whole.metrics


real_features_of = extract.features_of


def test_a_grid_of_the_first_images_is_put_where_it_is_wanted(made, cfg, digits, tmp_path):
    (tmp_path / "samples").mkdir()
    measured(made, cfg, tmp_path, digits, grid=tmp_path / "samples" / "grid.png")
    assert (tmp_path / "samples" / "grid.png").stat().st_size > 500


def test_images_from_a_file_a_folder_and_a_run_have_the_same_metrics(made, cfg, digits, tmp_path, cache):
    from PIL import Image

    from harness.evaluation.generation import draw_images

    labels = choose_labels("random", 60, 10, 0)
    run = measured(made, cfg, tmp_path, digits)
    drawn = draw_images(
        tmp_path / "parts", made, cfg, labels, seed=0, vae=None, device=CPU
    ).read(0, 60)  # fmt: skip
    np.savez(tmp_path / "samples.npz", arr_0=drawn.numpy(), labels=labels.numpy())
    (tmp_path / "pngs").mkdir()
    for number, image in enumerate(drawn):
        Image.fromarray(image[..., 0].numpy()).save(tmp_path / "pngs" / f"{number:03d}.png")
    yard = yardstick("digits", "digits", cfg.evaluation.metrics[:5], device=CPU)
    for path in (tmp_path / "samples.npz", tmp_path / "pngs"):
        found = evaluate_images(open_images(path), yard, folder=tmp_path / "f", world=World(), progress=NoProgress())
        assert found.samples_sha256 == run.samples_sha256
        for name, value in found.metrics.items():
            assert value == pytest.approx(run.metrics[name], rel=1e-9), (path, name)
        assert (found.protocol.sampler, found.step, found.weights) == (None, None, None)
        assert list(found.stage_seconds) == ["hashing", "reference", "features", "metrics"]
    assert len(list((tmp_path / "f").iterdir())) == 1  # one content, one place, whatever the file


def test_useless_images_in_a_file_are_refused_and_a_collapsed_run_is_measured(cfg, digits, tmp_path):
    yard = yardstick("digits", "digits", FIVE, device=CPU)
    flat = TensorImages("flat", torch.full((60, 8, 8, 1), 7, dtype=torch.uint8))
    with pytest.raises(DataError):
        evaluate_images(flat, yard, folder=tmp_path, world=World(), progress=NoProgress())
    assert not list(tmp_path.iterdir())
    collapsed = measured(baselines.build(cfg).network, cfg, tmp_path, digits)  # untrained: its output is zero
    assert collapsed.metrics["fd-digits@60"] > 10


def test_a_label_that_no_class_has_is_refused_with_its_place(digits, tmp_path):
    labels = torch.where(torch.arange(60) == 7, 10, 3)
    images = TensorImages("mine", to_uint8(digits.clean)[:60], labels)
    yard = yardstick("digits", "digits", ["fd", "class_accuracy"], device=CPU)
    with pytest.raises(DataError, match=r"label 7 of mine is 10, and digits knows the classes 0 to 9"):
        evaluate_images(images, yard, folder=tmp_path, world=World(), progress=NoProgress())


def test_grey_images_are_measured_by_a_network_of_colour_and_the_record_says_how(digits, tmp_path):
    images = TensorImages("grey", to_uint8(digits.clean)[:8])
    np.savez(tmp_path / "reference.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    yard = yardstick("inception", str(tmp_path / "reference.npz"), ["fd"], device=CPU, weights="random")
    protocol = evaluate_images(images, yard, folder=tmp_path, world=World(), progress=NoProgress()).protocol
    assert protocol.model_dump()["grey_channel"] == "repeated"
    assert "grey_channel" not in protocol.model_copy(update={"grey_channel": None}).model_dump()  # as in older records


def test_a_missing_reference_is_said_before_the_network_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.evaluation.evaluate.features.load", None)
    with pytest.raises(DataError, match=r"there is no reference .*absent\.npz"):
        yardstick("inception", str(tmp_path / "absent.npz"), ["fd"], device=CPU)


def test_what_a_reference_cannot_give_is_told_before_anything_is_drawn(network, tmp_path, digits):
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(DataError, match="precision"):
        yardstick("digits", str(tmp_path / "statistics.npz"), ["fd", "precision"], device=CPU)
    with pytest.raises(DataError, match="sfd cannot be computed"):
        yardstick("digits", str(tmp_path / "statistics.npz"), ["sfd"], device=CPU)
    with pytest.raises(UsageError, match="precision"):
        yardstick("digits", "digits", ["precison"], device=CPU)
    assert yardstick("digits", str(tmp_path / "statistics.npz"), ["fd", "is"], device=CPU).wanted == ("fd", "is")


def test_spread_and_second_opinion_are_given_when_asked_for(digits, network, tmp_path):
    yard = yardstick("digits", "digits", FIVE, device=CPU)
    yard = dataclasses.replace(yard, with_errors=True, with_cross_check=True)
    images = TensorImages("half", to_uint8(digits.clean)[::2])
    found = evaluate_images(images, yard, folder=tmp_path, world=World(), progress=NoProgress())
    assert set(found.standard_errors) == set(found.metrics)
    assert all(error >= 0 for error in found.standard_errors.values())
    assert any(check.metric == "fd" and abs(check.difference) < 1e-5 for check in found.cross_checks)


def test_a_file_that_changes_while_it_is_measured_leaves_no_features(digits, network, tmp_path):
    class Changing(TensorImages):
        reads = 0

        def read(self, start, stop):
            self.reads += 1
            images = super().read(start, stop)
            return images if self.reads == 1 else 255 - images

    yard = yardstick("digits", "digits", FIVE, device=CPU)
    images = Changing("changing", to_uint8(digits.clean)[:100])
    with pytest.raises(DataError, match="changing has changed while it was measured"):
        evaluate_images(images, yard, folder=tmp_path / "f", world=World(), progress=NoProgress())
    assert not list((tmp_path / "f").rglob("*.safetensors"))


def test_guidance_that_is_off_is_recorded_as_off(digits):
    yard = yardstick("digits", "data", FIVE, device=CPU, data=digits)
    plain, powered = tiny_config("dit"), tiny_config("dit", "guidance_power=4", "guidance_channels=1")
    assert module.protocol_of(plain, yard, None) == module.protocol_of(powered, yard, None)
    with pytest.raises(UsageError, match="without a guidance scale nothing is guided"):
        tiny_config("dit", "guidance_interval=[0.3, 5]")
