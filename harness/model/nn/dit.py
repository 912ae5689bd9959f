"""The DiT network (Peebles & Xie 2022, arXiv:2212.09748) that methods build on.

B batch, C channels, S side, L tokens, D width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from harness.model.nn.blocks import DiTBlock, readout, through
from harness.model.nn.embeddings import Condition, PatchEmbed, sincos_positions, unpatchify
from harness.model.shape import Shape


class DiT(nn.Module):
    """Patches with positions, blocks that the noise level and the label condition, patches of the output.

    `taps` are numbers of blocks, from 0: `tapped` also returns what these blocks put out. A subclass that treats the
    tokens otherwise overrides `process`; what it needs besides (which tokens to keep) goes through `forward` as
    `context`. A subclass with other layers gives `add_blocks`, which makes them between the embeddings and the readout,
    so that weights are drawn, and listed, in this order.
    """

    def __init__(
        self,
        shape: Shape,
        out_channels: int,
        *,
        taps: Sequence[int] = (),
        learned_positions: bool = False,
        add_blocks: Callable[[], None] | None = None,
    ):
        super().__init__()
        beyond = [tap for tap in taps if not 0 <= tap < shape.depth]
        if beyond:
            raise ValueError(f"there is no block {beyond[0]} to tap: the network's blocks are 0 to {shape.depth - 1}")
        self.patch, self.taps = shape.patch, tuple(taps)
        self.patches = PatchEmbed(shape)
        positions = sincos_positions(shape.width, shape.grid)
        if learned_positions:
            self.position = nn.Parameter(positions)
        else:
            self.register_buffer("position", positions, persistent=False)
        self.condition = Condition(shape.width, shape.num_classes)
        if add_blocks is None:
            self.blocks = nn.ModuleList(DiTBlock(shape.width, shape.num_heads) for _ in range(shape.depth))
        else:
            add_blocks()
        self.readout = readout(shape.width, out_channels * shape.patch**2)

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor, *context: Tensor) -> Tensor:
        """(B, C, S, S), (B,), (B,) -> (B, out_channels, S, S)"""
        return self.tapped(net_input, net_noise, labels, *context)[0]

    def tapped(
        self, net_input: Tensor, net_noise: Tensor, labels: Tensor, *context: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The raw output, and what each block of `taps` put out.   -> (B, out_channels, S, S), each (B, L, D)"""
        x = self.patches(net_input) + self.position  # (B, L, D)
        cond = self.condition(net_noise, labels)  # (B, D)
        x, tapped = self.process(x, cond, *context)
        return unpatchify(self.readout(x, cond), self.patch), tapped

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What lies between the embeddings and the readout.   (B, L, D), (B, D) -> (B, L, D), each (B, L, D)"""
        return through(self.blocks, x, cond, taps=self.taps)
