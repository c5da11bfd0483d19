# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-lowest docs clean

demo: .venv/installed
	$(BIN)/spadelens demo --out spadelens-demo

test: .venv/installed-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check.sh

test-lowest:
	scripts/check_lowest.sh

docs: .venv/installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/installed $@

clean:
	rm -rf .venv build dist docs/_build spadelens-demo
