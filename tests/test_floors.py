"""House rules, held by reading the source."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("baselines/*.py")])

# The floor of each package. Imports go to the same package or to a lower floor.
FLOORS = {
    "harness.system": 1,
    "harness.recipes": 2,
    "harness.records": 3,
    "harness.model": 3,
    "harness.data": 4,
    "harness.claims": 4,
    "baselines": 4,
    "harness.papers": 5,
    "harness.planning": 5,
    "harness.training": 5,
    "harness.evaluation": 5,
    "harness.reporting": 6,
    "harness.bench": 6,
    "harness.checks": 6,
    "harness.runs": 6,
    "harness.cli": 7,
    "harness.__main__": 8,
}
MOST_ARROWS = 85  # from one package to another


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package(module: str) -> str:
    """The package at the top of harness/ that a module is in, or baselines; "harness" is the public face."""
    parts = module.split(".")
    return parts[0] if parts[0] == "baselines" else ".".join(parts[:2])


MODULES = {module_name(source) for source in SOURCES}


@cache
def imports(path: Path) -> set[str]:
    """Modules of this project that `path` imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES} or {
                node.module
            }
    return {name for name in found if name.split(".")[0] in ("harness", "baselines")}


def arrows() -> set[tuple[str, str]]:
    """Which module imports which."""
    return {(module_name(path), other) for path in SOURCES for other in imports(path)}


def test_every_package_has_a_floor_and_no_module_lies_loose():
    packages = {package(module_name(path)) for path in SOURCES} - {"harness"}
    assert packages == set(FLOORS)
    assert len(packages) <= 18
    assert max(FLOORS.values()) <= 8


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_only_go_down(path):
    me = package(module_name(path))
    for other in imports(path):
        if package(other) not in (me, "harness") and me != "harness":
            assert FLOORS[package(other)] < FLOORS[me], f"{me} is on floor {FLOORS[me]} and may not import {other}"


def test_packages_know_few_others():
    between = {(package(a), package(b)) for a, b in arrows()}
    assert len({(a, b) for a, b in between if a != b and "harness" not in (a, b)}) <= MOST_ARROWS


def test_no_modules_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {}
    for module, other in arrows():
        if other != "harness":  # Python imports it before every module in it
            below.setdefault(module, set()).add(other)
    finished: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in finished:
            for other in sorted(below.get(module, ())):
                walk(other, (*path, module))
            finished.add(module)

    for module in sorted(below):
        walk(module, ())


@pytest.mark.parametrize("path", sorted(ROOT.glob("baselines/[!_]*.py")), ids=module_name)
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


def test_the_benchmarked_loop_is_the_only_one():
    """An optimizer step anywhere else would be a second training loop. The feature network trains itself, once, and the
    official codes are stepped as they step themselves."""
    steppers = {module_name(p) for p in SOURCES if ".backward()" in p.read_text()}
    assert steppers == {
        "harness.training.step",
        "harness.planning.cost",
        "harness.data.classifier",
        "harness.bench.official",
    }
