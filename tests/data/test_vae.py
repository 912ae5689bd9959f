"""The VAE computes what diffusers' AutoencoderKL computes, and only from weights that are what they claim to be."""

import copy
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.data.latents import vae
from harness.system.errors import DataError, UsageError

EMA, MSE = "stabilityai/sd-vae-ft-ema", "stabilityai/sd-vae-ft-mse"
PUBLISHED_BYTES = 334_643_276  # of both weight files
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def images(count: int = 3, side: int = 64) -> torch.Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    """Untrained weights as the published file stores them: their sizes, order and old names."""
    path = tmp_path_factory.mktemp("weights") / vae.WEIGHTS
    weights = vae.load("random").model.state_dict()
    save_file({old_name(name): weight for name, weight in weights.items()}, path, {"format": "pt"})
    return path


def old_name(name: str) -> str:
    for now, before in OLD_NAMES.items():
        name = name.replace(f".{now}.", f".{before}.") if "attentions" in name else name
    return name


def placed(weights: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    os.link(weights, folder / vae.WEIGHTS)
    return folder


@pytest.fixture
def published(monkeypatch, weights_file):
    """The published VAE, as if its weights had been these."""
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    monkeypatch.setitem(vae.PUBLISHED, EMA, replace(vae.PUBLISHED[EMA], sha256=digest))
    vae._on.cache_clear()
    yield digest
    vae._on.cache_clear()


# What it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["random-tiny", "random"])
def test_moments_are_the_posterior_of_autoencoder_kl(id):
    loaded, pixels = vae.load(id), images()
    with torch.no_grad():
        posterior = loaded.model.encode(pixels.float() / 127.5 - 1).latent_dist
    mean, std = loaded.moments(pixels).chunk(2, dim=1)
    assert mean.shape == (3, 4, 8, 8)
    assert torch.allclose(mean, posterior.mean, atol=1e-6)
    assert torch.allclose(std, (0.5 * posterior.logvar).exp(), atol=1e-6)


@pytest.mark.parametrize("id", ["random-tiny", "random"])
def test_decode_is_autoencoder_kl_on_latents_that_are_not_scaled(id):
    loaded, latents = vae.load(id), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        direct = loaded.model.decode(latents).sample
    assert direct.shape == (2, 3, 64, 64)
    assert torch.allclose(loaded.decode(latents.double()), direct, atol=1e-5)


def test_what_is_computed_does_not_depend_on_how_many_images_one_pass_takes(monkeypatch):
    loaded, pixels = vae.load("random-tiny"), images(5)
    whole = loaded.moments(pixels)
    monkeypatch.setattr(vae, "PIXELS_AT_ONCE", 8 * 2 * 64 * 64)
    assert torch.allclose(loaded.moments(pixels), whole, atol=1e-4)
    assert torch.allclose(
        loaded.decode(whole[:, :4]), torch.cat([loaded.decode(w[None, :4]) for w in whole]), atol=1e-4
    )


def test_the_precision_of_the_step_around_it_changes_nothing_and_is_left_as_it_was():
    loaded, pixels = vae.load("random-tiny"), images()
    before = loaded.moments(pixels), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = loaded.moments(pixels)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.allow_tf32 = before[2]
    assert torch.equal(within, before[0])
    assert not within.requires_grad
    assert not within.is_inference()  # a training step multiplies it by weights that have gradients


@pytest.mark.parametrize("id", ["random-tiny", "random"])
def test_half_precision_decodes_to_nearly_the_same_pixels_and_leaves_the_encoder_alone(id):
    loaded, pixels = vae.load(id), images(1, side=32)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    before, exact, half = loaded.moments(pixels), loaded.decode(latents), loaded.decode(latents, "bf16")
    assert half.dtype == exact.dtype == torch.float32
    assert 0 < (half - exact).norm() / exact.norm() < 0.05  # bfloat16 has 8 bits, and untrained weights many layers
    assert torch.equal(loaded.moments(pixels), before)
    assert torch.equal(loaded.decode(latents), exact)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_decoding_computes_in_the_precision_asked_for_and_leaves_the_callers_as_it_was(precision):
    loaded, seen = vae.load("random-tiny"), []

    def flags():
        return (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.is_autocast_enabled("cpu"),
        )

    hook = loaded.model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(flags()))
    before = flags()
    try:
        loaded.decode(torch.randn(1, 4, 8, 8), precision)
    finally:
        hook.remove()
    tf32 = precision == "tf32"
    assert seen == [("high" if tf32 else "highest", tf32, precision == "bf16")]
    assert flags() == before
    with pytest.raises(AssertionError, match="not 'fp16'"):
        loaded.decode(torch.randn(1, 4, 8, 8), "fp16")


def test_random_weights_are_the_same_every_time_and_leave_the_callers_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = vae.load("random-tiny")
    assert torch.equal(torch.rand(1), expected)
    vae._on.cache_clear()
    assert vae.load("random-tiny").sha256 == first.sha256 != vae.load("random").sha256


