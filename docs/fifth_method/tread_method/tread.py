"""TREAD (Krause et al. 2025, arXiv:2501.04765): in training, a random half of the tokens skips the middle blocks.

Nothing is thrown away: routed tokens rejoin the others, as they left them, before the last blocks. So there is no
decoder, no mask token and no second loss, and the network that is sampled is DiT's own.
B batch, L tokens, K tokens that stay, D width.
"""

from pydantic import Field
from torch import Tensor

from harness.model import method
from harness.model.formulations import Formulation
from harness.model.method import Batch, Progress
from harness.model.nn import tokens
from harness.model.nn.blocks import through
from harness.model.nn.dit import DiT
from harness.model.randomness import Draw
from harness.model.shape import Shape
from harness.recipes.config import Knobs


class Config(Knobs):
    """The route: which tokens take it, and which blocks it skips."""

    mask_ratio: float = Field(
        0.5, ge=0, lt=1, description="assumed: half of the tokens are routed, as MaskDiT masks half"
    )
    blocks_before: int = Field(2, ge=1, description="assumed: blocks that see every token before the route")
    blocks_after: int = Field(4, ge=1, description="assumed: blocks that see every token after it")

    @property
    def input_patches(self) -> str:
        """The middle blocks' share of the patches, for labels."""
        return f"{1 - self.mask_ratio:.0%}"


class Network(DiT):
    """DiT; with `keep` (B, K) as context, its middle blocks see those tokens alone."""

    def __init__(self, cfg: Config, shape: Shape, out_channels: int):
        if cfg.blocks_before + cfg.blocks_after >= shape.depth:
            raise ValueError(
                f"blocks_before {cfg.blocks_before} and blocks_after {cfg.blocks_after} leave none of {shape.depth} "
                "blocks to skip; take fewer"
            )
        super().__init__(shape, out_channels)
        self.route = (cfg.blocks_before, shape.depth - cfg.blocks_after)

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not context:
            return super().process(x, cond)
        start, stop = self.route  # of the blocks that routed tokens skip
        blocks = list(self.blocks)
        everything, _ = through(blocks[:start], x, cond)  # (B, L, D)
        routed, _ = through(blocks[start:stop], tokens.gather(everything, context[0]), cond)  # (B, K, D)
        return through(blocks[stop:], tokens.scatter(routed, context[0], onto=everything), cond)


class Method(method.Method):
    """The loss is DiT's, over every token: the routed ones have been through fewer blocks."""

    def __init__(self, cfg: Config, shape: Shape, formulation: Formulation):
        super().__init__()
        self.formulation, self.num_tokens = formulation, shape.num_tokens
        self.num_keep = tokens.num_kept(shape.num_tokens, cfg.mask_ratio)
        self.network = Network(cfg, shape, formulation.out_channels(shape.channels))

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        keep = tokens.random_keep(draw, self.num_tokens, self.num_keep)
        raw = self.network(noised.net_input, noised.net_noise, batch.labels, keep)
        return {"loss": self.formulation.loss_map(raw, noised).mean()}
