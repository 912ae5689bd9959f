"""The claims of the SD-DiT paper (Zhu et al. 2024, arXiv:2403.17004v1), each as a predicate over results.

A claim names its place in the paper, what it says, the numbers printed for it, the predicate that tests it, and the
command that makes the runs for the test. FIDs are FID-50K on ImageNet 256 without guidance, at batch 256. The same
predicates are asked of smaller settings, whose verdicts say nothing of ImageNet: each judgement names its scale.
harness/claims/verdict.py says how a verdict is reached.
"""

from functools import partial

from harness import claims
from harness.claims import Claim
from harness.claims.arms import arm
from harness.claims.machines import MEMORY, OTHER_ENCODES, SPEED, MemoryAtMost, SideBySide
from harness.claims.places import Distances, Parameters
from harness.claims.predicates import (
    Ahead,
    AtEveryStep,
    Best,
    Comparable,
    FasterHere,
    Guided,
    Lower,
    SameCost,
    WorseThanSmaller,
)
from harness.claims.verdict import Judgement
from harness.records.evidence import Evidence

DIT, MASKDIT, MDT, SDDIT = arm("dit"), arm("maskdit"), arm("mdt"), arm("sddit")
ABLATED = arm("sddit", mask_ratio=0.5)  # Sec. 4.4: the ablations mask half, the rest of the paper a fifth
WITHOUT_L_D = arm("sddit", mask_ratio=0.5, discriminate=False)
WITHOUT_MASK = arm("sddit", mask_ratio=0.0)
MASKED_MOST = arm("sddit", mask_ratio=0.9)
LEAST_NOISE = arm("sddit", mask_ratio=0.5, teacher_sigma=0.002)
NOISE_03 = arm("sddit", mask_ratio=0.5, teacher_sigma=0.3)
NOISE_05 = arm("sddit", mask_ratio=0.5, teacher_sigma=0.5)
NOISE_OF_STUDENT = arm("sddit", mask_ratio=0.5, teacher_sigma="student")

FIG5 = {0.0: 58.92, 0.2: 48.39, 0.5: 53.72, 0.9: 61.0}  # FID by mask ratio; the others are only drawn
FIG6 = {0.002: 53.7, 0.5: 66.2}  # FID by teacher noise; the others are only drawn
MASK_RATIOS = (0.0, 0.3, 0.5, 0.7, 0.9)
TEACHER_SIGMAS = (0.1, 0.3, 0.5, 80.0)
COMPARABLE = 0.08  # DiT-XL/2's two published trainings of one recipe, FID 19.5 and 18.1 (DiT README), differ by that

SAMPLERS_DIFFER = "DiT and MDT train and sample by IDDPM, SD-DiT by EDM: the gap is not the method's alone."
FIG3_BENCH = "harness bench dit-s maskdit-s mdt-s sddit-s --pipeline cached"
of_targets = partial(Distances, "s", 400_000, of_targets=True)  # of claims that L_D's targets decide
BOTH = "harness bench dit-s maskdit-s mdt-s sddit-s --pipeline cached,online-vae"


