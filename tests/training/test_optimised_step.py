"""What makes a step faster leaves its mathematics alone: twenty optimised steps end where twenty plain ones do."""

import pytest
import torch
from small import small_config

import baselines
from harness.data import sources
from harness.data.loader import StoredBatch
from harness.data.order import batch_indices
from harness.model import compiling
from harness.model.nn.blocks import DiTBlock
from harness.system.errors import SetupError, UsageError
from harness.system.processes.world import World
from harness.training.step import TrainStep

METHODS = baselines.names()
CPU = torch.device("cpu")
STEPS = 20


def stepped(name, *assignments, steps=STEPS):
    """The step after `steps` of them, with every loss on the way."""
    cfg, data = small_config(name, "learning_rate=1e-3", "steps=20", *assignments), sources.load("digits")
    step, losses = TrainStep(baselines.build(cfg), cfg, data, world=World(), device=CPU), []
    for number in range(steps):
        batch = StoredBatch(*data.read(batch_indices(len(data), cfg.seed, number, cfg.protocol.batch_size)))
        losses.append(step(batch, number, measure_gradient=False)[0]["loss"].item())
    return step, losses


def weights(step):
    return torch.cat([p.detach().flatten() for p in [*step.method.parameters(), *step.ema.network.parameters()]])


def distance(a, b):
    """Between the weights and averages of two steps, relative to how far the first has come from its start."""
    start = torch.cat([p.detach().flatten() for p in baselines.build(a._cfg).parameters()])
    moved = weights(a)[: len(start)] - start
    return ((weights(a) - weights(b)).norm() / moved.norm()).item()


@pytest.mark.parametrize("name", METHODS)
def test_blocks_that_compute_their_insides_twice_train_bit_for_bit_the_same(name):
    plain, losses = stepped(name)
    checkpointed, losses_checkpointed = stepped(name, "activation_checkpointing=true")
    blocks = [m for m in checkpointed.method.network.modules() if isinstance(m, DiTBlock)]
    assert blocks
    assert all(block.checkpointed for block in blocks)
    assert losses_checkpointed == losses
    assert torch.equal(weights(plain), weights(checkpointed))


@pytest.mark.parametrize("name", METHODS)
def test_attention_by_its_plain_formula_trains_the_same_to_rounding(name):
    plain, losses = stepped(name)
    other, losses_other = stepped(name, "attention=math")
    assert losses_other == pytest.approx(losses, rel=1e-4)
    assert 0 < distance(plain, other) < 1e-2


def test_a_really_compiled_step_with_all_else_switched_on_trains_the_same():
    """SD-DiT, which has most to compile: teacher, head and centres, in pieces, with machine code and not a stand-in."""
    torch._dynamo.reset()
    plain, losses = stepped("sddit", "depth=2")
    fast, losses_fast = stepped("sddit", "depth=2", "compile=true", "micro_batch=4", "activation_checkpointing=true")
    assert fast.compiled
    assert losses_fast == pytest.approx(losses, rel=1e-4)
    assert distance(plain, fast) < 1e-2


def test_the_recorded_kernels_are_those_of_every_block():
    assert stepped("dit", steps=0)[0].attention == "flash"
    assert stepped("dit", "attention=math", steps=0)[0].attention == "math"
    assert stepped("mdt", "relative_position=true", steps=0)[0].attention == "math"  # a bias that needs a gradient


def test_a_recorded_step_is_refused_where_it_would_be_taken_in_pieces():
    with pytest.raises(UsageError, match="recorded gradients do not add up over pieces"):
        stepped("dit", "compile=true", "cuda_graphs=true", "micro_batch=4", steps=0)


