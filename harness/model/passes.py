"""What a training step runs, as shapes: the passes of one image through the layers, which Method.passes gives.

harness.planning.formulas turns them into multiply-accumulates, harness.planning.traffic into bytes. They restate the
method's forward on purpose: a cost that is computed apart from the code can find it doing something else.
L tokens of an image, K kept tokens, D width.
"""

from typing import Any, NamedTuple

from harness.model.shape import Shape


class Blocks(NamedTuple):
    """DiT blocks, one after another."""

    depth: int
    tokens: int
    width: int
    num_heads: int


class ModulatedLinear(NamedTuple):
    """Norm, shift and scale from the conditioning, a linear layer."""

    tokens: int
    width: int
    outputs: int


class Pass(NamedTuple):
    """One image once through the network that is trained. Its embeddings, the same for every pass, are not listed."""

    encoder: Blocks
    projection: ModulatedLinear | None  # from the encoder's width to the decoder's
    decoder: Blocks | None
    readout: ModulatedLinear

    @property
    def blocks(self) -> list[Blocks]:
        return [part for part in (self.encoder, self.decoder) if part is not None]

    @property
    def linears(self) -> list[ModulatedLinear]:
        return [part for part in (self.projection, self.readout) if part is not None]


class Head(NamedTuple):
    """A projection head: its MLP sees `tokens`, its prototypes `compared` of them."""

    tokens: int
    compared: int
    width: int
    hidden: int
    bottleneck: int
    num_prototypes: int


class Step(NamedTuple):
    shape: Shape
    sampled: Pass  # what sampling runs, not the step
    passes: tuple[Pass, ...]
    head: Head | None = None
    teacher: Blocks | None = None  # forward only, behind embeddings of its own
    teacher_head: Head | None = None


def asymmetric(shape: Shape, knobs: Any, outputs: int, *, encoded: int, projected: int) -> Pass:
    """`encoded` tokens in the encoder, `projected` to the decoder's width, all of them in the decoder."""
    length, width = shape.num_tokens, shape.width
    narrow = knobs.decoder_width or width // 2
    return Pass(
        encoder=Blocks(shape.depth, encoded, width, shape.num_heads),
        projection=ModulatedLinear(projected, width, narrow),
        decoder=Blocks(knobs.decoder_depth, length, narrow, knobs.decoder_heads),
        readout=ModulatedLinear(length, narrow, outputs),
    )
