"""Images from a network. Image i depends on (seed, i) alone, not on the batch or the process it was drawn in.

N images, B images of a batch, C channels, S side.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.config import Sampling
from harness.diffusion.formulations import Formulation
from harness.diffusion.guidance import guided, power_cosine
from harness.diffusion.samplers import SAMPLERS, Denoise
from harness.evaluation.images import to_uint8
from harness.randomness import mix

Advance = Callable[[int], None]  # told how many images are done
Decode = Callable[[Tensor], Tensor]  # what the network made (B, C, S, S) -> pixels (B, 1 or 3, H, W) in about [-1, 1]


class Generated(NamedTuple):
    images: Tensor  # (N, S, S, C) uint8
    labels: Tensor  # (N,) the class asked for


def choose_labels(rule: str, num_images: int, num_classes: int, seed: int) -> Tensor:
    """Labels to ask for.   (N,)   "random": each drawn for itself, as ADM and DiT do; "balanced": 0, 1, ... in turn."""
    if rule == "balanced":
        return torch.arange(num_images) % num_classes
    return torch.tensor([mix("label", seed, index) % num_classes for index in range(num_images)])


def decoder(vae_id: str | None, device: torch.device, sha256: str | None = None) -> Decode:
    """Latents to pixels through the VAE called `vae_id`, with weights of this hash; None: the network makes pixels."""
    if vae_id is None:
        return lambda clean: clean
    from harness.data import vae  # diffusers takes seconds to import

    loaded = vae.load(vae_id, device, sha256=sha256)
    return lambda clean: loaded.decode(clean / loaded.scale)


def generate(
    network: nn.Module,
    formulation: Formulation,
    sampling: Sampling,
    labels: Tensor,
    *,
    image_shape: tuple[int, int, int],
    null_label: int,
    seed: int,
    batch_size: int,
    device: torch.device,
    first: int = 0,
    decode: Decode = lambda clean: clean,
    advance: Advance = lambda done: None,
) -> Generated:
    """An image of `image_shape` (C, S, S) for each label (N,), sampled as `sampling` says: images first, first + 1, ...

    `decode` turns what the network made into pixels.
    """
    draw, batches = SAMPLERS[sampling.sampler], []
    for start in range(0, len(labels), batch_size):
        wanted = labels[start : start + batch_size]
        noise = _ImageNoise(seed, range(first + start, first + start + len(wanted)), image_shape, device)
        denoise = _denoiser(network, formulation, sampling, wanted.to(device), null_label)
        with torch.inference_mode():
            batches.append(to_uint8(decode(draw(denoise, noise, formulation, sampling.num_steps))).cpu())
        advance(start + len(wanted))
    return Generated(torch.cat(batches), labels)


def _denoiser(
    network: nn.Module, formulation: Formulation, sampling: Sampling, labels: Tensor, null_label: int
) -> Denoise:
    def conditional(x: Tensor, level: float):
        return formulation.predict(network, x, level, labels)

    def unconditional(x: Tensor, level: float):
        return formulation.predict(network, x, level, torch.full_like(labels, null_label))

    if sampling.guidance_scale is None:
        return conditional
    scale: float | Callable[[float], float] = sampling.guidance_scale
    if sampling.guidance_power is not None:
        scale = power_cosine(sampling.guidance_scale, sampling.guidance_power)
    return guided(conditional, unconditional, scale, sampling.guidance_channels)


class _ImageNoise:
    """Draws unit noise for a batch, each image from a generator of its own.   () -> (B, C, S, S) float64"""

    def __init__(self, seed: int, indices: range, image_shape: tuple[int, int, int], device: torch.device):
        self._generators = [torch.Generator().manual_seed(mix("image", seed, index)) for index in indices]
        self._shape, self._device = image_shape, device

    def __call__(self) -> Tensor:
        draws = [torch.randn(self._shape, generator=g, dtype=torch.float64) for g in self._generators]
        return torch.stack(draws).to(self._device)
