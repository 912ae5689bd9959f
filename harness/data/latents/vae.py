"""The VAE between images and latents: found or fetched, checked against its hash. Encodes in full fp32.

B images, C latent channels, S side in pixels, s = S / factor side of a latent.
"""

import copy
import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from harness.data.latents.shards import VaeIdentity
from harness.model.seeds import mix
from harness.recipes.config import LARGEST_CONFIG
from harness.records.schema import read_json
from harness.system import torchvision_guard
from harness.system.errors import DataError, HarnessError, one_line, unknown
from harness.system.files import cache_folder
from harness.system.precision import no_autocast, plain_fp32, set_precision
from harness.system.weights import fingerprint

WEIGHTS = "diffusion_pytorch_model.safetensors"
PIXELS_AT_ONCE = 2**21  # that one pass encodes on a GPU, 32 images of 256 x 256; an eighth of it elsewhere


@dataclass(frozen=True)
class Published:
    """A file on huggingface.co that never changes: the repository's commit and the hash of its weights."""

    revision: str
    sha256: str

    def address(self, id: str) -> str:
        return f"https://huggingface.co/{id}/resolve/{self.revision}/{WEIGHTS}"


# The hashes are the Git LFS ids of the two files (334,643,276 bytes each), as several public projects pin them.
PUBLISHED = {
    "stabilityai/sd-vae-ft-ema": Published(
        revision="f04b2c4b98319346dad8c65879f680b1997b204a",
        sha256="32db726da04f06c1b6b14c0043ce115cc87a501482945c5add89a40d838fcb46",
    ),
    "stabilityai/sd-vae-ft-mse": Published(
        revision="31f26fdeee1355a5c34592e401dd41e45d25a493",
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
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
    """A loaded VAE. Computes without gradients, in fp32 without TF32 or autocast unless told otherwise."""

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
    downloaded. Raises DataError when they cannot be had, or are not the ones of `sha256`.
    """
    vae = _on(id, torch.device(device))
    if sha256 not in (None, vae.sha256):
        raise DataError(
            f"the VAE {id} on this machine has weights of sha256 {vae.sha256}, and the latents were made by {sha256}. "
            f"Put the VAE that made them at {_home(id)} or into the folder HARNESS_VAE names, or encode them again."
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
        return _published(id)
    if id in RANDOM:
        return _random(id)
    return _local(id)


def _published(id: str) -> Vae:
    path = find(id) or _download(id)
    content = _read(path)
    found, expected = hashlib.sha256(content).hexdigest(), PUBLISHED[id]
    if found != expected.sha256:
        other = next((f" (it is {name}'s)" for name, file in PUBLISHED.items() if file.sha256 == found), "")
        raise DataError(
            f"{path} is not the file of {id}: its sha256 is {found}{other} instead of {expected.sha256}. "
            f"Replace it by {expected.address(id)}, or let HARNESS_VAE name another folder."
        )
    return Vae(id, expected.revision, found, _model(SD_VAE, _tensors(content, path), path))


def _local(id: str) -> Vae:
    folder = _folder_of(id)
    path = folder / WEIGHTS
    if not path.is_file():
        hint = " Only safetensors are read, never pickled .bin files." if any(folder.glob("*.bin")) else ""
        raise DataError(f"{folder} holds no {WEIGHTS}.{hint} Save the VAE there with diffusers' save_pretrained.")
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    for name, published in PUBLISHED.items():
        if found == published.sha256:  # a copy of a known one keeps its name
            return Vae(name, published.revision, found, _model(SD_VAE, _tensors(content, path), path))
    name = f"local/{folder.resolve().name}"  # without the path: records must not tell where somebody's files lie
    return Vae(name, None, found, _model(_config(folder / "config.json"), _tensors(content, path), path))


def _folder_of(id: str) -> Path:
    """The folder that `id` names, by its path or as "local/NAME", which is what records call it."""
    named = _folders(id) if id.startswith("local/") else []
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


def find(id: str) -> Path | None:
    """Where a published VAE's weights lie on this machine, not yet checked; None when they are at no known place."""
    return next((path for path in _places(id) if path.is_file()), None) or _cached(id)


def _home(id: str) -> Path:
    """The folder of the harness cache that is this VAE's."""
    return cache_folder() / "vae" / Path(id).name


def _folders(id: str) -> list[Path]:
    """Where a VAE may lie on this machine, besides the Hugging Face cache."""
    given = os.environ.get("HARNESS_VAE")
    return [*([Path(given) / Path(id).name] if given else []), _home(id)]


def _places(id: str) -> list[Path]:
    """Where a published VAE's weights may lie; $HARNESS_VAE may also be the very folder that holds them."""
    given = os.environ.get("HARNESS_VAE")
    return [folder / WEIGHTS for folder in (*_folders(id), *([Path(given)] if given else []))]


def _cached(id: str) -> Path | None:
    """In the Hugging Face cache, which is asked offline."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(id, WEIGHTS, revision=PUBLISHED[id].revision)
    return Path(path) if isinstance(path, str) else None


def _download(id: str) -> Path:
    """The file in the Hugging Face cache, fetched. A public file: no token is sent."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its retries are told one by one, and the error below says it all
    published = PUBLISHED[id]
    try:
        return Path(hf_hub_download(id, WEIGHTS, revision=published.revision, token=False))
    except HarnessError:
        raise  # a signal that arrived meanwhile
    except Exception as error:  # of net, server or disk, whatever the HTTP library below raises
        reason = one_line(error.__cause__ or error)
        raise DataError(
            f"the weights of {id} are not on this machine and could not be downloaded ({reason}). "
            f"Fetch {published.address(id)} (sha256 {published.sha256}) into {_home(id)}, or set HARNESS_VAE to the "
            "folder it is in."
        ) from None


def _read(path: Path) -> bytes:
    """The whole file, read once: what is hashed is what is loaded."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check the file and repeat the command.") from None


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


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.load(content)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {error}. Fetch it again.") from None


def _model(config: dict[str, Any], weights: dict[str, Tensor], path: Path) -> Any:
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
