"""The feature network "digits": a small classifier of scikit-learn's digits, trained on first use and then cached.

Its taps sit where Inception's do: pool is the average of the last feature map (pool_3), spatial the first 7 channels
of a map halfway (mixed_6/conv), logits the class outputs.   B images.
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.data import sources
from harness.data.dataset import Dataset, InMemory
from harness.evaluation.images.uint8 import to_uint8
from harness.system.errors import DataError
from harness.system.files import cache_folder
from harness.system.precision import one_thread
from harness.system.weights import fingerprint, read_checked, write_checked

IMAGE_SHAPE = (8, 8, 1)
POOL_SIZE = 64
_SPATIAL_CHANNELS = 7  # as many as sFID takes of Inception's map (Nash et al. 2021)
SPATIAL_SIZE = 4 * 4 * _SPATIAL_CHANNELS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data and the code. Raise `version` when the code changes them."""

    version: int = 1
    seed: int = 0
    held_out_share: float = 0.2
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 0.05  # decays to 0 along a half cosine
    momentum: float = 0.9
    weight_decay: float = 5e-3
    noise: float = 0.25  # +- two of the 17 grey levels: generated images fall between the levels
    weight_step: float = 2.0**-16


RECIPE = Recipe()


class DigitsClassifier(nn.Module):
    """(B, 8, 8, 1) uint8 -> pool (B, 64), spatial (B, 112), logits (B, 10), computed in float64."""

    def __init__(self):
        super().__init__()
        self.early = nn.Conv2d(1, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 32, 3, padding=1)
        self.late = nn.Conv2d(32, POOL_SIZE, 3, padding=1)
        self.head = nn.Linear(POOL_SIZE, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.taps(_scaled(images))

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (B, 1, 8, 8) in [-1, 1]
        middle = F.relu(self.middle(F.max_pool2d(F.relu(self.early(x)), 2)))  # (B, 32, 4, 4)
        pool = F.relu(self.late(F.max_pool2d(middle, 2))).mean((2, 3))  # (B, 64)
        spatial = middle[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)  # (B, 112)
        return pool, spatial, self.head(pool)


class Trained(NamedTuple):
    module: DigitsClassifier
    sha256: str  # of the weights
    held_out_accuracy: float  # share of the digits left out of training that are classified correctly


@torch.inference_mode(False)  # a caller may be sampling, and training needs gradients
def load() -> Trained:
    """The trained classifier: from the cache, or trained (seconds, on the CPU) when the cache has no sound copy of it.

    The cache lies in $HARNESS_CACHE, or else in the user's cache folder. A damaged file or a folder that cannot be
    written costs a warning and the time to train, never an error.
    """
    data = sources.digits()
    path = _cache_path(data)
    trained = _read(path)
    if trained is None:
        trained = train(data, RECIPE)
        _write(path, trained)
    return trained


# Training --------------------------------------------------------------------------------------------------------


@torch.enable_grad()
def train(data: InMemory, recipe: Recipe) -> Trained:
    """A classifier of four fifths of `data`, its accuracy measured on the rest. Same recipe, same weights, bit for bit.

    Training runs in float64 and the weights are then rounded to multiples of `weight_step`. Kinds of processor that sum
    in another order differ by about 1e-15 before the rounding, so practically never after it, and distances measured on
    two machines are distances in one feature space. Global random state is neither read nor changed.
    """
    with one_thread():
        generator = torch.Generator().manual_seed(recipe.seed)
        x, labels = _scaled(to_uint8(data.clean)), data.labels
        order = torch.randperm(len(data), generator=generator)
        held_out, seen = order.tensor_split([int(recipe.held_out_share * len(data))])
        module = _with_weights(_initial_weights(generator))
        _descend(module, x[seen], labels[seen], recipe, generator)
        weights = {name: _rounded(weight, recipe.weight_step) for name, weight in module.state_dict().items()}
        module = _with_weights(weights)
        correct = module.taps(x[held_out])[2].argmax(1) == labels[held_out]
    return Trained(module, fingerprint(weights), correct.double().mean().item())


def _descend(module: DigitsClassifier, x: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
    """Stochastic gradient descent with momentum, in place. Written out: torch.optim takes seconds to import."""
    parameters = list(module.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    for step in range(recipe.steps):
        learning_rate = recipe.learning_rate * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        batch = torch.randint(len(x), (recipe.batch_size,), generator=generator)
        noise = torch.rand(x[batch].shape, generator=generator, dtype=x.dtype) * 2 - 1
        logits = module.taps(x[batch] + recipe.noise * noise)[2]
        module.zero_grad()
        F.cross_entropy(logits, labels[batch]).backward()
        with torch.no_grad():
            for parameter, velocity in zip(parameters, velocities, strict=True):
                assert parameter.grad is not None, "every parameter is part of the loss"
                velocity.mul_(recipe.momentum).add_(parameter.grad + recipe.weight_decay * parameter)
                parameter.sub_(learning_rate * velocity)


def _rounded(weight: Tensor, weight_step: float) -> Tensor:
    return ((weight / weight_step).round() * weight_step).float()  # exact: a float32 holds such multiples up to 256


def _initial_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """He et al. 2015, uniform: uniform numbers are exact on every processor, normal ones pass through log and cos."""
    weights = {}
    for name, empty in _empty_module().state_dict().items():
        weights[name] = torch.zeros(empty.shape, dtype=torch.float64)
        if empty.ndim > 1:
            draw = torch.rand(empty.shape, generator=generator, dtype=torch.float64) * 2 - 1
            weights[name] = draw * math.sqrt(6 / empty[0].numel())
    return weights


def _scaled(images: Tensor) -> Tensor:  # (B, H, W, C) uint8 -> (B, C, H, W) float64 in [-1, 1]
    return images.permute(0, 3, 1, 2).double() / 127.5 - 1


def _empty_module() -> DigitsClassifier:
    with torch.device("meta"):  # the layers' own initialisation would draw from the global generator
        return DigitsClassifier()


def _with_weights(weights: dict[str, Tensor]) -> DigitsClassifier:
    module = _empty_module()
    module.load_state_dict({name: weight.double() for name, weight in weights.items()}, assign=True)
    return module


# Cache -----------------------------------------------------------------------------------------------------------


def _cache_path(data: Dataset) -> Path:
    """The file's name changes with everything that could change the weights, so an old file is never taken for new."""
    key = {"data": data.sha256, "recipe": asdict(RECIPE), "torch": str(torch.__version__)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"digits-classifier-{digest[:16]}.safetensors"


def _read(path: Path) -> Trained | None:
    """The classifier cached at `path`; None when there is none or it is damaged."""
    try:
        weights, facts = read_checked(path)
        return Trained(_with_weights(weights), facts["sha256"], float(facts["held_out_accuracy"]))
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        log.warning("the cached classifier %s cannot be used (%r); training it again", path, error)
        return None


def _write(path: Path, trained: Trained) -> None:
    weights = {name: weight.float() for name, weight in trained.module.state_dict().items()}
    try:
        write_checked(path, weights, held_out_accuracy=repr(trained.held_out_accuracy))
    except DataError as error:
        log.warning(
            "the classifier cannot be cached (%s); it will be trained again next time. Set HARNESS_CACHE to "
            "another folder",
            error,
        )
