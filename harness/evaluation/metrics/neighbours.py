"""Precision, recall, density and coverage: how two sets of points lie among each other's nearest neighbours.

All four read the same distances in blocks, so that no matrix of all pairs is ever held. Distances are squared.
N generated points, R of the reference, D numbers of one; A, B points of a block.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.system.precision import plain_fp32

NEIGHBOURS = 3  # of the manifold estimate behind precision and recall, as in ADM (Kynkaanniemi et al. 2019)
DENSITY_NEIGHBOURS = 5  # behind density and coverage (Naeem et al. 2020, Sec. 5)
_TILE = 1000  # of ADM's blocks, for the same reason
METRICS = ("precision", "recall", "density", "coverage")
BLOCK = {"cpu": 1024, "cuda": 8192}  # points: distances that stay in a CPU's cache, and enough to fill a GPU


@dataclass(frozen=True, eq=False)
class Block:
    """Some points of a set, with what their distances need."""

    points: Tensor  # (B, D)
    norms: Tensor  # (B,), squared
    rows: slice  # where they are in the set

    @cached_property
    def operand(self) -> Tensor:
        return _operand(self.points)

    def to(self, device: torch.device) -> "Block":
        return replace(self, points=self.points.to(device), norms=self.norms.to(device))


@dataclass(frozen=True)
class Arithmetic:
    """How the distances of two blocks are computed."""

    distances: Callable[[Block, Block], Tensor]  # (A, D), (B, D) -> (A, B)
    symmetric: bool  # from u to v as from v to u, so that one half serves for both
    centred: bool  # on the reference's mean: the same distances, with a fifth of the rounding errors
    block: int | None  # points; None: what suits the device


def _in_float32(u: Block, v: Block) -> Tensor:
    """|u|² - 2uv + |v|², not yet clipped at 0 as in ADM: no comparison with a clipped radius would notice."""
    products = _products(u.operand, v.points)
    return torch.add(u.norms[:, None], products, alpha=-2).add_(v.norms)


def _as_adm(u: Block, v: Block) -> Tensor:
    """The same with every operation rounded to float16, sums taken in float32; in float32 if any is not finite then."""
    distances = torch.empty(len(u.points), len(v.points), device=u.points.device)
    a, b = u.points.half(), v.points.half()
    others = list(zip(b.float().split(_TILE), _half_norms(b).split(_TILE), distances.split(_TILE, dim=1), strict=True))
    for number, (part, norms) in enumerate(zip(a.float().split(_TILE), _half_norms(a).split(_TILE), strict=True)):
        rows, operand = slice(number * _TILE, number * _TILE + len(part)), _operand(part)
        for other, other_norms, columns in others:
            doubled = _products(operand, other).half().mul_(2)
            columns[rows] = torch.sub(norms[:, None], doubled, out=doubled).add_(other_norms).clamp_min_(0)
    return distances if distances.isfinite().all() else _in_float32(u, v)


def _operand(points: Tensor) -> Tensor:
    """The first factor of products. In oneDNN's format on a CPU: MKL, torch's default, is half as fast on AMD's."""
    return points.to_mkldnn() if points.device.type == "cpu" and torch.backends.mkldnn.is_available() else points


def _products(u: Tensor, v: Tensor) -> Tensor:  # (A, D), (B, D) -> (A, B)
    return F.linear(u, v).to_dense() if u.is_mkldnn else u @ v.T


def _half_norms(points: Tensor) -> Tensor:
    return (points * points).float().sum(1).half()


FLOAT32 = Arithmetic(_in_float32, symmetric=True, centred=True, block=None)
# ADM's blocks, each of which is float16 or float32 as a whole.
ADM_FP16 = Arithmetic(_as_adm, symmetric=False, centred=False, block=10_000)


