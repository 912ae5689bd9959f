"""Every seed does something, and nothing else does what a seed does: training, its data order, sampling, evaluation."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small import small_config, trained_a_little

import baselines
from harness.data import sources
from harness.data.loader import Loader, rows_of
from harness.evaluation.generation import choose_labels, draw_images
from harness.recipes.config import RunConfig
from harness.system.processes.world import World
from harness.training.step import TrainStep

METHODS = baselines.names()
CPU = torch.device("cpu")
SEEDS = (0, 1, 0)  # one, another, and the first again


def loader_of(cfg: RunConfig, seed: int, world: World) -> Loader:
    return Loader(
        sources.load("digits"), seed=seed, batch_size=cfg.protocol.batch_size, flips=False, rows=rows_of(cfg, world),
        first_step=0, device=CPU, resident=False,
    )  # fmt: skip


def first_step(cfg: RunConfig, world: World = World(), *, weights: int | None = None, batch: int | None = None):
    """The first step's mean loss over all processes, of `cfg` but for the seeds of its `weights` and `batch`."""
    data = sources.load("digits")
    method = baselines.build(cfg if weights is None else cfg.model_copy(update={"seed": weights}))
    trained_a_little(method)  # untrained, DiT's loss is that of its noise alone: its output begins at zero
    step = TrainStep(method, cfg, data, world=world, device=CPU)
    seed = cfg.seed if batch is None else batch
    with loader_of(cfg, seed, world) as loader:
        loss = step(loader.next(), 0, measure_gradient=False)[0]["loss"]
    if world.size > 1:
        dist.all_reduce(loss.div_(world.size))
    return loss.item()


def of_two(rank: int, root: str) -> None:
    torch.set_num_threads(1)
    world = World(rank, 2, rank, 2)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    losses = {name: [first_step(small_config(name, f"seed={seed}"), world) for seed in SEEDS] for name in METHODS}
    if rank == 0:
        torch.save(losses, Path(root) / "losses.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """First losses by method, of SEEDS, in two processes."""
    root = tmp_path_factory.mktemp("seeds")
    mp.start_processes(of_two, (str(root),), nprocs=2, start_method="spawn")
    return torch.load(root / "losses.pt", weights_only=True)


@cache
def by_one(name: str) -> list[float]:
    return [first_step(small_config(name, f"seed={seed}")) for seed in SEEDS]


@pytest.mark.parametrize("name", METHODS)
def test_another_training_seed_changes_the_first_loss_and_the_same_does_not(name):
    first, other, again = by_one(name)
    assert first != other
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_training_seed_has_its_effect_in_two_processes_too(name, by_two):
    first, other, again = by_two[name]
    assert first != pytest.approx(other, rel=1e-3)
    assert first == again
    assert (first, other) == pytest.approx(by_one(name)[:2], rel=1e-5), "two processes are not one run"


@pytest.mark.parametrize("name", METHODS)
def test_noise_weights_and_data_order_each_follow_the_training_seed(name):
    """Each held at seed 0 while the others go to seed 1: none of the three is dead."""
    zero, one = small_config(name, "seed=0"), small_config(name, "seed=1")
    both = first_step(one)
    assert first_step(zero, weights=1, batch=1) != both, "noise, levels, masks and label dropout"
    assert first_step(one, weights=1, batch=0) != both, "which images are in the batch"
    weights = [baselines.build(cfg).state_dict() for cfg in (zero, one, zero)]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


@pytest.mark.parametrize("world", [World(), World(0, 2), World(1, 2)])
def test_another_seed_is_another_order_of_the_data(world):
    def images(seed: int) -> torch.Tensor:
        with loader_of(small_config("dit"), seed, world) as loader:
            return loader.next().stored

    first, other, again = map(images, SEEDS)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def images_of(name: str, root: Path, seed: int, labels: torch.Tensor, world: World = World()) -> torch.Tensor:
    cfg = small_config(name, "num_steps=2")
    network = trained_a_little(baselines.build(cfg).network).eval()
    drawn = draw_images(
        root, network, cfg, labels, seed=seed, vae=None, device=CPU, world=world, advance=lambda done: None
    )  # fmt: skip
    return torch.as_tensor(drawn.read(0, len(drawn)))


@pytest.mark.parametrize("name", METHODS)
def test_another_sampling_seed_changes_every_image_and_the_same_changes_none(name, tmp_path):
    labels = torch.arange(4)
    first, other, again = (images_of(name, tmp_path / str(i), seed, labels) for i, seed in enumerate(SEEDS))
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(first, again)


def test_the_evaluation_seed_chooses_the_classes_that_are_asked_for():
    first, other, again = (choose_labels("random", 50, 10, seed) for seed in SEEDS)
    assert not torch.equal(first, other)
    assert torch.equal(first, again)
