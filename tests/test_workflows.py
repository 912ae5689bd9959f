"""The files of continuous integration and of the image, read as their programs read them: all that they name exists."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from harness.cli import app
from harness.recipes.reading import recipe_names

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
ACTIONS = sorted(ROOT.glob(".github/actions/*/action.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


def document(path):
    return yaml.safe_load(path.read_text())


def jobs():
    return [(f"{path.stem}:{name}", job) for path in WORKFLOWS for name, job in document(path)["jobs"].items()]


def steps_of(job):
    """A job's steps, with those of this repository's actions in their places."""
    for step in job["steps"]:
        yield step
        if step.get("uses", "").startswith("./"):
            yield from document(ROOT / step["uses"] / "action.yml")["runs"]["steps"]


def scripts(job):
    """What each step runs, once for every value of the matrix it names."""
    for step in steps_of(job):
        if "run" not in step:
            continue
        names = {name.removeprefix("matrix.") for name in EXPRESSION.findall(step["run"])}
        matrix = job.get("strategy", {}).get("matrix", {})
        assert names <= set(matrix), f"{names} of no matrix"
        assert len(names) <= 1
        for value in matrix[min(names)] if names else [""]:
            yield EXPRESSION.sub(value, step["run"])


JOBS = pytest.mark.parametrize(("name", "job"), jobs(), ids=[name for name, _ in jobs()])


def commands_of_harness():
    """Every command, "runs list" among them."""
    from typer.main import get_command

    def below(command, path):
        yield " ".join(path)
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, (*path, name))

    return set(below(get_command(app), ()))


@JOBS
def test_every_script_is_one_that_bash_reads(name, job):
    for script in scripts(job):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stderr}"


@JOBS
def test_every_make_target_and_command_exists(name, job):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    known = commands_of_harness()
    for script in scripts(job):
        for target in re.findall(r"\bmake ([\w./-]+)", script):
            assert target in targets, f"there is no make {target}"
        for words in re.findall(r"bin/harness ([a-z-]+(?: [a-z-]+)?)", script):
            first = words.split()[0]
            grouped = any(command.startswith(f"{first} ") for command in known)
            assert (words if grouped else first) in known, f"there is no harness {words}"


def test_the_smoke_run_takes_every_tiny_recipe():
    smoke = dict(jobs())["ci:smoke"]
    named = {word for script in scripts(smoke) for word in re.findall(r"\w+-tiny", script)}
    assert named == {name for name in recipe_names() if name.endswith("-tiny")}


def test_tests_run_on_every_python_that_the_package_names():
    assert dict(jobs())["ci:test"]["strategy"]["matrix"]["python"] == PYTHONS
    default = document(ACTIONS[0])["inputs"]["python-version"]["default"]
    assert PROJECT["requires-python"] == f">={default}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_nothing_more_and_ends_by_itself(path):
    workflow = document(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 360
        assert "permissions" not in job
        assert "secrets" not in str(job)


@JOBS
def test_every_action_is_of_a_named_version_and_nothing_from_outside_is_pasted_into_a_script(name, job):
    """An issue's title or a branch's name in a script is a command that its author chose."""
    for step in steps_of(job):
        uses = step.get("uses", "./")
        assert uses.startswith("./") or re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", uses), uses
        assert all(named.startswith("matrix.") for named in EXPRESSION.findall(step.get("run", "")))


# The image -------------------------------------------------------------------------------------------------------


def instructions():
    """The Dockerfile's instructions: the word and the rest, with continued lines joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def ignored(path):
    """Whether .dockerignore leaves `path` out: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            keeps, pattern = pattern.startswith("!"), pattern.removeprefix("!")
            if pattern in ("*", path):
                out = not keeps
    return out


def test_the_image_is_built_from_files_that_exist_and_are_not_ignored():
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    names = {name for sources in copied for name in sources}
    assert {"harness", "baselines", "constraints.txt", "pyproject.toml"} <= names
    for name in names:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name
    for name in ("runs", "reports", ".git", "tests", ".venv"):
        assert ignored(name), name


def test_the_image_names_its_base_by_version_and_runs_as_nobody_special():
    words = [word for word, _ in instructions()]
    assert words.count("FROM") == 2
    base = next(rest for word, rest in instructions() if word == "ARG")
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+-slim-\w+", base)
    assert f"3.{re.search(r':3.([0-9]+)', base)[1]}" in PYTHONS
    last = len(words) - 1 - words[::-1].index("FROM")
    assert ("USER", "harness") in instructions()[last:]
    assert ("ENTRYPOINT", '["harness"]') in instructions()[last:]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert PROJECT["scripts"]["harness"]


def test_the_images_scripts_are_read_by_a_shell_and_its_extras_exist():
    for word, rest in instructions():
        if word == "RUN":
            done = subprocess.run(["sh", "-n"], input=rest, capture_output=True, text=True)
            assert done.returncode == 0, rest
    extras = next(rest for word, rest in instructions() if word == "ARG" and rest.startswith("EXTRAS="))
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(PROJECT["optional-dependencies"])
