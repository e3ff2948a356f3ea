# Daybook's developer loop. Works with GNU make 3.81 (macOS); needs Python 3.11 or newer, no more.
# PYTHON=/path/to/python names the interpreter, UV= (empty) chooses pip where uv is there as well,
# ARGS="…" is handed to the command of up, test, bench, chaos and lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install up test check fix docs bench chaos lock

BIN := .venv/bin
READY := .venv/.ready

# The environment holds absolute paths: one whose folder was moved or copied is made anew.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(shell rm -f $(READY))
endif

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

install: $(READY) ## make .venv from requirements.lock, if it is missing or old

$(READY): requirements.lock pyproject.toml
	@PYTHON='$(PYTHON)' $(if $(filter undefined,$(origin UV)),,UV='$(UV)') .ci/venv

up: $(READY) ## start everything, and run the example job
	@$(BIN)/daybook up $(ARGS)

test: $(READY) ## run the tests, two files at a time (ARGS="-n 0 -x": one, in this process)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## style, types, imports, lock, generated pages, spelling
	@.ci/check

fix: $(READY) ## mend what ruff can mend, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY) ## write the generated pages anew
	@$(BIN)/python docs/generate.py

bench: $(READY) ## measure what the README claims
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(READY) ## kill all that can die for ten minutes, and read the book (ARGS="--seed N")
	@$(BIN)/python -m chaos $(ARGS)

lock: ## renew requirements.lock (ARGS=--upgrade: newest versions inside the bounds)
	@python=$$(PYTHON='$(PYTHON)' .ci/python) && "$$python" .ci/lock.py write $(ARGS)
