"""The DiT network (Peebles & Xie 2022, arXiv:2212.09748) that methods build on.

B batch, C channels, S side, L tokens, D width.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from torch import Tensor, nn

from harness.model.nn.blocks import DiTBlock, readout, through
from harness.model.nn.embeddings import Condition, PatchEmbed, sincos_positions, unpatchify
from harness.model.randomness import Draw
from harness.model.shape import Shape


class TokenPolicy(nn.Module):
    """Which tokens a DiT's blocks see in training. When the network is sampled, they see all.

    What it learns is a part of the network: it is averaged and sampled.
    """

    routed: range = range(0)  # numbers of the blocks, from 0, that do not see all tokens

    def attach(self, network: "DiT") -> None:
        """Called once with the untrained network. The default does nothing."""

    def drawn(self, draw: Draw) -> tuple[Tensor, ...]:
        """The random decisions of one step, which `forward` gets back."""
        raise NotImplementedError

    def forward(
        self, blocks: nn.ModuleList, x: Tensor, cond: Tensor, *drawn: Tensor, taps: Collection[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """As DiT.process. With nothing drawn, all tokens.   (B, L, D), (B, D) -> (B, L, D), each (B, L, D)"""
        raise NotImplementedError


class DiT(nn.Module):
    """Patches with positions, blocks that the noise level and the label condition, patches of the output.

    `taps` are numbers of blocks, from 0: `tapped` also returns what these blocks put out. A token policy takes over the
    blocks. A subclass that treats the tokens otherwise overrides `process`; what it needs besides (which tokens to
    keep) goes through `forward` as `context`. A subclass with other layers gives `add_blocks`, which makes them between
    the embeddings and the readout, so that weights are drawn, and listed, in this order.
    """

    def __init__(
        self,
        shape: Shape,
        out_channels: int,
        *,
        taps: Sequence[int] = (),
        policy: TokenPolicy | None = None,
        learned_positions: bool = False,
        add_blocks: Callable[[], None] | None = None,
    ):
        super().__init__()
        self.patch, self.depth = shape.patch, shape.depth
        self.tap(taps)
        self.patches = PatchEmbed(shape)
        positions = sincos_positions(shape.width, shape.grid)
        if learned_positions:
            self.position = nn.Parameter(positions)
        else:
            self.register_buffer("position", positions, persistent=False)
        self.condition = Condition(shape.width, shape.num_classes)
        if add_blocks is None:
            self.blocks = nn.ModuleList(DiTBlock(shape) for _ in range(shape.depth))
        else:
            add_blocks()
        self.policy = policy
        self.readout = readout(shape, out_channels)

    def tap(self, taps: Iterable[int]) -> None:
        """Let `tapped` return the outputs of these blocks. Raises ValueError where there is no such block."""
        self.taps = tuple(taps)
        beyond = [tap for tap in self.taps if not 0 <= tap < self.depth]
        if beyond:
            raise ValueError(f"there is no block {beyond[0]} to tap: the network's blocks are 0 to {self.depth - 1}")

    def forward(self, net_input: Tensor, net_noise: Tensor, labels: Tensor, *context: Tensor) -> Tensor:
        """(B, C, S, S), (B,), (B,) -> (B, out_channels, S, S)"""
        return self.tapped(net_input, net_noise, labels, *context)[0]

    def tapped(
        self, net_input: Tensor, net_noise: Tensor, labels: Tensor, *context: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The raw output, and what each block of `taps` put out.   -> (B, out_channels, S, S), each (B, L, D)"""
        x, cond = self.embed(net_input), self.condition(net_noise, labels)  # (B, L, D), (B, D)
        x, tapped = self.process(x, cond, *context)
        return unpatchify(self.readout(x, cond), self.patch), tapped

    def process(self, x: Tensor, cond: Tensor, *context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What lies between the embeddings and the readout.   (B, L, D), (B, D) -> (B, L, D), each (B, L, D)"""
        if self.policy is not None:
            return self.policy(self.blocks, x, cond, *context, taps=self.taps)
        return through(self.blocks, x, cond, taps=self.taps)

    def embed(self, net_input: Tensor) -> Tensor:  # (B, C, S, S) -> (B, L, D)
        return self.patches(net_input) + self.position
