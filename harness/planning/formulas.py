"""Multiply-accumulates of a training step, per image, from the numbers a network is built from.

A product of (n, i) and (i, o) is n i o multiply-accumulates (MACs), half as many as FLOPs. Only products count: norms,
activations, softmax and the optimizer's sums do not, nor do they in a FLOP counter.

A trained layer takes THREE products of one size: its output, the gradient of its input, the gradient of its weight; in
attention each of the two products has two gradients. A layer whose input is data has no gradient of it to compute and
takes TWO: the patches' projection and the first layer of the noise level, under a thousandth of S/2. What is not
trained takes ONE: a teacher. A block that computes its insides again in the backward pass (activation checkpointing)
takes one more, which is told apart: it is no part of the model's arithmetic.
n tokens, L tokens of an image, D width, E width of the conditioning, Z bottleneck, P prototypes.
"""

from typing import NamedTuple

from harness.model.method import Method
from harness.model.nn.embeddings import SINUSOID_WIDTH
from harness.model.passes import Blocks, Head, ModulatedLinear, Pass, Step
from harness.model.shape import Shape, shape_of
from harness.recipes.config import RunConfig

ONE, TWO, THREE = 1, 2, 3


class StepMacs(NamedTuple):
    """MACs of one image's training step, by part; a part that a method lacks is 0."""

    embedding: int  # of patches and noise level; a label is looked up
    encoder: int  # blocks over the tokens that are kept; all of DiT's
    decoder: int  # what follows, up to the values of the patches
    head: int  # the student's projection head and prototypes
    teacher: int  # all of it, forward only

    @property
    def total(self) -> int:
        return sum(self)


class Macs(NamedTuple):
    """MACs of one image."""

    step: StepMacs
    forward: int  # of the network that is sampled, on all tokens
    recomputed: int  # by activation checkpointing, besides the step: the trained blocks' forward once more


def step_of(cfg: RunConfig, method: Method) -> Step | None:
    """What a step of this run's method does for one image; None for a method that does not say."""
    outputs = method.formulation.out_channels(cfg.input.channels) * cfg.network.patch**2
    return method.passes(cfg.knobs, shape_of(cfg), outputs)


def macs(cfg: RunConfig, method: Method) -> Macs | None:
    """MACs of one image; None for a method that does not describe its passes: harness.planning.cost counts that one."""
    step = step_of(cfg, method)
    if step is None:
        return None
    width = step.shape.width
    return Macs(
        step=step_macs(step),
        forward=embedding(step.shape, ONE) + encoder(step.sampled, width) + decoder(step.sampled, width),
        recomputed=sum(blocks(part, width) for each in step.passes for part in each.blocks),
    )


def step_macs(step: Step) -> StepMacs:
    shape, width, teacher = step.shape, step.shape.width, 0
    if step.teacher is not None and step.teacher_head is not None:
        teacher = embedding(shape, ONE) + ONE * (blocks(step.teacher, width) + head(step.teacher_head))
    return StepMacs(
        embedding=len(step.passes) * embedding(shape, THREE),
        encoder=THREE * sum(encoder(each, width) for each in step.passes),
        decoder=THREE * sum(decoder(each, width) for each in step.passes),
        head=THREE * head(step.head) if step.head is not None else 0,
        teacher=teacher,
    )


# Forward, one image ----------------------------------------------------------------------------------------------


def blocks(part: Blocks, cond_width: int) -> int:
    """Queries, keys, values and output (4 n D^2), the MLP (twice 4 n D^2), attention (twice n^2 D), adaLN (6 E D)."""
    tokens, width = part.tokens, part.width
    products = (4 + 8) * tokens * width**2
    attention = 2 * tokens**2 * width  # queries with keys, weights with values; the heads share D
    return part.depth * (products + attention + 6 * cond_width * width)


def modulated_linear(part: ModulatedLinear, cond_width: int) -> int:
    return part.tokens * part.width * part.outputs + 2 * cond_width * part.width


def embedding(shape: Shape, factor: int) -> int:
    """Patches and noise level. Of a trained one (`factor` THREE) the two layers that read data take TWO."""
    from_data = shape.num_tokens * shape.channels * shape.patch**2 * shape.width + SINUSOID_WIDTH * shape.width
    return min(factor, TWO) * from_data + factor * shape.width**2


def encoder(each: Pass, cond_width: int) -> int:
    return blocks(each.encoder, cond_width)


def decoder(each: Pass, cond_width: int) -> int:
    """Projection, blocks and readout, as far as there are any."""
    narrow = blocks(each.decoder, cond_width) if each.decoder is not None else 0
    return narrow + sum(modulated_linear(part, cond_width) for part in each.linears)


def head(part: Head) -> int:
    """A 3-layer MLP (D to hidden, hidden, Z), then P prototypes for the tokens that are compared."""
    mlp = part.width * part.hidden + part.hidden**2 + part.hidden * part.bottleneck
    return part.tokens * mlp + part.compared * part.bottleneck * part.num_prototypes
