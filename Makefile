# make demo and make test need only Python 3.11 or newer: they make .venv when there is none.
PYTHON ?= python3
VENV ?= .venv
# Passed to pip; on a Linux machine without a GPU, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# installs the CPU build of PyTorch instead of several GB of CUDA packages.
PIP_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/prunebench demo

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
