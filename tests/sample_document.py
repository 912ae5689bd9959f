"""The context of a small report as `harness report` composes it, and the same with every text hostile."""

from pathlib import Path
from typing import Any

from harness.claims.comparison import Comparison
from harness.claims.verdict import Judgement, conclude, decisive, effect
from harness.reporting import report
from harness.reporting.tables.table import Table, frame_of

HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)><!-- --> ]]> &lt;b&gt; <svg onload=alert(3)> "
    "[link](javascript:alert(4)) ![image](http://example.com/x.png) <http://example.com> https://example.com "
    "`code` **bold** | cell \u202e turned \ud800 \x00 \n# heading\n- item"
)
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><path d="M0 0L40 20" stroke="#D55E00"/></svg>'


def judgement(
    claim: str,
    statement: str,
    ratios: tuple[float, ...] = (),
    *,
    setting: str = "digits, size tiny, fp32, cached, 600 steps, batch 64",
    published: float | None = 0.707,
    notes: tuple[str, ...] = (),
) -> Judgement:
    """What the rules of verdicts say of these ratios of SD-DiT's distance to DiT's, which should lie below 1."""
    comparisons = [
        Comparison(
            "SD-DiT", "DiT", "fd-digits@1k", (ratios, tuple(1 + 0.01 * (i - 1) for i in range(len(ratios)))), "below",
            published=published, seeds=tuple(range(len(ratios))),
            names=(tuple(f"sddit-tiny/seed{i}-0123456789" for i in range(len(ratios))), ()),
        )
    ] if ratios else []  # fmt: skip
    verdict = conclude(comparisons)
    chosen = decisive(comparisons, verdict)
    return Judgement(
        claim=claim,
        place="Table 1; Sec. 4.2",
        statement=statement,
        published="S/2, 400k: SD-DiT 48.39, DiT 68.40",
        scale="demo" if ratios else None,
        setting=setting if ratios else "",
        setting_name="87ecb88a" if ratios else "",
        verdict=verdict,
        effect=effect(comparisons, chosen),
        decisive=chosen,
        comparisons=tuple(comparisons),
        missing=() if ratios else ("no runs of both SD-DiT and DiT",),
        notes=notes,
        to_test="harness sweep figure3 --scale tiny",
    )


JUDGEMENTS = (
    judgement("order", "At equal steps SD-DiT has a lower FID than DiT.", (0.42, 0.47, 0.44), notes=("Of the demo.",)),
    judgement("order", "At equal steps SD-DiT has a lower FID than DiT.", (0.91,), setting="digits, 1000 steps"),
    judgement("masking", "Masking lowers the FID.", (1.31, 1.42, 1.36), published=None),
    judgement("size-b", "At size B too, SD-DiT has a lower FID than DiT."),
)


def table(name: str = "table1", title: str = "Table 1", rows: int = 3, word: str = "fd-digits@1k") -> Table:
    """Methods with a published and a measured number, of which the last has none."""
    made = [
        {
            "Model": f"{'SD-DiT' if i % 2 else 'DiT'}-{i + 1}",
            "Steps": (1_300_000, 400_000, 7_000)[i % 3],
            "Published": f"{100 - i * 0.5:.2f}" if i % 3 else None,
            "Measured": None if i == rows - 1 else 2.5 + (i * 7919 % rows),
            "Measured, SD": None if i == rows - 1 else 0.25,
            "Metric": word,
            **{f"{word}, part {part}": None for part in range(6)},
        }
        for i in range(rows)
    ]
    return Table(name, title, frame_of(made), "Mean over n = 3 seeds; see the deviations.", {"Published": ".2f"})


def figure(folder: Path, name: str = "figure4", title: str = "Fig. 4: convergence") -> dict[str, Any]:
    (folder / f"{name}.svg").write_text(PICTURE)
    rows = [{"method": title, "step": step, "value": value} for step, value in ((150, 9.1), (600, 1.5))]
    numbers = Table(name, title, frame_of(rows))
    notes = [f"Of {title}.", "See `harness sweep figure3`, or `<b>`."]
    return {"name": name, "title": title, "alternative": f"Distance: {title}", "notes": notes, "numbers": numbers}


def sample(folder: Path, num_rows: int = 40, judgements: tuple[Judgement, ...] = JUDGEMENTS) -> dict[str, Any]:
    """Figures are written into `folder`."""
    return {
        "title": "Paper against measured",
        "lead": "Every figure, table and claim beside what was measured.",
        "summary": ["12 runs; n = 3.", "Run `harness sweep all --scale tiny` again."],
        "reading": "A verdict rests on runs paired by seed.",
        **report.verdicts(judgements),
        "figures": [figure(folder), figure(folder, "figure5", "Fig. 5: mask ratio")],
        "folder": folder,
        "sections": {
            "Tables": [table(), table("runs", "All runs", num_rows)],
            "Deviations": [Table("deviations", "Deviations", frame_of([{"Concerns": "MDT", "Here": "MDT-lite"}]))],
            "Left out": [Table("left-out", "Left out", frame_of([]))],
        },
        "LONG_TABLE": report.LONG_TABLE,
    }


def hostile(folder: Path, word: str = HOSTILE) -> dict[str, Any]:
    """Every text is `word`."""
    judged = judgement("x", word, (0.4, 0.5, 0.45), setting=word, notes=(word,))
    cells = frame_of([{word: word, "n": word}, {word: word, "n": 1}])
    shown = figure(folder) | {"title": word, "alternative": word, "notes": [word], "numbers": Table("f", word, cells)}
    return {
        **dict.fromkeys(("title", "lead", "reading"), word),
        "summary": [word],
        **report.verdicts((judged, judgement(word, word))),
        "figures": [shown],
        "folder": folder,
        "sections": {word: [Table("t", f"{word}.", cells, word), Table("u", word, cells, word)]},
        "LONG_TABLE": report.LONG_TABLE,
    }
