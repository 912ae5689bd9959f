"""One factor at a time."""

import pytest

from harness.bench.matrix import variants
from harness.system.errors import UsageError


def named(recipes, *assignments, resident=False, data=None, **lists):
    settings = {"batch": "batch_size"}
    varied = {f"protocol.{settings.get(name, name)}": values for name, values in lists.items()}
    return dict(variants(recipes, varied, assignments, data=data, resident=resident))


def test_the_first_values_hold_for_all_and_every_other_one_is_varied_alone():
    found = named(["dit-tiny", "sddit-tiny"], precision=["fp32", "bf16"], compile=["off", "on"], batch=["8", "16"])
    assert list(found) == [
        f"{recipe} {rest}"
        for rest in (
            "fp32 eager batch_size 8",
            "bf16 eager batch_size 8",
            "fp32 compiled batch_size 8",
            "fp32 eager batch_size 16",
        )
        for recipe in ("dit-tiny", "sddit-tiny")
    ]
    for name, cfg in found.items():
        assert cfg.recipe == name.split()[0]
        assert (cfg.protocol.precision == "bf16") == ("bf16" in name)
        assert cfg.protocol.compile == ("compiled" in name)
        assert cfg.protocol.batch_size == int(name.split()[-1])


def test_without_factors_a_recipe_stays_as_it_is_on_its_embedded_data():
    (cfg,) = named(["maskdit-tiny"]).values()
    assert (cfg.protocol.data, cfg.protocol.batch_size, cfg.protocol.compile) == ("digits", 64, False)


def test_latents_that_nobody_has_here_are_replaced_by_random_numbers():
    (cfg,) = named(["sddit-s"]).values()
    assert (cfg.protocol.data, cfg.protocol.pipeline, cfg.execution.residency) == ("synthetic", "cached", "host")
    (cfg,) = named(["sddit-s"], resident=True).values()
    assert cfg.execution.residency == "gpu"
    (cfg,) = named(["dit-tiny"], resident=True).values()
    assert cfg.execution.residency == "host"  # the digits lie in memory


def test_the_vae_inside_the_step_is_untrained_unless_one_is_named():
    cached, online = named(["dit-s"], pipeline=["cached", "online-vae"]).values()
    assert cached.protocol.pipeline == "cached"
    assert (online.protocol.pipeline, online.protocol.data, online.protocol.vae) == (
        "online-vae",
        "synthetic",
        "random",
    )
    (online,) = named(["dit-s"], "vae=stabilityai/sd-vae-ft-mse", pipeline=["online-vae"]).values()
    assert online.protocol.vae == "stabilityai/sd-vae-ft-mse"


def test_a_wrong_value_is_refused_with_the_choices():
    with pytest.raises(UsageError, match="precision"):
        named(["dit-tiny"], precision=["fp64"])
