"""The verdicts of a page: how many there are of each kind, then each claim with what was found about it.

A verdict is told by a word, a sign and a colour. Beside it the decisive ratio is drawn, so that a reader sees how far
from its bound it lies and how sure that is; the same numbers stand in the text.
"""

import math
from collections.abc import Iterator, Sequence

from harness.claims.verdicts import (
    INCONCLUSIVE,
    MOST_SHOWN,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Comparison,
    Judgement,
)
from harness.report.pages.document import MOST_RUNS, Verdicts
from harness.report.pages.hypertext import Markup, element, joined

SCALES = {"paper": "The paper's scale", "demo": "The demo's scale", "other": "Another scale"}
CLASSES: dict[str, str] = {REPRODUCED: "yes", NOT_REPRODUCED: "no", INCONCLUSIVE: "open", NOT_TESTED: "idle"}
SIGNS = {  # drawn in a box of 16 by 16
    "yes": "M3.5 8.5l3 3 6-7",
    "no": "M4.5 4.5l7 7m0-7l-7 7",
    "open": "M3 9.5c2-4 4-2.5 5-1.5s3 2.5 5-1.5",
    "idle": "M4 8h8",
}
SPRITE = element(
    "svg",
    *(
        element("symbol", element("path", d=path), id=f"sign.{name}", viewBox="0 0 16 16")
        for name, path in SIGNS.items()
    ),
    class_="sprite",
    width="0",
    height="0",
    aria_hidden="true",
)

# The drawn ratio: a logarithmic axis of factors, in units of the picture.
REACH = 8.0  # the axis goes from 1 / REACH to REACH; what lies beyond is drawn at its end
WIDTH, HEIGHT, MIDDLE, EDGE = 200.0, 34.0, 11.0, 6.0
TICKS = ((1 / 4, "1/4"), (1 / 2, "1/2"), (1.0, "1"), (2.0, "2"), (4.0, "4"))


def cards(block: Verdicts) -> Markup:
    claims = block.claims
    if not claims:
        return element("p", "No claim was judged.")
    return joined(
        element("ul", *(_count(verdict, number) for verdict, number in block.tally.items()), class_="tally"),
        element(
            "p",
            f"{_number(len(claims), 'claim')}, each judged in every setting that was measured: "
            f"{_number(len(block.judgements), 'verdict')}. Drawn beside a verdict: the measured ratio with its 95% "
            "interval (dot and bar), the paper's ratio (hollow diamond) and the side that the claim is on (shaded), on "
            "a logarithmic axis.",
            class_="caption",
        ),
        *_lists(claims),
    )


def _lists(claims: Sequence[Sequence[Judgement]]) -> Iterator[Markup]:
    """What was tested, then, on demand, what was not."""
    idle = [claim for claim in claims if all(judgement.verdict == NOT_TESTED for judgement in claim)]
    tested = [claim for claim in claims if claim not in idle]
    if tested:
        yield element("ul", *map(_claim, tested), class_="claims")
    if idle:
        summary = element(
            "summary", f"{_number(len(idle), 'claim')} not tested, and how to test {'them' if len(idle) > 1 else 'it'}"
        )
        yield element("details", summary, element("ul", *map(_claim, idle), class_="claims"), open=not tested)


def _count(verdict: str, number: int) -> Markup:
    return element("li", element("b", f"{number:,}"), " ", badge(verdict))


def badge(verdict: str) -> Markup:
    kind = CLASSES.get(verdict, "idle")
    sign = element("svg", element("use", href=f"#sign.{kind}"), viewBox="0 0 16 16", aria_hidden="true")
    return element("span", sign, verdict, class_=f"badge {kind}")


def _claim(judgements: Sequence[Judgement]) -> Markup:
    first = judgements[0]
    return element(
        "li",
        element(
            "div",
            element("p", first.statement, class_="statement"),
            element("p", f"{first.place}. {_ended(f'Paper: {first.published}')}" if first.published else first.place),
            class_="claim",
        ),
        element("ul", *(_finding(judgement) for judgement in judgements), class_="findings"),
    )


def _finding(judgement: Judgement) -> Markup:
    scale = SCALES.get(judgement.scale or "", "")
    where = ": ".join(filter(None, (scale, judgement.setting)))
    drawn = element("div", *map(_ratio, _told(judgement)), class_="ratios")
    more = list(_more(judgement))
    return element(
        "li",
        element("div", badge(judgement.verdict), drawn, class_="verdict"),
        element("p", where, class_="setting") if where else "",
        element("p", _ended(judgement.effect)) if judgement.effect else "",
        element("p", "To test it: ", element("code", judgement.to_test)) if _untested(judgement) else "",
        element("details", element("summary", _summary(judgement)), element("dl", *more)) if more else "",
    )


