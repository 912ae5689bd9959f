"""What only a GPU can show of a training step. Without one nothing here can run; reports/measure.sh runs it on one."""

import pytest
import torch

import baselines
from harness.bench import measure
from harness.bench.measure import warmed_up
from harness.bench.ours import HarnessStep
from harness.data import sources
from harness.data.loader import StoredBatch
from harness.data.order import batch_indices
from harness.model.nn.soft_cross_entropy import Logits, plain_soft_cross_entropy, soft_cross_entropy
from harness.planning.plan import resolve
from harness.system.precision import set_precision
from harness.system.processes.world import World
from harness.training.step import TrainStep

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # torch warns of these on a GPU alone, and the tests turn warnings into errors.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32:UserWarning"),  # the exact fp32 is meant
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match:UserWarning"),  # CUDA graphs
]

METHODS = baselines.names()
GPU = torch.device("cuda")
FASTEST = ("precision=bf16", "compile=true", "cuda_graphs=true")
SMALL = ("batch_size=32", "data=synthetic", "steps=100", "residency=gpu")


def step_of(name, *assignments):
    cfg = resolve(f"{name}-s", [*SMALL, *assignments])
    set_precision(cfg.protocol.precision)
    return TrainStep(baselines.build(cfg), cfg, sources.of(cfg), world=World(), device=GPU), cfg


def stepped(name, *assignments, steps=20):
    step, cfg = step_of(name, *assignments)
    losses = []
    for number in range(steps):
        stored, labels = step.data.read(batch_indices(len(step.data), 0, number, cfg.protocol.batch_size))
        losses.append(step(StoredBatch(stored.to(GPU), labels.to(GPU)), number, measure_gradient=False)[0]["loss"])
    return torch.stack(losses).tolist()


@pytest.mark.parametrize("name", METHODS)
def test_twenty_optimised_steps_follow_twenty_plain_ones(name):
    """Products in bf16 keep 8 bits: the losses agree to a percent. In fp32, compiling changes rounding alone."""
    plain = stepped(name)
    assert stepped(name, "compile=true", "cuda_graphs=true") == pytest.approx(plain, rel=1e-3)
    assert stepped(name, *FASTEST) == pytest.approx(plain, rel=2e-2)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_never_waits_for_the_device(name):
    contender = HarnessStep(name, resolve(f"{name}-s", [*SMALL, "precision=bf16"]), GPU)
    contender.step()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            contender.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_memory_of_a_contender_is_its_own(tmp_path):
    ready = [warmed_up(lambda: HarnessStep("a", resolve("dit-s", [*SMALL]), GPU), GPU) for _ in range(2)]
    first, second = (timed.peak_allocated_bytes for timed in ready)
    assert 0.9 < second / first < 1.1
    assert first > 4 * 4 * 33e6  # weights, gradients and two moments at least


def test_the_fused_loss_is_the_plain_formula_at_the_paper_s_size():
    generator = torch.Generator(GPU).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=GPU)

    rows, prototypes, width = 4100, 8192, 256
    student, teacher = (torch.nn.functional.normalize(normal(rows, width), dim=-1) for _ in range(2))
    weights, others = (torch.nn.functional.normalize(normal(prototypes, width), dim=-1) for _ in range(2))
    centre, temperature = normal(prototypes) * 0.1, torch.tensor(0.09, device=GPU)
    student.requires_grad_()
    weights.requires_grad_()
    temperatures = {"student_temperature": 0.1, "teacher_temperature": temperature}
    targets = Logits(teacher, others)
    loss = soft_cross_entropy(Logits(student, weights), targets, centre=centre, **temperatures)
    loss.backward()
    s, w = (x.detach().double().requires_grad_() for x in (student, weights))
    wide = Logits(teacher.double(), others.double())
    exact = plain_soft_cross_entropy(Logits(s, w), wide, centre=centre.double(), **temperatures)
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    for found, wanted in ((student.grad, s.grad), (weights.grad, w.grad)):
        assert ((found - wanted).norm() / wanted.norm()).item() < 1e-4


def test_the_ceilings_of_this_gpu_can_be_measured_and_bf16_is_its_fastest():
    reached = measure.ceilings(["fp32", "tf32", "bf16"], GPU)
    rate = reached.flops_per_second
    assert rate["bf16"] > rate["tf32"] > rate["fp32"] > 1e12
    assert reached.bytes_per_second > 1e11
    joules = measure.energy_counter(GPU)
    assert joules is None or joules() > 0
