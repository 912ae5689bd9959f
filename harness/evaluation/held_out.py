"""Yardsticks of low noise, on images that a run never trained on: the denoiser's error, a linear probe of its blocks.

Both ask the averaged network itself and draw no image, so that they cost little and have no noise of a sampler. Every
network is asked the same: the same images, the same noise, the whole image (no mask), at equal sigma.
N images, L noise levels, C channels, S side, D width, K classes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.data.dataset import Dataset
from harness.model.formulations import EDM, Formulation, formulation_of
from harness.model.nn.blocks import DiTBlock
from harness.model.randomness import Draw
from harness.recipes.config import RunConfig
from harness.recipes.seeds import mix
from harness.records.schema import DenoiserError, LinearProbe

SEED = 0  # of the choice of images and of the noise; the same for every run
NUM_IMAGES = 1000  # at most
NUM_TRAINED_ON = 2000  # images of the training set that a probe is fitted to, at most
BATCH = 250  # the same everywhere: sums are rounded differently in batches of another size

# 16 levels, evenly in ln sigma over what a sampler passes, and within both formulations' range.
SIGMAS = tuple(math.exp(math.log(0.02) + i / 15 * math.log(20 / 0.02)) for i in range(16))
WEIGHTING = "EDM's loss: lambda(sigma) |D - clean|^2, ln sigma of N(-1.2, 1.2^2), sigma_data 0.5"
PROBED = (0.05, 0.2, 0.8, 3.2)  # sigmas
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, over the number of images
PENALTY = "ridge on standardised features; the penalty, 1e-4 to 1 times N, chosen on a fifth of the training images"

POINTS = 10  # along training, at least, where there are so many log lines
COST = 0.025  # of the forward passes of training: MaskDiT's step takes half of DiT's, and 5% is the limit
FEWEST_ALONG = 16  # images: fewer say nothing

Observe = Callable[[int, nn.Module], dict[str, float]]  # (steps done, the averaged network) -> more for the log's line


# The denoiser's error ----------------------------------------------------------------------------------------------


def denoiser_error(
    network: nn.Module,
    formulation: Formulation,
    data: Dataset,
    *,
    device: torch.device,
    num_images: int = NUM_IMAGES,
    sigmas: Sequence[float] = SIGMAS,
) -> DenoiserError:
    """How far D(x; sigma) is from held-out images of `data`, labels given, by noise level and overall.

    By level it is the mean of lambda(sigma) (D - clean)^2, with EDM's lambda (Karras et al. 2022, Table 1): about 1 at
    every level for a network that says nothing. Overall the levels weigh as EDM's training draws them, so that it is
    the loss that EDM trains on, of the same noise for every run. A standard error is over the images: it says how well
    this network is measured, and nothing of how much another training seed would change it.
    """
    started = time.perf_counter()
    held_out = _held_out(data)
    clean, labels = _images(held_out, num_images)  # (N, C, S, S), (N,)
    errors = torch.empty(len(sigmas), len(clean), dtype=torch.float64)
    with torch.no_grad():
        for level, sigma in enumerate(sigmas):
            noise = _noise(clean, "held-out noise", level)
            for rows in torch.arange(len(clean)).split(BATCH):
                x = (clean[rows] + sigma * noise[rows]).to(device)
                denoised = formulation.denoise(network, x, x.new_full((len(x),), sigma), labels[rows].to(device))
                squares = (denoised.float().cpu() - clean[rows]).double() ** 2
                errors[level, rows] = _edm_lambda(sigma) * squares.mean((1, 2, 3))
    overall = _edm_weights(sigmas) @ errors  # (N,)
    return DenoiserError(
        data=held_out.name,
        data_sha256=held_out.sha256,
        num_images=len(clean),
        seed=SEED,
        weighting=WEIGHTING,
        error=overall.mean().item(),
        standard_error=_standard_error(overall[None]).item(),
        sigmas=list(sigmas),
        by_sigma=errors.mean(1).tolist(),
        standard_errors=_standard_error(errors).tolist(),
        seconds=time.perf_counter() - started,
    )


def _edm_lambda(sigma: float) -> float:
    d = EDM.sigma_data
    return (sigma**2 + d**2) / (sigma * d) ** 2


def _edm_weights(sigmas: Sequence[float]) -> Tensor:
    """The density of EDM's training levels at levels that are even in ln sigma; they add up to 1.   (L,) float64"""
    density = (-0.5 * ((torch.tensor(sigmas, dtype=torch.float64).log() - EDM.P_mean) / EDM.P_std) ** 2).exp()
    return density / density.sum()


def _standard_error(errors: Tensor) -> Tensor:  # (L, N) -> (L,)
    return errors.std(1, unbiased=True) / math.sqrt(errors.shape[1]) if errors.shape[1] > 1 else errors[:, 0] * 0


# Along training ----------------------------------------------------------------------------------------------------


