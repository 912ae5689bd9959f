"""Which ways to train a bench sets side by side: every recipe as the first value of each factor says, and then with one
factor at a time at its other values. A difference between two of them has one cause.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.data.sources import LATENT_SETS, SYNTHETIC
from harness.planning.plan import resolve
from harness.recipes.config import RunConfig
from harness.recipes.reading import load_recipe

RANDOM_VAE = "random"  # untrained weights encode as fast as trained ones, and need no download


@dataclass(frozen=True)
class Factor:
    """Something a bench may vary: the setting behind it, and how a contender's name says its value."""

    setting: str
    values: tuple[str, ...]
    words: Mapping[str, str]  # value -> what stands in the name; a value that is absent is named "<key> <value>"

    def said(self, value: str) -> str:
        return self.words.get(value, f"{self.setting.rpartition('.')[2]} {value}")


def factors(
    *,
    precision: Sequence[str],
    compile: Sequence[str],
    pipeline: Sequence[str],
    batch: Sequence[str],
    deterministic: Sequence[str] = (),
) -> list[Factor]:
    """Those of `harness bench`, in the order in which they stand in a name. An empty one stays as the recipe has it."""
    given = [
        ("protocol.precision", precision, {name: name for name in ("fp32", "tf32", "bf16")}),
        ("protocol.compile", compile, {"on": "compiled", "off": "eager", "auto": "compiled if it can be"}),
        ("protocol.pipeline", pipeline, {name: name for name in ("cached", "online-vae")}),
        ("protocol.batch_size", batch, {}),
        ("execution.deterministic", deterministic, {"on": "deterministic", "off": "any order"}),
    ]
    return [Factor(setting, tuple(values), words) for setting, values, words in given if values]


def variants(
    recipes: Sequence[str], varied: Sequence[Factor], assignments: Sequence[str], *, data: str | None, resident: bool
) -> Iterator[tuple[str, RunConfig]]:
    """Each variant's name and configuration, recipe by recipe within one choice of factors.

    `data` None is what a recipe embeds, else random numbers. `resident` holds random latents on the device. Raises
    UsageError for what cannot be resolved.
    """
    base = {factor.setting: factor.values[0] for factor in varied}
    choices = [base] + [base | {factor.setting: value} for factor in varied for value in factor.values[1:]]
    for choice in choices:
        for recipe in recipes:
            yield _name(recipe, varied, choice), _resolved(recipe, choice, assignments, data, resident)


def _name(recipe: str, varied: Sequence[Factor], choice: Mapping[str, str]) -> str:
    return " ".join([recipe, *(factor.said(choice[factor.setting]) for factor in varied)])


def _resolved(
    recipe: str, choice: Mapping[str, str], assignments: Sequence[str], data: str | None, resident: bool
) -> RunConfig:
    online = choice.get("protocol.pipeline") == "online-vae"
    recipes_own = load_recipe(recipe).document["protocol"]["data"]
    named = data or (SYNTHETIC if online or recipes_own in LATENT_SETS else recipes_own)
    own = [f"protocol.data={named}"]
    if online and not any(a.startswith(("vae=", "protocol.vae=")) for a in assignments):
        own.append(f"protocol.vae={RANDOM_VAE}")
    if resident and named == SYNTHETIC:
        own.append("execution.residency=gpu")
    return resolve(recipe, [*own, *(f"{key}={value}" for key, value in choice.items()), *assignments])
