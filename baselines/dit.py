"""DiT (Peebles & Xie 2022, arXiv:2212.09748): the plain baseline. Every token, every step."""

from harness.model.official import Official, plain_names
from harness.model.plain import Plain
from harness.recipes.config import Knobs


class Config(Knobs):
    """DiT has no knobs of its own."""


class Method(Plain):
    official = Official(settings=("sampling.guidance_channels=3",), names=plain_names)
