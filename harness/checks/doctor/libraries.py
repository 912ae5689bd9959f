"""The libraries that break most often: torchvision beside torch, and those that import it."""

import importlib
from importlib import metadata

from harness.checks.doctor.words import in_brief
from harness.checks.finding import Finding, failure, ok

# What the harness uses of each. Importing that finds a library whose compiled part is broken.
USED = {
    "torch-fidelity": ("torch_fidelity.feature_extractor_inceptionv3", "FeatureExtractorInceptionV3"),
    "clean-fid": ("cleanfid.fid", "frechet_distance"),
    "diffusers": ("diffusers", "AutoencoderKL"),
    "pandas": ("pandas", "DataFrame"),
    "matplotlib": ("matplotlib.figure", "Figure"),
}


def torchvision() -> Finding:
    """Whether torchvision can be imported beside this torch, by itself or with the harness's guard."""
    import torch

    from harness.system import torchvision_guard

    try:
        torchvision_guard.install()
        module = importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        return failure(in_brief(error), "Run: pip install torchvision, of the release beside torch's.")
    except Exception as error:  # a library that loads compiled code fails in any way
        advice = f"Install the torchvision that belongs to torch {torch.__version__}: pip install -U torch torchvision."
        return failure(in_brief(error), advice)
    try:
        torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except NotImplementedError:  # a name without an implementation
        return ok(f"{module.__version__}: its operators do not load, and the guard defines their names instead")
    return ok(f"{module.__version__}: its operators load")


def library(package: str) -> Finding:
    """Whether a library of USED can be imported and has what the harness uses of it."""
    from harness.system import torchvision_guard

    module, attribute = USED[package]
    try:
        torchvision_guard.install()  # the first three import torchvision
        getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a library that loads compiled code fails in any way
        return failure(in_brief(error), f"Run: pip install --force-reinstall {package}")
    return ok(f"{metadata.version(package)}, imports")
