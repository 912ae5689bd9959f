"""Which methods exist: the files in baselines/, and those that other packages bring. There is no list to edit."""

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from harness.recipes import plugins
from harness.recipes.config import (
    ADDITIONS,
    Knobs,
    RunConfig,
    apply_overrides,
    as_typed,
    plain_values,
    shortened,
    validate,
)
from harness.recipes.reading import knobs_of
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
    assignments = list(assignments)
    with as_typed(assignments):
        document = overridden(document, assignments)
        cfg = validate(document, _knobs(document["method"], _added(document)))
        check(cfg)
    return cfg


def overridden(document: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """The configuration with the assignments applied. What additions=[name, ...] adds brings the knobs of its recipe.

    Raises UsageError for a key that the method and its additions do not have, and for additions that it cannot take.
    """
    added = _added(document, assignments)
    recipes = [knobs_of(name, document["size"]) for name in added]
    theirs = {knob: value for recipe in recipes for knob, value in recipe.items()}
    document = document | {"knobs": theirs | (document.get("knobs") or {})}
    return apply_overrides(document, assignments, _knobs(document["method"], added).model_fields)


@lru_cache
def _knobs(method: str, added: tuple[str, ...]) -> type[Knobs]:
    """The type of the method's knobs, with those of what is added to it."""
    own = load(method).Config
    if not added:
        return own
    fields: dict[str, Any] = {ADDITIONS: (tuple[str, ...], Field(added, description="chosen: --with"))}
    return create_model("Config", __base__=(own, *(load(name).Config for name in added)), **fields)


def _added(document: dict[str, Any], assignments: Iterable[str] = ()) -> tuple[str, ...]:
    """What a configuration, or the last assignment that names any, adds to its method. Raises UsageError as above."""
    names = (document.get("knobs") or {}).get(ADDITIONS) or []
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key in (ADDITIONS, f"knobs.{ADDITIONS}"):
            names = plain_values(text)
    if not names:
        return ()
    if not isinstance(names, list | tuple) or len(set(map(str, names))) < len(names):
        raise UsageError(f"{ADDITIONS} is {shortened(names)}; it must list different methods, like [sra, tread].")
    from harness.model.plain import Plain

    method, methods = document["method"], {name: load(name).Method for name in _built_in()}
    if not issubclass(load(method).Method, Plain):
        takers = ", ".join(name for name, each in methods.items() if issubclass(each, Plain))
        raise UsageError(f"nothing can be added to {method}, which has a network of its own; {takers} take additions.")
    addable = [name for name, each in methods.items() if getattr(each, "adds", None)]
    for name in names:
        if name not in addable:
            raise unknown("addition", str(name), addable)
        if name == method:
            raise UsageError(f"{name} is added to {method}, which has it already; leave it out.")
    return tuple(names)


def check(cfg: RunConfig) -> None:
    """Raises UsageError where the settings of `cfg`, each valid by itself, do not go together."""
    from harness.model.formulations import FORMULATIONS, formulation_of
    from harness.model.optimizers import OPTIMIZERS
    from harness.model.samplers import SAMPLERS, refuse_settings_of_others

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
    for name in getattr(cfg.knobs, ADDITIONS, ()):
        known = load(name).Method.formulations
        if cfg.formulation not in known:
            raise UsageError(
                f"formulation is {cfg.formulation!r}, and {name}, which is added, is defined for {' and '.join(known)}."
            )
    if cfg.formulation not in SAMPLERS[sampling.sampler].formulations:
        fitting = [name for name, sampler in SAMPLERS.items() if cfg.formulation in sampler.formulations]
        raise UsageError(
            f"sampling.sampler is {sampling.sampler!r}, which draws from "
            f"{' and '.join(SAMPLERS[sampling.sampler].formulations)}; with formulation {cfg.formulation} take "
            f"--set sampler={' or '.join(fitting)}."
        )
    refuse_settings_of_others(sampling)
    diffusion_steps = formulation_of(cfg).num_steps
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

    from harness.model.formulations import formulation_of
    from harness.model.shape import shape_of

    check(cfg)
    torch.manual_seed(cfg.seed)
    try:
        with torch.device(device):
            parts = cfg.knobs, shape_of(cfg), formulation_of(cfg)
            added = {name: load(name).Method.adds(*parts) for name in getattr(cfg.knobs, ADDITIONS, ())}
            method = load(cfg.method).Method(*parts, **({"additions": added} if added else {}))
    except ValueError as error:
        raise UsageError(f"{cfg.recipe} cannot be built: {error}.") from None
    knobs = cfg.knobs.model_dump().values()
    for name, frozen in method.frozen.items():
        if frozen.file.sha256 and frozen.file.sha256 not in knobs:  # without one it cannot be loaded
            raise UsageError(
                f"{cfg.method} uses frozen weights, {name}, whose sha256 is none of its knobs; make it a knob, so that "
                "the name of a run says which weights it used."
            )
    return method
