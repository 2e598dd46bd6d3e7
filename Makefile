# Everything runs in .venv, which is made from pyproject.toml with the versions of constraints.txt; nothing needs
# installing by hand. Another Python, beside it: make test PYTHON=python3.13 VENV=.venv-3.13
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
DEMO ?= demo
PYTEST := OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 $(BIN)/python -m pytest \
	--numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: install demo test walk lint docs format bench gpu soak container constraints latest clean

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS:%=--constraint %) --editable '.[dev,docs]'
	touch $@

install: $(VENV)/.ready  ## the environment alone

demo: $(VENV)/.ready  ## simulate a small cohort as DICOM, run everything, print the tables, write the report
	$(BIN)/qmri demo --out $(DEMO)

test: $(VENV)/.ready  ## all tests but walks, soak and benchmarks
	$(PYTEST) -m "not walk and not soak and not bench"

walk: $(VENV)/.ready  ## whole runs in processes of their own: the commands of all pages, kills, Prefect, a real session, long trains
	$(PYTEST) -m "walk and not soak"

lint: $(VENV)/.ready  ## formatting, lint rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.ready  ## the documentation in site/, without a warning and without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready  ## speed and memory, as ratios within one run
	$(BIN)/python -m pytest -m bench tests/benchmarks

gpu:  ## on a machine with a CUDA device, in under 8 minutes, with the Python and torch that are there: installs nothing
	$(PYTHON) -m tests.benchmarks.gpu

soak: $(VENV)/.ready  ## long fault and fuzz runs; each says how long it takes
	$(BIN)/python -m pytest -m soak -v

container: $(VENV)/.ready  ## the image built and run, the compose file brought up, by podman as root: part of make soak
	$(BIN)/python -m pytest -m soak -v tests/deploy/test_container.py tests/deploy/test_compose.py

constraints:  ## constraints.txt anew: what pip takes today on the oldest and the newest Python here; then make test
	$(PYTHON) .ci/constraints.py $$(.ci/pythons | sed -n '1p;$$p')

latest:  ## the newest of everything in a venv of its own: what breaks, and which versions are not the tested ones
	rm -rf .venv-latest
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=; status=$$?; .venv-latest/bin/python .ci/constraints.py; exit $$status

clean:
	rm -rf .venv .venv-* $(DEMO) site
