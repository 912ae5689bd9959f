"""SiT (Ma et al. 2024, arXiv:2401.08740): DiT's network, trained by flow matching. The baseline of REPA and SRA."""

from harness.model.plain import Plain
from harness.recipes.config import Knobs


class Config(Knobs):
    """SiT has no knobs of its own."""


class Method(Plain):
    formulations = ("flow",)  # with another it is DiT
