# Every target sets up what it needs: a virtual environment in .venv with the
# pinned packages of requirements.txt, installed once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted installation is taken up again.
STAMP := $(VENV)/.installed
SOURCES := benchmarks configs data dbdc_jax tests
# Added to the command of `run` or `test`, e.g. ARGS=--config.epochs=2
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run test check lint types format clean

help:  ## Show this list
	@echo 'Targets (each installs what it needs, the first time):'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) \
	  | awk -F'|' '{ printf "%-15s %s\n", $$1, $$2 }'
	@echo 'Variables: PYTHON=python3.12 (3.11 or newer), ARGS="more arguments"'

install: $(STAMP)  ## Make .venv and install requirements.txt into it

# Large blocks of memory are kept instead of being given back after each step:
# a fifth less time on Linux, nothing elsewhere.
run: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000
run: $(STAMP)  ## Train and test DBDC on the built-in heart phantom
	$(BIN)/python -m dbdc_jax.main --config configs/heart.py \
	  --workdir runs/heart $(ARGS)

# A module that is compiled by one process of a test is there for the next, also
# where Python was told to write none.
test check: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)  ## Run the tests (real scans: DBDC_SCANS=DIR make test)
	$(BIN)/python -m pytest -q --durations=10 $(ARGS)

check: lint  ## Lint, and the tests that compile no train step
	$(BIN)/python -m pytest -q -m 'not trains' $(ARGS)

lint: types  ## Check formatting, style and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP)  ## Check the types with mypy
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:  ## Remove .venv and the caches in this folder; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(STAMP): requirements.txt
	@command -v '$(PYTHON)' >/dev/null || { \
	  echo 'error: $(PYTHON) was not found: install Python 3.11 or newer, or' \
	    'name one: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$('$(PYTHON)' --version 2>&1): Python 3.11" \
	    'or newer is needed, name one: make PYTHON=/path/to/python3.11 ...' \
	    >&2; exit 1; }
	@rm -f $@
	@# A venv that was cut short, or whose Python is gone, is made afresh.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo 'making $(VENV)'; \
	  '$(PYTHON)' -m venv --clear $(VENV) || { \
	    echo 'error: $(PYTHON) cannot make virtual environments (Debian and' \
	      'Ubuntu: install python3-venv)' >&2; exit 1; }; }
	@echo 'installing requirements.txt into $(VENV), some minutes the first time'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt
	@touch $@
