"""A small classifier of a data set's images, trained once and then cached.

It is the feature networks "digits", of scikit-learn's digits, always the same one, and "own", of whatever images a run
trains on; with another seed it is the encoder repa-proxy (harness.data.proxy). Its taps sit where Inception's do: pool
is the average of the last feature map (pool_3), spatial the first 7 channels of a map halfway (mixed_6/conv), logits
the class outputs. A distance of their features is never called FID.
B images of C channels and S x S pixels, K classes.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data import sources
from harness.data.dataset import Dataset
from harness.data.images.uint8 import to_uint8
from harness.model.nn.classifier import SIDES, Classifier, scaled
from harness.model.randomness import Draw
from harness.recipes.config import InputShape
from harness.system.errors import DataError
from harness.system.files import cache_folder
from harness.system.precision import one_thread
from harness.system.weights import fingerprint, read_checked, write_checked

FEWEST_IMAGES = 50  # to learn from

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data and the code. Raise `version` when the code changes them."""

    version: int = 1
    seed: int = 0
    held_out_share: float = 0.2  # of data that have no held-out images of their own
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 0.05  # decays to 0 along a half cosine
    momentum: float = 0.9
    weight_decay: float = 5e-3
    noise: float = 0.25  # +- two of the digits' 17 grey levels: generated images fall between the levels
    weight_step: float = 2.0**-16


DIGITS = Recipe()
OWN = Recipe(steps=800, learning_rate=0.1, weight_decay=1e-3, noise=0.1)


class Trained(NamedTuple):
    module: Classifier
    sha256: str  # of the weights
    held_out_accuracy: float  # share of the images left out of training that are classified correctly
    held_out_images: int


@torch.inference_mode(False)  # a caller may be sampling, and training needs gradients
def load(data: Dataset | None = None, recipe: Recipe | None = None) -> Trained:
    """The classifier of `data`, by default of the digits: from the cache, or trained when the cache has no sound copy.

    That takes the digits seconds, and 60,000 images of 28 x 28 under a minute, on the CPU. The cache lies in
    $HARNESS_CACHE, or else in the user's cache folder. A damaged file or a folder that cannot be written costs a
    warning and the time to train, never an error. Raises DataError as `refuse` does.
    """
    recipe = recipe or (DIGITS if data is None else OWN)
    data = data or sources.digits()
    refuse(data)
    path = _cache_path(data, recipe)
    trained = _read(path, data.shape)
    if trained is None:
        trained = train(data, recipe)
        _write(path, trained)
    return trained


def refuse(data: Dataset) -> None:
    """Raises DataError for data that no classifier can be trained on: latents, few images, one class."""
    if reason := unfit(data):
        raise DataError(
            f"no feature network of its own can be made of {data.name}: {reason}. Name another with --features, like "
            "inception."
        )


def unfit(data: Dataset) -> str | None:
    """Why no classifier can be trained on `data`; None: one can."""
    if not data.real or data.vae is not None or data.channels not in (1, 3):
        return "it does not hold images"
    if data.side not in SIDES:
        return f"its images are {data.side} x {data.side} pixels, and it takes {SIDES[0]} to {SIDES[-1]} a side"
    if len(data) < FEWEST_IMAGES:
        return f"it has {len(data)} images to train on, and {FEWEST_IMAGES} are the fewest"
    if len(data.labels.unique()) < 2:
        return "its images are all of one class, so that there is nothing to tell apart"
    return None


# Training --------------------------------------------------------------------------------------------------------


@torch.enable_grad()
def train(data: Dataset, recipe: Recipe) -> Trained:
    """A classifier of `data`, its accuracy measured on held-out images. Same recipe, same weights, bit for bit.

    Those are the data's own held-out images; where there are none, a fifth of `data`, which is then left out. Training
    runs in float64 and the weights are then rounded to multiples of `weight_step`. Kinds of processor that sum
    in another order differ by about 1e-15 before the rounding, so practically never after it, and distances measured on
    two machines are distances in one feature space. Global random state is neither read nor changed.
    """
    with one_thread():
        generator = torch.Generator().manual_seed(recipe.seed)
        labels = data.labels
        order = torch.randperm(len(data), generator=generator)
        left_out, seen = order.tensor_split([int(recipe.held_out_share * len(data))])
        if data.held_out is not None:
            seen = order
        module = _with_weights(_initial_weights(data.shape, generator), data.shape)

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            return _pixels(data, seen[rows]), labels[seen[rows]]

        _descend(module, read, len(seen), recipe, generator)
        weights = {name: _rounded(weight, recipe.weight_step) for name, weight in module.state_dict().items()}
        module = _with_weights(weights, data.shape)
        judged = data if data.held_out is None else data.held_out
        if data.held_out is not None:
            left_out = torch.arange(len(judged))
        correct = [
            module.taps(_pixels(judged, rows))[2].argmax(1) == judged.labels[rows] for rows in left_out.split(512)
        ]
    return Trained(module, fingerprint(weights), torch.cat(correct).double().mean().item(), len(left_out))


