"""DiT (Peebles & Xie 2022, arXiv:2212.09748): the plain baseline. Every token, every step."""

from harness.model.nn.dit import DiT
from harness.model.official import CONDITION, MODULATED, Names, Official, Tables, blocks, under
from harness.model.plain import Plain
from harness.recipes.config import Knobs


class Config(Knobs):
    """DiT has no knobs of its own."""


def official_names(network: DiT) -> tuple[Names, Tables]:
    """As DiT's repository names its parts, and SiT's after it."""
    names = {
        "patches.proj": "x_embedder.proj",
        **CONDITION,
        **blocks("blocks", "blocks", len(network.blocks)),
        **under(MODULATED, "readout", "final_layer"),
    }
    return names, {"pos_embed": network.position}


class Method(Plain):
    official = Official(settings=("sampling.guidance_channels=3",), names=official_names)
