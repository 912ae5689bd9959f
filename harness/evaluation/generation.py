"""Images from a network. Image i depends on (seed, i) alone; on the batch it is drawn in, by the rounding of sums.

N images, B images of a batch, C channels, S side.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.images.uint8 import to_uint8
from harness.data.latents.vae import Vae
from harness.evaluation.images.image_sets import PartImages
from harness.evaluation.images.parts import draw_in_parts
from harness.model.formulations import Formulation, Network, formulation_of
from harness.model.guidance import guided, power_cosine, within
from harness.model.samplers import SAMPLERS, Denoise
from harness.recipes.config import InputShape, RunConfig, Sampling
from harness.recipes.seeds import labels, mix
from harness.system.errors import SetupError, one_line
from harness.system.processes.world import World

Advance = Callable[[int], None]  # gets the number of images done
Decode = Callable[[Tensor], Tensor]  # what the network made (B, C, S, S) -> pixels (B, 1 or 3, H, W) in about [-1, 1]
Timed = Callable[[str], AbstractContextManager]  # times what is done inside, under a stage's name

WORTH_A_THREAD = 1024  # random numbers of an image: with fewer, Python takes longer to ask for them than they take


class StageClock:
    """Seconds by stage. A stage ends when the GPU has done what was asked of it: once a stage and part, it waits."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


class Generated(NamedTuple):
    images: Tensor  # (N, S, S, C) uint8
    labels: Tensor  # (N,) the class asked for


def choose_labels(rule: str, num_images: int, num_classes: int, seed: int) -> Tensor:
    """Labels to ask for, by harness.recipes.seeds.labels.   (N,)"""
    return torch.tensor(labels(rule, num_images, num_classes, seed))


def image_shape(network_input: InputShape, vae: Vae | None) -> tuple[int, int, int]:
    """Of the images that a network for `network_input` and the VAE make together: (H, W, C)."""
    if vae is None:
        return network_input.side, network_input.side, network_input.channels
    return network_input.side * vae.factor, network_input.side * vae.factor, 3


def decoder(vae: Vae | None, precision: str = "fp32") -> Decode:
    """Latents to pixels, in `precision` (fp32, tf32, bf16); without a VAE, the network makes pixels itself."""
    if vae is None:
        return lambda clean: clean
    return lambda clean: vae.decode(clean / vae.scale, precision)


def as_sampled(
    network: nn.Module,
    precision: str,
    device: torch.device,
    *,
    compiled: bool = False,
    cuda_graphs: bool = False,
) -> Network:
    """The network as a sampler calls it: it computes in `precision`, fp32 or bf16, and gives back float32.

    Compiled, it is so once for each size of batch; `cuda_graphs` replays what was compiled, on a GPU. The weights stay
    the network's own. Raises SetupError, when called, if it cannot be compiled here.
    """
    called: Network = _compiled(network, cuda_graphs=cuda_graphs and device.type == "cuda") if compiled else network

    def computed(net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return called(net_input, net_noise, labels).float()

    return computed


def generate(
    network: Network,
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
    whole_batches: bool = False,
    decode: Decode = lambda clean: clean,
    advance: Advance = lambda done: None,
    timed: Timed = lambda stage: nullcontext(),
) -> Generated:
    """An image of `image_shape` (C, S, S) for each label (N,), sampled as `sampling` says: images first, first + 1, ...

    With `whole_batches` the last one is filled up, with images that are thrown away: a compiled network would be
    compiled once more for a smaller one. `decode` turns what was made into pixels. `timed` gets the stages
    "drawing" and "decoding".
    """
    sampler, batches = SAMPLERS[sampling.sampler], []
    own = sampler.settings_in(sampling)
    for start in range(0, len(labels), batch_size):
        wanted = labels[start : start + batch_size]
        asked = F.pad(wanted, (0, batch_size - len(wanted)), value=null_label) if whole_batches else wanted
        noise = _ImageNoise(seed, range(first + start, first + start + len(asked)), image_shape, device)
        denoise = _denoiser(network, formulation, sampling, asked.to(device), null_label)
        with torch.no_grad():  # not inference_mode: what CUDA graphs record in it fails outside it (PyTorch 135892)
            with timed("drawing"):
                clean = sampler.draw(denoise, noise, formulation, sampling.num_steps, **own)[: len(wanted)]
            with timed("decoding"):
                batches.append(to_uint8(decode(clean)).cpu())
        advance(start + len(wanted))
    return Generated(torch.cat(batches), labels)


# Raise it with every change of how an image is drawn: parts that were drawn before it are then not gone on with.
DRAWING = 1


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
    timed: Timed = lambda stage: nullcontext(),
) -> PartImages:
    """An image for each label (N,), as `cfg` samples, in parts under `folder` that the processes share out.

    Parts that are there are not drawn again; the folder's name must say everything that decides the images.
    """
    plan, execution, formulation = cfg.evaluation, cfg.execution, formulation_of(cfg)
    latent, shape = (cfg.input.channels, cfg.input.side, cfg.input.side), image_shape(cfg.input, vae)
    part = min(plan.sample_batch, math.ceil(len(labels) / world.size))
    called = as_sampled(
        network.eval(), plan.sample_precision, device,
        compiled=execution.sample_compile, cuda_graphs=execution.cuda_graphs,
    )  # fmt: skip
    decode = decoder(vae, plan.decode_precision)

    def draw(first: int, stop: int) -> Tensor:
        return generate(
            called,
            formulation,
            cfg.sampling,
            labels[first:stop],
            image_shape=latent,
            null_label=cfg.input.num_classes,
            seed=seed,
            batch_size=part,
            device=device,
            first=first,
            whole_batches=execution.sample_compile,
            decode=decode,
            timed=timed,
        ).images

    paths = draw_in_parts(folder, len(labels), part, shape, draw, world=world, advance=advance)
    return PartImages("generated", paths, shape, labels)


