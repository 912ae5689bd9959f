"""What MDT and EDT have in common: a pass over the whole image and a masked one, whose losses are summed."""

from collections.abc import Sequence

from torch import Tensor, nn

from harness.model.formulations import Formulation
from harness.model.method import Batch, Method, Progress
from harness.model.randomness import Draw


class TwoPasses(Method):
    """Both passes see the same noise at the same level. A subclass says what the masked one is told besides."""

    def __init__(self, formulation: Formulation, network: nn.Module):
        super().__init__()
        self.formulation, self.network = formulation, network

    def drawn(self, draw: Draw) -> Sequence[Tensor]:
        """The random decisions of the masked pass, which the network gets behind its inputs."""
        raise NotImplementedError

    def forward(self, batch: Batch, progress: Progress, draw: Draw) -> dict[str, Tensor]:
        noised = self.formulation.noised(batch.clean, draw)
        masks = self.drawn(draw)
        inputs = noised.net_input, noised.net_noise, batch.labels
        full = self.formulation.loss_map(self.network(*inputs), noised).mean()
        masked = self.formulation.loss_map(self.network(*inputs, *masks), noised).mean()
        return {"loss": full + masked, "loss/full": full.detach(), "loss/masked": masked.detach()}
