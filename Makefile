# Needs Python 3.11 or newer and make; everything else is fetched into .venv and .cache, once.
# Every path is relative, so that the project's folder may have any name.
SHELL := /bin/sh
PYTHON_ENV := .venv/bin/python
# Bytecode is written, also where the environment says not to: a run starts many processes, which would all compile anew.
RUN := PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE= $(PYTHON_ENV)
# Three processes share one house (tests/conftest.py): while one waits for a service, two have work for two cores.
PYTEST := $(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run stop test test-full lint lint-types lint-rest format bench bench-full lock cdc-engine environment environment-dev clean
export PYTHON

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

run: environment ## everything: environment, sandbox, the whole batch; again: only what changed
	@$(RUN) -m flows

stop: environment ## end the sandbox's processes; its data stay
	@$(RUN) -m flows sandbox stop

test: environment-dev ## every test except the long ones (10 minutes at most)
	@$(PYTEST) -m "not full"

test-full: test ## the long tests too: kills, soaks, counterparts (40 minutes at most)
	@$(PYTEST) -m full

# What mypy does takes as long as the rest together.
lint: environment-dev ## ruff, mypy, SQL, import direction, generated files up to date
	@$(MAKE) --no-print-directory --jobs=2 lint-types lint-rest

lint-types:
	@$(RUN) -m mypy

lint-rest:
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m sqlfluff lint --nocolor --disable-progress-bar transforms quality/rules flows/portal/queries warehouse_ddl/bootstrap warehouse_ddl/views
	@$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@$(RUN) -m warehouse_ddl --check
	@$(RUN) -m flows catalog --check

format: environment-dev ## bring the sources into the form that lint wants
	@$(RUN) -m ruff check --fix-only --quiet .
	@$(RUN) -m ruff format .

bench: environment-dev ## speed, as ratios (tests/benchmarks)
	@$(RUN) -m tests.benchmarks

bench-full: environment-dev ## the long measurements too (50,000,000 events; half an hour of the stream)
	@$(RUN) -m tests.benchmarks --full

# uv finds the versions; the locks name no index, so that they serve behind any mirror.
LOCK := $(PYTHON_ENV) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: environment-dev ## resolve the dependencies anew (UPGRADE=1 for newer versions)
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --extra sandbox -o requirements.lock
	@$(PYTHON_ENV) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['cdc-engine'], sep='\n')" | \
		$(LOCK) $(if $(UPGRADE),--upgrade) - -c requirements.lock -o requirements-cdc-engine.lock
	@$(LOCK) $(if $(UPGRADE),--upgrade) pyproject.toml --extra sandbox --extra cdc-engine --extra dev -c requirements.lock -c requirements-cdc-engine.lock -o requirements-dev.lock

cdc-engine: environment ## Debezium's engine, for ANALYTICS_CDC_ENGINE=embedded (change capture without Kafka)
	@.ci/environment requirements-cdc-engine.lock

environment:
	@.ci/environment requirements.lock

environment-dev:
	@.ci/environment requirements-dev.lock

clean: ## remove the environment and the caches; stop the sandbox first
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
