# `make demo` and `make test` need Python >= 3.11, git and make; everything else they install.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo dev test check format base samples clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(STAMP)  ## a virtual environment with everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## the whole product on this machine: capture, distill, prove, serve, report
	$(BIN)/apprentice demo

dev: $(STAMP)  ## gateway, Dagster and MLflow together on one home
	$(BIN)/apprentice dev

test: $(STAMP)  ## the test suite
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

format: $(STAMP)  ## rewrites the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

base: $(STAMP)  ## pre-trains the embedded base anew (TURNS=turns.jsonl.gz, up to an hour on 2 cores)
	$(BIN)/python -m apprentice_pipeline.demo.pretrain --turns $(TURNS) --out apprentice_pipeline/demo/base

samples: $(STAMP)  ## writes data/ anew, byte for byte
	$(BIN)/python -m apprentice_pipeline.demo.samples --seed 7 --out data

clean:  ## removes the virtual environment, caches and the local home
	rm -rf $(VENV) .apprentice .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
