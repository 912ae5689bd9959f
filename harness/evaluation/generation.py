"""Images from a network. Image i depends on (seed, i) alone; on the batch it is drawn in, by the rounding of sums.

N images, B images of a batch, C channels, S side.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from harness.config import InputShape, RunConfig, Sampling
from harness.data.vae import Vae
from harness.diffusion.formulations import FORMULATIONS, Formulation, Network
from harness.diffusion.guidance import guided, power_cosine, within
from harness.diffusion.samplers import SAMPLERS, Denoise
from harness.evaluation.image_sets import PartImages
from harness.evaluation.images import to_uint8
from harness.evaluation.parts import draw_in_parts
from harness.randomness import mix
from harness.world import World

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


def image_shape(network_input: InputShape, vae: Vae | None) -> tuple[int, int, int]:
    """Of the images that a network for `network_input` and the VAE make together: (H, W, C)."""
    if vae is None:
        return network_input.side, network_input.side, network_input.channels
    return network_input.side * vae.factor, network_input.side * vae.factor, 3


def decoder(vae: Vae | None) -> Decode:
    """Latents to pixels; without a VAE, the network makes pixels itself."""
    if vae is None:
        return lambda clean: clean
    return lambda clean: vae.decode(clean / vae.scale)


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
    precision: str = "fp32",
    decode: Decode = lambda clean: clean,
    advance: Advance = lambda done: None,
) -> Generated:
    """An image of `image_shape` (C, S, S) for each label (N,), sampled as `sampling` says: images first, first + 1, ...

    The network computes in `precision`, fp32 or bf16; the sampler's state does not. `decode` turns what was made into
    pixels.
    """
    draw, batches = SAMPLERS[sampling.sampler], []
    network = _in_precision(network, precision, device)
    for start in range(0, len(labels), batch_size):
        wanted = labels[start : start + batch_size]
        noise = _ImageNoise(seed, range(first + start, first + start + len(wanted)), image_shape, device)
        denoise = _denoiser(network, formulation, sampling, wanted.to(device), null_label)
        with torch.inference_mode():
            batches.append(to_uint8(decode(draw(denoise, noise, formulation, sampling.num_steps))).cpu())
        advance(start + len(wanted))
    return Generated(torch.cat(batches), labels)


def draw_images(
    folder: Path,
    network: nn.Module,
    cfg: RunConfig,
    labels: Tensor,
    *,
    seed: int,
    vae: Vae | None,
    device: torch.device,
    world: World = World(),
    advance: Advance = lambda done: None,
) -> PartImages:
    """An image for each label (N,), as `cfg` samples, in parts under `folder` that the processes share out.

    Parts that are there are not drawn again; the folder's name must say everything that decides the images.
    """
    formulation, network = FORMULATIONS[cfg.formulation](), network.eval()
    latent, shape = (
        (cfg.input.channels, cfg.input.side, cfg.input.side),
        image_shape(cfg.input, vae),
    )
    decode = decoder(vae)

    def draw(first: int, stop: int) -> Tensor:
        return generate(
            network,
            formulation,
            cfg.sampling,
            labels[first:stop],
            image_shape=latent,
            null_label=cfg.input.num_classes,
            seed=seed,
            batch_size=cfg.evaluation.sample_batch,
            device=device,
            first=first,
            precision=cfg.evaluation.sample_precision,
            decode=decode,
        ).images

    part = min(cfg.evaluation.sample_batch, math.ceil(len(labels) / world.size))
    paths = draw_in_parts(folder, len(labels), part, shape, draw, world=world, advance=advance)
    return PartImages("generated", paths, shape, labels)


def _in_precision(network: Network, precision: str, device: torch.device) -> Network:
    def computed(net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(net_input, net_noise, labels).float()

    return computed


def _denoiser(
    network: Network, formulation: Formulation, sampling: Sampling, labels: Tensor, null_label: int
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
    if sampling.guidance_interval is not None:
        scale = within(sampling.guidance_interval, scale, formulation.sigma_of)
    return guided(conditional, unconditional, scale, sampling.guidance_channels)


class _ImageNoise:
    """Draws unit noise for a batch, each image from a generator of its own.   () -> (B, C, S, S) float64"""

    def __init__(self, seed: int, indices: range, image_shape: tuple[int, int, int], device: torch.device):
        self._generators = [torch.Generator().manual_seed(mix("image", seed, index)) for index in indices]
        self._shape, self._device = image_shape, device

    def __call__(self) -> Tensor:
        draws = [torch.randn(self._shape, generator=g, dtype=torch.float64) for g in self._generators]
        return torch.stack(draws).to(self._device)
