"""SARA (Chen et al. 2025, arXiv:2503.08253): tokens agree with a frozen encoder's, each one and in their likeness.

B batch, L tokens, Z numbers of an encoder's token.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from harness.model.alignment import Alignment, AlignmentKnobs, in_full_precision
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.nn.blocks import linear
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape


class Config(AlignmentKnobs):
    sara_patch_weight: float = Field(0.5, ge=0, description="second hand, SimpleTuner's default: the cosine of patches")
    sara_structure_weight: float = Field(
        0.5, ge=0, description="second hand, SimpleTuner's default: the matrices of likeness"
    )
    sara_adversarial_weight: float = Field(
        0.0, ge=0, description="chosen: off, since its discriminator is known second hand only; SimpleTuner: 0.05"
    )
    sara_discriminator_width: int = Field(512, ge=1, description="assumed: the paper's discriminator was not read")


class Objective(Alignment):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__(cfg, shape, formulation)
        self.weights = cfg.sara_patch_weight, cfg.sara_structure_weight, cfg.sara_adversarial_weight
        if cfg.sara_adversarial_weight:
            hidden = cfg.sara_discriminator_width
            self.discriminator = nn.Sequential(linear(self.encoder.width, hidden), nn.SiLU(), linear(hidden, 1))

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        """Weighted: -cos of each token and the encoder's, the squared difference of their `likeness`, and `_played`.

        All are means, so the second is the squared Frobenius norm over L x L.
        """
        found, wanted = self.pair(seen)
        patch, structure, adversarial = self.weights
        loss = -patch * F.cosine_similarity(found, wanted, dim=-1).mean()
        loss = loss + structure * (likeness(found) - likeness(wanted)).square().mean()
        return loss + adversarial * self._played(found, wanted) if adversarial else loss

    def _played(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The discriminator's loss on tokens as they are, and the projector's on the discriminator as it is."""
        as_it_is = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        told = F.softplus(-self.discriminator(wanted)).mean() + F.softplus(self.discriminator(found.detach())).mean()
        return told + F.softplus(-functional_call(self.discriminator, as_it_is, (found,))).mean()


def likeness(tokens: Tensor) -> Tensor:  # (B, L, Z) -> (B, L, L)
    """The cosine of each two tokens of an image: SARA's autocorrelation matrix."""
    with in_full_precision(tokens):
        unit = F.normalize(tokens, dim=-1)
        return unit @ unit.transpose(1, 2)


class Method(Plain):
    adds = Objective
