# Everything from a fresh clone, with nothing installed but Python 3.11 or newer and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable
# Packages are installed without bytecode, so the first use must be able to leave it behind.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint types bench coverage mutants faults fuzz docs clean

# The whole story: four methods trained, sampled, evaluated, drawn and tabulated in reports/demo/.
demo: .venv/harness
	$(BIN)/harness demo

# Everything but the long tests, which are marked `slow`. One worker a core, one thread each.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

# Every test, as continuous integration runs them.
test-all: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

# Of harness/ and baselines/, the processes that tests start included; on every core, so not beside a measurement.
coverage: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal --cov --cov-report=term:skip-covered

# Deliberate faults in the mathematics, each of which a test must catch.
mutants: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --out reports/evidence/mutants.json

# Every fault many times over, and the table of what was tried and survived in reports/evidence/.
faults: .venv/installed
	HARNESS_FAULTS=long $(BIN)/python -m pytest tests/faults tests/hostile
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/ordinary.py

# Bytes that find new ways through the readers of arrays, weights and latents; needs the extra `fuzz`, of Linux.
fuzz: .venv/installed
	$(INSTALL) '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/hostile/fuzz.py

# The site, in site/; it loads nothing from elsewhere.
docs: .venv/installed
	$(INSTALL) '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/installed
	mkdir -p .benchmarks
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-json=.benchmarks/latest.json

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .benchmarks .coverage

# What a run needs. The tests' packages take as much room again, and the demo does without them.
.venv/harness: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	touch $@

.venv/installed: .venv/harness
	$(INSTALL) '.[test]'
	touch $@
