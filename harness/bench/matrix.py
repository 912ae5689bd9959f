"""Which ways to train a bench sets side by side: every recipe as the first value of each factor says, and then with one
factor at a time at its other values. A difference between two of them has one cause.
"""

from collections.abc import Iterator, Mapping, Sequence

from harness.data.sources import LATENT_SETS, SYNTHETIC
from harness.planning.plan import resolve
from harness.recipes.config import RunConfig
from harness.recipes.reading import load_recipe

RANDOM_VAE = "random"  # untrained weights encode as fast as trained ones, and need no download


# What stands in a contender's name for a value of a setting; any other is "<key> <value>".
WORDS = {
    "protocol.precision": {name: name for name in ("fp32", "tf32", "bf16")},
    "protocol.compile": {"on": "compiled", "off": "eager", "auto": "compiled if it can be"},
    "protocol.pipeline": {name: name for name in ("cached", "online-vae")},
    "execution.deterministic": {"on": "deterministic", "off": "any order"},
}


def variants(
    recipes: Sequence[str],
    varied: Mapping[str, Sequence[str]],
    assignments: Sequence[str],
    *,
    data: str | None,
    resident: bool,
) -> Iterator[tuple[str, RunConfig]]:
    """Each variant's name and configuration, recipe by recipe within one choice of values.

    `varied` are the values of each setting, in the order in which they stand in a name; one without values stays as
    the recipe has it. `data` None is what a recipe embeds, else random numbers. `resident` holds random latents on the
    device. Raises UsageError for what cannot be resolved.
    """
    base = {setting: values[0] for setting, values in varied.items() if values}
    choices = [base] + [base | {setting: value} for setting in base for value in varied[setting][1:]]
    for choice in choices:
        words = [WORDS.get(key, {}).get(value, f"{key.rpartition('.')[2]} {value}") for key, value in choice.items()]
        for recipe in recipes:
            yield " ".join([recipe, *words]), _resolved(recipe, choice, assignments, data, resident)


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
