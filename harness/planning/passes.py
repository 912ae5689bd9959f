"""What a training step of each method runs, as shapes: the passes of one image through the layers.

harness.planning.formulas turns them into multiply-accumulates, harness.planning.traffic into bytes. They restate
baselines/*.py on purpose: a cost that is computed apart from the code can find it doing something else.
L tokens of an image, K kept tokens, D width.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from harness.model.formulations import FORMULATIONS
from harness.model.nn.tokens import num_kept
from harness.model.shape import Shape, shape_of
from harness.recipes.config import Knobs, RunConfig


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
    """One image once through the network that is trained; its embeddings are every pass's."""

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


def _dit(shape: Shape, knobs: Knobs, outputs: int) -> Step:  # outputs: values of a patch that is read out
    length, width = shape.num_tokens, shape.width
    whole = Pass(
        encoder=Blocks(shape.depth, length, width, shape.num_heads),
        projection=None,
        decoder=None,
        readout=ModulatedLinear(length, width, outputs),
    )
    return Step(shape, whole, (whole,))


def _mdt(shape: Shape, knobs: Any, outputs: int) -> Step:
    """All tokens; then the kept ones, and all of them in the side-interpolator and in the blocks after it."""
    length, width, heads = shape.num_tokens, shape.width, shape.num_heads
    encoder_depth = shape.depth - knobs.decoder_depth
    full = Pass(
        encoder=Blocks(encoder_depth, length, width, heads),
        projection=None,
        decoder=Blocks(knobs.decoder_depth, length, width, heads),
        readout=ModulatedLinear(length, width, outputs),
    )
    masked = full._replace(
        encoder=Blocks(encoder_depth, num_kept(length, knobs.mask_ratio), width, heads),
        decoder=Blocks(1 + knobs.decoder_depth, length, width, heads),
    )
    return Step(shape, full, (full, masked))


def _asymmetric(shape: Shape, knobs: Any, outputs: int, *, encoded: int, projected: int) -> Pass:
    """`encoded` tokens in the encoder, `projected` to the decoder's width, all of them in the decoder."""
    length, width = shape.num_tokens, shape.width
    narrow = knobs.decoder_width or width // 2
    return Pass(
        encoder=Blocks(shape.depth, encoded, width, shape.num_heads),
        projection=ModulatedLinear(projected, width, narrow),
        decoder=Blocks(knobs.decoder_depth, length, narrow, knobs.decoder_heads),
        readout=ModulatedLinear(length, narrow, outputs),
    )


def _maskdit(shape: Shape, knobs: Any, outputs: int) -> Step:
    length = shape.num_tokens
    kept = num_kept(length, knobs.mask_ratio)
    sampled = _asymmetric(shape, knobs, outputs, encoded=length, projected=length)
    return Step(shape, sampled, (_asymmetric(shape, knobs, outputs, encoded=kept, projected=kept),))


def _sddit(shape: Shape, knobs: Any, outputs: int) -> Step:
    """The student's encoder and head see [CLS] and the visible tokens, the teacher's [CLS] and all.

    The teacher's prototypes see [CLS] and the visible tokens too: for the centre, those of two means a batch are enough
    and cost nothing beside them.
    """
    length = shape.num_tokens
    visible = 1 + num_kept(length, knobs.mask_ratio)
    sampled = _asymmetric(shape, knobs, outputs, encoded=1 + length, projected=length)
    student = _asymmetric(shape, knobs, outputs, encoded=visible, projected=length)
    if not knobs.discriminate:
        return Step(shape, sampled, (student,))
    head = Head(visible, visible, shape.width, knobs.head_hidden, knobs.head_bottleneck, knobs.num_prototypes)
    return Step(
        shape,
        sampled,
        (student,),
        head=head,
        teacher=student.encoder._replace(tokens=1 + length),
        teacher_head=head._replace(tokens=1 + length),
    )


STEPS: Mapping[str, Callable[[Shape, Knobs, int], Step]] = {
    "dit": _dit,
    "maskdit": _maskdit,
    "mdt": _mdt,
    "sddit": _sddit,
}


def step_of(cfg: RunConfig) -> Step | None:
    """What a step of this run's method does for one image; None for a method that is not written down here."""
    describe = STEPS.get(cfg.method)
    if describe is None:
        return None
    channels = FORMULATIONS[cfg.formulation]().out_channels(cfg.input.channels)
    return describe(shape_of(cfg), cfg.knobs, channels * cfg.network.patch**2)
