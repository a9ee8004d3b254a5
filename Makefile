# `make demo` and `make test` set up their own environment in .venv and need only Python 3.11+ and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# pip compiles every module, one after the other, which takes twice as long as all else. Python compiles those that are
# imported, and keeps them if it may. For a .venv that its users cannot write: `make PIP_COMPILE=1`.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test torture check docs format tiny clean

demo: $(VENV)/.installed
	$(BIN)/matformer-lab sweep recipes/demo.yaml --out runs/demo

# More workers than the two cores of a small machine: tests wait a third of their time.
WORKERS ?= 3
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Kills, failing disks, power cuts and mutated files, for as long as one likes (docs/robustness.md).
MINUTES ?= 60
SEED ?= 1
torture: $(VENV)/.installed-dev
	$(BIN)/python -m tests.torture --minutes $(MINUTES) --seed $(SEED)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The documentation as a site in site/; strict: a broken link or reference is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Train the embedded parent anew and put it into the package: half an hour (docs/tiny.md).
tiny: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m training.tiny train runs/tiny
	$(BIN)/python -m training.tiny export runs/tiny
	$(BIN)/matformer-lab sweep training/tiny/measure.yaml --out runs/tiny-figures
	$(BIN)/python -m training.tiny measure runs/tiny-figures

clean:
	rm -rf $(VENV) runs build dist site

# constraints.txt: the versions this release was tested with.
$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "matformer-lab needs Python 3.11+; use make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip  # Python 3.11's takes three times as long for what follows
	touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
