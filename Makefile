# Every target works on a fresh machine with Python >= 3.11 and a C++ compiler: the first one that needs the environment
# makes it (a venv with uv inside it, versions pinned by hash in requirements/).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ENV := $(VENV)/.complete
RUNS ?= runs
# Of the tables: how large their trainings are, and further words (ARGS=--plan, ARGS="seeds=[0,1,2]").
SCALE ?= paper
ARGS ?=

.DEFAULT_GOAL := help

help: ## list every target
	@awk -F ':.*## ' '/^[a-zA-Z0-9_.%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(ENV) ## create the environment in .venv

$(ENV): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("segkit needs Python >= 3.11, this is " + sys.version.split()[0] + "; type make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

quickstart: $(ENV) ## train, fine-tune at OS8 and evaluate on an embedded data set (about 4 minutes)
	$(BIN)/segkit train experiment=quickstart runs=$(RUNS)/quickstart resume=true
	$(BIN)/segkit eval runs=$(RUNS)/quickstart os=8 ms=true flip=true crf=true eval.colour_baseline=true

test: $(ENV) ## run the tests (all but the slow ones)
	$(BIN)/python -m pytest

test-slow: $(ENV) ## run the slow tests
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-faults: $(ENV) ## run the fault suite: kills, full disks, dead ranks, crafted files, mutants (20 minutes)
	SEGKIT_FIGURES=docs/results/reliability.json $(BIN)/python -m pytest tests/faults -m 'faults or not long' --durations=10

test-long: $(ENV) ## run the long rows: of the fault suite, ten minutes of mutated files among them, and the export of every network (hours)
	SEGKIT_FIGURES=docs/results/reliability.json $(BIN)/python -m pytest tests/faults tests/check tests/models -m long --durations=10

test-gpu: $(ENV) ## run the tests that need a CUDA device
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device here: nothing was tested")'
	$(BIN)/python -m pytest -m gpu

bench: $(ENV) ## measure ours beside what you would pick instead on the CPU, into docs/results/bench/cpu (about a quarter of an hour on two cores)
	$(BIN)/segkit bench --keep

bench-gpu: $(ENV) ## the same on the CUDA device, into a folder named after the card (made for 8 minutes; not measured yet)
	$(BIN)/segkit bench --device cuda --keep

lint: $(ENV) ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(ENV) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

table-list: $(ENV) ## list the tables of the papers
	$(BIN)/segkit table --list

table-%: $(ENV) ## re-make one table: make table-v3.t5 SCALE=camvid (paper, camvid, camvid_cpu, smoke), ARGS="--plan"
	$(BIN)/segkit table $* scale=$(SCALE) runs=$(RUNS) $(ARGS)

tables-%: $(ENV) ## re-make all tables of one paper: make tables-v3 (v1, v2, v3, v3plus)
	$(BIN)/segkit table $* scale=$(SCALE) runs=$(RUNS) $(ARGS)

tables: $(ENV) ## re-make every table
	$(BIN)/segkit table all scale=$(SCALE) runs=$(RUNS) $(ARGS)

results: $(ENV) ## rewrite README's and docs' tables from the files under docs/results/ and conf/ablation/
	$(BIN)/python tools/results.py
	$(BIN)/python tools/reproduction.py
	$(BIN)/python tools/performance.py

pins: $(ENV) ## refresh the pinned versions in requirements/
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade -o requirements/dev.txt

clean: ## remove the environment and caches (runs stay)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache

.PHONY: help env quickstart test test-slow test-faults test-long test-gpu bench bench-gpu lint format table-list tables results pins clean
