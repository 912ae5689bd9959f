"""The feature networks "dinov2" (FD-DINOv2) and "clip" (CMMD), through the optional package transformers.

Stein et al. 2023, arXiv:2306.04675, and Jayasumana et al. 2024, arXiv:2401.09603: images are resized and normalised as
the code of these papers does it, and go through the weights that it takes.   N images, B of a batch, D features.
"""

import importlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from harness.evaluation.networks.base import RANDOM, FeatureNetwork
from harness.model.pretrained import Pretrained, checksum
from harness.recipes.config import LARGEST_CONFIG
from harness.recipes.seeds import mix
from harness.records.schema import read_json
from harness.system import torchvision_guard
from harness.system.errors import DataError, HarnessError, SetupError, one_line
from harness.system.weights import fingerprint, read_tensors

BATCH_SIZE = 32  # fixed: sums are rounded differently in batches of different size
WEIGHTS = "model.safetensors"  # what save_pretrained writes
Setting = int | float | str | bool


# Images to features ------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A transformers model behind the resizing and normalising that it was published with.

    (B, H, W, 3) uint8 -> pool (B, D); there is no spatial map, and there are no classes.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self, model: Any, *, side: int, size: int):
        super().__init__()
        self.model, self.side, self.size = model, side, size  # size: D

    def forward(self, images: Tensor) -> tuple[Tensor, None, None]:
        return self.embedded(self.pixels(images).to(images.device)), None, None

    def embedded(self, pixels: Tensor) -> Tensor:  # (B, 3, side, side) float32 -> (B, D)
        raise NotImplementedError

    def pixels(self, images: Tensor) -> Tensor:  # (B, H, W, 3) uint8 -> (B, 3, side, side) float32 on the CPU
        """What the model sees: Pillow's bicubic (antialiased, rounded to uint8), then normalised.

        Pillow itself, as both papers' code: on noise the float bicubic of torch differs by up to 60 grey levels, since
        it may leave [0, 255].
        """
        resized = np.stack([self._resized(image) for image in images.cpu().numpy()])
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return (torch.from_numpy(resized).permute(0, 3, 1, 2) / 255 - mean) / std

    def _resized(self, image: np.ndarray) -> np.ndarray:  # (H, W, 3) uint8 -> (side, side, 3) uint8
        return np.asarray(Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BICUBIC))


