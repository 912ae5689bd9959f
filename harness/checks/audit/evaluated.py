"""Evaluations: every condition is recorded, each metric's name says how it was measured, and the network behind a FID
is the published one."""

import math
import re
from collections.abc import Iterator
from functools import cache

from harness.checks.finding import Finding, judged, not_kept
from harness.data import classifier
from harness.evaluation.networks.inception import PUBLISHED
from harness.model.samplers import SAMPLERS
from harness.recipes.metric_names import NAMED, held_out_name, metric_name
from harness.records.run_folder import RunFolder
from harness.records.schema import Evaluation, EvaluationProtocol

OF_SAMPLES = ("formulation", "sampler", "num_steps", "nfe", "label_rule", "uint8_rule", "seed")
LATER = ("sample_precision", "features_batch", "features_device")  # older versions did not record these
HASH = re.compile(r"[0-9a-f]{64}")
INCEPTION = "inception"
FID = re.compile(r"s?fid")
OF_A_RUN = ("final", "untrained", "step-")  # evaluations by `harness run`, made as its configuration says
CONFIGURED = {  # conditions that the configuration fixes, and where
    "formulation": "formulation",
    **{name: f"sampling.{name}" for name in ("sampler", "num_steps", "guidance_scale")},
    **{name: f"evaluation.{name}" for name in ("num_images", "label_rule", "seed", "features")},
}
NONE = "no evaluation"


def conditions(run: RunFolder) -> Finding:
    """Each evaluation records its sampler, steps, NFE, guidance, N, labels, uint8 rule, VAE, hashes and seed.

    Evaluations by `harness run` must also agree with the configuration.
    """
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept(NONE)
    problems: list[str] = []
    unrecorded: set[str] = set()
    for name, evaluation in evaluations.items():
        protocol = evaluation.protocol
        found = list(_impossible(protocol))
        if evaluation.step is not None:  # images were drawn, and did not come in a file
            found += [f"{field} is not recorded" for field in OF_SAMPLES if getattr(protocol, field) is None]
            unrecorded |= {field for field in LATER if getattr(protocol, field) is None}
            if name.startswith(OF_A_RUN) and run.config:
                found += _unlike_the_run(run, protocol)
        problems += [f"{name}: {problem}" for problem in found]
    remarks = [f"made before {', '.join(sorted(unrecorded))} were recorded"] if unrecorded else []
    return judged(problems, f"{len(evaluations)} evaluations", remarks=remarks)


def _impossible(protocol: EvaluationProtocol) -> Iterator[str]:
    for field in ("features_sha256", "reference_sha256"):
        if not HASH.fullmatch(getattr(protocol, field)):
            yield f"{field} is no sha256"
    sampler = SAMPLERS.get(protocol.sampler or "")
    if sampler and protocol.num_steps and protocol.nfe != sampler.nfe(protocol.num_steps):
        yield f"{protocol.num_steps} steps of {protocol.sampler} are not {protocol.nfe} network evaluations"
    if protocol.vae and not protocol.vae_sha256:
        yield "it names a VAE and no hash of its weights"


def _unlike_the_run(run: RunFolder, protocol: EvaluationProtocol) -> Iterator[str]:
    for field, path in CONFIGURED.items():
        if getattr(protocol, field) != run.setting(path):
            yield f"{field} is {getattr(protocol, field)!r}, and config.yaml has {run.setting(path)!r}"
    if run.manifest:
        data = run.manifest.data
        if protocol.vae != data.vae:
            yield f"decoded by {protocol.vae!r}, and the data were made with {data.vae!r}"
        if data.vae is None and protocol.reference == data.name and protocol.reference_sha256 != data.sha256:
            yield "its reference is the training data, with another hash than manifest.json's"


def names(run: RunFolder) -> Finding:
    """Each name holds N and the network, and only 50,000 images through the published Inception are fid50k."""
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept(NONE)
    problems = []
    for name, evaluation in evaluations.items():
        protocol = evaluation.protocol
        sizes = {protocol.num_images, *evaluation.also_first}
        honest = {metric_name(metric, protocol.features, n) for metric in NAMED for n in sizes}
        honest |= {
            held_out_name(metric, part.num_images)
            for metric, part in (("denoiser_error", evaluation.denoiser), ("linear_probe", evaluation.probe))
            if part is not None
        }
        made = f"{protocol.num_images:,} images through {protocol.features}"
        for metric, value in evaluation.metrics.items():
            if metric not in honest:
                problems.append(f"{name}: {metric} is no name for a metric of {made}")
            if not math.isfinite(value):
                problems.append(f"{name}: {metric} is {value}")
    return judged(problems, f"{sum(len(each.metrics) for each in evaluations.values())} metrics")


def features(run: RunFolder) -> Finding:
    """A metric called FID, or measured by Inception, comes from the network with the published weights' hash.

    The small network for digits is trained on first use. Another torch may round it otherwise, so that another hash is
    a warning.
    """
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept(NONE)
    problems, remarks, seen = [], [], set()
    for name, evaluation in evaluations.items():
        network, sha256 = evaluation.protocol.features, evaluation.protocol.features_sha256
        seen.add(f"{network} {sha256[:12]}")
        if _called_fid(evaluation):
            if sha256 != PUBLISHED.sha256:
                problems.append(f"{name} is called FID, and its network has the hash {sha256[:12]}")
        elif network == "digits" and sha256 != _digits():
            remarks.append(f"{name}: the digits network made here has another hash, {_digits()[:12]}")
    none_fid = "" if any(map(_called_fid, evaluations.values())) else "; none is called FID"
    return judged(problems, f"{', '.join(sorted(seen))}{none_fid}", remarks=remarks)


def _called_fid(evaluation: Evaluation) -> bool:
    return evaluation.protocol.features == INCEPTION or any(FID.match(metric) for metric in evaluation.metrics)


@cache
def _digits() -> str:
    return classifier.load().sha256
