# Every target sets up its own environment first; python3 with pip and venv is all that it takes.
# To use a torch that is already there (a GPU machine's own):
#   make demo VENV_FLAGS=--system-site-packages CONSTRAINTS=/dev/null
PYTHON ?= python3
VENV_FLAGS ?=
CONSTRAINTS ?= constraints.txt
MODELS ?= resnet50 bert gpt2
RESULTS ?= build/results
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test lint types bench suites operators models clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: lint types
	$(BIN)/python -m pytest -q -m "not slow" -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(READY)
	$(BIN)/lazytorch bench $(MODELS)

# Every suite against every peer that is installed, with fresh processes; goes on where it stopped.
suites: $(READY)
	$(BIN)/lazytorch bench --suite cnn --compare --out $(RESULTS)
	$(BIN)/lazytorch bench --suite transformers --compare --out $(RESULTS)
	$(BIN)/lazytorch bench --suite kernels --out $(RESULTS)
	$(BIN)/python benchmarks/summary.py $(RESULTS)

# Every sample of torch's operator database, differentiated once and twice: docs/operators.md.
operators: $(READY)
	$(BIN)/python benchmarks/operators.py

models: $(READY)
	$(BIN)/python -m pytest -q -m slow

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time."
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
