"""What encoding images adds to a training step that does it itself (pipeline online-vae), as DiT and MDT published.

S side of an image in pixels, D width of a level.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.data.latents import vae
from harness.recipes.config import RunConfig
from harness.system.errors import UsageError

# harness.system.precision: a process whose step is bf16 allows no TF32, and the VAE knows no autocast.
PRECISION = {"fp32": "fp32", "tf32": "tf32", "bf16": "fp32"}


class EncoderCost(NamedTuple):
    """Of the VAE's encoder."""

    macs: int  # of one image
    weights: int  # numbers in its products
    side: int  # of an image, in pixels


def online_encoder(cfg: RunConfig) -> EncoderCost | None:
    """The encoder inside a step of this run; None where latents are read. A VAE in a folder is loaded and counted.

    Raises UsageError for a run that should encode and names no VAE; as harness.data.latents.vae.load for a folder.
    """
    protocol = cfg.protocol
    if protocol.pipeline != "online-vae":
        return None
    if protocol.vae is None:
        raise UsageError(
            f"{cfg.recipe} has pipeline online-vae and no VAE; name it with --set vae=stabilityai/sd-vae-ft-ema."
        )
    known: dict[str, Any] | None = vae.SD_VAE if protocol.vae in vae.PUBLISHED else vae.RANDOM.get(protocol.vae)
    if known is None:
        return counted_encoder(vae.load(protocol.vae).model, cfg.input.side)
    channels = tuple(known["block_out_channels"])
    return sd_encoder(
        channels, known["layers_per_block"], known["latent_channels"], cfg.input.side * 2 ** (len(channels) - 1)
    )


class Convolution(NamedTuple):
    kernel: int
    inputs: int
    outputs: int
    side: int  # of its output


def sd_encoder(channels: tuple[int, ...], layers_per_block: int, latent_channels: int, side: int) -> EncoderCost:
    """The Stable Diffusion VAE's encoder on an image of `side` x `side` pixels, as diffusers' AutoencoderKL builds it.

    Rombach et al. 2022 (arXiv:2112.10752): at each level residual blocks of two 3 x 3 convolutions, halved after each
    level but the last; then two more blocks around one attention. 136.4 GMAC at 256 x 256.
    """
    pixels, width = side, channels[0]
    layers = [Convolution(3, 3, width, side)]
    for level, outputs in enumerate(channels):
        for _ in range(layers_per_block):
            layers += _residual_block(width, outputs, side)
            width = outputs
        if level < len(channels) - 1:
            side //= 2
            layers.append(Convolution(3, width, width, side))
    layers += 2 * _residual_block(width, width, side)
    layers += 4 * [Convolution(1, width, width, side)]  # queries, keys, values, output
    layers += [Convolution(3, width, 2 * latent_channels, side)]
    layers += [Convolution(1, 2 * latent_channels, 2 * latent_channels, side)]
    attention = 2 * side**4 * width  # one head over side^2 places
    return EncoderCost(
        macs=sum(c.kernel**2 * c.inputs * c.outputs * c.side**2 for c in layers) + attention,
        weights=sum(c.kernel**2 * c.inputs * c.outputs for c in layers),
        side=pixels,
    )


def _residual_block(inputs: int, outputs: int, side: int) -> list[Convolution]:
    both = [Convolution(3, inputs, outputs, side), Convolution(3, outputs, outputs, side)]
    return both if inputs == outputs else [*both, Convolution(1, inputs, outputs, side)]


def counted_encoder(model: Any, latent_side: int) -> EncoderCost:
    """The same of any diffusers AutoencoderKL, run on shapes alone."""
    side = latent_side * 2 ** (len(model.config.block_out_channels) - 1)
    shapes = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes.encode(torch.zeros(1, model.config.in_channels, side, side, device="meta"))
    weights = [p for part in (shapes.encoder, shapes.quant_conv) if part is not None for p in part.parameters()]
    return EncoderCost(counter.get_total_flops() // 2, sum(p.numel() for p in weights if p.dim() > 1), side)
