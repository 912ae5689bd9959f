"""House rules, held by reading the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("baselines/*.py")])

# The first prefix that fits a module gives its floor. Imports go to the same floor or below.
FLOORS = [
    ("harness.errors", 0),
    ("harness.world", 0),
    ("harness.files", 0),
    ("harness.randomness", 1),
    ("harness.signals", 1),
    ("harness.torchvision_guard", 1),
    ("harness.precision", 1),
    ("harness.threads", 1),
    ("harness.weights", 1),
    ("harness.downloads", 1),
    ("harness.config", 1),
    ("harness.plugins", 1),
    ("harness.locks", 1),
    ("harness.recipes", 1),
    ("harness.results.schema", 1),
    ("harness.nn", 1),
    ("harness.diffusion.formulations", 1),
    ("harness.diffusion", 2),
    ("harness.data", 2),
    ("harness.training.method", 2),
    ("harness.training.ema", 2),
    ("harness.training.telemetry", 2),
    ("baselines", 3),
    ("harness.training", 4),
    ("harness.evaluation", 4),
    ("harness.results", 4),
    ("harness.provenance", 4),
    ("harness.progress", 4),
    ("harness.launch", 2),
    ("harness.slurm", 2),
    ("harness.processes", 2),
    ("harness.bench", 5),
    ("harness.audit", 5),
    ("harness.reproduce", 5),
    ("harness.doctor", 5),
    ("harness.run_folder", 5),
    ("harness.experiment", 5),
    ("harness.importing", 5),
    ("harness.exporting", 5),
    ("harness.sampling", 5),
    ("harness.measuring", 5),
    ("harness.demo", 5),
    ("harness.trackers", 5),
    ("harness.sweep", 5),
    ("harness.cli", 6),
    ("harness.__main__", 7),
    ("harness", 0),
]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(module: str) -> int:
    return next(height for prefix, height in FLOORS if module == prefix or module.startswith(prefix + "."))


def imports(path: Path) -> set[str]:
    """Modules of this project that `path` imports, wherever in the file."""
    modules = {module_name(source) for source in SOURCES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {name for alias in node.names if (name := f"{node.module}.{alias.name}") in modules} or {
                node.module
            }
    return {name for name in found if name.split(".")[0] in ("harness", "baselines")}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_only_go_down(path):
    me = module_name(path)
    for other in imports(path):
        assert floor(other) <= floor(me), f"{me} is on floor {floor(me)} and may not import {other} above it"


@pytest.mark.parametrize("path", sorted(ROOT.glob("baselines/*.py")), ids=module_name)
def test_a_baseline_never_imports_another(path):
    assert not {other for other in imports(path) if other.startswith("baselines.")}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_stay_small(path):
    limit = 250 if path.name == "engine.py" else 200 if path.parent.name == "baselines" else 400
    assert len(path.read_text().splitlines()) < limit


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_file_and_public_function_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            short = len(node.body) <= 3 and not node.decorator_list  # its one line says it better
            assert ast.get_docstring(node) or short or node.name in ("main", "settings"), node.name


def test_nothing_loads_a_pickle():
    for path in SOURCES:
        assert not re.search(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False|import pickle", path.read_text()), path


def test_the_benchmarked_loop_is_the_only_one():
    """An optimizer step anywhere else would be a second training loop. The feature network trains itself, once, and the
    official codes are stepped as they step themselves."""
    steppers = {module_name(p) for p in SOURCES if ".backward()" in p.read_text()}
    assert steppers == {
        "harness.training.step",
        "harness.training.cost",
        "harness.evaluation.digits_classifier",
        "harness.bench.official",
    }