class Dinov2Encoder(Encoder):
    """The normalised class token of DINOv2. As dgm-eval, models/dinov2.py: any image is squeezed to 224 x 224."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

    def __init__(self, model: Any):
        super().__init__(model, side=224, size=model.config.hidden_size)
        embeddings = model.embeddings
        at_this_side = positions_at(embeddings.position_embeddings, self.side // model.config.patch_size)
        embeddings.position_embeddings = nn.Parameter(at_this_side, requires_grad=False)

    def embedded(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).pooler_output


class ClipEncoder(Encoder):
    """CLIP's image embedding, projected and not normalised. As cmmd-pytorch: the central square is resized."""

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own data

    def __init__(self, model: Any):
        super().__init__(model, side=model.config.image_size, size=model.config.projection_dim)

    def embedded(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).image_embeds

    def _resized(self, image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return super()._resized(np.ascontiguousarray(image[top : top + side, left : left + side]))


def positions_at(table: Tensor, patches: int) -> Tensor:  # (1, 1 + M * M, D) -> (1, 1 + patches * patches, D)
    """DINOv2's position embeddings for images of `patches` x `patches`, interpolated as its own code does it.

    That code scales by (patches + 0.1) / M for the sake of rounding. transformers scales by patches / M, which gives
    slightly other features than the ones FD-DINOv2 is published with.
    """
    across = math.isqrt(table.shape[1] - 1)
    if across == patches:
        return table
    grid = table[:, 1:].unflatten(1, (across, across)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(patches + 0.1) / across, mode="bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


# What is published -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """A network of transformers: its class there, its published weights, and its settings where not the default."""

    name: str
    published: Pretrained
    settings: Mapping[str, Setting]
    untrained: Mapping[str, Setting]  # what differs where there are no weights: small, and outputs that vary
    model: str
    encoder: type[Dinov2Encoder] | type[ClipEncoder]
    ignored: tuple[str, ...] = ()  # how the names begin that its files hold besides its weights


VIT_L14 = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
NARROW = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

# Revisions and hashes as several public projects pin them; the config.json of each revision gives the settings.
DINOV2 = Architecture(
    name="dinov2",
    published=Pretrained(
        name="DINOv2",
        repository="facebook/dinov2-large",
        revision="47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        file=WEIGHTS,
        sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
    ),
    settings={**VIT_L14, "image_size": 518},
    untrained={**NARROW, "initializer_range": 0.2},
    model="Dinov2Model",
    encoder=Dinov2Encoder,
)
CLIP = Architecture(
    name="clip",
    published=Pretrained(
        name="CLIP",
        repository="openai/clip-vit-large-patch14-336",
        revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        file="pytorch_model.bin",  # this revision has no safetensors
        sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
    ),
    settings={**VIT_L14, "intermediate_size": 4096, "projection_dim": 768, "image_size": 336},
    untrained={**NARROW, "intermediate_size": 128, "projection_dim": 24, "initializer_factor": 8.0},
    model="CLIPVisionModelWithProjection",
    encoder=ClipEncoder,
    ignored=("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids"),
)

ARCHITECTURES = {each.name: each for each in (DINOV2, CLIP)}

# transformers 5 renamed DINOv2's layers; the files kept the names.
_RENAMED = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


# Loading -----------------------------------------------------------------------------------------------------------


def load(name: str, weights: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """DINOv2 ViT-L/14 for FD-DINOv2, D = 1024, or CLIP ViT-L/14 at 336 pixels for CMMD, D = 768.

    `weights`: None for the published ones, "random" for untrained ones, else a folder or .safetensors file.

    The published file is found or downloaded as `Pretrained` says. A folder is what save_pretrained writes. "random" is
    reproducible and small: the same layers, two of them and narrow, since the published size is 300 million parameters.
    Only the published file, known by its hash, gives the network its plain name. SetupError when transformers or the
    published file cannot be had; DataError when a file is damaged, pickled or of another network.
    """
    architecture = ARCHITECTURES[name]
    model_class = _model_class(architecture)
    if weights == RANDOM:
        model = _untrained(architecture, model_class)
        name, sha256 = f"{architecture.name}-random", fingerprint(model.state_dict())
    else:
        published = architecture.published
        path = published.get() if weights is None else _given_file(Path(weights), architecture)
        sha256 = published.sha256 if weights is None else checksum(path)
        known = sha256 == published.sha256
        name = architecture.name if known else f"{architecture.name}-{sha256[:8]}"
        settings = architecture.settings if known else _settings_beside(path, architecture, model_class)
        # The published CLIP is pickled. Its hash says what is in it; no code in it is run all the same.
        tensors = read_tensors(path, pickled=known)
        used = {name: tensor for name, tensor in tensors.items() if not name.startswith(architecture.ignored)}
        model = _model(model_class, settings, used, path)
    encoder = architecture.encoder(model).eval().requires_grad_(False).to(device)
    return FeatureNetwork(
        name=name,
        sha256=sha256,
        module=encoder,
        image_shape=(None, None, 3),
        batch_size=BATCH_SIZE,
        pool_size=encoder.size,
        spatial_size=None,
    )


def _model_class(architecture: Architecture) -> Any:  # transformers has no types
    torchvision_guard.install()  # transformers imports torchvision where it is installed
    try:
        return getattr(importlib.import_module("transformers"), architecture.model)
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise SetupError(
            f"the feature network {architecture.name} needs the package transformers, which is not installed. "
            "Install it: pip install 'dit-harness[vit]'."
        ) from None


def _untrained(architecture: Architecture, model_class: Any) -> nn.Module:
    """Reproducible random weights; neither reads nor changes the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix("features", architecture.name))
        return _built(model_class, {**architecture.settings, **architecture.untrained})


def _built(model_class: Any, settings: Mapping[str, Setting]) -> nn.Module:
    return model_class(model_class.config_class.from_dict(dict(settings)))


def _given_file(path: Path, architecture: Architecture) -> Path:
    """The file of weights that the user means by a file or a folder."""
    names = dict.fromkeys((WEIGHTS, architecture.published.file))
    files = [path / name for name in names] if path.is_dir() else [path]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise DataError(
            f"there are no weights of {architecture.name} at {path}. Give a folder as save_pretrained writes it, with "
            f"{WEIGHTS} and config.json, a .safetensors file, or 'random'. Pickled files are not read."
        )
    return found


def _settings_beside(path: Path, architecture: Architecture, model_class: Any) -> Mapping[str, Setting]:
    """What config.json beside the weights says of the network; the published settings where there is none."""
    file = path.parent / "config.json"
    if not file.exists():
        return architecture.settings
    try:
        settings = read_json(file, LARGEST_CONFIG)
        if "vision_config" in settings:  # of CLIP with its half for texts; 512 is what transformers takes for none
            settings = {**settings["vision_config"], "projection_dim": settings.get("projection_dim", 512)}
        kind, expected = settings.get("model_type"), model_class.config_class.model_type
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}. Save the network with its save_pretrained.") from None
    if kind != expected:
        raise DataError(f"{file} describes a {kind!r}, not a {expected!r}. Give weights of {architecture.name}.")
    return settings


def _model(model_class: Any, settings: Mapping[str, Setting], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        with torch.device("meta"):  # random weights that would be thrown away take seconds to draw
            model = _built(model_class, settings)
        expected = model.state_dict().keys()
        present = {_present(name, expected): tensor.float() for name, tensor in weights.items()}
        model.load_state_dict(present, assign=True)
        modules: Iterable[Any] = model.modules()
        for module in modules:
            if getattr(module, "position_ids", None) is not None:  # of CLIP: in no file, so still without values
                module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    except HarnessError:
        raise  # a signal that arrived meanwhile
    except Exception as error:  # transformers checks settings with errors of its own, other ones in each version
        reason = one_line(error, 300)
        raise DataError(f"{path} does not fit its config.json: {reason}. Fetch or save both files again.") from None
    return model


def _present(name: str, expected: Collection[str]) -> str:
    """A weight's name in the transformers that is installed."""
    if name not in expected:
        for before, now in _RENAMED.items():
            name = name.replace(before, now)
    return name
