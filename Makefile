# Two environments: .venv holds the tested pair torch 2.9.1 + openmmtorch 1.5, .venv-plain a newer
# torch without openmmtorch. Both are reused until pyproject.toml or setup.py changes.
#
#   make demo [SMILES=... STEPS=...]  run molecular dynamics of a ligand with the bundled model
#   make test               lint, then the tests in both environments
#   make lint | test-plain | test-main | test-slow | clean
#   PYTHON=/path/to/python3.12 chooses the interpreter

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?=
# Ibuprofen.
SMILES ?= CC(C)Cc1ccc(cc1)C(C)C(=O)O
NAME ?= $(if $(filter file default,$(origin SMILES)),ibuprofen,$(SMILES))
STEPS ?= 2000
DEMO_FOLDER ?= demo
VENV := .venv
PLAIN := .venv-plain
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check -qq --progress-bar off
BUILD_INPUTS := pyproject.toml $(wildcard setup.py)
WORKERS ?= 2
# One thread a process: the test workers share the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PLAIN_TORCH := torch==2.13.0

.PHONY: help
help:
	@sed -n '4,7s/^# *//p' Makefile

# $(1) environment folder, $(2) requirement for torch
define create_environment
	@python=$$(scripts/find_python.sh $(PYTHON)); \
	echo "creating $(1) with $$($$python --version) ($$python)"; \
	$$python -m venv --clear $(1)
	$(1)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip 'setuptools>=77' wheel ninja
	@echo "installing $(2) (several GB on a first run)"
	$(1)/bin/python -m pip install $(PIP_FLAGS) $(2)
endef

$(VENV)/.installed: $(BUILD_INPUTS) scripts/find_python.sh
	$(call create_environment,$(VENV),torch==2.9.1 openmmtorch==1.5)
	@echo "installing mace_mm and its dependencies"
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-build-isolation -e '.[torchforce,lint,test,generate,labels,free-energy,mpi]'
	@touch $@

$(PLAIN)/.installed: $(BUILD_INPUTS) scripts/find_python.sh
	$(call create_environment,$(PLAIN),$(PLAIN_TORCH))
	@echo "installing mace_mm and its dependencies"
	$(PLAIN)/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation -e '.[test]' $(PLAIN_TORCH)
	@touch $@

.PHONY: venv
venv: $(VENV)/.installed

# A high friction brings the minimized molecule to its temperature within the short run.
.PHONY: demo
demo: venv
	$(BIN)/mace-mm simulate '$(SMILES)' --name '$(NAME)' --output '$(DEMO_FOLDER)' --overwrite \
		--steps $(STEPS) --friction 10 $(DEMO_FLAGS)

.PHONY: lint
lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: test-plain
test-plain: $(PLAIN)/.installed
	$(TEST_ENV) $(PLAIN)/bin/python -m pytest -q -n $(WORKERS) -m "plain and not slow"

.PHONY: test-main
test-main: venv
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" --durations=15

.PHONY: test-slow
test-slow: venv
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slow

# The main run comes last: its closing line ends the output.
.PHONY: test
test: lint test-plain test-main

.PHONY: clean
clean:
	rm -rf $(VENV) $(PLAIN) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
