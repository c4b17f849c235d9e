# The two commands of the README: `make demo` and `make test`. Each installs what it needs and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo demo-down test lint-and-unit lint lint-python lint-roles unit services lab-tests lab-tests-own lab-tests-shared bench chaos precision screenshots generate \
  packages lab-packages test-packages clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a fleet of three hosts on this machine, provisioned, verified, reported"
	@echo "make demo-down  remove that fleet"
	@echo "make test       everything CI runs"
	@echo "make bench      timings, as ratios within one run; PARTS=mno for some of them"
	@echo "make chaos      faults at random on eight hosts, for SECONDS=600, from SEED="
	@echo "make precision  how often the comparison of hosts is right"
	@echo "make generate   write what follows from llmprov/model: role defaults, argument specs, docs, schema"

# The first line of a demo says where it will work; the rights are tried, not guessed from the user id.
demo:
	@bash tools/where.sh > .demo-where
	@cat .demo-where
	@$(MAKE) -s --no-print-directory $(BIN)/llmprov
	@if grep -q '^demo: a lab' .demo-where; then $(MAKE) -s --no-print-directory lab-packages; fi
	@$(BIN)/python -m llmprov.lab.demo $$(grep -q '^demo: a lab' .demo-where || echo --here)

demo-down:
	@$(BIN)/llmprov lab down --prefix demo

$(BIN)/llmprov: pyproject.toml constraints.txt
	@echo "make: installing llmprov and its dependencies into $(VENV)"
	@bash tools/venv.sh $(PYTHON) $(VENV)
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lab-conda]' 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

$(VENV)/.dev: $(BIN)/llmprov
	@echo "make: installing the tools for tests into $(VENV)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,torch,lab-conda,postgresql]' 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

lab-packages:
	@bash tools/packages.sh lab

test-packages:
	@bash tools/packages.sh tests

# What is quick runs beside what waits for hosts; each target's output stands together.
test: $(BIN)/llmprov
	@$(MAKE) -s --no-print-directory -j2 $(VENV)/.dev packages
	@echo "make: tests with $$($(BIN)/python --version) and $$($(BIN)/ansible --version | head -n 1)"
	@$(MAKE) -s --no-print-directory -j2 --output-sync=target lint-and-unit lab-tests

packages:
	@if bash tools/where.sh | grep -q '^demo: a lab'; then $(MAKE) -s --no-print-directory lab-packages; fi
	@$(MAKE) -s --no-print-directory test-packages

lint-and-unit: $(VENV)/.dev
	@$(MAKE) -s --no-print-directory lint
	@$(MAKE) -s --no-print-directory unit
	@$(MAKE) -s --no-print-directory services

# ansible-lint takes about as long as all else.
lint: $(VENV)/.dev
	@echo "make: ruff, mypy, yamllint, ansible-lint"
	@$(MAKE) -s --no-print-directory -j2 --output-sync=target lint-roles lint-python

lint-python: $(VENV)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/yamllint --strict .

lint-roles: $(VENV)/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline --profile production -q playbooks roles

# Tests on every processor; tests that share a dear fixture stay together (tests/conftest.py: DEAR). `make unit TIMES=FILE` adds
# a line about what they cost, for `python -m tests.table FILE`; `EXAMPLES=thorough` tries more examples of each property.
BESIDE := --numprocesses auto --maxprocesses 4 --dist loadgroup
cost = $(if $(TIMES),--times $(TIMES) --part $@)

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/unit $(BESIDE) $(cost) $(if $(EXAMPLES),--hypothesis-profile $(EXAMPLES))

# A real browser and real databases, without any host.
services: $(VENV)/.dev test-packages
	@$(BIN)/python -m pytest tests/services $(BESIDE) $(cost)

# The tests of the lab itself look at the whole machine, so they stand alone; then several fleets side by side.
lab-tests: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/lab/test_lab.py --keep-base
	@$(MAKE) -s --no-print-directory -j2 --output-sync=target lab-tests-own lab-tests-shared

# What stands in this list runs beside the rest, on fleets of its own, so that both take about as long.
OWN_FLEETS := $(addprefix tests/lab/test_,$(addsuffix .py,conda tomorrow jupyter reboot ends))

lab-tests-own: $(VENV)/.dev
	@$(BIN)/python -m pytest --durations=12 $(OWN_FLEETS)

lab-tests-shared: $(VENV)/.dev
	@$(BIN)/python -m pytest --durations=12 tests/lab --ignore=tests/lab/test_lab.py $(addprefix --ignore=,$(OWN_FLEETS))

bench: $(VENV)/.dev lab-packages test-packages
	@if [ -z "$(PARTS)" ]; then $(BIN)/python -m tests.bench_report; fi
	@$(BIN)/python -m tests.bench $(PARTS)

# Faults at random on eight hosts: `make chaos SECONDS=3600 SEED=7`.
SECONDS ?= 600
SEED ?= $(shell date +%s)
chaos: $(VENV)/.dev lab-packages
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED)

# The tables of docs/statistics.md.
precision: $(VENV)/.dev
	@$(BIN)/python -m tests.precision

screenshots: $(VENV)/.dev test-packages
	@$(BIN)/python -m tests.screenshots

generate: $(VENV)/.dev
	@$(BIN)/python -m llmprov.model.generate

clean:
	@rm -rf $(VENV) .demo-where dist build .mypy_cache .ruff_cache .pytest_cache .ansible
