# Every target installs the pinned set into $(VENV) first, once. See README.md.
VENV   ?= .venv
PYTHON ?= python3
# Data folder of `make demo`; empty makes phantoms.
DATA   ?=
OUT    ?= $(if $(DATA),runs/real,runs/demo)
RECIPE ?= $(if $(DATA),laptop,tiny)

BIN   := $(VENV)/bin
STAMP := $(VENV)/.bratskit-installed

.PHONY: help setup demo test quick slow notebook-tests lint lab notebooks clean
help:
	@echo "make demo [DATA=folder] [OUT=folder] [RECIPE=name]   run notebooks 01-05 and print the scores"
	@echo "make test        everything that is checked        make quick       without the notebooks"
	@echo "make lab         open JupyterLab on the notebooks  make notebooks   run them again and store them"
	@echo "make lint        ruff on code and notebooks        make slow        tests of full size, real cases"

setup: $(STAMP)
$(STAMP): requirements.txt pyproject.toml
	@echo "== Installing the pinned packages into $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

demo: $(STAMP)
	$(BIN)/bratskit demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)" --recipe $(RECIPE)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

quick: lint
	$(BIN)/python -m pytest -q -m "not slow and not notebook and not gpu"
	$(BIN)/python -m pytest -q --doctest-modules bratskit

# Full-size phantoms, real cases where this machine has them, long trainings: not part of `test`.
slow: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow and not notebook"

# Structure of the stored notebooks, then each runs small through papermill in deterministic mode,
# then nbval replays what papermill executed.
notebook-tests: $(STAMP)
	$(BIN)/python -m pytest -q -m notebook tests

test: quick notebook-tests
	@echo "== make test passed"

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=. notebooks

notebooks: $(STAMP)
	$(BIN)/python -m bratskit.jobs.store notebooks/0*.ipynb
	$(BIN)/python -m bratskit.jobs.samples

clean:
	rm -rf runs build *.egg-info .pytest_cache .ruff_cache
