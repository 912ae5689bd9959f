"""DiT (Peebles & Xie 2022, arXiv:2212.09748): the plain baseline. Every token, every step.

B batch, C channels, S side, L tokens, D width.
"""

from torch import Tensor, nn

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.method import Progress
from harness.model.nn.blocks import DiTBlock, readout
from harness.model.nn.embeddings import Condition, PatchEmbed, sincos_positions, unpatchify
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    """DiT has no knobs of its own."""


class Network(nn.Module):
    def __init__(self, shape: Shape, out_channels: int):
        super().__init__()
        self.patch = shape.patch
        self.patches = PatchEmbed(shape)
        self.register_buffer("position", sincos_positions(shape.width, shape.grid), persistent=False)
        self.condition = Condition(shape.width, shape.num_classes)
        self.blocks = nn.ModuleList(DiTBlock(shape.width, shape.num_heads) for _ in range(shape.depth))
        self.readout = readout(shape.width, out_channels * shape.patch**2)

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor) -> Tensor:
        x = self.patches(net_input) + self.position  # (B, L, D)
        cond = self.condition(net_noise, labels)  # (B, D)
        for block in self.blocks:
            x = block(x, cond)
        return unpatchify(self.readout(x, cond), self.patch)  # (B, C or 2C, S, S)


class Method(method.Method):
    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.formulation = formulation
        self.network = Network(shape, formulation.out_channels(shape.channels))

    def forward(self, clean: Tensor, labels: Tensor, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(clean, draw)
        raw = self.network(noised.net_input, noised.net_noise, labels)
        return {"loss": self.formulation.loss_map(raw, noised).mean()}
