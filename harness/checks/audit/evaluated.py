"""Evaluations: every condition recorded, metrics called what they are, and the network behind a FID the pinned one."""

import math
import re
from collections.abc import Iterator
from functools import cache

from harness.checks.audit.finding import OK, Finding, judged, not_kept
from harness.recipes.metric_names import NAMED, metric_name
from harness.records.documents import Documents
from harness.records.schema import Evaluation, EvaluationProtocol

OF_ANY = ("num_images", "features", "features_sha256", "reference", "reference_sha256")
OF_SAMPLES = ("formulation", "sampler", "num_steps", "nfe", "label_rule", "uint8_rule", "seed")
MAY_BE_NONE = ("guidance_scale", "vae")  # nobody guided, no VAE: said so, and not left out
LATER = ("sample_precision", "features_batch", "features_device")  # which older versions did not record
HASH = re.compile(r"[0-9a-f]{64}")
INCEPTION = "inception"
FID = re.compile(r"s?fid")
OF_A_RUN = ("final", "untrained", "step-")  # evaluations of `harness run`, made as its configuration says
CALLS = {"heun": lambda steps: 2 * steps - 1, "ddpm": lambda steps: steps}  # of the network, by the sampler's steps


def conditions(run: Documents) -> Finding:
    """Sampler, steps, NFE, guidance, N, labels, uint8 rule, VAE, hashes and seed of each evaluation.

    Those that `harness run` made must also be the configuration's.
    """
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept("conditions", "no evaluation")
    problems, unrecorded = [], set()
    for name, evaluation in evaluations.items():
        protocol = evaluation.protocol
        drawn = evaluation.step is not None
        absent = [field for field in (*OF_ANY, *(OF_SAMPLES if drawn else ())) if getattr(protocol, field) is None]
        if drawn:
            said = (run.written[name].get("protocol") or {}) if name in run.written else protocol.model_fields_set
            absent += [field for field in MAY_BE_NONE if field not in said]
            unrecorded |= {field for field in LATER if getattr(protocol, field) is None}
        problems += [f"{name} does not say its {field}" for field in absent]
        problems += [f"{name}: {problem}" for problem in _impossible(protocol)]
        if drawn and name.startswith(OF_A_RUN) and run.config:
            problems += [f"{name}: {problem}" for problem in _unlike_the_run(run, protocol)]
    remarks = [f"made before {', '.join(sorted(unrecorded))} were recorded"] if unrecorded else []
    return judged("conditions", problems, f"{len(evaluations)} evaluations", remarks=remarks)


def _impossible(protocol: EvaluationProtocol) -> Iterator[str]:
    for field in ("features_sha256", "reference_sha256"):
        if getattr(protocol, field) and not HASH.fullmatch(getattr(protocol, field)):
            yield f"{field} is no sha256"
    calls = CALLS.get(protocol.sampler or "")
    if calls and protocol.num_steps and protocol.nfe != calls(protocol.num_steps):
        yield f"{protocol.num_steps} steps of {protocol.sampler} are not {protocol.nfe} network evaluations"
    if protocol.vae and not protocol.vae_sha256:
        yield "it names a VAE and no hash of its weights"


def _unlike_the_run(run: Documents, protocol: EvaluationProtocol) -> Iterator[str]:
    pairs = {
        "formulation": "formulation",
        **{name: f"sampling.{name}" for name in ("sampler", "num_steps", "guidance_scale")},
        **{name: f"evaluation.{name}" for name in ("num_images", "label_rule", "seed", "features")},
    }
    for field, path in pairs.items():
        if getattr(protocol, field) != run.setting(path):
            yield f"{field} is {getattr(protocol, field)!r}, and config.yaml has {run.setting(path)!r}"
    if run.manifest:
        data = run.manifest.data
        if protocol.vae != data.vae:
            yield f"decoded by {protocol.vae!r}, and the data were made with {data.vae!r}"
        if data.vae is None and protocol.reference == data.name and protocol.reference_sha256 != data.sha256:
            yield "its reference is the training data, with another hash than manifest.json's"


def names(run: Documents) -> Finding:
    """N and the network are in every name; only 50,000 images through the published Inception are fid50k."""
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept("names", "no evaluation")
    problems, count = [], 0
    for name, evaluation in evaluations.items():
        protocol = evaluation.protocol
        honest = {metric_name(metric, protocol.features, protocol.num_images) for metric in NAMED}
        for metric, value in evaluation.metrics.items():
            count += 1
            if metric not in honest:
                made = f"{protocol.num_images:,} images through {protocol.features}"
                problems.append(f"{name} calls {metric} what was measured on {made}")
            if not math.isfinite(value):
                problems.append(f"{name}: {metric} is {value}")
    return judged("names", problems, f"{count} metrics")


def features(run: Documents) -> Finding:
    """Where a metric is called FID, or the network Inception, its hash is the published weights'.

    The small digits network is trained on first use; another torch might round it otherwise, so that is a remark.
    """
    evaluations = run.all_evaluations
    if not evaluations:
        return not_kept("features", "no evaluation")
    problems, remarks, seen = [], [], set()
    for name, evaluation in evaluations.items():
        network, sha256 = evaluation.protocol.features, evaluation.protocol.features_sha256
        seen.add(f"{network} {sha256[:12]}")
        if _called_fid(evaluation):
            if sha256 != _published():
                problems.append(f"{name} is called FID, and its network has the hash {sha256[:12]}")
        elif network == "digits" and sha256 != _digits():
            remarks.append(f"{name}: the digits network made here has another hash, {_digits()[:12]}")
    said = f"{', '.join(sorted(seen))}; none is called FID"
    return judged(
        "features", problems, said if not any(map(_called_fid, evaluations.values())) else "", remarks=remarks
    )


def _called_fid(evaluation: Evaluation) -> bool:
    return evaluation.protocol.features == INCEPTION or any(FID.match(metric) for metric in evaluation.metrics)


@cache
def _published() -> str:
    from harness.evaluation.networks.inception import PUBLISHED  # with torch, which takes seconds to import

    return PUBLISHED.sha256


@cache
def _digits() -> str:
    from harness.evaluation.networks import digits_classifier

    return digits_classifier.load().sha256


def all_conditions_recorded(finding: Finding) -> bool:
    """Whether a finding of `conditions` says so without a remark."""
    return finding.status == OK
