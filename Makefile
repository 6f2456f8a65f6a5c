# Two commands on a fresh machine: `make demo` trains and reports, `make test` runs every test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export FAIRMT_DATA ?= $(abspath ../shared/data)
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs clean

demo: $(VENV)/base
	$(BIN)/fairmt demo --out fairmt-demo

test: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

docs: $(VENV)/test
	$(BIN)/python scripts/notion_table.py > docs/notions.md

# torch comes first, by its exact version: the pinned wheel is the small one for CPUs.
$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/test: $(VENV)/base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) fairmt-demo
