VENV ?= .venv
PYTHON ?=
TORCH ?= torch
ARGS ?=

EXTRAS := hf,tensorboard,wandb,tasks,dev
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)

# Candidates are run, not looked up: a pyenv shim can be on PATH and fail all the same.
SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.DELETE_ON_ERROR:
.PHONY: quickstart test test-all lint format install constraints clean

quickstart: $(STAMP)
	$(BIN)/evo quickstart $(ARGS)

# Two processes; tests/conftest.py says which tests go together.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

test: $(STAMP)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: test
	$(PYTEST) -m slow $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

install: $(STAMP)

$(VENV)/pyvenv.cfg:
	@for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then \
	    echo "$$candidate -m venv $(VENV)"; \
	    exec "$$candidate" -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 to 3.13 with venv found (tried: $(CANDIDATES)). Name one: make PYTHON=/path/to/python" >&2; \
	exit 1

# pip compiles on one core, and all that it installs; a file that does not compile is no error.
SELDOM := /(tests?|testing|rllib|transformers/models)/

# torch comes first and by itself, so that a build of it for other hardware can be asked for:
# make TORCH="torch --index-url URL". The constraint then holds it in place.
$(STAMP): $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	-@$(BIN)/python -m compileall -q -j 0 -x '$(SELDOM)' $(VENV)/lib >/dev/null
	@touch $@

constraints:
	rm -rf $(VENV)-constraints
	$(MAKE) VENV=$(VENV)-constraints $(VENV)-constraints/pyvenv.cfg
	$(VENV)-constraints/bin/python -m pip install -q $(TORCH)
	$(VENV)-constraints/bin/python -m pip install -q -e '.[$(EXTRAS)]'
	{ grep '^#' constraints.txt; \
	  $(VENV)-constraints/bin/python -m pip freeze --all --exclude pip --exclude wheel --exclude-editable \
	  | sed 's/+.*//'; } > constraints.tmp
	mv constraints.tmp constraints.txt
	rm -rf $(VENV)-constraints

clean:
	rm -rf $(VENV) $(VENV)-constraints build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
