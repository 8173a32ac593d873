# What people, the README and CI call. `make demo` and `make test` need nothing done before.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
VARIANT := cpu
# A test file stays in one process, so that its fixtures are made once; tests/conftest.py orders the files.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo loop test test-fast test-flink test-spark lint format bench lock image clean

help: ## Shows this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Creates .venv from requirements.lock; does nothing when that is done.
	@scripts/setup.sh

demo: setup ## Trains, checks, explains, pushes and serves a model of handwritten digits, and sends it a request.
	@scripts/demo.sh

loop: setup ## Serves digits, injects drift, and shows alarm, selection, labels, retraining, push and the end of the alarm.
	@$(BIN)/python scripts/loop.py

test: setup ## Runs all tests, in two processes.
	$(PYTEST)

test-fast: setup ## Runs the unit and pipeline tests only.
	$(PYTEST) tests/unit tests/pipeline

test-flink: setup ## Runs the data-parallel nodes on a local Flink and in two processes (needs Java; docs/scaling.md).
	$(BIN)/python -m pytest tests/component/test_beam_engines.py tests/e2e/test_kubeflow_engine.py --engine flink --engine multi_processing

test-spark: setup ## Runs the data-parallel nodes on a local Spark (needs Java; docs/scaling.md).
	$(BIN)/python -m pytest tests/component/test_beam_engines.py --engine spark

lint: setup ## Checks format, style, types, the direction of imports and the vocabulary.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: setup ## Formats the code and fixes what ruff can fix.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## Measures the data path against the canonical form (about three minutes).
	$(BIN)/python tests/bench/data_path.py

lock: setup ## Resolves requirements.lock, and those of the images to the same versions.
	@scripts/lock.sh

image: ## Builds the container image, VARIANT=cpu or gpu (docker, podman or buildah).
	@scripts/image.sh $(VARIANT)

clean: ## Removes the environment, the private C runtime and all caches; runs/ stays.
	rm -rf .venv .runtime .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
