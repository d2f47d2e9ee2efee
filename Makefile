PYTHON ?= python3
BIN := .venv/bin
TWO_AT_A_TIME := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help demo test quick soak coverage lint bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: .venv/.installed  ## install, then run the quickstart sweep: one small network on this machine
	$(BIN)/rmpsweep launch quickstart

test: lint  ## lint, then all tests
	$(TWO_AT_A_TIME)

quick: .venv/.installed-test  ## the tests of a minute: without Ray, servers, browsers, and what is slow
	$(TWO_AT_A_TIME) -m "not ray and not server and not browser and not slow"

soak: .venv/.installed-test  ## what is too long for test: hundreds of random kills, stores, schedulers; half an hour
	$(BIN)/python -m pytest -m soak -s

coverage: .venv/.installed-test  ## which lines of rmpsweep the tests run in their own processes; not in Ray's, nor in a command's
	$(TWO_AT_A_TIME) --cov --cov-report=term:skip-covered

lint: .venv/.installed-test  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed-test  ## image-steps per second against SpikingJelly and the bare ANN
	$(BIN)/python -m benchmarks

clean:  ## remove the environment and the caches; results stay
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e .
	touch $@

.venv/.installed-test: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e '.[test]'
	touch .venv/.installed $@
