"""Images of noise for the pipeline that encodes in the step: for speed without data.

N images, C channels, S side in pixels, s side of a latent.
"""

import hashlib

import torch
from torch import Tensor

from harness.data.images.image_folder import EncodedInStep
from harness.data.latents import vae
from harness.recipes.config import InputShape

NUM_IMAGES = 128


class SyntheticImages(EncodedInStep):
    """128 images, decoded already, that the VAE encodes in every step to latents of the shape a run asks for.

    What reading and decoding files takes is not in it; a folder of images has that too.
    """

    in_memory = True
    real = False

    def __init__(self, name: str, shape: InputShape, *, vae_id: str):
        encoder, generator = vae.load(vae_id), torch.Generator().manual_seed(0)
        side = shape.side * encoder.factor
        self.name, self.vae, self.vae_sha256 = name, vae_id, encoder.sha256
        self.channels, self.side, self.num_classes = encoder.channels, shape.side, shape.num_classes
        self.pixels = torch.randint(256, (NUM_IMAGES, 3, side, side), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(shape.num_classes, (NUM_IMAGES,), generator=generator)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.pixels.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return NUM_IMAGES

    def everything(self) -> Tensor:
        return self.pixels

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:  # (B,) -> (B, 3, S, S) uint8, (B,)
        return self.pixels[indices], self.labels[indices]
