"""The libraries that break most: those around torchvision, and the compiler that torch.compile needs."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from harness.checks.doctor.finding import Finding, failure, in_brief, ok, warning

# What this project asks of each, so that a library that is there by name alone is found out.
USED = {
    "torch-fidelity": ("torch_fidelity.feature_extractor_inceptionv3", "FeatureExtractorInceptionV3"),
    "clean-fid": ("cleanfid.fid", "frechet_distance"),
    "diffusers": ("diffusers", "AutoencoderKL"),
    "pandas": ("pandas", "DataFrame"),
    "matplotlib": ("matplotlib.figure", "Figure"),
}

KERNEL = """#include <Python.h>
#include <cmath>
extern "C" void kernel(const float* in, float* out, long count) {
#pragma omp parallel for
    for (long i = 0; i < count; ++i) out[i] = std::sin(in[i]);
}
"""


def torchvision() -> Finding:
    """Whether torchvision can be imported beside this torch, by itself or with the harness's guard."""
    import torch

    from harness.system import torchvision_guard

    try:
        torchvision_guard.install()
        module = importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        return failure("torchvision", in_brief(error), "Run: pip install torchvision, of the release beside torch's.")
    except Exception as error:  # a library that loads compiled code fails in any way
        return failure(
            "torchvision",
            f"{type(error).__name__}: {in_brief(error)}",
            f"Install the torchvision that belongs to torch {torch.__version__}: pip install -U torch torchvision.",
        )
    try:
        torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except NotImplementedError:  # a name without an implementation
        return ok("torchvision", f"{module.__version__}: its operators do not load, and the guard stands in for them")
    return ok("torchvision", f"{module.__version__}: its operators load")


def library(package: str) -> Finding:
    """Whether one of USED can be imported and has what is used of it."""
    from harness.system import torchvision_guard

    module, attribute = USED[package]
    try:
        torchvision_guard.install()  # the first three import torchvision
        getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a library that loads compiled code fails in any way
        return failure(
            package, f"{type(error).__name__}: {in_brief(error)}", f"Run: pip install --force-reinstall {package}"
        )
    return ok(package, f"{metadata.version(package)}, imports")


def compiler() -> Finding:
    """What torch.compile needs on the device that commands take: a C++ compiler that works, or triton and all it needs.

    On a processor nothing is compiled by torch itself, which would take ten seconds and more.
    """
    from harness.system.precision import default_device

    return _by_triton() if default_device().type == "cuda" else _by_cxx()


def _by_cxx() -> Finding:
    name = "torch.compile"
    cxx = found_compiler()
    if cxx is None:
        return warning(
            name, "no C++ compiler (g++, clang++ or $CXX)", "Install one, like apt install g++; the default is off."
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.cpp"
        source.write_text(KERNEL, encoding="utf-8")
        openmp = ["-fopenmp"] if sys.platform == "linux" else []
        include = f"-I{sysconfig.get_path('include')}"
        words = [cxx, "-shared", "-fPIC", "-std=c++17", *openmp, include, str(source), "-o", f"{folder}/kernel.so"]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        return warning(
            name,
            f"{Path(cxx).name} fails: {complaint.partition('error: ')[2] or complaint or done.returncode}",
            "Install g++ and Python's headers, like apt install g++ python3-dev; the default is off.",
        )
    return ok(name, f"{Path(cxx).name} builds kernels, with OpenMP and Python's headers")


def _by_triton() -> Finding:
    import torch

    from harness.model.compiling import FAILURES

    name = "torch.compile"
    if importlib.util.find_spec("triton") is None:
        return warning(name, "no triton, which writes kernels", "Run: pip install triton; the default is off.")
    x = torch.linspace(0, 1, 8, device="cuda")
    try:
        made = torch.compile(lambda values: values.sin() * values, fullgraph=True)(x)
    except FAILURES as error:
        cause = getattr(error, "inner_exception", error)
        return warning(
            name,
            f"fails: {type(cause).__name__}: {in_brief(cause)}",
            "Triton needs a C compiler and Python's headers, like apt install gcc python3-dev; the default is off.",
        )
    if not torch.allclose(made, x.sin() * x, atol=1e-5):
        return failure(name, "compiled a wrong function", "Say --compile off, and report the versions to PyTorch.")
    return ok(name, "works on the GPU")


def found_compiler() -> str | None:
    """The C++ compiler that torch would take: $CXX, or the first of the usual ones."""
    named = [os.environ["CXX"]] if os.environ.get("CXX") else []
    return next((found for name in (*named, "g++", "clang++", "c++") if (found := shutil.which(name))), None)
