# make demo   installs, writes a small synthetic dataset, segments it, says where the reports are
# make test   installs and runs the tests, without those that are marked as slow
# make slow   the slow tests: trainings, real heads, damaged datasets
# make lint   ruff, mypy and import rules
# make unit   the fast suite: neither whole runs nor a browser; with TIMES=5, five times over
# make coverage  the fast suite, and which of the package's lines and branches it runs
# make docs   builds the documentation into site/, and fails on any warning
# make audit  looks for known holes in what is installed, and for risky calls in the package
# make containers  builds Docker and Apptainer images, runs both, compares with the bare app
# make launch  whole runs by brainlife's main, bosh, on OpenNeuro's layout, and four at once
# make slurm  the batch scripts on a real SLURM of one node (root; slurm-wlm and munge)
# make ecosystem  what Nipoppy, BABS and DataLad say of the files for them (git-annex)
# make image-size  what takes the room in the image, and its size as a registry holds it
# make sbom  the Python packages of the image as CycloneDX JSON, in msseg.cdx.json
#
# PYTHON       interpreter to make the environment with (3.11)
# TEST_JOBS    processes that run tests (2)
# TORCH        build of torch: the CPU one, or torch==2.13.0 for PyPI's own (with CUDA on Linux)
# TORCH_INDEX  where to look for the CPU build if the configured index has none
# CTR          scratch folder of make containers: 8 GB, to be reached by other users

PYTHON ?= python3.11
VENV ?= .venv
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO ?= demo
TEST_JOBS ?= 2
export CTR ?= /var/tmp/msseg-containers
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test slow unit coverage lint audit install install-test docs containers launch slurm ecosystem image-size sbom clean help

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
	  || { echo "the venv module is missing: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python requirements.lock setup.py
	$(PIP) install -q '$(TORCH)' || $(PIP) install -q --index-url $(TORCH_INDEX) '$(TORCH)'
	$(PIP) install -q --no-deps --require-hashes -r requirements.lock
	$(PIP) install -q --no-deps --no-build-isolation -e . \
	  || { $(PIP) install -q 'setuptools>=77' wheel && $(PIP) install -q --no-deps --no-build-isolation -e .; }
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed requirements-docs.lock
	$(PIP) install -q --no-deps --require-hashes -r requirements-docs.lock
	@touch $@

$(VENV)/installed-test: $(VENV)/installed-docs requirements-test.lock
	$(PIP) install -q --no-deps --require-hashes -r requirements-test.lock
	@touch $@

install: $(VENV)/installed
install-test: $(VENV)/installed-test

demo: $(VENV)/installed
	$(BIN)/msseg-demo $(DEMO)/bids --participants 2
	$(BIN)/msseg $(DEMO)/bids $(DEMO)/out participant group --fill-lesions --atlas sides
	$(BIN)/msseg-demo score $(DEMO)/bids $(DEMO)/out
	@echo "reports: $(DEMO)/out/group_lesions.html and $(DEMO)/out/sub-*.html"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile

# a page of thousands of rows takes minutes in a browser
MANY_ROWS = tests/reports/test_group_browser.py

test: lint
	$(PYTEST) --doctest-modules -m "not slow or browser" --ignore $(MANY_ROWS)

slow: $(VENV)/installed-test
	$(PYTEST) -m "slow and not browser and not container and not slurm"
	$(PYTEST) $(MANY_ROWS)

TIMES ?= 1
FAST = $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile --doctest-modules \
  --ignore tests/e2e --ignore tests/integrations -m "not slow and not browser"

unit: $(VENV)/installed-test
	for time in $$(seq $(TIMES)); do $(FAST) || exit 1; done

coverage: $(VENV)/installed-test
	$(FAST) --cov=bids_msseg --cov-branch --cov-report=term:skip-covered

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

AUDIT = $(VENV)-audit
audit: $(BIN)/python
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install -q bandit==1.9.4 'pip-audit>=2.9,<3'
	$(AUDIT)/bin/bandit -q -r bids_msseg
	$(AUDIT)/bin/pip-audit --requirement requirements.lock --disable-pip --no-deps

containers: $(VENV)/installed-test
	$(BIN)/python -m pytest -v -m container tests/containers

launch: $(VENV)/installed-test
	$(BIN)/python -m pytest -v -m launch tests/integrations

slurm: $(VENV)/installed-test
	$(BIN)/python -m pytest -v -m slurm tests/integrations

# environments of their own: what these need does not go together with what the app needs
ECOSYSTEM = $(abspath $(VENV))-ecosystem
$(ECOSYSTEM)/installed: integrations/requirements.txt
	while read -r wanted; do \
	  folder=$(ECOSYSTEM)/$${wanted%%=*} && $(PYTHON) -m venv $$folder \
	    && $$folder/bin/pip install -q --disable-pip-version-check $$wanted || exit 1; \
	done < $<
	@touch $@

ecosystem: $(VENV)/installed-test $(ECOSYSTEM)/installed
	MSSEG_ECOSYSTEM=$(ECOSYSTEM) $(BIN)/python -m pytest -v -m ecosystem tests/integrations

DOCKER = $$(docker info > /dev/null 2>&1 && echo docker || echo tools/ctr.sh podman)

image-size:
	$(DOCKER) run --rm -i --entrypoint python msseg - < tools/image_size.py
	@echo "compressed: $$($(DOCKER) save msseg | gzip | wc -c) bytes"

sbom:
	$(DOCKER) run --rm -i --network none --entrypoint python msseg - < tools/sbom.py > msseg.cdx.json

clean:
	rm -rf $(VENV) $(VENV)-ecosystem $(DEMO) build *.egg-info
