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
        paper="each its own code base: loop, data reading, evaluator",
        here="one DiT block, one training loop, one evaluator for all",
    ),
    Deviation(
        concerns="SD-DiT decoder",
        kind="inferred",
        paper="8 blocks, width and heads not given; 740.6 M parameters for XL/2",
        here="half the encoder's width, the one that gives 740.6 M, and 16 heads; MaskDiT's modulated projection",
    ),
    Deviation(
        concerns="SD-DiT sampling",
        kind="assumed",
        paper="does not say whether averaged weights are sampled",
        here="EMA 0.9999, as the other three papers do",
    ),
    Deviation(
        concerns="tiny recipes, EMA",
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
        paper="does not say which label and noise level it is told, nor whether head and embeddings are averaged",
        here="the student's label after dropout, its own level c_noise(0.002); both are averaged with the encoder",
    ),
    Deviation(
        concerns="flips of DiT and MDT",
        kind="changed",
        paper="random horizontal flips",
        here="none, as SD-DiT and MaskDiT train; flips: random is a setting of every run",
    ),
    Deviation(
        concerns="SD-DiT CLS token",
        kind="assumed",
        paper="does not say where it goes",
        here="first in the encoder, of the sampled network too; it does not enter the decoder",
    ),
    Deviation(
        concerns="SD-DiT head",
        kind="inferred",
        paper="three layers, K = 8192, otherwise after iBOT and DINO; widths and centre momentum are not given",
        here="2048, 2048, 256; separate prototypes for CLS and patches, as in iBOT's student; unit gain; centre "
        "momentum 0.9; teacher momentum along a cosine; without iBOT's gradient clipping and frozen first epoch",
    ),
    Deviation(
        concerns="MDT learning rate",
        kind="inferred",
        paper="3e-4 is its code's default, which its published command keeps; SD-DiT compares at 1e-4",
        here="the protocol's, the same for all methods",
    ),
    Deviation(
        concerns="MDT's two passes",
        kind="changed",
        paper="share the time step; the repository draws noise and dropped labels anew for each",
        here="share the noise and the dropped labels too: both passes see the same batch",
    ),
    Deviation(
        concerns="SD-DiT generative loss",
        kind="inferred",
        paper="eq. 9 and Algorithm 1 write the squared error of the denoised image without a weight",
        here="EDM's weight of each noise level, which its Sec. 3.1 takes over with EDM and MaskDiT's code has",
    ),
    Deviation(
        concerns="SD-DiT start of the decoder",
        kind="assumed",
        paper="does not say how its projection to the decoder starts",
        here="at zero, as MaskDiT's does",
    ),
    Deviation(
        concerns="iDDPM likelihood term",
        kind="changed",
        paper="DDPM eq. 13; the official codes approximate the normal distribution function by a tanh",
        here="the exact function",
    ),
    Deviation(
        concerns="evaluator",
        kind="changed",
        paper="ADM's evaluator in TensorFlow, TF32 on recent GPUs",
        here="torch-fidelity's Inception from the same weights, TF32 off; Fréchet distances with the mean in float64",
    ),
    Deviation(
        concerns="precision and recall",
        kind="changed",
        paper="ADM's evaluator computes distances in float16",
        here="float32, about 0.001 lower in precision and 0.002 in recall; precision_adm_fp16 rounds as ADM does",
    ),
    Deviation(
        concerns="pixels of MDT and MaskDiT",
        kind="changed",
        paper="their codes truncate to eight bits",
        here="rounded to the nearest level, as DiT's: one rule for all",
    ),
    Deviation(
        concerns="tiny recipes, data",
        kind="changed",
        paper="VAE latents of ImageNet at 256 x 256",
        here="handwritten digits of 8 x 8 pixels, without a VAE",
    ),
    Deviation(
        concerns="tiny recipes, decoders of MaskDiT and SD-DiT",
        kind="changed",
        paper="8 blocks; MaskDiT's 512 wide with 16 heads for every encoder",
        here="2 blocks with 4 heads, MaskDiT's 48 wide",
    ),
    Deviation(
        concerns="tiny recipes, masking",
        kind="changed",
        paper="256 tokens, of which 50%, 70% or 80% are kept",
        here="16 tokens, of which 8, 11 or 12 are kept: 50%, 69% and 75%; labels give the nominal share",
    ),
    Deviation(
        concerns="tiny recipes, network and budget",
        kind="changed",
        paper="S/2: 12 blocks, 384 wide; 400k steps, batch 256",
        here="4 blocks, 64 wide; 1,000 steps, batch 64",
    ),
    Deviation(
        concerns="tiny recipes, SD-DiT head",
        kind="changed",
        paper="K = 8192 prototypes behind hidden layers of 2048 and a bottleneck of 256",
        here="K = 256, hidden layers of 192, a bottleneck of 64: the same code, smaller numbers",
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
        here="6e-3 for all, chosen in a few trials so that each of the four learns in 1,000 steps",
    ),
)
