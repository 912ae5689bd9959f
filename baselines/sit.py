"""SiT (Ma et al. 2024, arXiv:2401.08740): DiT's network, trained by flow matching. The baseline of REPA and SRA.

B batch, C channels, S side.
"""

from torch import Tensor

from harness.model import method
from harness.model.formulations import Flow
from harness.model.method import Batch, Progress
from harness.model.nn.dit import DiT
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    """SiT has no knobs of its own."""


class Method(method.Method):
    formulations = ("flow",)  # with another it is DiT

    def __init__(self, cfg: Config, shape: Shape, formulation: Flow):
        super().__init__()
        self.formulation = formulation
        self.network = DiT(shape, formulation.out_channels(shape.channels))

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        raw = self.network(noised.net_input, noised.net_noise, batch.labels)
        return {"loss": self.formulation.loss_map(raw, noised).mean()}
