"""The parts of the documentation that come from the code. `python docs/generate.py` renews those that are committed.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. Building the site fills the quick ones anew.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
GIGA = 1e9
PAPER_SIZES = ("s", "b", "l", "xl", "xl-512")
GPUS = 8
DEVICE = "A100"


def filled(markdown: str, parts: Mapping[str, Callable[[], list[str]]]) -> str:
    """The page with those of its parts that `parts` can make."""

    def fill(match: re.Match[str]) -> str:
        make = parts.get(match[2])
        return match[0] if make is None else match[1] + "\n".join(["", *make(), "", match[4]])

    return PART.sub(fill, markdown)


def deviations() -> list[str]:
    """Every departure from the papers, in the order of the code."""
    from harness.papers.deviations import DEVIATIONS

    rows = [[one.concerns, one.kind, one.paper, one.here] for one in DEVIATIONS]
    return _table(["concerns", "kind", "paper", "here"], rows)


def verdicts() -> list[str]:
    """One example of each verdict that the committed report has."""
    claims = json.loads((DOCS.parent / "reports" / "tiny" / "claims.json").read_text(encoding="utf-8"))
    rows = []
    for verdict in ("reproduced", "not reproduced", "inconclusive", "not tested"):
        alike = [claim for claim in claims if claim["verdict"] == verdict and claim["scale"] != "paper"]
        if not alike:
            continue
        first = alike[0]
        told = first["effect"] or f"nothing was measured; `{first['to_test']}` makes the runs"
        rows.append([f"**{verdict}**", f"{first['statement']} ({first['place']})", told])
    return _table(["verdict", "claim", "what was measured"], rows)


def estimates(recipes: Iterable[str] | None = None) -> list[str]:
    """What each recipe of the paper's sizes takes on eight GPUs: `harness run RECIPE --dry-run --nproc 8`."""
    from harness.recipes.reading import recipe_names

    named = recipes or _by_size(recipe_names())
    heads = [
        "recipe", "steps", "parameters", "GMAC a step, per image", "memory of a process", "checkpoints",
        f"hours at peak, {GPUS} {DEVICE}", f"at {_utilisation():.0%} of it", "GPU-hours at that",
    ]  # fmt: skip
    return _table(heads, [_estimate(name) for name in named])


def _by_size(names: Sequence[str]) -> list[str]:
    methods = dict.fromkeys(("dit", "sit", "maskdit", "mdt", "sddit", *(name.partition("-")[0] for name in names)))
    return [name for size in PAPER_SIZES for method in methods if (name := f"{method}-{size}") in names]


def _utilisation() -> float:
    from harness.planning.estimate import ASSUMED_UTILISATION

    return ASSUMED_UTILISATION


def _estimate(name: str) -> list[str]:
    from harness.planning.plan import cost_of, estimate_of, resolve

    cfg = resolve(name, [])
    cost = cost_of(cfg)
    found = estimate_of(cfg, cost, world_size=GPUS)
    hours = next(hours for hours in found["hours"] if hours["device"] == DEVICE)
    return [
        f"`{name}`",
        f"{cfg.protocol.steps:,}",
        f"{cost.params / 1e6:.1f} M",
        f"{cost.gmacs_step:.1f}",
        f"{found['memory_bytes'] / GIGA:.1f} GB",
        f"{found['disk_parts']['checkpoints'] / GIGA:.1f} GB",
        f"{hours['floor_hours']:,.1f}",
        f"{hours['assumed_hours']:,.1f}",
        f"{hours['assumed_hours'] * GPUS:,.0f}",
    ]


def cli() -> list[str]:
    """Every command, as Typer describes it; the page has its own title."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from harness.cli import app

    command = get_command(app)
    context = command.make_context("harness", [], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="harness").replace("\\[", "[")
    return [line.rstrip() for line in text.splitlines()[2:]]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [heads, *rows]]
    return [f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(heads), *cells[1:]]]


QUICK: Mapping[str, Callable[[], list[str]]] = {"cli": cli, "deviations": deviations, "verdicts": verdicts}
COMMITTED: Mapping[str, Callable[[], list[str]]] = {
    "cli": cli, "deviations": deviations, "verdicts": verdicts, "estimates": estimates
}  # fmt: skip


def main() -> None:
    """Renew the committed parts; the estimates build every network's shapes and take a minute or two."""
    for path in sorted(DOCS.glob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = filled(old, COMMITTED)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"renewed {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
