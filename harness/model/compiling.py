"""torch.compile of a method's blocks: in place, once for all blocks alike, and never given up without a word."""

import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from harness.model.method import Method
from harness.model.nn.blocks import DiTBlock
from harness.model.shape import Shape
from harness.recipes.config import RunConfig
from harness.system.errors import SetupError

FAILURES = (TorchDynamoException, FailOnRecompileLimitHit, CppCompileError, InvalidCxxCompiler)  # of a first step
LIMIT = 64  # compilations of one method in one process; torch's own, 8, is fewer than a bench may have contenders
SHOWN = 200  # characters of a compiler's complaint

# Multiply-accumulates of a run from which on compiling is worth its time. Compiling takes one or two minutes of a core,
# which computes 2e10 a second, and saves a seventh of a step: 2e13 take seventeen minutes there.
WORTH_COMPILING = 2 * 10**13
TOO_SHORT = "compile is auto, and so short a run would take longer to compile than it would save"


def pays(cfg: RunConfig, shape: Shape) -> bool:
    """Whether a run of this configuration is long enough for compiling to save time: a rule, and never a timing.

    It counts the products of the network's blocks: 12 D^2 multiply-accumulates a token and block of width D, and twice
    as many again in the backward pass.
    """
    of_an_image = 3 * shape.num_tokens * shape.depth * 12 * shape.width**2
    return cfg.protocol.steps * cfg.protocol.batch_size * of_an_image >= WORTH_COMPILING


def compile_in_place(method: Method, *, attention: str = "auto", cuda_graphs: bool = False) -> None:
    """Compile forward and, through autograd, backward of the method's blocks, for the shapes they meet.

    Blocks that are alike share one graph, so that compiling takes as long for 28 of them as for 2; inductor keeps what
    it compiled on the disk, for the next run. With `cuda_graphs` the compiled kernels are recorded once and replayed,
    which saves launching them: small networks are bound by that. A recording must hold a whole step, so the method is
    then compiled as a whole, and so is one that has no DiTBlock.

    In place, so that no name of a weight changes. Random numbers are drawn as without compiling.
    """
    # Compiling for each value of a number that changes would end, at a limit, in running uncompiled without a word.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
    if attention != "auto":  # torch's cache of traced graphs would give back one with another kernel of attention
        torch._functorch.config.enable_autograd_cache = False
    blocks: list[nn.Module] = [module for module in method.modules() if isinstance(module, DiTBlock)]
    for module in [method] if cuda_graphs or not blocks else blocks:
        module.compile(dynamic=False, options={"fallback_random": True, "triton.cudagraphs": cuda_graphs})


def uncompile(method: Method) -> None:
    """Undo compile_in_place."""
    for module in method.modules():
        module._compiled_call_impl = None  # there is no public way back


class FirstStep:
    """Guards the step that compiles. Everything a failed attempt may have changed is put back before another one.

    Made just before that step: a checkpoint that was loaded belongs to what is put back.
    """

    def __init__(self, method: Method, *, optional: bool):
        self._method, self._optional = method, optional
        self._buffers = [buffer.clone() for buffer in method.buffers()]  # gradients are zeroed by every step

    def failed(self, error: Exception) -> str:
        """Uncompile the method and return why. Raises SetupError where compiling is not optional."""
        reason = _reason(error)
        if not self._optional:
            raise SetupError(
                f"torch.compile failed: {reason} Say --compile auto to run uncompiled where it fails, which the result "
                "then says, or --compile off."
            ) from error
        uncompile(self._method)
        with torch.no_grad():
            for buffer, before in zip(self._method.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        return reason


def _reason(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # around it, torch says only which of its parts raised it
    lines = [f"{type(cause).__name__}: {line.strip()}" for line in str(cause).splitlines() if line.strip()]
    first = (lines or [type(error).__name__])[0]
    return first[:SHOWN].rstrip(".") + "."
