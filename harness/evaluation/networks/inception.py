"""The feature network "inception": InceptionV3 of 2015, with the tensors that ADM's evaluator takes of it.

Dhariwal & Nichol 2021, arXiv:2105.05233; sFID as Nash et al. 2021, arXiv:2103.03841. torch-fidelity has the network
and its weights in PyTorch; here they are found or fetched, checked against their hash, and tapped.   B images.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.evaluation.networks.base import RANDOM, FeatureNetwork
from harness.model.pretrained import Pretrained, checksum
from harness.recipes.seeds import mix
from harness.system import torchvision_guard
from harness.system.errors import DataError, one_line
from harness.system.weights import fingerprint, read_tensors

PUBLISHED = Pretrained(
    name="Inception",
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",  # as several public projects pin it
    folder="inception",
    other_names=("pt_inception-2015-12-05-6726825d.pth",),  # what pytorch-fid and clean-fid call it
    largest=2**27,  # bytes; the file has 95,628,359
    instead="give --weights FILE (--weights random tries everything out without them)",
)

POOL_SIZE, NUM_LOGITS = 2048, 1008
SPATIAL_CHANNELS = 7  # of 192: as many as sFID takes
SPATIAL_SIZE = 17 * 17 * SPATIAL_CHANNELS
EVALUATION_BATCH = 32  # fixed and recorded: on GPUs, rounding and so the features depend on it


# Images to features ------------------------------------------------------------------------------------------------


class Taps(nn.Module):
    """torch-fidelity's extractor: (B, H, W, 3) uint8 -> pool (B, 2048), spatial (B, 2023), logits (B, 1008).

    ADM's pool_3, the first 7 channels of mixed_6/conv, and pool_3 times the last layer's weights, without its bias,
    which are the logits of ADM's inception score. The network itself resizes images, of any size, to 299 x 299.
    """

    def __init__(self, extractor: Any):  # of torch-fidelity
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps: list[Tensor] = []
        # TensorFlow's mixed_6/conv, after its ReLU, is this module: torch numbers the blocks in another way. The hook
        # lives for this call alone, so that no map outlives it.
        hook = self.extractor.Mixed_6d.branch1x1.register_forward_hook(
            lambda module, given, output: maps.append(output)
        )
        try:
            pool, logits = self.extractor(images.permute(0, 3, 1, 2).contiguous())
        finally:
            hook.remove()
        spatial = maps[0].permute(0, 2, 3, 1)[..., :SPATIAL_CHANNELS].flatten(1)  # (B, 17 * 17 * 7), as mu_s of ADM
        return pool, spatial, logits


def load(weights: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Inception with `weights`: None for the published ones, "random" for untrained ones, else a file of a state dict.

    The published file is found or downloaded as `Pretrained` says. Only it, known by its hash, gives the
    network its plain name. SetupError when it cannot be had; DataError when a file is damaged or of another network.
    """
    device = torch.device(device)
    if weights == RANDOM:
        tensors: Mapping[str, Tensor] = random_weights()
        name, sha256 = "inception-random", fingerprint(tensors)
        source = "the untrained weights"
    else:
        path = PUBLISHED.get() if weights is None else Path(weights)
        sha256 = PUBLISHED.sha256 if weights is None else checksum(path)
        name = "inception" if sha256 == PUBLISHED.sha256 else f"inception-{sha256[:8]}"
        tensors, source = read_tensors(path), str(path)
    return FeatureNetwork(
        name=name,
        sha256=sha256,
        module=Taps(_extractor(tensors, source)).to(device),
        image_shape=(None, None, 3),
        batch_size=EVALUATION_BATCH,
        pool_size=POOL_SIZE,
        spatial_size=SPATIAL_SIZE,
    )


# The network -------------------------------------------------------------------------------------------------------


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """Untrained weights that let features vary, the same on every machine; the global random state is left alone.

    He et al. 2015, uniform: uniform numbers are exact on every processor, normal ones pass through log and cos.
    """
    generator = torch.Generator().manual_seed(mix("inception", seed))
    weights = {}
    for name, empty in _empty().state_dict().items():
        if empty.ndim > 1:
            draw = torch.rand(empty.shape, generator=generator) * 2 - 1
            weights[name] = draw * math.sqrt(6 / empty[0].numel())
        elif name.endswith(("bn.weight", "running_var")):
            weights[name] = torch.ones(empty.shape)
        else:
            weights[name] = torch.zeros(empty.shape, dtype=empty.dtype)
    return weights


def _extractor(weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """torch-fidelity's network with these weights. DataError when they are of another one."""
    extractor = _empty()
    kinds = {name: empty.dtype for name, empty in extractor.state_dict().items()}  # a file may hold halves
    try:
        extractor.load_state_dict({n: w.to(kinds.get(n, w.dtype)) for n, w in weights.items()}, assign=True)
    except RuntimeError as error:
        reason = one_line(str(error).partition(":")[2], 200)  # after "Error(s) in loading"
        raise DataError(
            f"{source} is not of this network: {reason}. Fetch {PUBLISHED.address}, or name its own weights."
        ) from None
    return extractor.eval().requires_grad_(False)


def _empty() -> nn.Module:
    """torch-fidelity's network without values: it takes a second to draw random ones, only to throw them away."""
    torchvision_guard.install()  # torch_fidelity imports torchvision
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Empty(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, weights: Mapping[str, Tensor] | None, **how: bool) -> object:
            return None if weights is None else super().load_state_dict(weights, **how)

    # Its constructor would download a file without checking it, or unpickle one and run what code is in it. It gets
    # nothing instead, and loads nothing.
    with torch.device("meta"), _replaced(theirs, "load_state_dict_from_url", lambda *_, **__: None):
        return Empty("inception-v3-compat", ["2048", "logits_unbiased"])


@contextmanager
def _replaced(module: ModuleType, name: str, by: Callable[..., object]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, by)
    try:
        yield
    finally:
        setattr(module, name, before)
