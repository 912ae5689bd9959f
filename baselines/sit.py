"""SiT (Ma et al. 2024, arXiv:2401.08740): DiT's network, trained by flow matching. The baseline of REPA and SRA."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.model.nn.dit import DiT
from harness.model.nn.embeddings import MAX_PERIOD
from harness.model.official import Official, plain_names
from harness.model.plain import Plain
from harness.recipes.config import Knobs


class Config(Knobs):
    """SiT has no knobs of its own."""


def _adapted(network: DiT, official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """REPA's release without its projectors, or SiT's with its time turned round and its unused channels left out.

    REPA counts time as here. SiT's time is 1 - t, its velocity has the other sign, and of its 2 C channels it uses the
    first C. cos((1 - t) f) and sin((1 - t) f) are sums of cos(t f) and sin(t f), so that weights alone turn time round.
    """
    found = {name: value for name, value in official.items() if not name.startswith("projectors.")}
    first, last = "t_embedder.mlp.0.weight", ("final_layer.linear.weight", "final_layer.linear.bias")
    used = network.readout.out.out_features
    if not {first, *last} <= found.keys() or len(found[last[1]]) != 2 * used:
        return found
    for name in last:  # rows in the order row, column, channel of a patch
        found[name] = -found[name].unflatten(0, (network.patch**2, -1)).chunk(2, dim=1)[0].flatten(0, 1)
    cosines, sines = found[first].double().chunk(2, dim=1)  # each (D, 128)
    half = cosines.shape[1]
    frequency = MAX_PERIOD ** -(torch.arange(half, dtype=torch.float64) / half)
    c, s = frequency.cos(), frequency.sin()
    turned = torch.cat([cosines * c + sines * s, cosines * s - sines * c], dim=1)
    return found | {first: turned.to(found[first].dtype)}


class Method(Plain):
    formulations = ("flow",)  # with another it is DiT
    official = Official(
        settings=("sampling.guidance_channels=3",), names=plain_names, releases=("SiT", "REPA"), adapted=_adapted
    )
