"""REPA (Yu et al. 2024, arXiv:2410.06940): a block's tokens are drawn towards those of a frozen encoder of the image.

Its encoder, the projector and the knobs of both are harness.model.alignment's.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.model.alignment import Alignment, AlignmentKnobs
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape


class Config(AlignmentKnobs):
    repa_weight: float = Field(0.5, ge=0, description="REPA Sec. 4: lambda; its repository: --proj-coeff")


class Objective(Alignment):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__(cfg, shape, formulation)
        self.weight = cfg.repa_weight

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        """weight x -cos of each token, projected, and the encoder's at its place, averaged over tokens and images."""
        found, wanted = self.pair(seen)
        return -self.weight * F.cosine_similarity(found, wanted, dim=-1).mean()


class Method(Plain):
    adds = Objective
