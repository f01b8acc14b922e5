# Needs only Python 3.11 or newer (with venv and pip) and make. Every target that runs something first makes its own
# environment in $(VENV), and makes it again when pyproject.toml or constraints.txt change.
#
#   make simulate                       the default scenario; ARGS="--preset mnist-silos --data-dir DIR" for another
#   make audit ARGS="runs/mine"         an audit of that run; without ARGS of the default scenario
#   make test PYTEST_ARGS="-k ledger"   some of the tests
#   make test PYTHON=/opt/python3.13/bin/python3

VENV ?= .venv
ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses=4 --dist worksteal

CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python)
BIN := $(VENV)/bin
PIP := "$(BIN)/python" -m pip --disable-pip-version-check
SOURCES := $(wildcard secure_fu tests examples benchmarks)

.PHONY: help simulate audit federation test lint format install clean
.DEFAULT_GOAL := help

help:
	@echo 'make simulate   train, delete, unlearn and compare, encrypted; ARGS="..." goes to secure-fu simulate'
	@echo 'make audit      attack membership, deletions and noise; ARGS="..." goes to secure-fu audit'
	@echo 'make federation a whole federation on this machine, to a verified certificate; ARGS="..." goes to secure-fu local'
	@echo 'make test       all tests; PYTEST_ARGS="..." goes to pytest'
	@echo 'make lint       ruff and mypy'
	@echo 'make format     let ruff format and fix'
	@echo 'make clean      remove $(VENV), caches and builds (never runs/)'

simulate: $(VENV)/.runtime
	"$(BIN)/secure-fu" simulate $(ARGS)

audit: $(VENV)/.runtime
	"$(BIN)/secure-fu" audit $(or $(ARGS),--preset digits-silos)

federation: $(VENV)/.flower
	"$(BIN)/secure-fu" local $(ARGS)

test: $(VENV)/.development
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/pytest" $(PYTEST_ARGS)

lint: $(VENV)/.development
	"$(BIN)/ruff" check $(SOURCES)
	"$(BIN)/ruff" format --check $(SOURCES)
	"$(BIN)/mypy"

format: $(VENV)/.development
	"$(BIN)/ruff" check --fix $(SOURCES)
	"$(BIN)/ruff" format $(SOURCES)

install: $(VENV)/.development

# The build backend is installed beforehand and used without isolation, so that constraints.txt pins it as well.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@chosen=''; \
	for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    chosen="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo 'secure-fu needs Python 3.11 or newer; none of these is:' $(CANDIDATES) >&2; \
	  echo 'Name one with: make PYTHON=/path/to/python3' >&2; \
	  exit 1; \
	fi; \
	if [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
	  echo '$(VENV) exists and is not a virtual environment; name another with: make VENV=DIR' >&2; \
	  exit 1; \
	fi; \
	if ! $(PIP) --version >/dev/null 2>&1; then \
	  echo "making $(VENV) with $$chosen"; \
	  "$$chosen" -m venv --clear "$(VENV)" || { \
	    echo "$$chosen cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; \
	    exit 1; \
	  }; \
	fi
	$(PIP) install --quiet -c constraints.txt --upgrade pip
	$(PIP) install --quiet -c constraints.txt hatchling editables
	$(PIP) install --quiet -c constraints.txt --no-build-isolation --editable .
	@touch "$@"

$(VENV)/.flower: $(VENV)/.runtime
	$(PIP) install --quiet -c constraints.txt --no-build-isolation --editable '.[flower]'
	@touch "$@"

$(VENV)/.development: $(VENV)/.runtime
	$(PIP) install --quiet -c constraints.txt --no-build-isolation --editable '.[flower]' --group dev
	@touch "$@"

clean:
	if [ -e "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
