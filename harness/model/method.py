"""The contract between the engine and a method: a file in baselines/, or a module of another package.

A method is compared with others by what it computes in a step, so the harness keeps everything else the same for all.

A method may
  - build any network on the harness's blocks, and train any further modules beside it;
  - have knobs of its own, with a source for each default (Config, a subclass of Knobs);
  - read the batch: clean images, labels, and the extra tensors that the data set has for these images;
  - draw random numbers, from `draw` alone, in `forward` alone;
  - use frozen pretrained networks, each with the sha256 of its weights as a knob, so that the run's name says it;
  - form groups of parameters with their own scale of the learning rate or their own weight decay;
  - change its own weights and buffers in `after_step`: a teacher's average, a centre.
A method may not
  - draw from the global random state, or reseed it: a resumed run would not repeat an uninterrupted one;
  - read the clock, files, the network or the environment, or move tensors between devices;
  - wait for the device, by .item() or by a branch on a tensor: it would lose time that no other method loses;
  - let an image's loss depend on which other images share its micro-batch: what its paper compares are groups of the
    global batch (`group`), which no process and no micro-batch cuts;
  - look at labels that were dropped, at the order of the data, or at images that are not in the batch;
  - step an optimizer, change the learning rate, or change `network` beside its gradient: the engine does that;
  - hold a state that no parameter or buffer holds: only these are in a checkpoint.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.frozen import Frozen
from harness.model.official import Official
from harness.model.randomness import Draw
from harness.model.shape import Shape


class Progress(NamedTuple):
    """How far a run has come; schedules are functions of it.

    In `forward` the two are 0-dim tensors on the device, which a compiled or recorded step reads anew every time; in
    `after_step`, which is never compiled, they are numbers.
    """

    fraction: float | Tensor  # of the budget, in [0, 1)
    epochs: float | Tensor  # passes over the data so far


class Batch(NamedTuple):
    """Images of a step, on the device.   B images, C channels, S side"""

    clean: Tensor  # (B, C, S, S)
    labels: Tensor  # (B,) a label equal to num_classes means "no label": the engine has dropped it
    extra: Mapping[str, Tensor] = {}  # (B, ...) what the data set has for these images besides, by name


class Method(nn.Module):
    """A way to train a network. Subclass it as Method in baselines/<name>.py, next to Config, a subclass of Knobs.

    Built as Method(cfg: Config, shape: Shape, formulation: Formulation).

    formulation   what it was built with
    network       the module that is optimised, averaged (EMA) and sampled: network(net_input, net_noise, labels) -> raw
    forward       the loss of one batch; every random decision of the method happens in it, with numbers from `draw`
    frozen        pretrained networks, by name; the engine loads them before the first step
    extra         the tensors of Batch.extra that it reads, by name, with the shape of one image's
    group         how many images, neighbours in the batch, its loss compares with each other; 1: none
    """

    formulations: ClassVar[tuple[str, ...]] = ("edm", "iddpm", "flow")  # those it can be trained with
    official: ClassVar[Official | None] = None  # its official checkpoints, where they can be imported
    formulation: Formulation
    network: nn.Module
    frozen: Mapping[str, Frozen] = {}
    extra: Mapping[str, tuple[int, ...]] = {}
    group: int = 1

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        """{"loss": the scalar to minimise, "loss/<part>": its parts, without gradient}."""
        raise NotImplementedError

    def after_step(self, progress: Progress) -> Mapping[str, Tensor] | None:
        """Called once after every optimizer step, without gradient. The default does nothing.

        May return 0-dim tensors on the device, by name, that are logged beside the losses: numbers of the whole batch,
        equal in all processes. As a loss is, each is averaged over the steps between two lines.
        """
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Every weight that is trained, once, in groups as torch.optim takes them; by default in one.

        Besides `params` a group may have `weight_decay`, in place of the protocol's, and `lr_scale`, by which the
        protocol's learning rate is multiplied.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


def batch_of_shapes(method: Method, shape: Shape, rows: int) -> Batch:
    """A batch of `rows` images for the method on the meta device."""
    return Batch(
        torch.empty(rows, shape.channels, shape.side, shape.side, device="meta"),
        torch.empty(rows, dtype=torch.long, device="meta"),
        {name: torch.empty(rows, *sides, device="meta") for name, sides in method.extra.items()},
    )
