"""How far the harness's metrics are from independent formulas, on features like Inception's of 50,000 images.

    python tests/evaluation/agreement.py [--images 50000] [--out FILE.md]

The harness runs first, in a process of its own whose peak memory is that of its part, features included. The formulas
here are written from the papers and from what ADM's evaluator computes; none is the harness's.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.evaluation.metrics import kernels, statistics
from harness.evaluation.metrics import measure as metrics
from harness.evaluation.networks.base import Features
from harness.recipes.metric_names import PAPER
from harness.recipes.seeds import mix
from harness.system import torchvision_guard

POINTS = 10_000  # of the reference, as in ADM's files
REFERENCE_IMAGES = 20_000  # behind its statistics
CMMD_IMAGES, CMMD_SIZE = 10_000, 768  # numbers of one CLIP feature
GROUPS = (  # measured together, because they share most of the work
    ("fd",),
    ("sfd",),
    ("is",),
    ("precision", "recall", "density", "coverage"),
    ("kid",),
    ("fd_infinity",),
    ("class_accuracy",),
    ("precision_adm_fp16", "recall_adm_fp16"),
)


# Features --------------------------------------------------------------------------------------------------------


def inception_like(count: int, *, seed: int, size: int = 2048, drift: float = 0.0) -> Tensor:  # (count, size)
    """Not negative, correlated, mean about 0.4, squared length about 580 at 2048: as Inception's pooled features.

    Sets of one size have one law, from which `drift` leads away; `seed` draws the images.
    """
    law = torch.Generator().manual_seed(size)
    mixing = torch.randn(64, size, generator=law) * torch.linspace(1, 0.05, 64)[:, None]
    base = 0.1 + 0.55 * torch.rand(size, generator=law)
    direction = torch.rand(size, generator=law) - 0.5
    draw = torch.Generator().manual_seed(mix("agreement", seed))
    features = torch.empty(count, size)
    for rows in features.split(5_000):
        common = torch.randn(len(rows), 64, generator=draw) @ mixing
        own = torch.randn(len(rows), size, generator=draw)
        rows.copy_((base + drift * direction + (0.06 + drift / 10) * common + 0.2 * own).clamp_min_(0))
    return features


def logits_like(labels: Tensor, *, seed: int) -> Tensor:  # (N,) -> (N, 1008)
    """Class outputs of a network that is mostly right and sometimes torn."""
    draw = torch.Generator().manual_seed(mix("logits", seed))
    logits = torch.randn(len(labels), 1008, generator=draw)
    sure = 4 + 6 * torch.rand(len(labels), 1, generator=draw)
    return logits.scatter_add_(1, labels[:, None], sure)


def generated_set(count: int) -> tuple[Features, Tensor]:
    labels = torch.randint(1000, (count,), generator=torch.Generator().manual_seed(5))
    pool, spatial = inception_like(count, seed=1, drift=0.05), inception_like(count, seed=2, size=2023, drift=0.05)
    return Features(pool, spatial, logits_like(labels, seed=1)), labels


def reference_set() -> tuple[Tensor, Tensor]:
    return inception_like(REFERENCE_IMAGES, seed=3), inception_like(REFERENCE_IMAGES, seed=4, size=2023)


# The harness -----------------------------------------------------------------------------------------------------


def run_harness(count: int, report: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Its values and seconds by metric, and what it needed altogether."""
    generated, labels = generated_set(count)
    pool, spatial = reference_set()
    reference = metrics.Reference(
        statistics.gaussian_of(pool), statistics.gaussian_of(spatial), pool[:POINTS].contiguous()
    )
    del pool, spatial
    report("harness: features and the reference's statistics")
    values, seconds = {}, {}
    for group in GROUPS:
        started = time.perf_counter()
        values |= metrics.measure(generated, reference, group, labels=labels).values
        seconds[group[0]] = time.perf_counter() - started
        report(f"harness: {', '.join(group)} in {seconds[group[0]]:.1f} s")
    started = time.perf_counter()
    values["cmmd"] = kernels.cmmd(*_for_cmmd(generated.pool, reference.points))
    seconds["cmmd"] = time.perf_counter() - started
    started = time.perf_counter()
    metrics.measure(generated, reference, PAPER)
    together = {"paper": time.perf_counter() - started}
    together["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"values": values, "seconds": seconds, "together": together}


def _for_cmmd(pool: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    return pool[:CMMD_IMAGES, :CMMD_SIZE].contiguous(), points[:, :CMMD_SIZE].contiguous()


# Independent formulas --------------------------------------------------------------------------------------------


def adm_inception_score(logits: np.ndarray, block: int = 5_000) -> float:
    """As ADM's evaluator, in its float32: the mean over blocks of exp of the mean divergence."""
    scores = []
    for start in range(0, len(logits), block):
        part = logits[start : start + block]
        part = np.exp(part - part.max(axis=1, keepdims=True))
        part /= part.sum(axis=1, keepdims=True)
        divergence = (part * (np.log(part) - np.log(part.mean(axis=0)))).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


def adm_distances(u: np.ndarray, v: np.ndarray, half: bool) -> np.ndarray:  # (A, D), (B, D) -> (A, B) float32
    """A block of squared distances as ADM's evaluator computes them; `half` in float16 wherever that is finite."""
    if half:
        a, b = u.astype(np.float16), v.astype(np.float16)
        with np.errstate(over="ignore", invalid="ignore"):
            products = (a.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
            norms = [np.square(each).astype(np.float32).sum(axis=1).astype(np.float16) for each in (a, b)]
            distances = np.maximum(norms[0][:, None] - np.float16(2) * products + norms[1], np.float16(0))
        if np.isfinite(distances).all():
            return distances.astype(np.float32)
    norms = [np.square(each).sum(axis=1) for each in (u, v)]
    return np.maximum(norms[0][:, None] - 2 * (u @ v.T) + norms[1], 0)


def adm_precision_recall(
    generated: np.ndarray, reference: np.ndarray, *, half: bool = False, block: int = 10_000
) -> tuple[float, float]:
    """As ADM's evaluator: whole rows of distances, partitioned; the reference comes first in every pair."""

    def radii(points: np.ndarray) -> np.ndarray:
        found = []
        for u in _cut(points, block):
            row = np.concatenate([adm_distances(u, v, half) for v in _cut(points, block)], axis=1)
            for part in np.array_split(row, 10):
                found.append(np.partition(part, (0, 1, 2, 3), axis=1)[:, 3])
        return np.concatenate(found)

    around, theirs = radii(reference), radii(generated)
    recalled, inside = np.zeros(len(reference), bool), np.zeros(len(generated), bool)
    for i, u in enumerate(_cut(reference, block)):
        for j, v in enumerate(_cut(generated, block)):
            rows, columns = (slice(k * block, (k + 1) * block) for k in (i, j))
            distances = adm_distances(u, v, half)
            recalled[rows] |= (distances <= theirs[columns]).any(axis=1)
            inside[columns] |= (distances <= around[rows, None]).any(axis=0)
    return float(inside.mean()), float(recalled.mean())


def density_and_coverage(generated: np.ndarray, reference: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Naeem et al. 2020, eqs. 4 and 5, in float64, with distances that are not squared."""
    reference = reference.astype(np.float64)

    def distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        v = v.astype(np.float64)
        return np.sqrt(np.maximum((u**2).sum(axis=1)[:, None] - 2 * (u @ v.T) + (v**2).sum(axis=1), 0))

    radii = np.concatenate([np.partition(distances(u, reference), k, axis=1)[:, k] for u in _cut(reference, 2_000)])
    inside, nearest = 0, np.full(len(reference), np.inf)
    for v in _cut(generated, 2_000):
        block = distances(reference, v)
        inside += int((block < radii[:, None]).sum())
        nearest = np.minimum(nearest, block.min(axis=1))
    return inside / (k * len(generated)), float((nearest < radii).mean())


def cmmd(generated: np.ndarray, reference: np.ndarray) -> float:
    """Jayasumana et al. 2024, eq. 4 with a kernel exp(-|x - y|² / (2 · 10²)), times 1,000, in float64."""
    x, y = (part.astype(np.float64) for part in (generated, reference))
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))

    def mean(u: np.ndarray, v: np.ndarray) -> float:
        sums = [np.exp(-(2 - 2 * part @ v.T) / 200).sum() for part in _cut(u, 2_000)]
        return sum(sums) / (len(u) * len(v))

    return 1_000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def infinity(pool: Tensor, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The line through the distances of the same 15 sets, each with a covariance of its own and its product's roots."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(mix("infinity", 0)))
    sizes = np.linspace(min(5_000, len(pool) // 10), len(pool), 15).round().astype(int)
    distances = []
    for size in sizes:
        part = pool[order[:size]].double().numpy()
        shift, own = part.mean(axis=0) - mean, np.cov(part, rowvar=False)
        roots = np.sqrt(np.linalg.eigvals(own @ covariance).astype(complex)).real.sum()
        distances.append(shift @ shift + np.trace(own) + np.trace(covariance) - 2 * roots)
    design = np.stack([np.ones(len(sizes)), 1 / sizes], axis=1)
    return float(np.linalg.lstsq(design, np.array(distances), rcond=None)[0][0])


def _cut(points: np.ndarray, block: int) -> Iterator[np.ndarray]:
    for start in range(0, len(points), block):
        yield points[start : start + block]


def run_independent(count: int, report: Callable[[str], None]) -> list[tuple[str, float, str]]:
    """(metric, value, by whom) for every metric, some twice."""
    torchvision_guard.install()  # both import torchvision
    from cleanfid import fid as clean_fid
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, labels = generated_set(count)
    pool, spatial = reference_set()
    points = pool[:POINTS].contiguous()
    found: list[tuple[str, float, str]] = []

    def add(by: str, **values: float) -> None:
        found.extend((metric, value, by) for metric, value in values.items())
        report(f"{by}: {', '.join(values)}")

    def clean(features: Tensor, other: Tensor) -> float:
        pairs = [(part.double().numpy().mean(axis=0), np.cov(part.numpy(), rowvar=False)) for part in (features, other)]
        return float(clean_fid.frechet_distance(*pairs[0], *pairs[1]))

    add("clean-fid (sqrtm) on np.cov", fd=clean(generated.pool, pool))
    add("clean-fid (sqrtm) on np.cov", sfd=clean(generated.spatial, spatial))
    add("ADM's formula, NumPy float32", **{"is": adm_inception_score(generated.logits.numpy())})
    accuracy = (generated.logits.numpy().argmax(axis=1) == labels.numpy()).mean()
    add("NumPy", class_accuracy=float(accuracy))
    np.random.seed(0)  # noqa: NPY002 (clean-fid draws from the global generator; so seeded, the same subsets)
    add("clean-fid", kid=clean_fid.kernel_distance(points.numpy(), generated.pool.numpy()))
    reference = pool.double().numpy().mean(axis=0), np.cov(pool.double().numpy(), rowvar=False)
    add("np.cov, eigvals, least squares", fd_infinity=infinity(generated.pool, *reference))
    add("NumPy float64", cmmd=cmmd(*(part.numpy() for part in _for_cmmd(generated.pool, points))))
    arrays = generated.pool.numpy(), points.numpy()
    density, coverage = density_and_coverage(*arrays)
    add("paper's formula, NumPy float64", density=density, coverage=coverage)
    precision, recall = adm_precision_recall(*arrays)
    add("ADM's formula, NumPy float32", precision=precision, recall=recall)
    theirs = prc_features_to_metric(generated.pool, points, prc_neighborhood=3, save_cpu_ram=True, verbose=False)
    add("torch-fidelity", precision=theirs["precision"], recall=theirs["recall"])
    precision, recall = adm_precision_recall(*arrays, half=True)
    add("ADM's formula, NumPy float16", precision_adm_fp16=precision, recall_adm_fp16=recall)
    return found


# Report ----------------------------------------------------------------------------------------------------------


def table(count: int, ours: dict[str, dict[str, float]], theirs: list[tuple[str, float, str]]) -> str:
    """Markdown: one row for each metric and each way to compute it again."""
    lines = [
        f"{count:,} generated images, {REFERENCE_IMAGES:,} behind the reference's statistics, {POINTS:,} points; "
        f"cmmd of {CMMD_SIZE} numbers of {min(count, CMMD_IMAGES):,} images.",
        f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}.",
        f"The paper's five in one call: {ours['together']['paper']:.0f} s. All below: "
        f"{sum(ours['seconds'].values()):.0f} s. Peak memory, features included: "
        f"{ours['together']['peak GiB']:.1f} GiB.",
        "",
        "| metric | harness | independent | by | relative difference | seconds (harness) |",
        "|---|---|---|---|---|---|",
    ]
    told = set()
    for metric, value, by in sorted(theirs, key=lambda row: list(ours["values"]).index(row[0])):
        our = ours["values"][metric]
        seconds = (
            ""
            if metric in told
            else f"{ours['seconds'][metric]:.1f}"
            if metric in ours["seconds"]
            else "with the above"
        )
        told.add(metric)
        difference = (our - value) / abs(value)
        lines.append(f"| {metric} | {our:.9g} | {value:.9g} | {by} | {difference:+.1e} | {seconds} |")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--harness-only", action="store_true", help="write the harness's part to stdout as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # clean-fid's, of its own calls
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    started = time.perf_counter()

    def report(text: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    if options.harness_only:
        print(json.dumps(run_harness(options.images, report)))
        return
    command = [sys.executable, __file__, "--images", str(options.images), "--harness-only"]
    ours = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    text = table(options.images, ours, run_independent(options.images, report))
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
