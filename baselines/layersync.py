"""LayerSync (Haghighi et al. 2025, arXiv:2510.12581): a shallow block's output is drawn towards a deep one's.

B batch, L tokens, D width.
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.model import plain
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.plain import Pass, Plain
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    layersync_weight: float = Field(0.2, ge=0, description="LayerSync README: --reg-weight")
    layersync_shallow: int | None = Field(
        None, ge=1, description="LayerSync README: 8 of XL/2's 28; null is 2/7 of the depth"
    )
    layersync_deep: int | None = Field(
        None, ge=1, description="LayerSync README: 16 of XL/2's 28; null is 4/7 of the depth"
    )


class Objective(plain.Objective):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.weight = cfg.layersync_weight
        shallow = cfg.layersync_shallow or max(1, 2 * shape.depth // 7)
        deep = cfg.layersync_deep or max(2, 4 * shape.depth // 7)
        if shallow >= deep:
            raise ValueError(
                f"layersync_shallow is block {shallow}, which must come before layersync_deep, block {deep}"
            )
        self.taps = (shallow, deep)

    def forward(self, seen: Pass, progress: Progress, draw: Draw) -> Tensor:
        """weight x (1 - cos) of each token's two outputs, averaged; the deep one gets no gradient."""
        shallow, deep = seen.tapped
        return self.weight * (1 - F.cosine_similarity(shallow.float(), deep.detach().float(), dim=-1)).mean()


class Method(Plain):
    adds = Objective