def _told(judgement: Judgement) -> Sequence[Comparison]:
    """The comparisons that the effect spells out, in its order; of more, the one that the verdict hangs on."""
    if len(judgement.comparisons) <= MOST_SHOWN:
        return judgement.comparisons
    return [judgement.decisive] if judgement.decisive else []


def _untested(judgement: Judgement) -> bool:
    return judgement.verdict == NOT_TESTED and bool(judgement.to_test)


def _summary(judgement: Judgement) -> str:
    parts = {"what is missing": judgement.missing, "notes": judgement.notes, "conditions": judgement.differences}
    named = [name for name, content in parts.items() if content]
    named += [_number(len(judgement.runs), "run")] if judgement.runs else []
    told = ", ".join(named) or "how to test it"
    return told[:1].upper() + told[1:]


def _more(judgement: Judgement) -> Iterator[Markup]:
    yield from _entry("Not measured", judgement.missing)
    yield from _entry("Other than in the paper", judgement.differences)
    yield from _entry("Notes", judgement.notes)
    if judgement.n and judgement.decisive and not judgement.decisive.exact:
        seeds = f"; seeds {', '.join(map(str, judgement.seeds))}" if judgement.seeds else ""
        yield from _entry("Pairs", [f"n = {judgement.n}{seeds}"])
    if judgement.runs:
        names = [element("code", name) for name in judgement.runs[:MOST_RUNS]]
        rest = len(judgement.runs) - MOST_RUNS
        yield from _entry("Runs", [*names, f"and {rest:,} more"] if rest > 0 else names)
    if judgement.to_test and not _untested(judgement):
        yield from _entry("To test it again", [element("code", judgement.to_test)])


def _entry(name: str, lines: Sequence[str]) -> Iterator[Markup]:
    if lines:
        yield joined(element("dt", name), *(element("dd", line) for line in lines))


# The drawn ratio -------------------------------------------------------------------------------------------------


def _ratio(comparison: Comparison) -> Markup:
    """The ratio on its axis. It is hidden from those who listen: the text beside it says the same."""
    interval = comparison.interval()
    bar = ""
    if interval:
        bar = _line(_at(interval[0]), MIDDLE, _at(interval[1]), MIDDLE, "bar")
    paper = ""
    if comparison.published is not None:
        x, y, r = _at(comparison.published), MIDDLE, 4.5
        paper = element("path", d=f"M{x:.1f} {y - r}l{r} {r}l{-r} {r}l{-r} {-r}z", class_="paper")
    return element(
        "svg",
        _side(comparison),
        _line(EDGE, MIDDLE * 2, WIDTH - EDGE, MIDDLE * 2, "axis"),
        *(_tick(value, label) for value, label in TICKS),
        bar,
        paper,
        element("circle", cx=f"{_at(comparison.mean):.1f}", cy=f"{MIDDLE}", r="3.2", class_="mean"),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        class_="ratio",
        aria_hidden="true",
    )


def _side(comparison: Comparison) -> Markup:
    """Where the ratio lies if the claim holds."""
    low, high = {
        "below": (1 / REACH, comparison.bound),
        "above": (comparison.bound, REACH),
        "within": (1 / comparison.bound, comparison.bound),
    }[comparison.claimed]
    left, right = _at(low), _at(high)
    return element("rect", x=f"{left:.1f}", y="0", width=f"{right - left:.1f}", height=f"{MIDDLE * 2:g}", class_="side")


def _tick(value: float, label: str) -> Markup:
    x = _at(value)
    return joined(
        _line(x, MIDDLE * 2, x, MIDDLE * 2 - 3, "axis"),
        element("text", label, x=f"{x:.1f}", y=f"{HEIGHT - 2:g}"),
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=class_)


def _at(ratio: float) -> float:
    """Where a ratio lies on the axis; one beyond its end lies at the end."""
    if not ratio > 0:
        return EDGE
    place = math.log(ratio) / math.log(REACH)
    return EDGE + (WIDTH - 2 * EDGE) * (max(-1.0, min(1.0, place)) + 1) / 2


# Words -----------------------------------------------------------------------------------------------------------


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
