# Each target makes what it needs: `make demo` and `make test` work in a fresh clone.
#
#   make demo                      the whole way on handwritten digits, in minutes
#   make test                      lint, types, tests           make test ARGS="tests/unit -k layout"
#   make lint                      ruff and mypy only
#   make headers                   what recipes quote of `rpg estimate`, as it says now
#   make docs                      the site, into build/docs; broken links fail
#   make bench                     every benchmarks/bench_*.py, one after the other
#   make gpu                       what one GPU does with all of this, in nine minutes at most
#   make clean                     remove .venv and caches; zoos, runs and reports stay
#
# ARGS is passed on to what the target runs; JOBS is the number of test processes.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin

.PHONY: demo test lint docs headers bench gpu clean
.NOTPARALLEL:

demo: .venv/.installed
	$(BIN)/rpg demo $(ARGS)

# Each process has one thread: the tests' networks are too small to share among several.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

headers: .venv/.installed-dev
	PYTHONPATH=. $(BIN)/python tests/repo/headers.py

docs: .venv/.installed-docs
	$(BIN)/mkdocs build --strict $(ARGS)

bench: .venv/.installed-dev
	set -e; for file in $(sort $(wildcard benchmarks/bench_*.py)); do $(BIN)/python $$file $(ARGS); done

# A machine with a GPU may have the packages and no index to install them from: then nothing is installed.
gpu:
	@if test -x $(BIN)/python; then python=$(BIN)/python; \
	elif $(PYTHON) -c "import diffusers, omegaconf, pydantic, pytest, timm, torch, typer"; then python=$(PYTHON); \
	else $(MAKE) .venv/.installed-dev && python=$(BIN)/python; fi; \
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $$python benchmarks/gpu.py $(ARGS)

# The stamps make a second call skip pip, so that it is quick and needs no network.
.venv/.installed: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e .
	touch $@

.venv/.installed-dev: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev,seg,llm,board]'
	touch .venv/.installed $@

.venv/.installed-docs: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[docs]'
	touch .venv/.installed $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
