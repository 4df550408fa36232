# Everything a contributor runs. On a fresh machine with Python 3.11 or newer and make, each target first makes `.venv`
# in the clone with exactly what it needs; later runs find it there. `make help` lists the targets.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# Python compiles a module when it first imports it; compiling all that gets installed would take as long as installing.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-compile --editable
SOURCES := neuron_dialects passes lowering runtime neuron_toolkit tools tests examples benchmarks

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test nightly bench check format filecheck docs docs-tables clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A stamp file stands for an installed environment: it is older than pyproject.toml when the locked versions changed.
$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "[setup] making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "[setup] installing the toolkit into $(VENV) (about 20 s)"
	@$(INSTALL) .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "[setup] installing the toolkit and its test tools into $(VENV) (about 30 s)"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/run.stamp

demo: $(VENV)/run.stamp ## compile a digit classifier, run it on the machine, compare with onnxruntime
	@$(BIN)/python -m examples.digits

test: $(VENV)/dev.stamp ## run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10

nightly: $(VENV)/dev.stamp ## run the tests that take minutes: every case of ONNX's backend suite
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 -m nightly

bench: $(VENV)/run.stamp ## measure compiled models, compiler and interpreter (BENCH='--quick --against main' to choose)
	@$(BIN)/python -m benchmarks $(BENCH)

check: $(VENV)/dev.stamp ## linter, formatter check and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp ## format the sources and repair what the linter can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

filecheck: $(VENV)/dev.stamp ## run the regression tests with lit, one process for each command
	$(BIN)/lit --workers=$(JOBS) tests/filecheck

$(VENV)/docs.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "[setup] installing the toolkit and what builds the manual into $(VENV) (about 30 s)"
	@$(INSTALL) '.[docs]'
	@touch $@

docs: $(VENV)/docs.stamp ## build the manual as a site into build/manual; a warning is an error
	@$(BIN)/python -m tools.generate_docs --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/manual/index.html"

docs-tables: $(VENV)/run.stamp ## regenerate the pages of docs/ that are derived from definitions
	@$(BIN)/python -m tools.generate_docs

clean: ## remove .venv and everything else that the targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find $(wildcard $(SOURCES)) -type d -name __pycache__ -prune -exec rm -rf {} +