def _pixels(data: Dataset, rows: Tensor) -> Tensor:  # (B,) -> (B, C, S, S) float64 in [-1, 1]
    stored = data.read(rows)[0]
    return scaled(to_uint8(data.to_clean(stored, Draw.all_of(stored))))


def _descend(
    module: Classifier,
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
    count: int,
    recipe: Recipe,
    generator: torch.Generator,
) -> None:
    """Stochastic gradient descent with momentum, in place. Written out: torch.optim takes seconds to import.

    `read` gives images (B, C, S, S) and labels (B,) of rows below `count`.
    """
    parameters = list(module.parameters())
    velocities = [torch.zeros_like(p) for p in parameters]
    for step in range(recipe.steps):
        learning_rate = recipe.learning_rate * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        x, labels = read(torch.randint(count, (recipe.batch_size,), generator=generator))
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 2 - 1
        logits = module.taps(x + recipe.noise * noise)[2]
        module.zero_grad()
        F.cross_entropy(logits, labels).backward()
        with torch.no_grad():
            for parameter, velocity in zip(parameters, velocities, strict=True):
                assert parameter.grad is not None, "every parameter is part of the loss"
                velocity.mul_(recipe.momentum).add_(parameter.grad + recipe.weight_decay * parameter)
                parameter.sub_(learning_rate * velocity)


def _rounded(weight: Tensor, weight_step: float) -> Tensor:
    return ((weight / weight_step).round() * weight_step).float()  # exact: a float32 holds such multiples up to 256


def _initial_weights(shape: InputShape, generator: torch.Generator) -> dict[str, Tensor]:
    """He et al. 2015, uniform: uniform numbers are exact on every processor, normal ones pass through log and cos."""
    weights = {}
    for name, empty in _empty_module(shape).state_dict().items():
        weights[name] = torch.zeros(empty.shape, dtype=torch.float64)
        if empty.ndim > 1:
            draw = torch.rand(empty.shape, generator=generator, dtype=torch.float64) * 2 - 1
            weights[name] = draw * math.sqrt(6 / empty[0].numel())
    return weights


def _empty_module(shape: InputShape) -> Classifier:
    with torch.device("meta"):  # the layers' own initialisation would draw from the global generator
        return Classifier(shape)


def _with_weights(weights: dict[str, Tensor], shape: InputShape) -> Classifier:
    module = _empty_module(shape)
    module.load_state_dict({name: weight.double() for name, weight in weights.items()}, assign=True)
    return module


# Cache -----------------------------------------------------------------------------------------------------------


def _cache_path(data: Dataset, recipe: Recipe) -> Path:
    """The file's name changes with everything that could change the weights, so an old file is never taken for new."""
    key = {
        "data": data.sha256,
        "held_out": data.held_out and data.held_out.sha256,
        "shape": data.shape.model_dump(),
        "recipe": asdict(recipe),
        "torch": str(torch.__version__),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"classifier-{digest[:16]}.safetensors"


def _read(path: Path, shape: InputShape) -> Trained | None:
    """The classifier cached at `path`; None when there is none or it is damaged."""
    try:
        weights, facts = read_checked(path)
        accuracy, count = float(facts["held_out_accuracy"]), int(facts["held_out_images"])
        return Trained(_with_weights(weights, shape), facts["sha256"], accuracy, count)
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        log.warning("the cached classifier %s cannot be used (%r); training it again", path, error)
        return None


def _write(path: Path, trained: Trained) -> None:
    weights = {name: weight.float() for name, weight in trained.module.state_dict().items()}
    try:
        write_checked(
            path,
            weights,
            held_out_accuracy=repr(trained.held_out_accuracy),
            held_out_images=str(trained.held_out_images),
        )
    except DataError as error:
        log.warning(
            "the classifier cannot be cached (%s); it will be trained again next time. Set HARNESS_CACHE to "
            "another folder",
            error,
        )