def _compiled(network: nn.Module, *, cuda_graphs: bool) -> Network:
    from harness.model.compiling import FAILURES  # the compiler takes seconds to import

    torch._dynamo.config.fail_on_recompile_limit_hit = True  # in place of running uncompiled without a word
    compiled = torch.compile(network, dynamic=False, options={"triton.cudagraphs": cuda_graphs})

    def called(net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        if cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            raw = compiled(net_input, net_noise, labels)
        except FAILURES as error:
            reason = one_line(error, 200)
            raise SetupError(
                f"torch.compile of the network that is sampled failed: {reason}. Sample it uncompiled, with "
                "--set sample_compile=false."
            ) from error
        return raw.clone() if cuda_graphs else raw  # the next replay writes over it

    return called


def _denoiser(
    network: Network, formulation: Formulation, sampling: Sampling, labels: Tensor, null_label: int
) -> Denoise:
    def towards(wanted: Tensor) -> Denoise:
        return lambda x, level: formulation.predict(network, x, level, wanted)

    if sampling.guidance_scale is None:
        return towards(labels)
    scale: float | Callable[[float], float] = sampling.guidance_scale
    if sampling.guidance_power is not None:
        scale = power_cosine(sampling.guidance_scale, sampling.guidance_power)
    if sampling.guidance_interval is not None:
        scale = within(sampling.guidance_interval, scale, formulation.sigma_of)
    both = torch.cat([labels, torch.full_like(labels, null_label)])
    return guided(towards(labels), towards(both), scale, sampling.guidance_channels)


class _ImageNoise:
    """Draws unit noise for a batch, each image from a generator of its own.   () -> (B, C, S, S) float64

    On the CPU, by its threads: an image of 4 x 32 x 32 takes about 0.1 ms, of which the ddpm sampler needs 250 each.
    """

    def __init__(self, seed: int, indices: range, image_shape: tuple[int, int, int], device: torch.device):
        self._generators = [torch.Generator().manual_seed(mix("image", seed, index)) for index in indices]
        self._shape, self._device = image_shape, device
        self._threads = torch.get_num_threads() if math.prod(image_shape) >= WORTH_A_THREAD else 1
        self._pool = ThreadPoolExecutor(self._threads, "noise")

    def __call__(self) -> Tensor:
        on_gpu = self._device.type == "cuda"  # then nothing waits for the copy, which is made from pinned memory
        noise = torch.empty(len(self._generators), *self._shape, dtype=torch.float64, pin_memory=on_gpu)

        def draw(rows: range) -> None:
            for row in rows:
                torch.randn(self._shape, generator=self._generators[row], dtype=torch.float64, out=noise[row])

        rows = range(len(noise))
        list(self._pool.map(draw, (rows[thread :: self._threads] for thread in range(self._threads))))
        return noise.to(self._device, non_blocking=on_gpu)
