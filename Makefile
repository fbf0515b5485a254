# Every target does its own set-up in .venv; python3 from 3.11 on is all that must be there.
# ARGS is handed to the tool: make test ARGS="-k sse -x"

PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
# Keep compiled modules: the workers, and the processes that tests start, share them.
export PYTHONDONTWRITEBYTECODE =
DEMO := .venvs/demo/bin/python
# More than twice the cores, for many tests wait for sockets and timers; each holds 300 MB.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(8, 1 + 2 * (os.cpu_count() or 1)))')
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all coverage check format bench dist docs matrix lowest mutants soak audit clean setup setup-demo

help: ## say what there is to run
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: setup-demo ## talk to an agent on a server of its own, offline, without a key
	@$(DEMO) -m pathors_agent demo $(ARGS)

serve: setup-demo ## serve the demo and its chat page: http://127.0.0.1:8000
	@$(DEMO) -m pathors_agent serve --ui $(ARGS)

test: setup ## run the quick tests, and every example of the README and docs: 3 minutes
	$(PYTEST) -p no:schemathesis -m "not slow" $(ARGS)

# Its tests start processes of their own.
test-all: WORKERS := $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
test-all: setup ## run all tests: kills, processes, databases, browsers, other clients, fuzzing
	EFFORT=thorough $(PYTEST) $(ARGS)

coverage: setup ## run all tests and report which branches they took; two to five times as long
	@rm -f .coverage .coverage.*
	$(PY) -m coverage run -m pytest -n $(WORKERS) --dist loadfile $(ARGS)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report

check: setup ## lint, formatting, types, import rules, dead code
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -qq tests/test_imports.py
	@# ruff finds unused imports, also those in quoted annotations.
	@! $(PY) -m vulture | grep '^src' | grep -v 'unused import'

format: setup ## bring the code into the one style
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

bench: ## time the library beside others
	@$(PYTHON) .ci/make_venv.py .venvs/bench bench
	@$(PYTHON) .ci/make_venv.py .venvs/bench-litellm bench-litellm || echo "Going on without litellm."
	.venvs/bench/bin/python -m benchmarks $(ARGS)

dist: ## build the wheel and the source, try them alone, and say what they cost
	@$(PYTHON) .ci/dist.py $(ARGS)

docs: ## draw the pictures of the docs, write the reference, build this version's site into site/, and check it
	@$(PYTHON) .ci/make_venv.py .venvs/docs docs
	.venvs/docs/bin/python docs/drawings/draw.py
	@$(PYTHON) .ci/reference.py
	.venvs/docs/bin/zensical build --clean --strict
	@$(PYTHON) .ci/make_llms.py build/site
	@$(PYTHON) .ci/versions.py build/site site $(SITE_URL)
	@$(PYTHON) .ci/check_site.py site

matrix: ## run the tests on every Python from 3.11 on that this machine has
	@$(PYTHON) .ci/matrix.py $(ARGS)

lowest: ## run the tests on the oldest versions that pyproject.toml allows
	@$(PYTHON) .ci/lowest.py $(ARGS)

mutants: setup ## break the source in thirty places, and show that a test notices each
	@$(PY) .ci/run_mutants.py $(ARGS)

soak: setup ## run agents 10,000 times in each way, and show that nothing is left behind
	SOAK_RUNS=10000 $(PY) -m pytest -p no:cacheprovider tests/soak $(ARGS)

audit: setup ## look for known vulnerabilities of what is installed with the library
	@$(PYTHON) .ci/audit.py $(ARGS)

clean: ## remove everything that was made
	rm -rf .venv .venvs .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@$(PYTHON) .ci/make_venv.py .venv

setup-demo:
	@$(PYTHON) .ci/make_venv.py .venvs/demo server,cli
