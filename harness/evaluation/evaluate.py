"""A network's metrics: generate, extract features, compare with the reference, and write down every condition."""

import math
import shutil
import time
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from harness.config import RunConfig, digest
from harness.data.dataset import Dataset, InMemory
from harness.diffusion.formulations import FORMULATIONS
from harness.diffusion.samplers import evaluations_per_image
from harness.errors import DataError
from harness.evaluation import features
from harness.evaluation.distances import measure
from harness.evaluation.features import FeatureNetwork, Features
from harness.evaluation.generation import Advance, Decode, Generated, choose_labels, decoder, generate
from harness.evaluation.images import UINT8_RULE, to_uint8
from harness.evaluation.parts import draw_in_parts
from harness.results.schema import Evaluation, EvaluationProtocol
from harness.world import World


def protocol_of(cfg: RunConfig, data: Dataset, network: FeatureNetwork) -> EvaluationProtocol:
    """Every condition that changes a metric's value, as this run's configuration sets it."""
    sampling, plan = cfg.sampling, cfg.evaluation
    return EvaluationProtocol(
        formulation=cfg.formulation,
        sampler=sampling.sampler,
        num_steps=sampling.num_steps,
        nfe=evaluations_per_image(sampling.sampler, sampling.num_steps),
        guidance_scale=sampling.guidance_scale,
        guidance_channels=sampling.guidance_channels,
        guidance_power=sampling.guidance_power,
        num_images=plan.num_images,
        label_rule=plan.label_rule,
        uint8_rule=UINT8_RULE,
        vae=data.vae,
        features=network.name,
        features_sha256=network.sha256,
        reference=data.name,
        reference_sha256=data.sha256,
        reference_images=len(data),
        seed=plan.seed,
    )


def evaluate(
    network: nn.Module,
    cfg: RunConfig,
    data: Dataset,
    *,
    name: str,
    step: int,
    weights_id: str,
    folder: Path,
    device: torch.device,
    world: World = World(),
    advance: Advance = lambda done: None,
) -> tuple[Evaluation | None, Generated | None]:
    """Metrics of `network` (the averaged weights after `step` steps) against all of `data`, and the images.

    The images are drawn in parts under `folder`, so that a repetition after an interruption draws the rest;
    `weights_id` says which weights they are of. Processes other than the main one draw their share and get None.
    """
    started = time.perf_counter()
    plan = cfg.evaluation
    feature_network = features.load(plan.features)
    protocol = protocol_of(cfg, data, feature_network)
    reference = _reference(data, plan.features)  # refuses what cannot be measured before anything is drawn
    labels = choose_labels(plan.label_rule, plan.num_images, cfg.input.num_classes, plan.seed)
    generated = generate_in_parts(
        folder / f"parts-{digest({'protocol': protocol.model_dump(), 'weights': weights_id})[:16]}",
        network,
        cfg,
        labels,
        seed=plan.seed,
        decode=decoder(data.vae, device, data.vae_sha256),
        device=device,
        world=world,
        advance=advance,
    )
    if generated is None:
        return None, None
    metrics = measure(feature_network(generated.images), generated.labels, reference, feature_network.name)
    evaluation = Evaluation(
        name=name,
        step=step,
        weights="ema",
        metrics=metrics,
        protocol=protocol,
        seconds=time.perf_counter() - started,
    )
    return evaluation, generated


def generate_in_parts(
    folder: Path,
    network: nn.Module,
    cfg: RunConfig,
    labels: torch.Tensor,
    *,
    seed: int,
    decode: Decode,
    device: torch.device,
    world: World,
    advance: Advance,
) -> Generated | None:
    """An image for each label, as `cfg` samples; processes share the work through `folder`, which is then removed.

    The main process has them, the others get None.
    """
    shape, formulation, network = cfg.input, FORMULATIONS[cfg.formulation](), network.eval()

    def draw(first: int, stop: int) -> torch.Tensor:
        return generate(
            network,
            formulation,
            cfg.sampling,
            labels[first:stop],
            image_shape=(shape.channels, shape.side, shape.side),
            null_label=shape.num_classes,
            seed=seed,
            batch_size=cfg.evaluation.sample_batch,
            device=device,
            first=first,
            decode=decode,
        ).images

    part = min(cfg.evaluation.sample_batch, math.ceil(len(labels) / world.size))
    images = draw_in_parts(folder, len(labels), part, draw, world=world, advance=advance)
    if images is None:
        return None
    shutil.rmtree(folder)
    return Generated(images, labels)


@lru_cache(maxsize=1)  # two evaluations of one run share it
def _reference(data: Dataset, feature_name: str) -> Features:
    if not isinstance(data, InMemory):
        raise DataError(
            f"{data.name} holds latents, and {feature_name} measures images. Evaluating against ImageNet's reference "
            "statistics is not part of this version; train with --no-eval, and draw images with `harness sample`."
        )
    return features.load(feature_name)(to_uint8(data.clean))
