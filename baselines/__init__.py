"""Which methods exist: the files in baselines/, and those that other packages bring. There is no list to edit."""

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.recipes import plugins
from harness.recipes.config import Knobs, RunConfig, apply_overrides, as_typed, shortened, validate
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


def configured(document: dict[str, Any], assignments: Iterable[str] = ()) -> RunConfig:
    """A plain configuration, with these `key=value` assignments, as a run of its method.

    Raises UsageError for a key, a value or a combination that the method cannot be trained and sampled with.
    """
    knobs, assignments = load(document["method"]).Config, list(assignments)
    with as_typed(assignments):
        cfg = validate(apply_overrides(document, assignments, knobs.model_fields), knobs)
        check(cfg)
    return cfg


def check(cfg: RunConfig) -> None:
    """Raises UsageError where the settings of `cfg`, each valid by itself, do not go together."""
    from harness.model.formulations import FORMULATIONS
    from harness.model.optimizers import OPTIMIZERS
    from harness.model.samplers import SAMPLERS

    sampling, method = cfg.sampling, load(cfg.method).Method
    named: tuple[tuple[str, str, Collection[str]], ...] = (
        ("formulation", cfg.formulation, FORMULATIONS),
        ("sampling.sampler", sampling.sampler, SAMPLERS),
        ("protocol.optimizer", cfg.protocol.optimizer, OPTIMIZERS),
    )
    for path, name, known in named:
        if name not in known:
            raise UsageError(f"{path} is {shortened(name)}; it must be {' or '.join(map(repr, known))}.")
    if cfg.formulation not in method.formulations:
        raise UsageError(
            f"formulation is {cfg.formulation!r}, which {cfg.method} cannot be trained with; it takes "
            f"{' or '.join(method.formulations)}."
        )
    if cfg.formulation not in SAMPLERS[sampling.sampler].formulations:
        fitting = [name for name, sampler in SAMPLERS.items() if cfg.formulation in sampler.formulations]
        raise UsageError(
            f"sampling.sampler is {sampling.sampler!r}, which draws from "
            f"{' and '.join(SAMPLERS[sampling.sampler].formulations)}; with formulation {cfg.formulation} take "
            f"--set sampler={' or '.join(fitting)}."
        )
    diffusion_steps = FORMULATIONS[cfg.formulation]().num_steps
    if diffusion_steps is not None and sampling.num_steps > diffusion_steps:
        raise UsageError(
            f"sampling.num_steps is {sampling.num_steps}, and the diffusion has {diffusion_steps} steps; take at most "
            "as many."
        )
    if diffusion_steps is None and sampling.guidance_power is not None:
        raise UsageError(
            f"sampling.guidance_power is {sampling.guidance_power:g}; it must be null: MDT's scale is a function of "
            f"the steps of a diffusion, and {cfg.formulation} has none."
        )
    if sampling.guidance_channels is not None and sampling.guidance_channels > cfg.input.channels:
        raise UsageError(
            f"sampling.guidance_channels is {sampling.guidance_channels}, and the input has {cfg.input.channels} "
            "channels; null guides all."
        )


def build(cfg: RunConfig, *, device: str = "cpu") -> "Method":
    """The method with its weights as they start, a function of the seed alone. "meta" gives shapes without memory.

    Raises UsageError for a combination that cannot be built.
    """
    import torch

    from harness.model.formulations import FORMULATIONS
    from harness.model.shape import shape_of

    check(cfg)
    torch.manual_seed(cfg.seed)
    try:
        with torch.device(device):
            method = load(cfg.method).Method(cfg.knobs, shape_of(cfg), FORMULATIONS[cfg.formulation]())
    except ValueError as error:
        raise UsageError(f"{cfg.recipe} cannot be built: {error}.") from None
    knobs = cfg.knobs.model_dump().values()
    for name, frozen in method.frozen.items():
        if frozen.file.sha256 not in knobs:
            raise UsageError(
                f"{cfg.method} uses frozen weights, {name}, whose sha256 is none of its knobs; make it a knob, so that "
                "the name of a run says which weights it used."
            )
    return method
