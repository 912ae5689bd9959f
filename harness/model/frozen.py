"""Pretrained networks that a method uses and does not train."""

from collections.abc import Callable

import torch
from torch import nn

from harness.model.pretrained import Pretrained
from harness.system.errors import DataError, one_line
from harness.system.weights import read_tensors


class Frozen:
    """A network and the published file of its weights. The engine loads it; a method calls `network`.

    It is no module, so a method that has one in its `frozen` has none of it among its parameters: it is in no
    checkpoint, no average and no optimizer. Until it is loaded, the network lies on the meta device and has shapes
    alone, which is enough to count what a step costs.
    """

    def __init__(self, file: Pretrained, build: Callable[[], nn.Module]):
        self.file, self._build = file, build
        with torch.device("meta"):
            self.network = build().requires_grad_(False).eval()

    def load(self, device: torch.device) -> None:
        """Put the network with its weights onto `device`.

        Raises SetupError when the file is missing and cannot be downloaded, DataError when it has another network's
        weights.
        """
        path = self.file.get()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            network = self._build()
        try:
            network.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            raise DataError(
                f"{path} does not fit the network of {self.file.name} that the method builds: {one_line(error, 200)}."
            ) from None
        self.network = network.requires_grad_(False).eval().to(device)