def along_training(cfg: RunConfig, data: Dataset, device: torch.device) -> Observe:
    """What the engine asks at its log lines, its clock stopped: the error of a few held-out images at 8 levels.

    At 10 lines or more, where there are so many. How many images follows from the length of the run alone, such that
    all points together take about 2.5% of training's forward passes: never from a clock. Without held-out images, or in
    a run too short for 16 images, there are none.
    """
    steps, execution = cfg.protocol.steps, cfg.execution
    stride = execution.log_every * max(1, steps // (POINTS * execution.log_every))
    sigmas = SIGMAS[::2]
    passes = COST * 3 * steps * cfg.protocol.batch_size / (steps // stride + 1)
    num_images = min(BATCH, int(passes / len(sigmas)))
    if data.held_out is None or num_images < FEWEST_ALONG:
        return lambda step, network: {}

    def observe(step: int, network: nn.Module) -> dict[str, float]:
        if step % stride and step != steps:
            return {}
        found = denoiser_error(network, formulation_of(cfg), data, device=device, num_images=num_images, sigmas=sigmas)
        return {
            "denoiser_error": found.error,
            "denoiser_error_images": found.num_images,
            "denoiser_error_seconds": found.seconds,
        }

    return observe


# What the blocks know of the classes -------------------------------------------------------------------------------


def linear_probe(
    network: nn.Module, formulation: Formulation, data: Dataset, *, device: torch.device
) -> LinearProbe | None:
    """How well a linear map of each block's output, the mean over its tokens, names the class of held-out images.

    The network sees the image at a noise level and no label. The map is ridge regression to the classes in closed form,
    fitted to training images. None where the network has no DiT blocks or the data have one class.
    """
    started = time.perf_counter()
    held_out = _held_out(data)
    sets = [_images(data, NUM_TRAINED_ON), _images(held_out, NUM_IMAGES)]
    (_, seen), (_, unseen) = sets
    if len(seen.unique()) < 2:
        return None
    by_sigma: list[dict[str, float]] = []
    for level, sigma in enumerate(PROBED):
        found = [
            _block_outputs(network, formulation, clean, sigma, data.num_classes, _noise(clean, name, level), device)
            for (clean, _), name in zip(sets, ("probe", "probe held-out"), strict=True)
        ]
        by_sigma.append({block: _ridge_accuracy(found[0][block], seen, found[1][block], unseen) for block in found[0]})
    blocks = list(by_sigma[0])
    if not blocks:
        return None
    return LinearProbe(
        data=held_out.name,
        data_sha256=held_out.sha256,
        trained_on_sha256=data.sha256,
        num_trained_on=len(seen),
        num_images=len(unseen),
        seed=SEED,
        penalty=PENALTY,
        sigmas=list(PROBED),
        blocks=blocks,
        accuracy=[[accuracies[block] for accuracies in by_sigma] for block in blocks],
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _tapped(network: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of the DiT blocks, averaged over tokens, by the block's name in the order of their calls."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: found.setdefault(name, []).append(output.float().mean(1).cpu())

    handles = [
        module.register_forward_hook(keep(name.removesuffix(".block")))
        for name, module in network.named_modules()
        if isinstance(module, DiTBlock)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _block_outputs(
    network: nn.Module,
    formulation: Formulation,
    clean: Tensor,
    sigma: float,
    null_label: int,
    noise: Tensor,
    device: torch.device,
) -> dict[str, Tensor]:  # each (N, D) float64
    with torch.no_grad(), _tapped(network) as found:
        for rows in torch.arange(len(clean)).split(BATCH):
            x = (clean[rows] + sigma * noise[rows]).to(device)
            labels = torch.full((len(x),), null_label, device=device)
            formulation.denoise(network, x, x.new_full((len(x),), sigma), labels)
    return {name: torch.cat(parts).double() for name, parts in found.items()}


def _ridge_accuracy(x: Tensor, labels: Tensor, others: Tensor, wanted: Tensor) -> float:
    """Share of `others` (M, D) whose class a ridge regression on x (N, D) names.   labels (N,), wanted (M,)"""
    centre, scale = x.mean(0), x.std(0).clamp(min=1e-8)
    x, others = (x - centre) / scale, (others - centre) / scale
    judge = torch.arange(len(x)) % 5 == 4

    def right(rows: Tensor, penalty: float, asked: Tensor, truth: Tensor) -> float:
        targets = nn.functional.one_hot(labels, int(max(labels.max(), wanted.max())) + 1).double()  # (N, K)
        mean_x, mean_y = x[rows].mean(0), targets[rows].mean(0)
        centred = x[rows] - mean_x
        gram = centred.T @ centred + penalty * len(centred) * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(gram, centred.T @ (targets[rows] - mean_y))  # (D, K)
        return (((asked - mean_x) @ weights + mean_y).argmax(1) == truth).double().mean().item()

    everything = torch.ones(len(x), dtype=torch.bool)
    best = max(PENALTIES, key=lambda penalty: right(~judge, penalty, x[judge], labels[judge]))
    return right(everything, best, others, wanted)


# Both --------------------------------------------------------------------------------------------------------------


def measure(
    network: nn.Module, cfg: RunConfig, data: Dataset, device: torch.device
) -> tuple[DenoiserError, LinearProbe | None]:
    """Both yardsticks of `network`, which was trained on `data` as `cfg` says. `data` must have held-out images."""
    formulation = formulation_of(cfg)
    network.eval()
    return (
        denoiser_error(network, formulation, data, device=device),
        linear_probe(network, formulation, data, device=device),
    )


def _held_out(data: Dataset) -> Dataset:
    assert data.held_out is not None, "who measures has asked whether there are held-out images"
    return data.held_out


def _images(data: Dataset, most: int) -> tuple[Tensor, Tensor]:
    """Up to `most` of its images, the same ones always.   (N, C, S, S) float32, (N,)"""
    generator = torch.Generator().manual_seed(mix("held-out images", SEED))
    rows = torch.randperm(len(data), generator=generator)[:most].sort().values
    stored, labels = data.read(rows)
    return data.to_clean(stored, Draw.all_of(stored)).float(), labels


def _noise(clean: Tensor, name: str, level: int) -> Tensor:
    generator = torch.Generator().manual_seed(mix(name, SEED, level))
    return torch.randn(clean.shape, generator=generator)