def test_a_vae_is_loaded_once():
    assert vae.load("random-tiny") is vae.load("random-tiny", torch.device("cpu"))


# Published weights -----------------------------------------------------------------------------------------------


def test_the_architecture_is_that_of_the_published_config_to_the_byte():
    """Its sha256 is what several public projects state for config.json of both published VAE."""
    config = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "in_channels": 3, "out_channels": 3}
    text = json.dumps(dict(sorted({**config, **vae.SD_VAE}.items())), indent=2) + "\n"
    published = "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"
    assert hashlib.sha256(text.encode()).hexdigest() == published


def test_the_architecture_makes_a_weight_file_of_the_published_size(weights_file):
    assert weights_file.stat().st_size == PUBLISHED_BYTES


def test_its_scale_factor_and_channels_are_stable_diffusions():
    loaded = vae.load("random")
    assert (loaded.scale, loaded.factor, loaded.channels) == (0.18215, 8, 4)


def test_published_weights_are_read_under_their_old_names_into_the_present_layers(published, weights_file, tmp_path):
    placed(weights_file, vae.PUBLISHED[EMA].home.parent)
    loaded = vae.load(EMA)
    assert (loaded.id, loaded.revision, loaded.sha256) == (EMA, "f04b2c4b98319346dad8c65879f680b1997b204a", published)
    for name, weight in vae.load("random").model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name


# Folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    vae._on.cache_clear()
    vae.load("random-tiny").model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_folder_as_diffusers_saves_it_loads_and_is_named_without_its_path(folder, monkeypatch):
    loaded, original = vae.load(str(folder)), vae.load("random-tiny")
    assert (loaded.id, loaded.revision) == ("local/mine", None)
    assert loaded.sha256 == hashlib.sha256((folder / vae.WEIGHTS).read_bytes()).hexdigest()
    assert torch.equal(loaded.moments(images()), original.moments(images()))
    with pytest.raises(DataError, match="there is no folder of a VAE called local/mine: not at"):
        vae.load("local/mine")
    monkeypatch.setenv("HARNESS_VAE", str(folder.parent))
    assert vae.load("local/mine", sha256=loaded.sha256).sha256 == loaded.sha256
    with pytest.raises(DataError, match="and the latents were made by 0000"):
        vae.load("local/mine", sha256="0" * 64)


def test_a_copy_of_published_weights_keeps_its_name(published, weights_file, tmp_path):
    loaded = vae.load(str(placed(weights_file, tmp_path / "copy")))
    assert (loaded.id, loaded.revision) == (EMA, vae.PUBLISHED[EMA].revision)


def test_half_precision_weights_compute_in_full_precision(folder):
    halved = {name: weight.half() for name, weight in load_file(folder / vae.WEIGHTS).items()}
    save_file(halved, folder / vae.WEIGHTS)
    found, full = vae.load(str(folder)).moments(images()), vae.load("random-tiny").moments(images())
    assert found.dtype == torch.float32
    assert 0 < (found - full).norm() / full.norm() < 1e-2


def rewritten(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: rewritten(f / "config.json", shift_factor=0.1), "sets shift_factor"),
        (lambda f: rewritten(f / "config.json", _class_name="AutoencoderTiny"), "does not describe an AutoencoderKL"),
        (lambda f: rewritten(f / "config.json", latent_channels=16), "does not fit its config.json"),
        (lambda f: (f / vae.WEIGHTS).write_bytes((f / vae.WEIGHTS).read_bytes()[:5000]), "is damaged"),
        (lambda f: (f / vae.WEIGHTS).rename(f / "diffusion_pytorch_model.bin"), "never pickled .bin files"),
    ],
)
def test_a_folder_that_does_not_hold_a_usable_vae_says_why(damage, says, folder):
    damage(folder)
    with pytest.raises(DataError, match=says) as refused:
        vae.load(str(folder))
    assert "\n" not in str(refused.value)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=f"Did you mean {EMA}"):
        vae.load("stabilityai/sd-vae-ft-emma")
    with pytest.raises(DataError, match=r"no folder of a VAE called \./nowhere"):
        vae.load("./nowhere")


def test_a_variant_that_diffusers_saved_is_read_and_of_several_one_must_be_left(tmp_path):
    model = copy.deepcopy(vae.load("random-tiny").model)
    model.half().save_pretrained(tmp_path, variant="fp16")
    loaded = vae.load(str(tmp_path)).model.state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())
    assert torch.equal(loaded["decoder.conv_out.bias"], model.decoder.conv_out.bias.float())
    vae._on.cache_clear()
    model.save_pretrained(tmp_path, variant="bf16")
    with pytest.raises(DataError, match=r"several variants .*\.bf16\.safetensors, .*\.fp16\.safetensors"):
        vae.load(str(tmp_path))
