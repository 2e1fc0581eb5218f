# `make` lists the targets. Each makes what it needs by itself, by tools/setup; nothing is done twice.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lint format check build bench lock clean
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHON APT

# Options for what a target starts: make run ARGS="--port 9000 --data /tmp/parley"
ARGS ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start everything on this machine and print the link (ARGS: options of `parley up`)
	@tools/setup runtime page
	@exec parley up $(ARGS)

test: lint ## lint, then the whole suite (ARGS: options of pytest)
	@tools/setup dev page peers browser
	@exec pytest $(ARGS)

lint: ## style, types and layers
	@tools/setup dev npm
	@exec tools/lint

format: ## format the code and fix what the linter can fix
	@tools/setup dev
	@ruff check --quiet --fix-only . && exec ruff format .

check: lint ## lint, unit tests and a short simulation, in under a minute
	@tools/setup peers
	@exec pytest -q -n 3 tests/unit tests/simulation/test_{seeds,loop}.py --seeds 200 $(ARGS)

build: ## wheel and sdist into dist/, each proved by installing it into an empty environment
	@tools/setup dev page
	@exec tools/build

bench: ## measure this machine; writes docs/benchmarks/ (ARGS: scenarios and options of parley bench run)
	@tools/setup dev page
	@exec python -m cli bench run $(or $(ARGS),all --peers)

lock: ## write requirements/*.txt from pyproject.toml (ARGS: --upgrade)
	@tools/setup dev
	@exec tools/lock $(ARGS)

clean: ## remove what the other targets made; the data in .parley/ stays
	@rm -rf .venv .make build dist *.egg-info web/dist web/node_modules tests/peers/node_modules ext/*.c ext/*.so \
		benchmarks/native/*.c benchmarks/native/*.so
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -not -path './.parley/*' -prune -exec rm -rf {} +
