"""Which methods exist: the files in baselines/, and those that other packages bring. There is no list to edit."""

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from harness.recipes import plugins
from harness.recipes.config import Knobs, RunConfig
from harness.system.errors import UsageError, unknown

if TYPE_CHECKING:
    from harness.model.method import Method


def names() -> list[str]:
    """The methods' names: the files of baselines/ and the plugins' entry points. None of them is imported."""
    return sorted({*_built_in(), *plugins.found()})


def load(name: str) -> ModuleType:
    """The module with the method's Config and Method: baselines/<name>.py, or another package's.

    Raises UsageError with the nearest names when there is none, SetupError when another package has it, and is broken.
    """
    if name not in names():
        raise unknown("method", name, names())
    if name in _built_in():
        return importlib.import_module(f"baselines.{name}")
    from harness.model.method import Method

    plugin = plugins.named(name)
    module = plugins.load(plugin)
    if not (issubclass(module.Config, Knobs) and issubclass(module.Method, Method)):
        raise plugin.broken(
            f"whose {plugin.module} does not keep the contract: Config must be a "
            "harness.recipes.config.Knobs, Method a harness.model.method.Method"
        )
    return module


def _built_in() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(cfg: RunConfig, *, device: str = "cpu") -> "Method":
    """The method with its weights as they start, a function of the seed alone. "meta" gives shapes without memory.

    Raises UsageError for a combination that cannot be built.
    """
    import torch

    from harness.model.formulations import FORMULATIONS, IDDPM
    from harness.model.samplers import FORMULATION_OF
    from harness.model.shape import shape_of

    module = load(cfg.method)
    if cfg.formulation not in module.Method.formulations:
        raise UsageError(
            f"formulation is {cfg.formulation!r}, which {cfg.method} cannot be trained with; it takes "
            f"{' or '.join(module.Method.formulations)}."
        )
    if FORMULATION_OF[cfg.sampling.sampler] != cfg.formulation:
        fitting = [sampler for sampler, formulation in FORMULATION_OF.items() if formulation == cfg.formulation]
        raise UsageError(
            f"sampling.sampler is {cfg.sampling.sampler!r}, which draws from {FORMULATION_OF[cfg.sampling.sampler]}; "
            f"with formulation {cfg.formulation} take --set sampler={' or '.join(fitting)}."
        )
    formulation = FORMULATIONS[cfg.formulation]()
    if isinstance(formulation, IDDPM) and cfg.sampling.num_steps > formulation.num_steps:
        raise UsageError(
            f"sampling.num_steps is {cfg.sampling.num_steps}, and the diffusion has {formulation.num_steps} steps; "
            "take at most as many."
        )
    if cfg.sampling.guidance_channels is not None and cfg.sampling.guidance_channels > cfg.input.channels:
        raise UsageError(
            f"sampling.guidance_channels is {cfg.sampling.guidance_channels}, and the input has {cfg.input.channels} "
            "channels; null guides all."
        )
    torch.manual_seed(cfg.seed)
    try:
        with torch.device(device):
            return module.Method(cfg.knobs, shape_of(cfg), formulation)
    except ValueError as error:
        raise UsageError(f"{cfg.recipe} cannot be built: {error}.") from None
