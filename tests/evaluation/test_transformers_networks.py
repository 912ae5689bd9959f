"""DINOv2 and CLIP see what the papers' code shows them, and only the published weights get the plain name."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.evaluation.networks import transformers_networks
from harness.evaluation.networks.base import FeatureNetwork
from harness.evaluation.networks.transformers_networks import ARCHITECTURES, DINOV2, WEIGHTS, load
from harness.system.errors import DataError

pytest.importorskip("transformers", reason="the extra `vit` is not installed")

SIZES = {"dinov2": 32, "clip": 24}
BOTH = pytest.mark.parametrize("name", ARCHITECTURES)


def images(count: int = 5, height: int = 40, width: int = 40) -> torch.Tensor:
    """Smooth ones and noise: what is resized right and what overshoots."""
    draw = torch.Generator().manual_seed(1)
    noise = torch.randint(256, (count, height, width, 3), dtype=torch.uint8, generator=draw)
    noise[0] = torch.arange(height)[:, None, None] * 2
    return noise


pytestmark = pytest.mark.usefixtures("no_weights")


@pytest.fixture(scope="module")
def networks() -> dict[str, FeatureNetwork]:
    return {name: load(name, "random") for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Small networks with weights of their own, as transformers' save_pretrained writes them."""
    import transformers

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
    made = {
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=70)),
        "clip": transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**small, intermediate_size=32, projection_dim=8, image_size=56)
        ),
    }
    paths = {name: tmp_path_factory.mktemp(name) for name in made}
    for name, model in made.items():
        model.save_pretrained(paths[name])
    return paths


def copied(folder: Path, to: Path) -> Path:
    to.mkdir(parents=True)
    for file in folder.iterdir():
        os.link(file, to / file.name)
    return to


# What is computed --------------------------------------------------------------------------------------------------


@BOTH
def test_features_are_one_float32_vector_an_image_and_nothing_else(networks, name):
    network = networks[name]
    seen = network(images(3))
    assert (seen.pool.shape, seen.pool.dtype, seen.pool.requires_grad) == ((3, SIZES[name]), torch.float32, False)
    assert (seen.spatial, seen.logits, network.spatial_size, network.num_classes) == (None, None, None, None)
    assert (network.name, network.pool_size, network.batch_size) == (f"{name}-random", SIZES[name], 32)


@BOTH
def test_features_are_the_same_every_time_and_tell_images_apart(networks, name):
    first = networks[name](images()).pool
    assert torch.equal(networks[name](images()).pool, first)
    assert first.std(dim=0).mean() > 0.1


@pytest.mark.parametrize(("height", "width"), [(40, 40), (256, 256), (300, 500), (500, 300)])
def test_dinov2_sees_what_dgm_eval_shows_it(networks, height, width):
    """Its transform, in torchvision's own words: Resize((224, 224), BICUBIC), ToTensor, Normalize."""
    from torchvision import transforms

    published = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    given = images(2, height, width)
    expected = torch.stack([published(Image.fromarray(image.numpy())) for image in given])
    assert torch.equal(networks["dinov2"].module.pixels(given), expected)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (256, 256), (300, 500), (501, 300)])
def test_clip_sees_what_cmmd_pytorch_shows_it(networks, height, width):
    """The central square, resized by Pillow, over 255, minus CLIP's mean, over CLIP's deviation; here in float64."""
    given, side = images(2, height, width), min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    squares = [Image.fromarray(image.numpy()).crop(box).resize((336, 336), Image.Resampling.BICUBIC) for image in given]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (np.stack([np.asarray(square) for square in squares]) / 255.0 - mean) / std
    seen = networks["clip"].module.pixels(given).permute(0, 2, 3, 1).double().numpy()
    assert np.abs(seen - expected).max() < 1e-6


