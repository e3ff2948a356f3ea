# Daybook's developer loop. Works with GNU make 3.81 (macOS); needs Python 3.11 or newer, no more.
# PYTHON=/path/to/python names the interpreter, UV= (empty) chooses pip where uv is there as well,
# ARGS="…" is handed to the command of up, test, bench, chaos and lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install up test test-rest test-all check fix docs bench chaos lock

BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev

# A test begins many interpreters: without bytecode on the disk each of them compiles all of Daybook.
unexport PYTHONDONTWRITEBYTECODE

# The environment holds absolute paths: one whose folder was moved or copied is made anew.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(shell rm -f $(READY) $(DEV))
endif

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

install: $(DEV) ## make .venv from the locks, if it is missing or old

VENV = PYTHON='$(PYTHON)' $(if $(filter undefined,$(origin UV)),,UV='$(UV)') .ci/venv

$(READY): requirements.lock pyproject.toml
	@$(VENV)

$(DEV): requirements.lock requirements-dev.lock pyproject.toml
	@$(VENV) dev

up: $(READY) ## start everything, and run the example job
	@$(BIN)/daybook up $(ARGS)

# Three processes keep two cores busy: many tests wait for a while.
PYTEST = $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(DEV) ## run the tests but the slow ones, three files at a time (ARGS="-n 0 -x": one, in this process)
	@$(PYTEST) -m "not slow or journey" --hypothesis-profile=few --timeout=60 $(ARGS)

test-rest: $(DEV) ## run those that `make test` leaves out, property tests at full strength
	@$(PYTEST) -m "slow and not journey or hypothesis" $(ARGS)

test-all: $(DEV) ## run all tests
	@$(PYTEST) $(ARGS)

check: $(DEV) ## style, types, imports, lock, generated pages, spelling
	@.ci/check

fix: $(DEV) ## fix what ruff can fix, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(DEV) ## write the generated pages anew
	@$(BIN)/python docs/generate.py

bench: $(DEV) ## measure what the README claims
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(DEV) ## kill all that can die for ten minutes, and read the book (ARGS="--seed N")
	@$(BIN)/python -m chaos $(ARGS)

lock: ## renew the locks (ARGS=--upgrade: newest versions inside the bounds)
	@python=$$(PYTHON='$(PYTHON)' .ci/python) && "$$python" .ci/lock.py write $(ARGS)
