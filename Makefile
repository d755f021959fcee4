# Two environments: .venv holds the tested pair torch 2.9.1 + openmmtorch 1.5, .venv-plain a newer
# torch without openmmtorch. Both are kept; a change of pyproject.toml or setup.py updates them.
#
#   make demo [SMILES=... STEPS=...]  run molecular dynamics of a ligand with the bundled model
#   make test               lint, then the tests in both environments
#   make benchmark          energy and forces of three layouts beside mace-torch and Symmetrix-XL
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
LIGAND_NAME ?= $(if $(filter file default,$(origin SMILES)),ibuprofen,$(SMILES))
STEPS ?= 2000
DEMO_FOLDER ?= demo
VENV := .venv
PLAIN := .venv-plain
PEERS := .venv-peers
LAYOUTS ?= small medium large
SIZES ?= 27 192
BIN := $(VENV)/bin
PIP_FLAGS := --disable-pip-version-check -qq --progress-bar off
# Also what the compiled engine is made of: an editable install would keep the old one.
BUILD_INPUTS := pyproject.toml setup.py $(wildcard engine/*/*.* engine/*/*/*.*) mace_mm/kernels/contraction_code.py
WORKERS ?= 2
# One thread a process: the test workers share the cores.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PAIR := torch==2.9.1 openmmtorch==1.5
EXTRAS := torchforce,lint,test,generate,labels,free-energy,mpi
PLAIN_TORCH := torch==2.13.0
PLAIN_EXTRAS := test

.PHONY: help
help:
	@sed -n '4,8s/^# *//p' Makefile

# $(1) environment folder, $(2) requirements that decide about the installed torch
define create_environment
	@python=$$(.ci/find_python.sh $(PYTHON)); \
	echo "creating $(1) with $$($$python --version) ($$python)"; \
	$$python -m venv --clear $(1)
	$(1)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip 'setuptools>=77' wheel ninja
	@echo "installing $(2) (several GB on a first run)"
	$(1)/bin/python -m pip install $(PIP_FLAGS) $(2)
	@touch $@
endef

# $(1) environment folder, $(2) extras, $(3) requirements that decide about the installed torch
define install_package
	@echo "installing mace_mm and its dependencies"
	$(1)/bin/python -m pip install $(PIP_FLAGS) --no-build-isolation -e '.[$(2)]' $(3)
	@touch $@
endef

$(VENV)/.created: .ci/find_python.sh
	$(call create_environment,$(VENV),$(PAIR))

# What a simulation needs; the checks and tests need more.
$(VENV)/.runnable: $(VENV)/.created $(BUILD_INPUTS)
	$(call install_package,$(VENV),torchforce,$(PAIR))

$(VENV)/.installed: $(VENV)/.runnable
	$(call install_package,$(VENV),$(EXTRAS),$(PAIR))

$(PLAIN)/.created: .ci/find_python.sh
	$(call create_environment,$(PLAIN),$(PLAIN_TORCH))

$(PLAIN)/.installed: $(PLAIN)/.created $(BUILD_INPUTS)
	$(call install_package,$(PLAIN),$(PLAIN_EXTRAS),$(PLAIN_TORCH))

.PHONY: venv
venv: $(VENV)/.installed

# A high friction brings the minimized molecule to its temperature within the short run.
.PHONY: demo
demo: $(VENV)/.runnable
	$(BIN)/mace-mm simulate '$(SMILES)' --name '$(LIGAND_NAME)' --output '$(DEMO_FOLDER)' --overwrite \
		--steps $(STEPS) --friction 10 $(DEMO_FLAGS)

.PHONY: lint
lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Only these files are collected: others import optional packages that are not installed there.
PLAIN_TESTS := $(shell grep -rl --include='test_*.py' 'mark\.plain' tests)

.PHONY: test-plain
test-plain: $(PLAIN)/.installed
	$(TEST_ENV) $(PLAIN)/bin/python -m pytest -q -n $(WORKERS) -m "plain and not slow" $(PLAIN_TESTS)

.PHONY: test-main
test-main: venv
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" --durations=15

.PHONY: test-slow
test-slow: venv
	$(TEST_ENV) $(BIN)/python -m pytest -q -m slow

# The main run comes last: its closing line ends the output.
.PHONY: test
test: lint test-plain test-main

# The peers and their own torch live in an environment of their own; ten minutes or so.
$(PEERS)/.installed: .ci/find_python.sh
	$(call create_environment,$(PEERS),$(PLAIN_TORCH))
	$(PEERS)/bin/python -m pip install $(PIP_FLAGS) mace-torch==0.3.16 symmetrix-xl==0.1.1
	@touch $@

.PHONY: benchmark
benchmark: $(VENV)/.runnable $(PEERS)/.installed
	$(PEERS)/bin/python benchmarks/speed/peer_models.py $(PEERS)/models
	for layout in $(LAYOUTS); do \
		$(BIN)/mace-mm benchmark $(PEERS)/models/$$layout.model $(SIZES:%=-n %) -o benchmark/$$layout \
			--peer 'mace-torch=$(PEERS)/bin/python benchmarks/speed/peer_mace_torch.py' \
			--peer 'symmetrix-xl=$(PEERS)/bin/python benchmarks/speed/peer_symmetrix_xl.py'; \
	done

.PHONY: clean
clean:
	rm -rf $(VENV) $(PLAIN) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
