"""Bytes that a training step must move through a GPU's memory: a floor, not a forecast.

Each tensor below is written once and read once, by kernels that fuse all they can. Kept for the backward pass is what
only a matrix product or an attention could make again; norms, modulations, GELU, gates and sums of the residual stream
are done again from what is kept. What one kernel gives the next and the backward pass does not need is not counted:
neither a teacher's activations nor the gradients between layers, nor logits over the prototypes, which a chunked loss
never stores. A cache that holds a tensor from one kernel to the next could move less for a tiny network only.

n tokens, D width, H heads of a block; Z bottleneck; B images of the global batch.
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from harness.model.method import Method
from harness.model.passes import Blocks, Head, ModulatedLinear, Pass, Step
from harness.planning.formulas import step_of
from harness.planning.vae_cost import EncoderCost
from harness.recipes.config import RunConfig

FLOAT, LABEL = 4, 8  # bytes


class Kept(NamedTuple):
    """Bytes of one image that a step's forward pass keeps for its backward pass."""

    inputs: int  # of all blocks: the residual stream before each
    insides: int  # of all blocks
    largest: int  # insides of the block that has most
    rest: int

    @property
    def whole(self) -> int:
        return self.inputs + self.insides + self.rest

    @property
    def checkpointed(self) -> int:
        """At once, where each block computes its insides again when its turn comes."""
        return self.inputs + self.largest + self.rest


class Traffic(NamedTuple):
    """Bytes that one process reads and writes in a step."""

    weights: int  # read for the forward pass and for the backward pass, in every micro-batch
    gradients: int  # written and read, in every micro-batch
    optimizer: int  # AdamW: weights and both moments, read and written
    average: int  # EMA, read and written; the weights pass by in the optimizer
    teacher: int  # weights read for its forward pass; its own average read and written
    vae: int  # weights read, where the step encodes its images
    batch: int
    activations: int | None  # None: of a method that does not describe its passes

    @property
    def total(self) -> int:
        """Without the activations where they are not known: lower still."""
        return sum(part for part in self if part is not None)


# Activations -----------------------------------------------------------------------------------------------------


def kept(step: Step, precision: str) -> Kept:
    """What one image keeps. Products are of `precision`; the residual stream and statistics stay float32."""
    product = product_bytes(precision)
    parts = [part for each in step.passes for part in each.blocks]
    insides = [_block_insides(part, product) for part in parts]
    rest = sum(_pass_rest(each, step.shape.width, product) for each in step.passes)
    if step.head is not None:
        rest += _head(step.head, product)
    return Kept(
        inputs=sum(part.depth * _stream(part.tokens, part.width) for part in parts),
        insides=sum(part.depth * inside for part, inside in zip(parts, insides, strict=True)),
        largest=max(insides),
        rest=rest,
    )


def product_bytes(precision: str) -> int:
    """Of a number that goes into a product or comes out of one; TF32 is stored as float32."""
    return 2 if precision == "bf16" else FLOAT


def _stream(tokens: int, width: int) -> int:
    return tokens * width * FLOAT


def _statistics(tokens: int) -> int:
    """A norm's mean and inverse deviation of each token."""
    return tokens * 2 * FLOAT


def _block_insides(part: Blocks, product: int) -> int:
    tokens, width = part.tokens, part.width
    attention = (3 + 1) * tokens * width * product + part.num_heads * tokens * FLOAT  # q, k, v; out; one sum a row
    branches = 2 * tokens * width * product  # what each gate multiplies
    hidden = 4 * tokens * width * product  # before GELU
    modulation = 6 * width * product
    return attention + branches + hidden + modulation + 2 * _statistics(tokens)


def _linear(part: ModulatedLinear, product: int) -> int:
    """Its input is the residual stream where no block reads it."""
    return _stream(part.tokens, part.width) + _statistics(part.tokens) + 2 * part.width * product


def _pass_rest(each: Pass, cond_width: int, product: int) -> int:
    """Projection and readout, the noise level's hidden layer and the conditioning, the gradient at the output."""
    conditioning = cond_width * (product + FLOAT)
    output = each.readout.tokens * each.readout.outputs * FLOAT
    return sum(_linear(part, product) for part in each.linears) + conditioning + output


def _head(part: Head, product: int) -> int:
    """Before each GELU, before the division by the length, and the loss's gradient there: a chunk's logits are gone.

    Its input lies in the projection's, but for [CLS].
    """
    mlp = part.tokens * (2 * part.hidden + part.bottleneck) * product
    return mlp + part.compared * part.bottleneck * product + _stream(1, part.width)


# The step --------------------------------------------------------------------------------------------------------


def traffic(cfg: RunConfig, method: Method, *, encoder: EncoderCost | None = None, world_size: int = 1) -> Traffic:
    """Of one of `world_size` processes. `method` is only looked at; `encoder` is the VAE's, where the step encodes.

    Left out: fixed positions and centres, under a thousandth; and what processes send each other.
    """
    images = cfg.protocol.batch_size / world_size
    pieces = max(1.0, images / (cfg.execution.micro_batch or images))
    product = product_bytes(cfg.protocol.precision)
    copied = product if product < FLOAT else 0  # written once, as the weights change
    trained = _numbers(p for p in method.parameters() if p.requires_grad)
    fixed = _numbers(p for p in method.parameters() if not p.requires_grad)
    return Traffic(
        weights=round(trained * (copied + 2 * pieces * product)),
        gradients=round(trained * 2 * pieces * FLOAT),
        optimizer=trained * 6 * FLOAT,
        average=_numbers(method.network.parameters()) * 2 * FLOAT,
        teacher=round(fixed * (copied + pieces * product + 2 * FLOAT)),
        vae=round(encoder.weights * pieces * FLOAT) if encoder else 0,
        batch=round(images * _image_bytes(cfg, encoder)),
        activations=_activations(cfg, method, images),
    )


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _image_bytes(cfg: RunConfig, encoder: EncoderCost | None) -> int:
    """An image as the step gets it, its label, and its noise, which is written and read.

    A latent is stored as mean and deviation in half precision, a small image as float32: 4 bytes a value either way.
    """
    values = cfg.input.channels * cfg.input.side**2
    stored = 3 * encoder.side**2 if encoder else values * FLOAT
    return stored + LABEL + 2 * values * FLOAT


def _activations(cfg: RunConfig, method: Method, images: float) -> int | None:
    """Written and read. Checkpointing saves room and no traffic: what is inside a block is written and read when it is
    computed again, and the block's input is read once more for that."""
    step = step_of(cfg, method)
    if step is None:
        return None
    image = kept(step, cfg.protocol.precision)
    again = image.inputs if cfg.execution.activation_checkpointing else 0
    return round(images * (2 * image.whole + again))
