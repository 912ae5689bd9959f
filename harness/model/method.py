"""The contract between the engine and a file in baselines/."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.randomness import Draw


class Progress(NamedTuple):
    """How far a run has come; schedules are functions of it.

    In `forward` the two are 0-dim tensors on the device, which a compiled or recorded step reads anew every time; in
    `after_step`, which is never compiled, they are numbers.
    """

    fraction: float | Tensor  # of the budget, in [0, 1)
    epochs: float | Tensor  # passes over the data so far


class Method(nn.Module):
    """A way to train a network. Subclass it as Method in baselines/<name>.py, next to Config, a subclass of Knobs.

    Built as Method(cfg: Config, shape: Shape, formulation: Formulation).

    formulation   what it was built with
    network       the module that is optimised, averaged (EMA) and sampled: network(net_input, net_noise, labels) -> raw
    forward       the loss of one batch; every random decision of the method happens in it, with numbers from `draw`
    """

    formulations: ClassVar[tuple[str, ...]] = ("edm", "iddpm")  # those it can be trained with
    formulation: Formulation
    network: nn.Module

    def forward(self, clean: Tensor, labels: Tensor, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        """{"loss": the scalar to minimise, "loss/<part>": its parts, without gradient}.   (B, C, S, S), (B,)

        A label equal to num_classes means "no label": the engine has dropped it.
        """
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Called once after every optimizer step, without gradient. The default does nothing."""
