"""Two processes are one run: same weights on both, the same as one process's to rounding, resumed bit for bit."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small import small_config

import baselines
from harness.data import sources
from harness.data.loader import rows_of
from harness.system.errors import UsageError
from harness.system.processes.world import World
from harness.training import engine

METHODS = baselines.names()
STEPS = 20
CPU = torch.device("cpu")


class Stop(Exception):
    pass


def config(name: str, *assignments: str):
    return small_config(name, f"steps={STEPS}", "log_every=5", "checkpoint_every=10", *assignments)


def train(name: str, folder: Path, world: World, *assignments: str, stop_after: int | None = None):
    """The weights, averaged ones and centres included, after training in `folder`; None when it was stopped."""

    def report(line):
        if line["step"] == stop_after:
            raise Stop

    folder.mkdir(parents=True, exist_ok=True)
    cfg = config(name, *assignments)
    method = baselines.build(cfg)
    trained = engine.train(
        method, cfg, sources.load("digits"), folder, device=CPU, report=report, note=lambda text: None, world=world
    )
    return {**method.state_dict(), **{f"ema.{key}": value for key, value in trained.network.state_dict().items()}}


def one_of_two(rank: int, root: str) -> None:
    torch.set_num_threads(1)
    world, root = World(rank, 2, rank, 2), Path(root)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name in METHODS:
        results[name] = train(name, root / "two" / name, world)
        prepare_interrupted(root, name, rank)
        results[f"{name} continued"] = train(name, root / "again" / name, world)
        results[f"{name} in pieces"] = train(name, root / "pieces" / name, world, "micro_batch=2")
    compile_in_place = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self, *, dynamic, options: compile_in_place(self, backend="eager", dynamic=dynamic)
    results["dit compiled"] = train("dit", root / "compiled", world, "compile=true")
    torch.save(results, root / f"{rank}.pt")
    dist.destroy_process_group()


def prepare_interrupted(root: Path, name: str, rank: int) -> None:
    """A run folder with nothing but the checkpoint of step 10."""
    if rank == 0:
        kept = root / "two" / name / "checkpoints" / "step-000000010"
        target = root / "again" / name / "checkpoints" / kept.name
        target.parent.mkdir(parents=True)
        kept.rename(target)
    dist.barrier()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The weights of rank 0 and rank 1 after everything above, and where they were trained."""
    root = tmp_path_factory.mktemp("processes")
    mp.start_processes(one_of_two, (str(root),), nprocs=2, start_method="spawn")
    return *(torch.load(root / f"{rank}.pt", weights_only=True) for rank in range(2)), root


def differing(one, other):
    return [key for key in one if not torch.equal(one[key], other[key])]


def assert_equal_to_rounding(one, other, name=""):
    """Sums in another order, twenty Adam steps long. The biases of the keys are left out: they shift all logits of a
    query alike, which softmax does not see, so their gradient is rounding noise that Adam scales to a full step."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        expected = other[key]
        if key.endswith("attn.qkv.bias"):
            value, expected = (torch.cat([v.chunk(3)[0], v.chunk(3)[2]]) for v in (value, expected))
        # At the zero start the dispersive loss alone reaches the blocks, so weakly that Adam steps by its rounding.
        atol = 1e-3 if name == "dispersive" else 2e-5
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", METHODS)
def test_both_processes_end_with_identical_weights(name, both):
    zero, one, _ = both
    assert differing(zero[name], one[name]) == []


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one_to_rounding(name, both, tmp_path):
    alone = train(name, tmp_path, World())
    assert_equal_to_rounding(both[0][name], alone, name)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_continue_bit_for_bit(name, both):
    assert differing(both[0][name], both[0][f"{name} continued"]) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_in_pieces_is_the_batch(name, both, tmp_path):
    """Gradient accumulation, in one process and in two, against the whole batch at once."""
    alone = train(name, tmp_path / "whole", World())
    pieces = train(name, tmp_path / "pieces", World(), "micro_batch=2")
    assert_equal_to_rounding(pieces, alone, name)
    assert_equal_to_rounding(both[0][f"{name} in pieces"], alone, name)


def test_two_processes_with_compiled_blocks_equal_one_without(both, tmp_path):
    """Compiled to Python and not to machine code, which takes a minute: the gradients are exchanged between blocks."""
    assert differing(both[0]["dit compiled"], both[1]["dit compiled"]) == []
    assert_equal_to_rounding(both[0]["dit compiled"], train("dit", tmp_path, World()))


@pytest.mark.parametrize("name", METHODS)
def test_accumulation_resumes_bit_for_bit(name, tmp_path):
    whole = train(name, tmp_path / "whole", World(), "micro_batch=4")
    with pytest.raises(Stop):
        train(name, tmp_path / "parts", World(), "micro_batch=4", stop_after=15)
    assert differing(whole, train(name, tmp_path / "parts", World(), "micro_batch=4")) == []


def test_the_log_is_written_once_and_averages_over_both(both, tmp_path):
    train("sddit", tmp_path, World())
    two, alone = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (both[2] / "two" / "sddit", tmp_path)
    )
    assert [line["step"] for line in two] == [line["step"] for line in alone] == [5, 10, 15, 20]
    for ours, theirs in zip(two, alone, strict=True):
        for part in (
            "loss",
            "loss/generate",
            "loss/cls",
            "loss/patches",
            "grad_norm",
            "entropy/cls",
            "entropy/patches",
        ):
            assert ours[part] == pytest.approx(theirs[part], rel=1e-3)
        for part in ("information/cls", "information/patches"):  # small differences of large entropies
            assert ours[part] == pytest.approx(theirs[part], rel=1e-2, abs=1e-5)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="a batch of 8 does not divide over 3 processes"):
        rows_of(config("dit"), World(0, 3))
    with pytest.raises(UsageError, match="does not divide the 4 images that each process has"):
        rows_of(config("dit", "micro_batch=3"), World(1, 2))
