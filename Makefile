# Two commands are enough: `make run` and `make test`. Both install what they need first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_PYTHON_DOWNLOADS = never
# Who looks on sees how far the installation is; a log stays short.
QUIET := $(shell test -t 2 || echo --quiet)
ARGS ?=
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install run test lint audit check format bench bundle soak kills hostile lock clean

help: ## Show what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1mmake %-8s\033[0m %s\n", $$1, $$2}'

install: $(STAMP) ## Install everything into .venv (uv if it is there, else pip)

$(STAMP): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) (once): about 1.4 GB, which takes a minute or more …"
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python '>=3.11' $(VENV) && \
		uv pip sync $(QUIET) --python $(BIN)/python --require-hashes requirements.lock && \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable . ; \
	else \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "liqheat needs Python 3.11 or newer: make PYTHON=python3.11 …")' && \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install $(QUIET) --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . ; \
	fi
	@echo "Compiling the kernels (once) …"
	@$(BIN)/liqheat warm
	@touch $(STAMP)

run: $(STAMP) ## Start liqheat at http://127.0.0.1:8050 (ARGS="--source recorded --data FOLDER")
	@exec $(BIN)/liqheat run $(ARGS)

test: $(STAMP) ## Run every test; browser tests need Chromium
	@$(PYTEST) $(ARGS)

lint: $(STAMP) ## Lint, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

audit: $(STAMP) ## Hold the locked dependencies against published advisories
	@$(BIN)/python -m tests.audit

check: lint audit ## Lint, types, import rules, the audit and the fast tests: all CI checks but the slow tests
	@$(PYTEST) -q -m "not browser" $(ARGS)

format: $(STAMP) ## Format the code and apply safe fixes
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: $(STAMP) ## Measure: kernel, start, server; prints ratios
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bundle: ## Build a plotly.js of what the page draws, a third of the whole (needs Node; without it the whole is loaded)
	@if command -v npm >/dev/null 2>&1; then \
		cd bundle && npm ci --ignore-scripts --no-audit --no-fund --silent && node build.js; \
	else \
		echo "No Node here: the page loads the plotly.js that is installed, whole."; \
	fi

soak: $(STAMP) ## Follow six venues through every fault for ten minutes, and account for it (ARGS="--minutes 10 --seed 1")
	@$(BIN)/python -m tests.soak faults $(ARGS)

kills: $(STAMP) ## Kill a worker at 50 random moments and compare it with one that lived (ARGS="--moments 50 --seed 1")
	@$(BIN)/python -m tests.soak kills $(ARGS)

hostile: $(STAMP) ## Ask a server 10,000 questions that nobody means well (ARGS="--count 10000 --seed 1")
	@$(BIN)/python -m tests.dashboard.hostile $(ARGS)

lock: ## Resolve requirements.lock anew (needs uv)
	uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-header --no-annotate --quiet -o requirements.lock

clean: ## Remove what install and the tools made
	rm -rf $(VENV) bundle/node_modules static/built .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
