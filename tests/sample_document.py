"""A small report as the harness composes one, and the same with every text hostile: for the tests of both its forms."""

from functools import cache

from harness.claims.verdicts import Comparison, Judgement, conclude, decisive, effect
from harness.report.drawing.sheet import Block, Drawing, Key, compose
from harness.report.pages.document import (
    Bullets,
    Code,
    Details,
    Document,
    Emphasis,
    FigureBlock,
    Link,
    Paragraph,
    Section,
    Strong,
    TableBlock,
    Verdicts,
)
from harness.report.tables.table import Column, Printed, Table

HOSTILE = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)><!-- --> ]]> &lt;b&gt; <svg onload=alert(3)> "
    "[link](javascript:alert(4)) ![image](http://example.com/x.png) <http://example.com> https://example.com "
    "`code` **bold** | cell \u202e turned \ud800 \x00 \n# heading\n- item"
)


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
            "SD-DiT", "DiT", "fd-digits@1k", ratios, "below", published=published,
            seeds=tuple(range(len(ratios))), runs=tuple(f"sddit-tiny/seed{i}-0123456789" for i in range(len(ratios))),
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
        missing=() if ratios else ("no seed with both SD-DiT and DiT",),
        notes=notes,
        to_test="harness sweep figure3 --scale tiny",
    )


JUDGEMENTS = (
    judgement("order", "At equal steps SD-DiT has a lower FID than DiT.", (0.42, 0.47, 0.44), notes=("Of the demo.",)),
    judgement("order", "At equal steps SD-DiT has a lower FID than DiT.", (0.91,), setting="digits, 1000 steps"),
    judgement("masking", "Masking lowers the FID.", (1.31, 1.42, 1.36), published=None),
    judgement("size-b", "At size B too, SD-DiT has a lower FID than DiT."),
)


@cache
def drawing(name: str = "figure4", title: str = "Fig. 4: convergence") -> Drawing:
    """A small figure with everything that figures are made of: lines, markers, areas, a clip path and an image."""
    drawn = "".join(letter for letter in title if letter.isascii() and letter.isprintable())  # what its font has

    def draw(grid):
        (axes,) = grid
        axes.plot([150, 300, 600], [9.1, 4.2, 1.5], marker="D", color="#D55E00")
        axes.fill_between([150, 600], [8, 1], [10, 2], color="#D55E00", alpha=0.2, hatch="//")
        axes.imshow([[0.0, 1.0], [1.0, 0.0]], extent=(400, 500, 6, 8), aspect="auto", cmap="gray")
        axes.set(xlabel=drawn, ylabel="fd-digits@1k", xlim=(100, 650), ylim=(0, 10))

    block = Block(drawn, draw, notes=("n = 3.",), keys=(Key(drawn, "#D55E00", "D"),))
    rows = [{"method": title, "step": step, "value": value, "n": 3} for step, value in ((150, 9.1), (600, 1.5))]
    return Drawing(name, title, f"Distance against steps: {title}", compose(drawn, [block]), rows, (f"Of {title}.",))


def table(name: str = "table1", title: str = "Table 1", rows: int = 3, word: str = "fd-digits@1k") -> Table:
    """Methods with a published and a measured number, of which the last has none."""
    columns = (
        Column("Model"),
        Column("Steps", "number"),
        Column("Published", "number"),
        Column("Measured", "number", spread="sd"),
        Column("Metric"),
        *(Column(f"{word}, part {i}", "number") for i in range(6)),
    )
    made = [
        {
            "Model": f"{'SD-DiT' if i % 2 else 'DiT'}-{i + 1}",
            "Steps": (1_300_000, 400_000, 7_000)[i % 3],
            "Published": Printed(100 - i * 0.5, f"{100 - i * 0.5:.2f}") if i % 3 else None,
            "Measured": None if i == rows - 1 else 2.5 + (i * 7919 % rows),
            "sd": None if i == rows - 1 else 0.25,
            "Metric": word,
        }
        for i in range(rows)
    ]
    return Table(name, title, columns, tuple(made), "Mean over n = 3 seeds; see the deviations.")


def sample(num_rows: int = 40) -> Document:
    sections = [
        Section(
            "Summary",
            [
                Paragraph(("12 runs; ", Strong("n = 3"), ". See ", Link("the deviations", "deviations"), ".")),
                Verdicts(JUDGEMENTS),
            ],
        ),
        Section("Figures", [FigureBlock(drawing()), FigureBlock(drawing("figure5", "Fig. 5: mask ratio"))]),
        Section("Tables", [TableBlock(table()), TableBlock(table("runs", "All runs", num_rows))]),
        Section(
            "Deviations",
            [
                Bullets(
                    [
                        ("MDT is MDT-lite; see ", Link("the folded table", "table-1-1"), "."),
                        ("Run ", Code("harness sweep all --scale tiny"), Emphasis(" again"), "."),
                    ]
                ),
                Details("More of them", [Paragraph("The width of the decoder is not printed."), TableBlock(table())]),
            ],
        ),
    ]
    return Document("Paper against measured", sections, lead="Every figure, table and claim beside what was measured.")


def hostile(word: str = HOSTILE) -> Document:
    """Every text that comes from outside, and every one that does not, is `word`."""
    judged = judgement("x", word, (0.4, 0.5, 0.45), setting=word, notes=(word,))
    untested = judgement(word, word)
    cells = {"columns": (Column(word), Column("n", "number")), "rows": ({word: word, "n": word}, {word: word, "n": 1})}
    blocks = [
        Paragraph(word),
        Paragraph((Code(word), " ", Strong(word), " ", Emphasis(word), " ", word, Link(word, ANCHOR))),
        Bullets([word, (word, Code(word))]),
        TableBlock(Table("t", word + ".", caption=word, **cells)),
        FigureBlock(drawing(title=word)),
        Verdicts((judged, untested)),
        Details(word, [Paragraph(word)]),
    ]
    return Document(word, [Section("Links", []), Section(word, blocks)], lead=word)


ANCHOR = "links"