CLAIMS = (
    # Quality at equal steps --------------------------------------------------------------------------------------
    Claim(
        id="fid-order",
        place="Table 1; Sec. 4.2, 4.3; Fig. 3",
        statement="At equal steps SD-DiT has a lower FID than MDT and than DiT (size S).",
        published="S/2, 400k: SD-DiT 48.39, MDT 53.46, DiT 68.40",
        test=Distances("s", 400_000, Lower(SDDIT, MDT, (48.39, 53.46)), Lower(SDDIT, DIT, (48.39, 68.40))),
        to_test="harness sweep figure3",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="fid-order-b",
        place="Table 1; Sec. 4.3",
        statement="At size B too, SD-DiT has a lower FID than MDT and than DiT.",
        published="B/2, 400k: SD-DiT 28.62, MDT 34.33, DiT 43.47",
        test=Distances(
            "b", 400_000, Lower(SDDIT, MDT, (28.62, 34.33)), Lower(SDDIT, DIT, (28.62, 43.47)), paper_only=True
        ),
        to_test="harness sweep figure3",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="fid-order-xl",
        place="Table 1; Sec. 4.3",
        statement="At size XL and equal steps SD-DiT has a lower FID than MDT and than MaskDiT.",
        published="XL/2, 1300k: SD-DiT 9.01, MDT 9.60, MaskDiT 12.15",
        test=Distances(
            "xl", 1_300_000, Lower(SDDIT, MDT, (9.01, 9.60)), Lower(SDDIT, MASKDIT, (9.01, 12.15)), paper_only=True
        ),
        to_test="harness sweep convergence",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="maskdit-worse",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT has a lower FID than MaskDiT, which masks more and reconstructs what it masks.",
        published="S/2, 400k: SD-DiT 48.39; MaskDiT's point is only drawn",
        test=Distances("s", 400_000, Lower(SDDIT, MASKDIT)),
        to_test="harness sweep figure3",
    ),
    # Speed -------------------------------------------------------------------------------------------------------
    Claim(
        id="faster-than-mdt",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT takes more training steps a second than MDT, neither encoding images in its step.",
        published="S/2 on 8 x A100: SD-DiT 9.2, MDT 2.4 steps/s; the paper does not say what each step includes",
        test=SideBySide(SPEED, "s", ((SDDIT, MDT, (9.2, 2.4)),)),
        to_test=FIG3_BENCH,
    ),
    Claim(
        id="faster-than-mdt-encoding",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT on latents takes more training steps a second than MDT encoding its images in the step.",
        published="S/2 on 8 x A100: SD-DiT 9.2, MDT 2.4 steps/s; the paper does not say what each step includes",
        test=SideBySide(SPEED, "s", ((SDDIT, MDT, (9.2, 2.4)),), OTHER_ENCODES),
        to_test=BOTH,
        note="The two steps differ in their work on the data, not in the method alone.",
    ),
    Claim(
        id="faster-than-dit",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT takes more training steps a second than DiT, neither encoding images in its step.",
        published="S/2 on 8 x A100: SD-DiT 9.2, DiT 5.03 steps/s; the paper does not say what each step includes",
        test=SideBySide(SPEED, "s", ((SDDIT, DIT, (9.2, 5.03)),)),
        to_test=FIG3_BENCH,
    ),
    Claim(
        id="faster-than-dit-encoding",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT on latents takes more training steps a second than DiT encoding its images in the step.",
        published="S/2 on 8 x A100: SD-DiT 9.2, DiT 5.03 steps/s; the paper does not say what each step includes",
        test=SideBySide(SPEED, "s", ((SDDIT, DIT, (9.2, 5.03)),), OTHER_ENCODES),
        to_test=BOTH,
        note="The two steps differ in their work on the data, not in the method alone.",
    ),
    Claim(
        id="maskdit-faster",
        place="Sec. 4.2; Fig. 3",
        statement="MaskDiT takes more training steps a second than DiT and MDT, none encoding images in its step.",
        published="S/2 on 8 x A100: DiT 5.03, MDT 2.4 steps/s; MaskDiT's point is only drawn",
        test=SideBySide(SPEED, "s", ((MASKDIT, DIT, None), (MASKDIT, MDT, None))),
        to_test=FIG3_BENCH,
    ),
    Claim(
        id="maskdit-faster-encoding",
        place="Sec. 4.2; Fig. 3",
        statement="MaskDiT on latents takes more training steps a second than DiT and MDT encoding in the step.",
        published="S/2 on 8 x A100: DiT 5.03, MDT 2.4 steps/s; MaskDiT's point is only drawn",
        test=SideBySide(SPEED, "s", ((MASKDIT, DIT, None), (MASKDIT, MDT, None)), OTHER_ENCODES),
        to_test=BOTH,
        note="The steps differ in their work on the data, not in the method alone.",
    ),
    Claim(
        id="faster-and-better-than-mdt",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT trains faster than MDT, neither encoding images, and has a lower FID after equal steps.",
        published="S/2, 400k: SD-DiT 9.2 steps/s and 48.39, MDT 2.4 and 53.46",
        test=Distances("s", 400_000, Lower(SDDIT, MDT, (48.39, 53.46)), FasterHere(SDDIT, MDT, (9.2, 2.4))),
        to_test="harness sweep figure3",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="faster-and-better-than-dit",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT trains faster than DiT, neither encoding images, and has a lower FID after equal steps.",
        published="S/2, 400k: SD-DiT 9.2 steps/s and 48.39, DiT 5.03 and 68.40",
        test=Distances("s", 400_000, Lower(SDDIT, DIT, (48.39, 68.40)), FasterHere(SDDIT, DIT, (9.2, 5.03))),
        to_test="harness sweep figure3",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="faster-and-better-than-mdt-encoding",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT on latents trains faster than MDT encoding images, and has a lower FID after equal steps.",
        published="S/2, 400k: SD-DiT 9.2 steps/s and 48.39, MDT 2.4 and 53.46",
        test=Distances(
            "s", 400_000, Lower(SDDIT, MDT, (48.39, 53.46)), FasterHere(SDDIT, MDT, (9.2, 2.4), OTHER_ENCODES)
        ),
        to_test="harness sweep figure3 --images IMAGENET/train",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="faster-and-better-than-dit-encoding",
        place="Sec. 4.2; Fig. 3",
        statement="SD-DiT on latents trains faster than DiT encoding images, and has a lower FID after equal steps.",
        published="S/2, 400k: SD-DiT 9.2 steps/s and 48.39, DiT 5.03 and 68.40",
        test=Distances(
            "s", 400_000, Lower(SDDIT, DIT, (48.39, 68.40)), FasterHere(SDDIT, DIT, (9.2, 5.03), OTHER_ENCODES)
        ),
        to_test="harness sweep figure3 --images IMAGENET/train",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="faster-than-mdt-xl",
        place="App. B",
        statement="At size XL too SD-DiT takes more training steps a second than MDT, neither encoding images.",
        published="no number",
        test=SideBySide(SPEED, "xl", ((SDDIT, MDT, None),), own_size=True),
        to_test="harness bench mdt-xl sddit-xl --batch 32",
    ),
    # Convergence -------------------------------------------------------------------------------------------------
    Claim(
        id="five-times-faster-progress",
        place="Sec. 4.3; Table 1",
        statement="SD-DiT is ahead of DiT trained for five times as many steps.",
        published="XL/2: SD-DiT 9.01 after 1300k steps, DiT 9.62 after 7000k (5.4 times)",
        test=Distances("xl", 1_300_000, Ahead(SDDIT, DIT, (9.01, 9.62), factor=5)),
        to_test="harness sweep convergence",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="ahead-of-longer-mdt",
        place="Sec. 4.4; Fig. 5",
        statement="SD-DiT is ahead of MDT trained for one and a half times as many steps.",
        published="S/2: SD-DiT 48.4 after 400k steps, MDT 50.3 after 600k",
        test=Distances("s", 400_000, Ahead(SDDIT, MDT, (48.39, 50.3), factor=1.5)),
        to_test="harness run mdt-s --set steps=600000",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="ahead-at-every-step",
        place="Sec. 4.3; Fig. 4",
        statement="Through the whole of training SD-DiT's FID lies below those of DiT and MaskDiT.",
        published="XL/2: at 1300k SD-DiT 9.01, MaskDiT 12.15; the rest of the curves is only drawn",
        test=Distances("xl", 2_400_000, AtEveryStep(SDDIT, (DIT, MASKDIT), {("maskdit", 1_300_000): (9.01, 12.15)})),
        to_test="harness sweep convergence",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="fid-final-xl",
        place="Table 2; Sec. 4.3",
        statement="SD-DiT has a lower FID after 2400k steps than DiT after 7000k and MDT after 2500k.",
        published="XL/2: SD-DiT 7.21, DiT 9.62, MDT 7.41",
        test=Distances(
            "xl",
            2_400_000,
            Lower(SDDIT, arm("dit", steps=7_000_000), (7.21, 9.62)),
            Lower(SDDIT, arm("mdt", steps=2_500_000), (7.21, 7.41)),
            paper_only=True,
        ),
        to_test="harness sweep convergence",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="mdt-1300k-matched",
        place="Sec. 4.3; Table 1",
        statement="SD-DiT after 1100k steps is comparable to MDT after 1300k: within 8%.",
        published="XL/2: SD-DiT 9.66, MDT 9.60; the paper does not say how near is comparable",
        test=Distances(
            "xl",
            1_100_000,
            Comparable(arm("sddit", steps=1_100_000), arm("mdt", steps=1_300_000), (9.66, 9.60), within=COMPARABLE),
            paper_only=True,
        ),
        to_test="harness sweep convergence",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="mdt-3500k-matched",
        place="App. B",
        statement="SD-DiT and MDT are comparable after 3500k steps: within 8%.",
        published="XL/2: SD-DiT 6.74, MDT 6.65; the paper does not say how near is comparable",
        test=Distances(
            "xl",
            3_500_000,
            Comparable(arm("sddit", steps=3_500_000), arm("mdt", steps=3_500_000), (6.74, 6.65), within=COMPARABLE),
            paper_only=True,
        ),
        to_test="harness run sddit-xl --steps 3500k",
        note=SAMPLERS_DIFFER,
    ),
    # Ablations ---------------------------------------------------------------------------------------------------
    Claim(
        id="discrimination-helps",
        place="Table 3; Sec. 4.4",
        statement="With the discriminative loss SD-DiT has a lower FID than without it (mask ratio 0.5).",
        published="S/2, 400k: 53.72 with, 62.84 without",
        test=of_targets(Lower(ABLATED, WITHOUT_L_D, (53.72, 62.84))),
        to_test="harness sweep components",
    ),
    Claim(
        id="masking-helps",
        place="Table 3; Sec. 4.4",
        statement="With a mask ratio of 0.5 SD-DiT has a lower FID than without a mask.",
        published="S/2, 400k: 53.72 with, 58.92 without",
        test=Distances("s", 400_000, Lower(ABLATED, WITHOUT_MASK, (53.72, 58.92))),
        to_test="harness sweep components",
    ),
    Claim(
        id="best-mask-ratio",
        place="Fig. 5; Sec. 4.4",
        statement="Of all mask ratios 0.2 gives SD-DiT the lowest FID.",
        published="S/2, 400k: 58.92 at 0, 48.39 at 0.2, 53.72 at 0.5, 61.0 at 0.9; the others are only drawn",
        test=Distances("s", 400_000, Best(arm("sddit", mask_ratio=0.2), "mask_ratio", MASK_RATIOS, FIG5)),
        to_test="harness sweep mask-ratio",
    ),
    Claim(
        id="most-masked-beats-dit",
        place="Sec. 4.4; Fig. 5",
        statement="Even with a mask ratio of 0.9 SD-DiT has a lower FID than DiT after equal steps.",
        published="S/2, 400k: SD-DiT 61.0 at 0.9, DiT 68.40 (the text says higher and means better)",
        test=Distances("s", 400_000, Lower(MASKED_MOST, DIT, (61.0, 68.40))),
        to_test="harness sweep mask-ratio",
        note=SAMPLERS_DIFFER,
    ),
    Claim(
        id="least-teacher-noise-best",
        place="Fig. 6; Sec. 4.4",
        statement="Of all fixed teacher noises the least, 0.002, gives the lowest FID (mask ratio 0.5).",
        published="S/2, 400k: 53.7 at 0.002, 66.2 at 0.5; the others are only drawn",
        test=of_targets(Best(LEAST_NOISE, "teacher_sigma", TEACHER_SIGMAS, FIG6, least=True)),
        to_test="harness sweep teacher-noise",
    ),
    Claim(
        id="noise-near-student-worst",
        place="Fig. 6; Sec. 4.4",
        statement="Teacher noise of 0.3 and 0.5, where the student's is dense, gives a higher FID than any lesser one.",
        published="S/2, 400k: 66.2 at 0.5, 53.7 at 0.002; 0.3 is only drawn",
        test=of_targets(WorseThanSmaller(ABLATED, "teacher_sigma", (0.3, 0.5), FIG6)),
        to_test="harness sweep teacher-noise",
    ),
    Claim(
        id="noise-near-student-worse-than-its-distribution",
        place="Fig. 6; Sec. 4.4",
        statement="Teacher noise of 0.3 and of 0.5 gives a higher FID than noise drawn as the student's.",
        published="S/2, 400k: 66.2 at 0.5, 63.4 as the student's; 0.3 is only drawn",
        test=of_targets(Lower(NOISE_OF_STUDENT, NOISE_03), Lower(NOISE_OF_STUDENT, NOISE_05, (63.4, 66.2))),
        to_test="harness sweep teacher-noise",
    ),
    Claim(
        id="student-noise-worse",
        place="Fig. 6; Sec. 4.4",
        statement="Teacher noise drawn as the student's gives a higher FID than the fixed 0.002.",
        published="S/2, 400k: 63.4 as the student's, 53.7 at 0.002",
        test=of_targets(Lower(LEAST_NOISE, NOISE_OF_STUDENT, (53.7, 63.4))),
        to_test="harness sweep teacher-noise",
    ),
    # Cost --------------------------------------------------------------------------------------------------------
    Claim(
        id="no-inference-overhead",
        place="Sec. 3.4; App. A",
        statement="The teacher costs nothing at inference: the same parameters and arithmetic as without it.",
        published="no number",
        test=Distances("s", 400_000, SameCost(ABLATED, WITHOUT_L_D)),
        to_test="harness sweep components",
        note="A count of the network that is sampled; sampling itself is not timed.",
        by_construction="both arms carry the [CLS] token and sample with the same network",
    ),
    Claim(
        id="parameters",
        place="App. A",
        statement="MaskDiT-XL/2 has the parameters that the paper prints, to within 0.1%.",
        published="SD-DiT-XL/2 740.6 M, MaskDiT-XL/2 730.1 M",
        test=Parameters({"sddit-xl": 740.6, "maskdit-xl": 730.1}, fitted=("sddit-xl",)),
        to_test="harness recipes count --out counts.json",
        note="SD-DiT's decoder width is not printed. The recipe's was fitted to the 740.6 M, so they test nothing.",
    ),
    Claim(
        id="less-memory-than-mdt",
        place="App. B",
        statement="Training SD-DiT takes less memory on a GPU than training MDT (size XL).",
        published="SD-DiT-XL/2 45 GB; MDT's is not printed",
        test=SideBySide(MEMORY, "xl", ((SDDIT, MDT, None),)),
        to_test="harness bench sddit-xl mdt-xl --batch 32",
    ),
    Claim(
        id="memory-45-gb",
        place="App. B",
        statement="Training SD-DiT-XL/2 takes at most 45 GB of a GPU, at batch 256 on eight.",
        published="45 GB",
        test=MemoryAtMost(SDDIT, "xl", 45, 45.5),
        to_test="harness bench sddit-xl --batch 32",
        note="The paper states no batch; 256 is its usual one. 45 is taken as rounded: up to 45.5.",
    ),
    # Guidance and large batches ----------------------------------------------------------------------------------
    Claim(
        id="guidance-helps",
        place="App. B; Table 2",
        statement="Classifier-free guidance lowers SD-DiT's FID.",
        published="XL/2: 3.23 with (scale and steps not printed), 7.21 without after 2400k",
        test=Distances("xl", 2_400_000, Guided(arm("sddit", guided=True), SDDIT, (3.23, 7.21))),
        to_test="harness sweep convergence",
        note="Implied by the numbers of Table 2 and App. B; the paper does not say it as a claim.",
    ),
    Claim(
        id="guided-better-than-maskdit",
        place="App. B",
        statement="With guidance SD-DiT has a lower FID than MaskDiT without its unmasking tuning.",
        published="XL/2: SD-DiT 3.23, MaskDiT 4.54 (scales and steps not printed)",
        test=Distances("xl", 2_400_000, Guided(arm("sddit", guided=True), arm("maskdit", guided=True), (3.23, 4.54))),
        to_test="harness sweep convergence",
        note="MaskDiT's batch and steps are not printed for its 4.54; both are compared at the setting's.",
    ),
    Claim(
        id="large-batch",
        place="App. B",
        statement="With four times the batch SD-DiT has a lower FID than MaskDiT after equal steps.",
        published="XL/2, batch 1024, 150k: SD-DiT 16.78, MaskDiT 17.22",
        test=Distances("xl", 150_000, Lower(SDDIT, MASKDIT, (16.78, 17.22)), batch=1024),
        to_test="harness sweep convergence",
    ),
)


def judge(evidence: Evidence) -> tuple[Judgement, ...]:
    """For each claim one judgement per setting in which it could be tested; one "not tested" where there is none."""
    return claims.judge(CLAIMS, evidence)
