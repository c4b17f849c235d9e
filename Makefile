# The two commands of the README: `make demo` and `make test`. Each installs what it needs and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo demo-down test test-all lint-and-unit lint lint-python lint-roles unit services lab-tests lab-itself bench chaos precision screenshots generate \
  packages lab-packages test-packages clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       a fleet of three hosts on this machine, provisioned, verified, reported"
	@echo "make demo-down  remove that fleet"
	@echo "make test       what CI runs: every promise of the docs, once"
	@echo "make test-all   that and what takes long"
	@echo "make bench      timings, as ratios within one run; PARTS=mno for some of them"
	@echo "make chaos      faults at random on eight hosts, for SECONDS=600, from SEED="
	@echo "make precision  how often the comparison of hosts is right"
	@echo "make generate   write what follows from llmprov/model: role defaults, argument specs, docs, schema"

# The first line of a demo says where it will work; the rights are tried, not guessed from the user id. Python packages and
# Debian packages are installed at the same time.
demo:
	@began=$$(date +%s); \
	bash tools/where.sh > .demo-where; \
	cat .demo-where; \
	lab=$$(grep '^demo: a lab' .demo-where || true); \
	$(MAKE) -s --no-print-directory $(BIN)/pip; \
	$(MAKE) -s --no-print-directory -j2 $(BIN)/llmprov $${lab:+lab-packages}; \
	$(BIN)/python -m llmprov.lab.demo --began $$began $$([ -n "$$lab" ] || echo --here)

demo-down:
	@$(BIN)/llmprov lab down --prefix demo

# It may install a Debian package, so nothing else of apt's runs beside it.
$(BIN)/pip:
	@echo "make: making the virtual environment $(VENV)"
	@bash tools/venv.sh $(PYTHON) $(VENV)

$(BIN)/llmprov: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "make: installing llmprov and its dependencies into $(VENV)"
	@$(BIN)/python tools/install.py lab-conda 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

$(VENV)/.dev: $(BIN)/llmprov
	@echo "make: installing the tools for tests into $(VENV)"
	@$(BIN)/python tools/install.py dev,torch,lab-conda,postgresql 2> >(grep -v '^WARNING: Location' >&2)
	@touch $@

lab-packages:
	@bash tools/packages.sh lab

test-packages:
	@bash tools/packages.sh tests

# Two tiers: `make test` leaves out the tests that are marked `long`; `make test-all` runs all, and more examples of each property.
# What is quick runs beside what waits for hosts; each target's output stands together.
test: tier-test

test-all: tier-test-all

tier-%: $(BIN)/llmprov
	@$(MAKE) -s --no-print-directory -j2 $(VENV)/.dev packages
	@echo "make: tests with $$($(BIN)/python --version) and $$($(BIN)/ansible --version | head -n 1)"
	@rm -f $(TIMES); began=$$(date +%s); code=0; \
	$(MAKE) -s --no-print-directory -j2 --output-sync=target TIER=$* TIMES=$(TIMES) lint-and-unit lab-tests || code=$$?; \
	$(BIN)/python -m tests.table $(TIMES); \
	$(BIN)/python -m tests.tiers $* $$(($$(date +%s) - began)) $$code; \
	exit $$code

TIMES := .test-times.jsonl
TIER := test-all
CHOSEN := $(if $(filter test,$(TIER)),-m 'not long')

packages:
	@if bash tools/where.sh | grep -q '^demo: a lab'; then $(MAKE) -s --no-print-directory lab-packages; fi
	@$(MAKE) -s --no-print-directory test-packages

lint-and-unit: $(VENV)/.dev
	@$(MAKE) -s --no-print-directory lint
	@$(MAKE) -s --no-print-directory unit
	@$(MAKE) -s --no-print-directory services

# ansible-lint takes about as long as all else.
lint: $(VENV)/.dev
	@echo "make: ruff, mypy, import-linter, yamllint, ansible-lint"
	@$(BIN)/python -m tests.timing $(TIMES) lint $(MAKE) -s --no-print-directory -j2 --output-sync=target lint-roles lint-python

lint-python: $(VENV)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@said=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$said"; exit 1; }
	@$(BIN)/yamllint --strict .

lint-roles: $(VENV)/.dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline --profile production -q playbooks roles

# Tests on every processor; tests that share a dear fixture or a fleet stay together (tests/conftest.py, tests/lab/conftest.py).
# `make unit` alone runs long tests too; `make unit TIER=test` leaves them out.
PYTEST = $(BIN)/python -m pytest --dist loadgroup --no-loadscope-reorder --times $(TIMES) --part $@ $(CHOSEN)
BESIDE := --numprocesses auto --maxprocesses 4

unit: $(VENV)/.dev
	@$(PYTEST) $(BESIDE) tests/unit $(if $(filter test,$(TIER)),,--hypothesis-profile thorough)

# A real browser and real databases, without any host.
services: $(VENV)/.dev test-packages
	@$(PYTEST) $(BESIDE) tests/services

# The tests of the lab itself look at the whole machine, so they run alone; then two fleets at a time, whatever the first ones found.
lab-tests: $(VENV)/.dev
	@code=0; $(MAKE) -s --no-print-directory lab-itself || code=$$?; \
	$(PYTEST) --numprocesses 2 tests/lab --ignore=tests/lab/test_lab.py && exit $$code

lab-itself: $(VENV)/.dev
	@$(PYTEST) tests/lab/test_lab.py --keep-base

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
