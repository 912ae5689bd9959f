"""The wheel: everything that the program reads lies in it, nothing else does, and it runs from there."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "baselines")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the wheel is built from, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("tree")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=NOT_SHIPPED)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    return copy


def built(tree, kind, out):
    """The name of the wheel or sdist that the build backend makes, without a network and without isolation."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return built(tree, "wheel", tmp_path_factory.mktemp("wheel"))


def shipped(tree):
    return {p.relative_to(tree).as_posix() for name in PACKAGES for p in (tree / name).rglob("*") if p.is_file()}


def test_the_wheel_has_every_file_of_the_packages_and_no_other(tree, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == shipped(tree)


def test_the_command_runs_from_the_wheel(wheel, tmp_path):
    """Not from the checkout: recipes, published numbers and templates are read as package data."""
    target = tmp_path / "target"
    zipfile.ZipFile(wheel).extractall(target)
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "sddit-tiny" in python("-m", "harness", "recipes", "list")
    code = (
        "import harness; from importlib.resources import files; from harness.papers import published; "
        "assert (files('harness.reporting') / 'pages' / 'model_card.md.j2').is_file(); "
        "print(harness.__file__, len(published.rows()))"
    )
    where, rows = python("-c", code).split()
    assert Path(where).is_relative_to(target)
    assert int(rows) > 500


def test_the_source_archive_has_the_wheels_files_and_what_pins_them(tree, tmp_path):
    with tarfile.open(built(tree, "sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert shipped(tree) <= names
    assert {"constraints.txt", "LICENSE", "README.md", "pyproject.toml"} <= names
    assert not {name for name in names if name.split("/")[0] in ("tests", "docs", "reports", "runs")}


def test_the_classifiers_name_the_pythons_that_are_supported():
    minors = sorted(c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c)
    assert PROJECT["requires-python"] == f">={minors[0]}"
    assert minors == [f"3.{11 + i}" for i in range(len(minors))]


def test_the_version_is_the_same_everywhere():
    import yaml

    import harness

    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = next(line for line in changes.splitlines() if line.startswith("## [") and "Unreleased" not in line)
    assert newest.startswith(f"## [{harness.__version__}]")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == harness.__version__