class Manifold:
    """Points of a reference and how far their neighbours are, found once for any number of generated sets.

    `device` is where distances are computed; points are moved there block by block. `centre` is where they are measured
    from, if the arithmetic is centred; None: their mean.
    """

    def __init__(
        self,
        points: Tensor,  # (R, D)
        device: torch.device | str = "cpu",
        arithmetic: Arithmetic = FLOAT32,
        *,
        centre: Tensor | None = None,
    ):
        self._points, self._device, self._arithmetic = points, torch.device(device), arithmetic
        self._centre = points.mean(0) if centre is None else centre
        self._nearest: Tensor | None = None

    def radii(self, neighbours: int) -> Tensor:  # (R,) on the device
        """Squared distance from each point to its so many'th neighbour, up to the 5th. Itself is not one."""
        if self._nearest is None:
            self._nearest = self._search()
        return self._nearest[:, neighbours]

    def shares(self, generated: Tensor, wanted: Collection[str] = METRICS) -> dict[str, float]:  # (N, D)
        """Those of the four metrics that are wanted, for generated points.

        Precision: share of generated points no farther from some reference point than its 3rd neighbour is. Recall: the
        same with the sets swapped. Density: how many reference points a generated one is nearer to than their 5th
        neighbours are, over 5. Coverage: share of reference points with a generated one nearer than their 5th
        neighbour. The first two count ties and the last two do not, as in ADM and in prdc.
        """
        others = Manifold(generated, self._device, self._arithmetic, centre=self._centre)
        around, theirs = self.radii(NEIGHBOURS), others.radii(NEIGHBOURS) if "recall" in wanted else None
        within = self.radii(DENSITY_NEIGHBOURS)
        within = within.masked_fill(within == 0, -torch.inf)  # nothing is nearer than 0, whatever rounding says
        inside, recalled = self._empty(len(generated), torch.bool), self._empty(len(self._points), torch.bool)
        count, nearest = self._empty((), torch.int64), self._empty(len(self._points), torch.float32) + torch.inf
        with plain_fp32(self._device):
            for u in self._blocks:
                u = u.to(self._device)
                for v in others._blocks:
                    distances = self._arithmetic.distances(u, v.to(self._device))
                    if "precision" in wanted:
                        inside[v.rows] |= (distances <= around[u.rows, None]).any(0)
                    if theirs is not None:
                        recalled[u.rows] |= (distances <= theirs[v.rows]).any(1)
                    if "density" in wanted:
                        count += (distances < within[u.rows, None]).sum()
                    if "coverage" in wanted:
                        nearest[u.rows] = torch.minimum(nearest[u.rows], distances.amin(1))
        shares = {
            "precision": inside.double().mean(),
            "recall": recalled.double().mean(),
            "density": count.double() / (DENSITY_NEIGHBOURS * len(generated)),
            "coverage": (nearest < within).double().mean(),
        }
        return {metric: shares[metric].item() for metric in wanted}

    def _search(self) -> Tensor:  # (R, 6), ascending, the first its distance from itself
        size = DENSITY_NEIGHBOURS + 1
        nearest = self._empty((len(self._points), size), torch.float32) + torch.inf
        blocks, arithmetic = self._blocks, self._arithmetic
        with plain_fp32(self._device):
            for number, u in enumerate(blocks):
                u = u.to(self._device)
                for v in blocks[number if arithmetic.symmetric else 0 :]:
                    distances = arithmetic.distances(u, v.to(self._device))
                    _keep_smallest(nearest[u.rows], distances, dim=1)
                    if arithmetic.symmetric and v.rows != u.rows:
                        _keep_smallest(nearest[v.rows], distances, dim=0)
        return nearest.sort(1).values.clamp_min(0)

    @cached_property
    def _blocks(self) -> list[Block]:
        size = self._arithmetic.block or BLOCK[self._device.type]
        blocks: list[Block] = []
        for part in self._points.split(size):
            part = part - self._centre if self._arithmetic.centred else part
            start = len(blocks) * size
            blocks.append(Block(part, (part * part).sum(1), slice(start, start + len(part))))
        return blocks

    def _empty(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)


def _keep_smallest(nearest: Tensor, distances: Tensor, dim: int) -> None:  # (A, 6), (A, B) or (B, A) if dim is 0
    """Let `nearest` be the 6 smallest along `dim` of both.

    Soon few rows have anything nearer in another block than in all before it: one pass for the minima finds them, and
    only they are searched.
    """
    better = (distances.amin(dim) < nearest.amax(1)).nonzero()[:, 0]
    rows = distances[better] if dim else distances[:, better].T.contiguous()
    size = nearest.shape[1]
    found = rows.topk(min(size, rows.shape[1]), largest=False, sorted=False).values
    nearest[better] = torch.cat([nearest[better], found], 1).topk(size, largest=False, sorted=False).values
