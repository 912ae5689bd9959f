"""Where this harness departs from the papers, or fills in what they do not say. The report prints all of it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Deviation:
    concerns: str
    kind: Literal["changed", "inferred", "assumed"]  # the report explains them
    paper: str
    here: str


DEVIATIONS = (
    Deviation(
        concerns="MDT",
        kind="changed",
        paper="a relative position bias in every attention",
        here="MDT-lite: none by default, so that all methods share one DiT block; relative_position: true turns it on",
    ),
    Deviation(
        concerns="all methods",
        kind="changed",
        paper="each its own code base, and for MDT and MaskDiT its own block",
        here="one DiT block, one training loop, one evaluator for all",
    ),
    Deviation(
        concerns="SD-DiT decoder",
        kind="inferred",
        paper="8 blocks, width not given; 740.6 M parameters for XL/2",
        here="half the encoder's width, the one that gives 740.6 M; decoder_width: 512 is MaskDiT's",
    ),
    Deviation(
        concerns="SD-DiT sampling",
        kind="assumed",
        paper="does not say whether averaged weights are sampled",
        here="EMA 0.9999, as the other three papers do",
    ),
    Deviation(
        concerns="EMA of all methods",
        kind="changed",
        paper="decay 0.9999 from the first step",
        here="decay min(0.9999, (1 + t) / (10 + t)) at step t, so that a short run does not sample its random start",
    ),
    Deviation(
        concerns="SD-DiT labels",
        kind="assumed",
        paper="label dropout and the null label are not described",
        here="as in DiT: dropped with probability 0.1 in favour of one learned row",
    ),
    Deviation(
        concerns="SD-DiT teacher",
        kind="assumed",
        paper="does not say which label the teacher sees",
        here="the student's, after label dropout",
    ),
    Deviation(
        concerns="tiny recipes, data",
        kind="changed",
        paper="VAE latents of ImageNet at 256 x 256",
        here="handwritten digits of 8 x 8 pixels, without a VAE",
    ),
    Deviation(
        concerns="tiny recipes, SD-DiT head",
        kind="changed",
        paper="K = 8192 prototypes",
        here="K = 256",
    ),
    Deviation(
        concerns="tiny recipes, sampling",
        kind="changed",
        paper="250 DDPM steps, or 40 Heun levels",
        here="fewer: the sampler's steps stand with every measured point",
    ),
    Deviation(
        concerns="tiny recipes, learning rate",
        kind="changed",
        paper="1e-4",
        here="1e-3",
    ),
)
