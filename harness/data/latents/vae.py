"""The VAE between images and latents: found or fetched, checked against its hash. Encodes in full fp32.

B images, C latent channels, S side in pixels, s = S / factor side of a latent.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.data.latents.shards import VaeIdentity
from harness.model.pretrained import Pretrained, checksum, folders
from harness.recipes.config import LARGEST_CONFIG
from harness.recipes.seeds import mix
from harness.records.schema import read_json
from harness.system import torchvision_guard
from harness.system.errors import DataError, one_line, unknown
from harness.system.precision import no_autocast, plain_fp32, set_precision
from harness.system.weights import fingerprint, read_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIXELS_AT_ONCE = 2**21  # that one pass encodes on a GPU, 32 images of 256 x 256; an eighth of it elsewhere


def _published(id: str, revision: str, sha256: str) -> Pretrained:
    return Pretrained(
        name=f"the VAE {id}",
        repository=id,
        revision=revision,
        file=WEIGHTS,
        sha256=sha256,
        variable="HARNESS_VAE",
        folder="vae",
    )


# The hashes are the Git LFS ids of the two files (334,643,276 bytes each), as several public projects pin them.
PUBLISHED = {
    each.repository: each
    for each in (
        _published(
            "stabilityai/sd-vae-ft-ema",
            "f04b2c4b98319346dad8c65879f680b1997b204a",
            "32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46",
        ),
        _published(
            "stabilityai/sd-vae-ft-mse",
            "31f26fdeee1355a5c34592e401dd41e45d25a493",
            "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        ),
    )
}

# What the config.json of both says; every other setting is AutoencoderKL's default, the scale 0.18215 among them.
SD_VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
}
RANDOM = {  # untrained weights, for speed and for tests
    "random": SD_VAE,
    "random-tiny": {**SD_VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4},
}
RANDOM_GAIN, RANDOM_LOG_VARIANCE = 30.0, -8.0

# The published files are older than diffusers' present names of the attention's layers.
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True, eq=False)
class Vae:
    """A loaded VAE. Computes without gradients, in fp32 without TF32 or autocast by default."""

    id: str
    revision: str | None
    sha256: str  # of the weights' file; of the weights themselves where there is no file
    model: Any  # diffusers' AutoencoderKL, which has no types

    @property
    def identity(self) -> VaeIdentity:
        """For the records of what it encodes."""
        return VaeIdentity(id=self.id, revision=self.revision, sha256=self.sha256)

    @property
    def scale(self) -> float:
        """Times a latent gives what the network sees, about unit variance."""
        return float(self.model.config.scaling_factor)

    @property
    def factor(self) -> int:
        """Pixels per latent position, along one side."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return int(self.model.config.latent_channels)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def moments(self, images: Tensor, *, exact: bool = True) -> Tensor:  # (B, 3, S, S) uint8 -> (B, 2C, s, s) float32
        """Mean and standard deviation of each image's posterior, not scaled, on the VAE's device.

        Unless `exact`, TF32 is used where the process allows it: in the step that is timed, as DiT's code does.
        """
        assert images.dtype == torch.uint8, f"images are {images.dtype}, not uint8"
        at_once = self._at_once(images.shape[-1])
        with plain_fp32(self.device) if exact else no_autocast(self.device):
            return torch.cat([self._encode(part.to(self.device)) for part in images.split(at_once)])

    def decode(self, latents: Tensor, precision: str = "fp32") -> Tensor:  # (B, C, s, s) not scaled -> (B, 3, S, S)
        """Latents as pixels in about [-1, 1], in float32 on the VAE's device.

        The products are of `precision`, fp32, tf32 or bf16, whatever surrounds the call. Weights and tensors stay in
        the usual memory format: CUDA's group normalisation would turn channels_last back before every convolution
        (PyTorch issue 111824).
        """
        assert precision in ("fp32", "tf32", "bf16"), f"a VAE decodes in fp32, tf32 or bf16, not {precision!r}"
        at_once = max(1, self._at_once(latents.shape[-1] * self.factor) // 4)  # a decoder holds more than an encoder
        with plain_fp32(self.device):  # which also puts back, at its end, what is set here
            set_precision(precision)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                parts = [part.to(self.device, torch.float32) for part in latents.split(at_once)]
                return torch.cat([self.model.decode(part).sample.float() for part in parts])

    def _at_once(self, side: int) -> int:
        """Images of one pass: activations of 300 MB each would fill the memory. Depends on nothing but their size."""
        return max(1, PIXELS_AT_ONCE // (1 if self.device.type == "cuda" else 8) // side**2)

    def _encode(self, images: Tensor) -> Tensor:
        posterior = self.model.encode(images.float() / 127.5 - 1).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)


# Loading ---------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The ids that `load` knows beside folders."""
    return sorted([*PUBLISHED, *RANDOM])


def load(id: str, device: torch.device | str = "cpu", *, sha256: str | None = None) -> Vae:
    """The VAE called `id`, or in the folder `id` in diffusers' format, kept for the next call.

    Published weights are looked for in $HARNESS_VAE, in the harness cache and in the Hugging Face cache, and else are
    downloaded. Raises DataError when they are missing, or are not the ones of `sha256`.
    """
    vae = _on(id, torch.device(device))
    if sha256 not in (None, vae.sha256):
        raise DataError(
            f"the VAE {id} on this machine has weights of sha256 {vae.sha256}, and the latents were made by {sha256}. "
            f"Put the VAE that made them at {_homes(id)[-1]} or into the folder HARNESS_VAE names, or encode them "
            "again."
        )
    return vae


def identity(id: str) -> VaeIdentity:
    """Who `id` is; a published one's weights need not be on this machine. Raises as `load` does for the others."""
    if id in PUBLISHED:
        return VaeIdentity(id=id, revision=PUBLISHED[id].revision, sha256=PUBLISHED[id].sha256)
    return load(id).identity


@lru_cache(maxsize=8)
def _on(id: str, device: torch.device) -> Vae:
    if device.type != "cpu":
        vae = _on(id, torch.device("cpu"))
        return replace(vae, model=copy.deepcopy(vae.model).to(device))
    if id in PUBLISHED:
        published = PUBLISHED[id]
        return Vae(id, published.revision, published.sha256, _model(SD_VAE, published.get()))
    if id in RANDOM:
        return _random(id)
    return _local(id)


def _local(id: str) -> Vae:
    folder = _folder_of(id)
    path = _weights_in(folder)
    found = checksum(path)
    for name, published in PUBLISHED.items():
        if found == published.sha256:  # a copy of a known one keeps its name
            return Vae(name, published.revision, found, _model(SD_VAE, path))
    name = f"local/{folder.resolve().name}"  # without the path: records must not tell where somebody's files lie
    return Vae(name, None, found, _model(_config(folder / "config.json"), path))


def _weights_in(folder: Path) -> Path:
    """The file of weights in `folder`: save_pretrained's, or the only one of its variants, which has its name inside.

    Raises DataError where there is none, or several.
    """
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    variants = sorted(folder.glob(WEIGHTS.replace(".", ".*.")))  # save_pretrained(variant="fp16")
    if len(variants) == 1:
        return variants[0]
    if variants:
        found = ", ".join(path.name for path in variants)
        raise DataError(f"{folder} holds several variants of the weights: {found}. Leave the one that is meant.")
    hint = " Only safetensors are read, never pickled .bin files." if any(folder.glob("*.bin")) else ""
    raise DataError(f"{folder} holds no {WEIGHTS}.{hint} Save the VAE there with diffusers' save_pretrained.")


def _folder_of(id: str) -> Path:
    """The folder that `id` names, by its path or as "local/NAME", which is what records call it."""
    named = _homes(id) if id.startswith("local/") else []
    for folder in (Path(id), *named):
        if folder.is_dir():
            return folder
    if not id.startswith(("local/", ".", "/")):
        raise unknown("VAE", id, names())
    places = f": not at {' or '.join(map(str, named))}" if named else ""
    raise DataError(
        f"there is no folder of a VAE called {id}{places}. Give a folder with config.json and {WEIGHTS}, or one of "
        f"{', '.join(names())}."
    )


def on_shapes(config: dict[str, Any]) -> Any:
    """The model that a configuration describes, on the meta device: shapes without weights."""
    with torch.device("meta"):
        return _autoencoder()(**config)


def _random(id: str) -> Vae:
    """Reproducible untrained weights; neither reads nor changes the caller's random state.

    The last layer is changed so that a posterior is as narrow, and its scaled mean as wide, as a trained encoder's.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(mix("vae", id))
        model = _autoencoder()(**RANDOM[id])
        means, _ = model.quant_conv.weight.chunk(2)
        means *= RANDOM_GAIN
        model.quant_conv.bias.zero_()[len(means) :] = RANDOM_LOG_VARIANCE
    return Vae(id, None, fingerprint(model.state_dict()), model.eval().requires_grad_(False))


# Files -----------------------------------------------------------------------------------------------------------


def _homes(id: str) -> list[Path]:
    """Where the folder of a VAE called so may lie."""
    return [folder / Path(id).name for folder in folders("HARNESS_VAE", "vae")]


def _config(path: Path) -> dict[str, Any]:
    """A VAE's config.json. Refuses what this project's latents have no place for."""
    try:
        config = read_json(path, LARGEST_CONFIG)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}. Save the VAE with diffusers' save_pretrained.") from None
    if not isinstance(config, dict) or config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        raise DataError(f"{path} does not describe an AutoencoderKL, the only kind of VAE this project runs.")
    shifted = [key for key in ("shift_factor", "latents_mean", "latents_std") if config.get(key) is not None]
    if shifted:
        raise DataError(
            f"{path} sets {shifted[0]}: latents here are scaled by one number. Take a VAE with scaling_factor only."
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _model(config: dict[str, Any], path: Path) -> Any:
    """The VAE that `config` describes with the weights in the file `path`."""
    weights = read_tensors(path)
    try:
        with torch.device("meta"):  # random weights that would be thrown away take a second to draw
            model = _autoencoder()(**config)
        model.load_state_dict({_present(name): weight.float() for name, weight in weights.items()}, assign=True)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = one_line(error, 300)
        raise DataError(f"{path} does not fit its config.json: {reason}. Fetch or save both files again.") from None
    return model.eval().requires_grad_(False)


def _present(name: str) -> str:
    if "attentions" in name:
        for before, after in _RENAMED.items():
            name = name.replace(before, after)
    return name


def _autoencoder() -> Any:
    torchvision_guard.install()  # diffusers imports torchvision
    from diffusers import AutoencoderKL  # seconds to import, and only those who encode or decode need it

    return AutoencoderKL
