# Two commands for a newcomer: `make run` and `make test`. Both set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help run test lint format

help:
	@echo 'make run     train and test DBDC on the built-in heart phantom'
	@echo 'make test    run all tests'
	@echo 'make lint    check style;  make format  mend it'

# Written last, so that an interrupted installation is done again.
$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(READY)

run: $(READY)
	$(BIN)/python -m dbdc_jax.main --config configs/heart.py --workdir runs/heart

test: $(READY)
	$(BIN)/python -m pytest -q --durations=10

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