def test_dinov2s_positions_are_interpolated_as_its_own_code_does():
    """Keys' cubic with a = -0.75 at (i + 1/2) M / (n + 0.1) - 1/2, borders repeated; here as matrices, in float64."""
    table = torch.randn(1, 1 + 37 * 37, 6, generator=torch.Generator().manual_seed(0))
    at = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    along = np.zeros((16, 37))
    for tap in range(-1, 3):
        source = np.floor(at) + tap
        far = np.abs(at - source)
        near_part, far_part = 1.25 * far**3 - 2.25 * far**2 + 1, -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
        np.add.at(along, (np.arange(16), source.clip(0, 36).astype(int)), np.where(far <= 1, near_part, far_part))
    grid = table[0, 1:].double().numpy().reshape(37, 37, 6)
    expected = np.einsum("im,jn,mnd->ijd", along, along, grid).reshape(256, 6)
    found = transformers_networks.positions_at(table, 16)
    assert torch.equal(found[:, 0], table[:, 0])
    assert np.abs(found[0, 1:].double().numpy() - expected).max() < 1e-5
    assert transformers_networks.positions_at(table, 37) is table


@BOTH
def test_a_saved_network_gives_the_features_that_transformers_itself_gives(folders, name):
    import transformers

    network = load(name, folders[name])
    pixels = network.module.pixels(images())
    with torch.no_grad():
        if name == "dinov2":
            model = transformers.Dinov2Model.from_pretrained(folders[name])
            positions = transformers_networks.positions_at(model.embeddings.position_embeddings, 16)
            model.embeddings.position_embeddings = torch.nn.Parameter(positions)
            direct = model(pixels).last_hidden_state[:, 0]  # after the last norm: the normalised class token
        else:
            direct = transformers.CLIPVisionModelWithProjection.from_pretrained(folders[name])(pixels).image_embeds
    side = {"dinov2": 224, "clip": 56}[name]
    assert pixels.shape == (5, 3, side, side)
    assert torch.allclose(network(images()).pool, direct, atol=1e-5)
    digest = hashlib.sha256((folders[name] / WEIGHTS).read_bytes()).hexdigest()
    assert (network.sha256, network.name) == (digest, f"{name}-{digest[:8]}")


# Weights -----------------------------------------------------------------------------------------------------------


