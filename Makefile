# make demo   installs, writes a small synthetic dataset, segments it, says where the reports are
# make test   installs and runs all tests
#
# PYTHON       interpreter to make the environment with (3.11)
# TORCH        build of torch: the CPU one, or torch==2.13.0 for PyPI's own (with CUDA on Linux)
# TORCH_INDEX  where to look for the CPU build if the configured index has none

PYTHON ?= python3.11
VENV ?= .venv
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint install install-test clean help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
	  || { echo "the venv module is missing: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python requirements.lock setup.py
	$(PIP) install -q '$(TORCH)' || $(PIP) install -q --index-url $(TORCH_INDEX) '$(TORCH)'
	$(PIP) install -q -r requirements.lock
	$(PIP) install -q --no-deps --no-build-isolation -e . \
	  || { $(PIP) install -q 'setuptools>=77' wheel && $(PIP) install -q --no-deps --no-build-isolation -e .; }
	@touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.lock
	$(PIP) install -q -r requirements-test.lock
	@touch $@

install: $(VENV)/installed
install-test: $(VENV)/installed-test

demo: $(VENV)/installed
	$(BIN)/msseg-demo $(DEMO)/bids
	$(BIN)/msseg $(DEMO)/bids $(DEMO)/out participant group
	$(BIN)/msseg-demo score $(DEMO)/bids $(DEMO)/out
	@echo "reports: $(DEMO)/out/group_lesions.html and $(DEMO)/out/sub-*.html"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q --doctest-modules

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
