"""What encoding images adds to a training step that does it itself (pipeline online-vae), as DiT and MDT published."""

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
    """The encoder inside a step of this run; None where latents are read. It is run on shapes and counted.

    Raises UsageError for a run that should encode and names no VAE; as harness.data.latents.vae.load for a folder.
    """
    protocol = cfg.protocol
    if protocol.pipeline != "online-vae":
        return None
    if protocol.vae is None:
        raise UsageError(
            f"{cfg.recipe} has pipeline online-vae and no VAE; name it with --set vae=stabilityai/sd-vae-ft-ema."
        )
    known = vae.SD_VAE if protocol.vae in vae.PUBLISHED else vae.RANDOM.get(protocol.vae)
    model = vae.load(protocol.vae).model if known is None else vae.on_shapes(known)
    return counted_encoder(model, cfg.input.side)


def counted_encoder(model: Any, latent_side: int) -> EncoderCost:
    """Of a diffusers AutoencoderKL whose latents have this side, run on shapes alone."""
    side = latent_side * 2 ** (len(model.config.block_out_channels) - 1)
    shapes = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shapes.encode(torch.zeros(1, model.config.in_channels, side, side, device="meta"))
    weights = [p for part in (shapes.encoder, shapes.quant_conv) if part is not None for p in part.parameters()]
    return EncoderCost(counter.get_total_flops() // 2, sum(p.numel() for p in weights if p.dim() > 1), side)