@BOTH
def test_random_weights_are_the_same_every_time_and_leave_the_callers_random_state_alone(networks, name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    again = load(name, "random")
    assert torch.equal(torch.rand(1), expected)
    assert again.sha256 == networks[name].sha256
    assert torch.equal(again(images()).pool, networks[name](images()).pool)


def test_dinov2s_settings_are_those_of_the_published_config_to_the_byte():
    """Its sha256 is what several public projects state for config.json of this revision."""
    import transformers

    settings = transformers.Dinov2Config(**DINOV2.settings).to_dict()
    names = ["attention_probs_dropout_prob", "drop_path_rate", "hidden_act", "hidden_dropout_prob", "hidden_size"]
    names += ["image_size", "initializer_range", "layer_norm_eps", "layerscale_value", "mlp_ratio", "model_type"]
    names += ["num_attention_heads", "num_channels", "num_hidden_layers", "patch_size", "qkv_bias", "use_swiglu_ffn"]
    config = {name: settings[name] for name in names} | {"architectures": ["Dinov2Model"], "torch_dtype": "float32"}
    text = json.dumps(dict(sorted({**config, "transformers_version": "4.31.0.dev0"}.items())), indent=2) + "\n"
    published = "12df51c069a2dc1305e34ba71ef58bc2407ea553b75f4722a1715c1bce3bbed0"
    assert hashlib.sha256(text.encode()).hexdigest() == published


def test_dinov2s_settings_make_a_weight_file_of_the_published_size():
    """1,217,522,888 bytes: 8 of length, the header, which names every tensor as transformers 4 did, and the values."""
    model_class = transformers_networks._model_class(DINOV2)
    with torch.device("meta"):
        tensors = transformers_networks._built(model_class, DINOV2.settings).state_dict()
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted((published_name(name), tensor) for name, tensor in tensors.items()):
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [end, end := end + 4 * tensor.numel()],
        }
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + -(-length // 8) * 8 + end == 1_217_522_888


def published_name(name: str) -> str:
    for before, now in transformers_networks._RENAMED.items():
        name = name.replace(now, before)
    return name


def as_if_published(monkeypatch, name: str, file: Path) -> None:
    """The published file, as if it had been this one."""
    architecture = ARCHITECTURES[name]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    settings = json.loads((file.parent / "config.json").read_text())
    other = replace(architecture, published=replace(architecture.published, sha256=digest), settings=settings)
    monkeypatch.setitem(ARCHITECTURES, name, other)


@BOTH
def test_published_weights_are_found_in_their_folder_and_only_they_get_the_plain_name(folders, monkeypatch, name):
    mine = load(name, folders[name])
    published = ARCHITECTURES[name].published
    folder = copied(folders[name], published.home.parent)
    if name == "clip":  # published as a pickled state dict, with the half for texts and what buffers there were
        others = {"text_model.x": torch.ones(2), "text_projection.weight": torch.ones(2), "logit_scale": torch.ones(())}
        others |= {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
        torch.save({**load_file(folder / WEIGHTS), **others}, folder / published.file)
        (folder / WEIGHTS).unlink()
    as_if_published(monkeypatch, name, folder / published.file)
    for found in (load(name), load(name, folder), load(name, str(folder / published.file))):
        assert (found.name, mine.name[:-8]) == (name, f"{name}-")
        assert torch.equal(found(images()).pool, mine(images()).pool)


def test_a_file_of_the_whole_clip_lends_its_half_for_images(folders, tmp_path):
    weights = load_file(folders["clip"] / WEIGHTS)
    save_file({**weights, "text_model.x": torch.ones(2), "logit_scale": torch.ones(())}, tmp_path / WEIGHTS)
    vision = json.loads((folders["clip"] / "config.json").read_text())
    whole = {"model_type": "clip", "projection_dim": vision.pop("projection_dim"), "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    alone = load("clip", folders["clip"])
    assert torch.equal(load("clip", tmp_path)(images()).pool, alone(images()).pool)


class CreatesAFile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@BOTH
def test_pickled_weights_are_refused_and_run_nothing(folders, tmp_path, name):
    trace = tmp_path / "it ran"
    folder = copied(folders[name], tmp_path / "theirs")
    (folder / WEIGHTS).unlink()
    torch.save({"weights": CreatesAFile(trace)}, folder / "pytorch_model.bin")
    for given in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(DataError, match=r"(Pickled files are not read|never pickled files)"):
            load(name, given)
    assert not trace.exists()


@BOTH
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"0" * 100), "it is damaged"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "describes a 'vit'"),
        (lambda folder: changed(folder, hidden_size=32), "does not fit its config.json"),
        (lambda folder: changed(folder, num_attention_heads=3), "does not fit its config.json"),
        (lambda folder: changed(folder, num_hidden_layers="two"), "does not fit its config.json"),
        (lambda folder: (folder / "config.json").unlink(), "does not fit its config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "there are no weights of"),
    ],
)
def test_a_folder_that_is_damaged_or_of_another_network_is_refused_in_one_line(
    folders, tmp_path, name, damage, message
):
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in folders[name].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    with pytest.raises(DataError, match=message) as refused:
        load(name, folder)
    assert "\n" not in str(refused.value)


def changed(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_transformers_is_imported_only_to_load_and_its_absence_is_told_with_how_to_install_it():
    code = (
        "import sys\n"
        "from harness.system.errors import SetupError\n"
        "from harness.evaluation.networks import transformers_networks\n"
        "assert 'transformers' not in sys.modules\n"
        "sys.modules['transformers'] = None\n"
        "try: transformers_networks.load('dinov2', 'random')\n"
        "except SetupError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the package transformers, which is not installed. Install it: pip install 'dit-harness[vit]'" in done.stdout
