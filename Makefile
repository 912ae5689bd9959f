# Everything from a fresh clone, with nothing installed but Python 3.11 or newer and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Packages are installed without bytecode, so the first use must be able to leave it behind.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint bench clean

# The whole story: four methods trained, sampled, evaluated, drawn and tabulated in reports/demo/.
demo: .venv/installed
	$(BIN)/harness demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed
	mkdir -p .benchmarks
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only --benchmark-json=.benchmarks/latest.json

clean:
	rm -rf .venv .pytest_cache .ruff_cache .benchmarks

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
