# Every target works in a fresh clone: the virtual environment is made when it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-processors soak faults lint format docs clean

$(BIN)/infoprune: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(BIN)/infoprune  ## Train a small network on the digits, prune it without options and by five criteria, print a table and a report.
	$(BIN)/infoprune demo --out runs/demo

test: $(BIN)/infoprune  ## Everything, offline, without a GPU; one process a core, one thread each.
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-processors: $(BIN)/infoprune  ## The numeric tests under eight instruction sets, with one and two threads.
	.ci/processors $(BIN)/python

soak:  ## Every kind of run killed 100 times at random moments, and all other faults.
	INFOPRUNE_KILLS=100 $(MAKE) faults

faults: $(BIN)/infoprune
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/faults

lint: $(BIN)/infoprune
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/infoprune
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(BIN)/infoprune  ## The site, into site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
