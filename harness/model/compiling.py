"""torch.compile around a method: in place and once, and never given up without a word."""

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

from harness.model.method import Method
from harness.system.errors import SetupError

FAILURES = (TorchDynamoException, FailOnRecompileLimitHit, CppCompileError, InvalidCxxCompiler)  # of a first step
LIMIT = 64  # compilations of one method in one process; torch's own, 8, is fewer than a bench may have contenders
SHOWN = 200  # characters of a compiler's complaint


def compile_in_place(method: Method, *, cuda_graphs: bool) -> None:
    """Compile the method's forward and, through autograd, its backward, for the shapes it meets.

    In place, so that no name of a weight changes. Random numbers are drawn as without compiling. With `cuda_graphs` the
    compiled kernels are recorded once and replayed, which saves launching them: small networks are bound by that.
    """
    # Compiling for each value of a number that changes would end, at a limit, in running uncompiled without a word.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
    method.compile(dynamic=False, options={"fallback_random": True, "triton.cudagraphs": cuda_graphs})


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
        self._method._compiled_call_impl = None  # there is no public way back
        with torch.no_grad():
            for buffer, before in zip(self._method.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        return reason


def _reason(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # around it, torch says only which of its parts raised it
    lines = [f"{type(cause).__name__}: {line.strip()}" for line in str(cause).splitlines() if line.strip()]
    first = (lines or [type(error).__name__])[0]
    return first[:SHOWN].rstrip(".") + "."
