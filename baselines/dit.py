"""DiT (Peebles & Xie 2022, arXiv:2212.09748): the plain baseline. Every token, every step.

B batch, C channels, S side.
"""

from torch import Tensor

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.method import Batch, Progress
from harness.model.nn.dit import DiT
from harness.model.official import CONDITION, MODULATED, Names, Official, Tables, blocks, under
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    """DiT has no knobs of its own."""


def _official_names(network: DiT) -> tuple[Names, Tables]:
    names = {
        "patches.proj": "x_embedder.proj",
        **CONDITION,
        **blocks("blocks", "blocks", len(network.blocks)),
        **under(MODULATED, "readout", "final_layer"),
    }
    return names, {"pos_embed": network.position}


class Method(method.Method):
    official = Official(settings=("sampling.guidance_channels=3",), names=_official_names)

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.formulation = formulation
        self.network = DiT(shape, formulation.out_channels(shape.channels))

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        raw = self.network(noised.net_input, noised.net_noise, batch.labels)
        return {"loss": self.formulation.loss_map(raw, noised).mean()}
