"""Frozen encoders of the clean image, whose tokens an objective draws the network's tokens to.

B batch, C channels, S side, G tokens a side, L = G G tokens, Z numbers of a token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from harness.model.frozen import Frozen
from harness.model.method import Batch
from harness.model.nn.classifier import SIDES, Classifier
from harness.model.nn.vit import Dinov2
from harness.model.pretrained import Pretrained
from harness.model.shape import Shape
from harness.recipes.config import InputShape, Knobs
from harness.system.errors import SetupError

DINOV2, PROXY = "dinov2-vitb14", "repa-proxy"
VAE_FACTOR = 8  # pixels of an image behind one place of its latent


class EncoderKnobs(Knobs):
    """The knobs of a method with a frozen encoder."""

    encoder: Literal["dinov2-vitb14", "repa-proxy"] = Field(
        "dinov2-vitb14", description="REPA Sec. 4: DINOv2-B; repa-proxy, of no paper: a classifier of the run's images"
    )
    encoder_sha256: str | None = Field(
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        pattern="^[0-9a-f]{64}$",
        description="the file of DINOv2's repository; null: repa-proxy's, filled in before the run is named",
    )
    encoder_reads: Literal["image", "clean", "features"] = Field(
        "image",
        description="REPA repository, dataset.py: the image, stored beside its latent; clean: what the network learns; "
        "features: stored tokens",
    )


PUBLISHED = Pretrained(  # the file that REPA's utils.py loads through torch.hub
    name=DINOV2,
    file="dinov2_vitb14_pretrain.pth",
    sha256=EncoderKnobs.model_fields["encoder_sha256"].default,
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
)


@dataclass(frozen=True, kw_only=True)
class Local(Pretrained):
    """Weights that no server has: a repa-proxy's, or those of somebody's own DINOv2."""

    @classmethod
    def of(cls, name: str, sha256: str | None, ending: str) -> "Local":
        named = sha256 or ""
        return cls(name=name, file=f"{name}-{named[:16]}.{ending}", sha256=named)

    @property
    def advice(self) -> str:
        if not self.sha256:
            return "encoder_sha256 is null, and no weights are named; `harness run` trains those of the run's images"
        return f"put them to {self.home} (or into ${self.variable}); sha256 {self.sha256}"

    def _download(self) -> Path:
        raise SetupError(f"the weights of {self.name} are not on this machine: {self.advice}.")


class Encoder:
    """What the knobs name: the tokens of each image, (B, L, Z), without gradient.

    frozen   the network, unless the tokens are stored
    extra    what the data set must have of each image besides
    width    Z
    """

    def __init__(self, cfg: EncoderKnobs, shape: Shape):
        """Raises ValueError where the encoder's tokens are not the network's, or it cannot see such images."""
        self.reads, self.grid, self._published = cfg.encoder_reads, shape.grid, cfg.encoder == DINOV2
        self.frozen: Mapping[str, Frozen] = {}
        self.extra: Mapping[str, tuple[int, ...]] = {}
        if self.reads == "clean" and shape.channels not in (1, 3):
            raise ValueError(
                f"encoder_reads is clean, and {shape.channels} channels are no image; say image or features, for a "
                "data set that has them beside its latents"
            )
        if not self._published:
            self._use_proxy(cfg, shape)
            return
        if cfg.encoder_sha256 is None:
            raise ValueError(f"encoder_sha256 is null, and {DINOV2} has published weights; name their sha256")
        network = partial(Dinov2, self.grid)
        with torch.device("meta"):
            self.width = network().width
        if self.reads == "features":
            self.extra = {"features": (self.width, self.grid, self.grid)}
            return
        if self.reads == "image":
            self.extra = {"image": (3, VAE_FACTOR * shape.side, VAE_FACTOR * shape.side)}
        published = cfg.encoder_sha256 == PUBLISHED.sha256
        file = PUBLISHED if published else Local.of(DINOV2, cfg.encoder_sha256, "pth")
        self.frozen = {DINOV2: Frozen(file, network)}

    def _use_proxy(self, cfg: EncoderKnobs, shape: Shape) -> None:
        if self.reads != "clean":
            raise ValueError(f"encoder_reads is {self.reads}, and {PROXY} sees what the network learns; say clean")
        if shape.side not in SIDES:
            raise ValueError(f"{PROXY} takes images of {SIDES[0]} to {SIDES[-1]} a side; these have {shape.side}")
        network = partial(
            Classifier, InputShape(channels=shape.channels, side=shape.side, num_classes=shape.num_classes)
        )
        with torch.device("meta"):
            maps = network().maps(torch.empty(1, shape.channels, shape.side, shape.side))
        sides = [found.shape[-1] for found in maps]
        if self.grid not in sides:
            raise ValueError(
                f"the tokens of {PROXY} are {' or '.join(f'{side} x {side}' for side in dict.fromkeys(sides))}, and "
                f"the network's are {self.grid} x {self.grid}; take another patch"
            )
        self._map = len(sides) - 1 - sides[::-1].index(self.grid)  # the deepest of this grid
        self.width = maps[self._map].shape[1]
        self.frozen = {PROXY: Frozen(Local.of(PROXY, cfg.encoder_sha256, "safetensors"), network)}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:  # (B, L, Z)
        if self.reads == "features":
            return batch.extra["features"].flatten(2).transpose(1, 2)
        image = batch.clean if self.reads == "clean" else batch.extra["image"]
        if self._published:
            return self.frozen[DINOV2].network(image)
        proxy: Any = self.frozen[PROXY].network
        return proxy.maps(image)[self._map].flatten(2).transpose(1, 2)
