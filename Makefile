# The whole developer interface. On a fresh machine with Python 3.11 or newer, each target is a first command that works.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
READY := .venv/ready

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

.PHONY: help demo test check format lock servers servers-all clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

demo: $(READY) ## Run a real migration under live traffic and prove that nothing was lost
	$(BIN)/segue demo

# Most of a test's time is waiting: two at a time take little more than half, each with servers of its own.
test: $(READY) servers ## Run the tests, with the servers they need; ARGS="..." goes to pytest
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),--numprocesses 2 --dist worksteal)

check: $(READY) ## Check format, lint, types, the layers of imports, and the store's migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/segue lint --fail-on warning src/segue/store/migrations/versions

format: $(READY) ## Format the code and fix what can be fixed by itself
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

servers: ## Install Debian's PostgreSQL 15 for the tests, as root where apt is
	@.ci/servers

servers-all: $(READY) servers ## Fetch PostgreSQL 14, 16 and 17 too; ARGS="--server-version 14 ..." of `make test` uses one
	@.ci/servers-all

# The stamp is older than the lock or the project when either changed; then the environment is brought up to date.
# Where Debian's python3-venv is missing, venv cannot bring pip along, but the pip outside can serve.
$(READY): requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "make: Python 3.11 or newer is needed; set PYTHON=/path/to/python" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv >/dev/null 2>&1 \
		|| $(PYTHON) -m venv --clear --without-pip .venv
	@echo "installing what Segue needs into .venv" >&2
	@pip=($(BIN)/python -m pip); "$${pip[@]}" --version >/dev/null 2>&1 || pip=($(PYTHON) -m pip --python $(BIN)/python); \
		"$${pip[@]}" install --quiet --requirement requirements.lock; \
		"$${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

lock: ## Choose the newest versions that fit pyproject.toml and write them to requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
		print(*p["build-system"]["requires"], "editables", *p["project"]["dependencies"], \
		*(d for group in p["project"]["optional-dependencies"].values() for d in group), sep="\n")' > build/lock/wanted.txt
	build/lock/bin/python -m pip install --quiet --requirement build/lock/wanted.txt
	{ echo '# Exact versions of everything that is installed; made by `make lock`.'; build/lock/bin/python -m pip freeze; } > requirements.lock
	rm -rf build/lock

clean: ## Remove what was made here; the embedded store in Segue's home stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
