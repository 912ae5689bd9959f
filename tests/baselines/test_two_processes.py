"""SD-DiT's centres are means over all processes; the teacher, a function of the student, needs no communication."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small import small_config

from harness.data import sources
from harness.training import registry
from harness.training.method import Progress


def centre_of_half(rank: int, rendezvous: str, results) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    digits = sources.load("digits")
    sddit = registry.build(small_config("sddit"), digits)
    torch.manual_seed(rank)
    sddit(digits.clean[rank * 4 : rank * 4 + 4], digits.labels[rank * 4 : rank * 4 + 4], Progress(0.0, 0.0))
    own = sddit.batch_mean.clone()
    sddit.after_step(Progress(0.0, 0.0))
    results.put((own.tolist(), sddit.centre.tolist()))
    dist.destroy_process_group()


def test_both_processes_move_their_centres_to_the_mean_over_both(tmp_path):
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    processes = mp.start_processes(
        centre_of_half, (str(tmp_path / "rendezvous"), results), nprocs=2, join=False, start_method="spawn"
    )
    while not processes.join():
        pass
    (mean_a, centre_a), (mean_b, centre_b) = results.get(), results.get()
    assert centre_a == centre_b
    assert mean_a != mean_b
    torch.testing.assert_close(torch.tensor(centre_a), 0.1 * (torch.tensor(mean_a) + torch.tensor(mean_b)) / 2)
