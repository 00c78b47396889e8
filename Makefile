# `make demo` and `make test` need Python >= 3.11, git and make; everything else they install.
# python3, or where that was built without optimisation another of its version that was not.
PYTHON ?= $(eval PYTHON := $(shell python3 apprentice_pipeline/cli/interpreter.py || echo python3))$(PYTHON)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
NODE   := tests/conformance/node
SDKS   := $(NODE)/node_modules/.installed
# Files side by side, one thread of arithmetic each: two on a busy core wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
INSTR  := tests/conformance/instructor
INSTRS := $(INSTR)/.venv/.installed

# Installs Debian packages, where this user may: $(call apt,names)
apt     = [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  apt-get install -qq --yes --no-install-recommends $(1) >/dev/null

.DEFAULT_GOAL := help
.PHONY: help install demo dev test browser node instructor check format base samples clean bench-gateway bench-export bench-status chaos fuzz

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

test: $(STAMP) browser node instructor  ## the test suite
	$(PYTEST)

check: $(STAMP) browser node instructor  ## format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

bench-export: $(STAMP)  ## exports of a million pairs, command and HTTP: rows/s and peak memory
	$(BIN)/python -m bench.export $(BENCH)

bench-status: $(STAMP)  ## `capture status` at ten million pairs: first, unchanged, one drain later
	$(BIN)/python -m bench.export.status $(BENCH)

bench-gateway: $(STAMP)  ## requests/s and latency beside Portkey, LiteLLM and a bare pass-through
	$(BIN)/python -m bench.gateway $(BENCH)

chaos: $(STAMP)  ## kill -9 at 200 random instants under load, then proof that nothing was lost
	$(BIN)/python -m chaos $(CHAOS)

fuzz: $(STAMP)  ## our own OpenAPI document, then every target of fuzz/ (FUZZ_SECONDS=120 each)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	APPRENTICE_FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),100) $(BIN)/python -m pytest tests/gateway/test_gateway_openapi.py --timeout 1800
	@for target in $$($(BIN)/python -m fuzz); do $(BIN)/python -m fuzz $$target $(or $(FUZZ_SECONDS),120) || exit 1; done

browser:  ## Chromium, which a test of the gateway opens: installed where that can be done
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	{ $(call apt,chromium); } || \
	  echo "tests/gateway/test_gateway_browser.py opens Chromium and fails without it. Install it" \
	    "(Debian: sudo apt-get install chromium), then run make again." >&2

node:  ## the Node SDKs that tests/conformance runs, and Node: installed where that can be done
	@command -v npm >/dev/null || { $(call apt,nodejs npm); } || true
	@if command -v npm >/dev/null && node -e 'process.exit(+(parseInt(process.versions.node) < 20))'; \
	then $(MAKE) --no-print-directory $(SDKS); else \
	  echo "tests/conformance/test_conformance_node.py runs the Node SDKs and fails without them." \
	    "Install Node 20 or newer, with npm (Debian 13: sudo apt-get install nodejs npm)," \
	    "then run make again." >&2; \
	fi

$(SDKS): $(NODE)/package.json $(NODE)/package-lock.json
	cd $(NODE) && npm ci --silent --no-audit --no-fund
	@touch $@

instructor: $(INSTRS)  ## `instructor`, which tests/conformance runs in an environment of its own

$(INSTRS): $(INSTR)/requirements.txt | $(STAMP)
	$(BIN)/python -m venv --clear $(INSTR)/.venv
	$(INSTR)/.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

format: $(STAMP)  ## rewrites the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

base: $(STAMP)  ## pre-trains the embedded base anew (TURNS=turns.jsonl.gz, up to an hour on 2 cores)
	$(BIN)/python -m apprentice_pipeline.demo.pretrain --turns $(TURNS) --out apprentice_pipeline/demo/base

samples: $(STAMP)  ## writes data/ anew, byte for byte
	$(BIN)/python -m apprentice_pipeline.demo.samples --seed 7 --out data

clean:  ## removes the virtual environment, caches and the local home
	rm -rf $(VENV) $(NODE)/node_modules $(INSTR)/.venv .apprentice .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
