# Daybook's developer loop. Works with GNU make 3.81 (macOS); needs only Python 3.11 or newer.
# PYTHON=/path/to/python selects the interpreter, UV= (empty) uses pip even if uv is installed,
# ARGS="…" is passed to the command of up, test, bench, chaos and lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help install up test-pure test affected test-rest test-all check gate fix docs bench chaos release lock

BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev
LOCKED := $(DEV)

# PREFECT=3.9.1 runs tests with that version, in an environment of its own: the locks, and what
# that version needs besides.
ifdef PREFECT
BIN := .venv-$(PREFECT)/bin
DEV := .venv-$(PREFECT)/.ready-dev
endif

# The tests start many interpreters; without bytecode on disk, each would compile all of Daybook.
unexport PYTHONDONTWRITEBYTECODE

# The environment contains absolute paths, so rebuild it if its folder was moved or copied.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(shell rm -f $(READY) $(LOCKED))
endif

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(DEV) ## create .venv from the locks if it is missing or outdated

VENV = PYTHON='$(PYTHON)' $(if $(filter undefined,$(origin UV)),,UV='$(UV)') .ci/venv

$(READY): requirements.lock pyproject.toml
	@$(VENV)

$(LOCKED): requirements.lock requirements-dev.lock pyproject.toml
	@$(VENV) dev

ifdef PREFECT
$(DEV): INSTALL = UV_COMPILE_BYTECODE=1 .venv/bin/uv pip install --quiet --python $(BIN)/python
$(DEV): $(LOCKED)
	@.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-$(PREFECT)
	@$(INSTALL) --no-deps -r requirements.lock -r requirements-dev.lock
	@$(INSTALL) --no-build-isolation -e . 'prefect==$(PREFECT)'
	@touch $@
endif

up: $(READY) ## start everything and run the example job
	@$(BIN)/daybook up $(ARGS)

# Three processes keep two cores busy, because many tests mostly wait. If one crashes, the others end
# their files, and the run fails: pytest-xdist would wait for ever for the rest of the crashed file.
PYTEST = $(BIN)/python -m pytest -n 3 --max-worker-restart 0 --no-loadscope-reorder --dist $(DIST)
DIST = loadfile

test-pure: $(DEV) ## run the tests that need no database, server or process (at each save)
	@$(BIN)/python -m pytest tests/pure --hypothesis-profile=few --timeout=60 $(ARGS)

test: DIST = loadgroup # all tests at Prefect in one process (tests/conftest.py): one server
test: $(DEV) ## run all but the slow tests (ARGS="-n 0 -x": in one process; PREFECT=3.9.1)
	@$(PYTEST) -m "not slow or journey" --hypothesis-profile=few --timeout=60 $(ARGS)

SLOW := slow and not journey or hypothesis

affected: $(DEV) ## run the slow tests that the commits of the last four hours can affect (BASE=commit)
	@files=$$($(BIN)/python .ci/affected.py $(BASE)) || exit 1; \
	[ -n "$$files" ] || { echo "the change affects no test"; exit 0; }; \
	$(PYTEST) -m "$(SLOW)" $$files $(ARGS) || [ $$? = 5 ] # 5: none of them is slow

test-rest: $(DEV) ## run the tests that `make test` skips (SLICE=2/5: the second of five parts)
	@$(PYTEST) -m "$(SLOW)" --repeats 4 $(if $(SLICE),--slice $(SLICE)) $(ARGS)

test-all: $(DEV) ## run all tests
	@$(PYTEST) $(ARGS)

gate: ## run CI in a clean clone of the last commit; the last step before a change is submitted
	@.ci/gate

check: $(DEV) ## check style, types, imports, locks, generated pages, site, spelling, language
	@.ci/check

fix: $(DEV) ## fix what ruff can fix, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(DEV) ## write the generated pages, and build the documentation into site/
	@$(BIN)/python docs/generate.py
	@.ci/site
	@echo "built: site/index.html"

bench: $(DEV) ## measure what the README claims
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(DEV) ## run the chaos test for ten minutes and check the ledger (ARGS="--seed N")
	@$(BIN)/python -m chaos $(ARGS)

release: $(DEV) ## build dist/ from a clean clone, check both files, and install each in an empty folder
	@$(BIN)/python .ci/release.py

lock: ## update the locks (ARGS=--upgrade: newest versions inside the bounds)
	@python=$$(PYTHON='$(PYTHON)' .ci/python) && "$$python" .ci/lock.py write $(ARGS)
