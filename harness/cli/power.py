"""How many seeds a comparison needs: power."""

from typing import Annotated

from harness.cli.app.answer import show
from harness.cli.app.options import RUNS, Json, Roots, argument, option

WHAT = "A claim's id, as in the report, or two arms: dit,sddit or sddit,sddit:discriminate=false."
YARDSTICK = "Like denoiser_error or fd-own. Default: the Fréchet distance."
EFFECT = "First arm over second. Default: the paper's, else as measured."


def power(
    what: Annotated[str, argument(WHAT, "CLAIM|ARMS")],
    runs: Roots = None,
    yardstick: Annotated[str | None, option(YARDSTICK, "METRIC")] = None,
    effect: Annotated[float | None, option(EFFECT, "RATIO", min=1e-6)] = None,
    as_json: Json = False,
) -> None:
    """Say how many seeds a comparison needs, and the smallest difference that 3, 5 and 8 see, from finished runs.

    Examples: harness power fid-order reports/tiny · harness power dit,sddit runs/ --yardstick denoiser_error --effect
    0.98
    """
    from harness.claims import power
    from harness.papers import claims
    from harness.records.evidence import gather

    claim = power.claim_of(what, [claim for paper in claims.names() for claim in claims.claims_of(paper)])
    evidence = gather(runs or [RUNS], yardstick)
    found = [each.as_json() for each in power.power_of(claim, evidence, effect=effect)]
    show({"comparisons": found}, as_json, lambda answer: power.lines(answer["comparisons"]))