def test_clipping_limits_the_gradient_and_its_norm_is_logged_as_it_was():
    cfg, data = small_config("dit", "clip=0.001"), sources.load("digits")
    step = TrainStep(baselines.build(cfg), cfg, data, world=World(), device=CPU)
    batch = StoredBatch(*data.read(torch.arange(8)))
    _, norm = step(batch, 0, measure_gradient=True)
    clipped = torch.nn.utils.get_total_norm([p.grad for p in step.method.parameters() if p.grad is not None])
    assert norm > 0.01
    assert clipped.item() == pytest.approx(0.001, rel=1e-3)


def test_another_optimizer_is_another_training_and_an_unknown_one_is_refused():
    plain, _ = stepped("dit", "weight_decay=0.1", steps=3)
    other, _ = stepped("dit", "weight_decay=0.1", "optimizer=adam", steps=3)
    assert distance(plain, other) > 1e-3
    with pytest.raises(UsageError, match=r"\(protocol\.optimizer\) is 'adan'; it must be 'adamw' or 'adam'\."):
        small_config("dit", "optimizer=adan")


def test_auto_compiles_by_the_length_and_the_size_of_the_run_alone():
    """12 width^2 products a token and block, three times: 3.5e6 a step here, and 2e13 are long enough."""
    short = stepped("dit", "compile=auto", "steps=5_000_000", steps=0)[0]
    assert (short.compiled, short.not_compiled) == (False, compiling.TOO_SHORT)
    assert stepped("dit", "compile=auto", "steps=6_000_000", steps=0)[0].compiled
    assert stepped("dit", "compile=auto", "steps=400_000", "width=64", steps=0)[0].compiled
    assert stepped("dit", "compile=true", "steps=1", steps=0)[0].compiled
    assert stepped("dit", "compile=false", "steps=3_000_000", steps=0)[0].not_compiled is None


@pytest.mark.slow
def test_a_cached_graph_of_one_kernel_of_attention_does_not_stand_for_another(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    steps = {}
    for kernel in ("auto", "math"):
        torch._dynamo.reset()  # as in another process
        steps[kernel] = stepped("dit", "depth=1", "compile=true", f"attention={kernel}", steps=5)[0]
    assert 0 < distance(steps["auto"], steps["math"]) < 1e-2  # the sums have another order


# Compiling that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    """A machine whose C++ compiler is missing, which torch finds out at the first step."""
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "WORTH_COMPILING", 0)  # also for "auto"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before is not found there
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        yield
    torch._dynamo.reset()


def test_a_failed_compilation_is_an_error_that_says_how_to_go_on(no_compiler):
    with pytest.raises(SetupError, match=r"torch.compile failed: .* --compile auto") as caught:
        stepped("sddit", "compile=true", steps=1)
    assert caught.value.exit_code == 3


def centre(step):
    return step.method.discrimination.agreement.centre


def test_what_a_checkpoint_brought_is_kept_when_compiling_fails_after_it(no_compiler):
    """A resumed run loads its weights and centres into a step that was made before."""
    trained, _ = stepped("sddit", steps=2)
    resumed, plain = (stepped("sddit", f"compile={mode}", steps=0)[0] for mode in ("auto", "false"))
    for step in (resumed, plain):
        step.method.load_state_dict(trained.method.state_dict())
        data, cfg = step.data, small_config("sddit")
        batch = StoredBatch(*data.read(batch_indices(len(data), cfg.seed, 2, cfg.protocol.batch_size)))
        step(batch, 2, measure_gradient=False)
    assert resumed.not_compiled
    assert centre(trained).any()
    assert torch.equal(centre(resumed), centre(plain))
    assert torch.equal(weights(resumed), weights(plain))


def test_where_compiling_is_optional_a_failure_is_remembered_and_the_run_is_the_uncompiled_one(no_compiler):
    plain, losses = stepped("sddit", steps=3)
    fallen, losses_fallen = stepped("sddit", "compile=auto", steps=3)
    assert not fallen.compiled
    assert "no-such-compiler" in fallen.not_compiled
    assert losses_fallen == losses
    assert torch.equal(weights(plain), weights(fallen))
    assert torch.equal(centre(plain), centre(fallen))  # what the failed attempt added is taken back
