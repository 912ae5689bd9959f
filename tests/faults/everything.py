"""What harness commands import when they need it, imported at once: commands.py forks them from a process that has."""

import matplotlib.pyplot  # noqa: F401
import PIL.Image  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch

import harness.__main__  # noqa: F401
from harness.cli import app  # noqa: F401
from harness.data import classifier
from harness.data.latents import encode, vae  # noqa: F401
from harness.evaluation import evaluate  # noqa: F401
from harness.reporting import report  # noqa: F401
from harness.reporting.figures import comparison  # noqa: F401
from harness.runs import exporting, measuring, sampling, training_run  # noqa: F401
from harness.system import torchvision_guard

torchvision_guard.install()
import diffusers  # noqa: E402
import torch_fidelity.metric_fid  # noqa: E402, F401

diffusers.AutoencoderKL  # noqa: B018 (it is imported by being asked for)

torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # its first use imports the compiler


def untrained_classifier() -> None:
    """In the cache of this process, an untrained feature network for digits: to train one takes most of a short run."""
    from harness.data import sources
    from harness.system.weights import fingerprint

    digits = sources.digits()
    path = classifier._cache_path(digits, classifier.DIGITS)
    if path.exists():
        return
    weights = classifier._initial_weights(digits.shape, torch.Generator().manual_seed(0))
    module = classifier._with_weights({name: weight.float() for name, weight in weights.items()}, digits.shape)
    sha256 = fingerprint({name: weight.float() for name, weight in module.state_dict().items()})
    classifier._write(path, classifier.Trained(module, sha256, 0.1, 359))
