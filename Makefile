# `make demo` trains the agent, all four phases; `make test` checks everything. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo show test lint install clean

demo: $(INSTALLED)
	$(BIN)/python -m trainer --config=configs/imagination_rl.py:cpu
	@echo
	@echo "Report: logs/imagination_rl-cpu/report.html (and one in the folder of each phase)"

# The agent that results/demo holds, tried out in the real environment: trains nothing.
show: $(INSTALLED)
	$(BIN)/python -m trainer --config=results/demo/imagination_rl-cpu/config.json --mode=eval
	@echo
	@echo "Report: results/demo/imagination_rl-cpu/report.html; the agent at work: results/demo/imagination_rl-cpu/media"

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses=8

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

# What running needs.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older; name another one: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) .
	@touch $@

# On top of it, what the tests need: one after the other, also with `make -j`.
$(INSTALLED_DEV): $(INSTALLED)
	$(PIP_INSTALL) '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
