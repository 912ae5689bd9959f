"""A network's metrics: generate, extract features, compare with the reference, and write down every condition."""

import time
from functools import lru_cache

import torch
from torch import nn

from harness.config import RunConfig
from harness.data.sources import Dataset
from harness.diffusion.formulations import FORMULATIONS
from harness.diffusion.samplers import evaluations_per_image
from harness.evaluation import features
from harness.evaluation.distances import measure
from harness.evaluation.features import FeatureNetwork, Features
from harness.evaluation.generation import Advance, Generated, choose_labels, generate
from harness.evaluation.images import UINT8_RULE, to_uint8
from harness.results.schema import Evaluation, EvaluationProtocol


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
        num_images=plan.num_images,
        label_rule=plan.label_rule,
        uint8_rule=UINT8_RULE,
        vae=None,
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
    device: torch.device,
    advance: Advance = lambda done: None,
) -> tuple[Evaluation, Generated]:
    """Metrics of `network` (the averaged weights after `step` steps) against all of `data`, and the images."""
    started = time.perf_counter()
    plan = cfg.evaluation
    feature_network = features.load(plan.features)
    generated = generate(
        network.eval(),
        FORMULATIONS[cfg.formulation](),
        cfg.sampling,
        choose_labels(plan.label_rule, plan.num_images, data.num_classes, plan.seed),
        image_shape=(data.channels, data.side, data.side),
        null_label=data.num_classes,
        seed=plan.seed,
        batch_size=plan.sample_batch,
        device=device,
        advance=advance,
    )
    metrics = measure(
        feature_network(generated.images), generated.labels, _reference(data, plan.features), feature_network.name
    )
    evaluation = Evaluation(
        name=name,
        step=step,
        weights="ema",
        metrics=metrics,
        protocol=protocol_of(cfg, data, feature_network),
        seconds=time.perf_counter() - started,
    )
    return evaluation, generated


@lru_cache(maxsize=1)  # two evaluations of one run share it
def _reference(data: Dataset, feature_name: str) -> Features:
    return features.load(feature_name)(to_uint8(data.clean))
