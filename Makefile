# Everything a fresh machine needs is Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
WORKERS := $(shell expr $$(nproc) + 1) # of all tests: many wait, for Ray or until what was killed is missed
unexport PYTHONDONTWRITEBYTECODE # hundreds of processes read what the first has compiled
.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster check types fast-tests bench lock clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/core: locks/core.txt locks/build.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/core.txt -r locks/build.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: .venv/core locks/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	@touch $@

demo: .venv/core ## make the environment, load a GitHub-like data set, ask it questions, show what to do next
	@$(BIN)/python -m eau2.demo

test: .venv/dev ## make the environment, run all tests
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not long"

test-cluster: .venv/dev ## the long tests: all kinds of store, moments and runs, and what is killed and frozen on Ray
	@$(BIN)/python -m pytest -m long

check: .venv/dev ## format, lint, strict types, floors, fast tests
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory --jobs types fast-tests

types: # takes one core for half a minute where it has no cache: beside the tests
	@$(BIN)/mypy

fast-tests:
	@HYPOTHESIS_PROFILE=fast $(BIN)/python -m pytest --numprocesses $(WORKERS) -m "not slow and not long" -q

.venv/peers: .venv/dev locks/peers.txt
	@test -x $@/bin/python || $(PYTHON) -m venv $@
	@$@/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/peers.txt
	@touch $@

bench: .venv/dev .venv/peers ## run the benchmarks and write benchmarks/results
	@$(BIN)/python -m benchmarks

lock: .venv/dev ## pin the newest versions that pyproject.toml allows
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --output-file locks/core.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --extra cluster --output-file locks/cluster.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade --group peers --output-file locks/peers.txt
	@echo "hatchling\neditables" | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade - --output-file locks/build.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --group dev --all-extras --output-file locks/dev.txt

clean: ## remove the environment and what the demo made
	@rm -rf .venv demo-data eau2-data
