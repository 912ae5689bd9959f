"""Compiled and half-precision steps: the same training, said to be what it is."""

import pytest
import torch
from small import grouped, small_config
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import baselines
from harness.data import sources
from harness.model.nn.blocks import Attention
from harness.model.optimizers import optimizer_of
from harness.system.errors import UsageError
from harness.training import engine

METHODS = baselines.names()
CPU = torch.device("cpu")


def train(name, folder, *assignments):
    folder.mkdir()
    cfg = small_config(name, "steps=12", "log_every=1", "checkpoint_every=100", *assignments)
    method, losses = baselines.build(cfg), []
    engine.train(
        method,
        cfg,
        sources.load("digits"),
        folder,
        device=CPU,
        report=lambda line: losses.append(line["loss"]),
        note=print,
    )
    return method, losses


@pytest.fixture
def graphs(monkeypatch):
    """Compiles to Python instead of machine code, which takes a minute; returns the list of compiled graphs."""
    compiled, compile_in_place = [], nn.Module.compile

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    def compile_to_python(self, *, dynamic, options):
        compile_in_place(self, backend=backend, dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", compile_to_python)
    torch._dynamo.reset()
    yield compiled
    torch._dynamo.reset()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pieces", ["micro_batch=null", "micro_batch=1"])
def test_a_compiled_step_trains_the_same_and_is_compiled_a_few_times_in_all(name, pieces, graphs, tmp_path):
    """Whatever changes between steps and pieces must not be compiled anew: after eight times torch would give up."""
    if grouped(name, 2):  # pairs of images stay together
        pieces = pieces.replace("1", "2")
    plain, losses = train(name, tmp_path / "plain", pieces)
    compiled, losses_compiled = train(name, tmp_path / "compiled", pieces, "compile=true")
    assert losses_compiled == pytest.approx(losses, rel=1e-4)  # the activation is rounded otherwise
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert 1 <= len(graphs) <= 8


def test_blocks_that_are_alike_share_one_graph_and_the_rest_of_the_method_is_not_compiled(graphs, tmp_path):
    """One of a block whose input needs no gradient's way back (the first), and one of all the others."""
    counts = []
    for depth in (3, 6):
        torch._dynamo.reset()
        graphs.clear()
        train("dit", tmp_path / str(depth), "compile=true", f"depth={depth}")
        counts.append(len(graphs))
    assert counts[0] == counts[1] <= 2


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_in_the_products_and_nowhere_else(name, tmp_path):
    method, losses = train(name, tmp_path / "half", "precision=bf16")
    _, whole = train(name, tmp_path / "whole")
    assert {tensor.dtype for tensor in method.state_dict().values()} == {torch.float32}
    assert losses != whole
    assert losses[0] == pytest.approx(whole[0], rel=0.01)
    assert losses == pytest.approx(whole, rel=0.2)  # twelve steps at a high learning rate take the rounding apart


def test_attention_is_computed_in_float32_on_a_cpu_whatever_the_products_are(shape):
    class Seen(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.scaled_dot_product_attention:
                dtypes.update(tensor.dtype for tensor in args)
            return func(*args, **(kwargs or {}))

    dtypes, attention = set(), Attention(shape)
    x = torch.randn(2, 5, 16, requires_grad=True)
    bias = torch.randn(2, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Seen():
        y = attention(x, bias.bfloat16())
    assert dtypes == {torch.float32}
    assert y.dtype == torch.bfloat16  # the projections are products like all others
    gradients = torch.autograd.grad(y.float().square().sum(), [x, bias])
    expected = torch.autograd.grad(attention(x, bias).square().sum(), [x, bias])
    for found, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0.1, atol=0.02 * right.abs().max().item())


def test_tf32_is_allowed_for_the_run_that_asks_and_no_other():
    from harness.system.precision import set_precision

    set_precision("tf32")
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    set_precision("bf16")
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_groups_of_parameters_may_come_from_generators_and_hold_no_stranger(monkeypatch):
    method, protocol = baselines.build(small_config("dit")), small_config("dit").protocol
    monkeypatch.setattr(method, "param_groups", lambda: [{"params": method.network.parameters()}])
    weights = sum(p.numel() for group in optimizer_of(method, protocol).param_groups for p in group["params"])
    assert weights == sum(p.numel() for p in method.network.parameters())
    stranger = nn.Parameter(torch.zeros(1))
    monkeypatch.setattr(method, "param_groups", lambda: [{"params": [*method.network.parameters(), stranger]}])
    with pytest.raises(UsageError, match="none of the method's"):
        optimizer_of(method, protocol)
