# make demo and make test need only Python 3.11 or newer: they make .venv when there is none.
PYTHON ?= python3
VENV ?= .venv
# Passed to pip; on a Linux machine without a GPU, PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# installs the CPU build of PyTorch instead of several GB of CUDA packages.
PIP_ARGS ?=
# Processes that run the tests side by side.
WORKERS ?= 2
# One thread in each of them: threads of several processes that share cores wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

BIN := $(VENV)/bin
# The demonstration needs no development tools, and is quicker to install without.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/prunebench demo

test: $(INSTALLED_DEV) lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	touch $@ $(INSTALLED)

clean:
	rm -rf $(VENV) build *.egg-info
