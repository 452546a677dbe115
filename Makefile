# Two commands from a fresh clone: `make demo` and `make test`. Both make .venv first, once.

PYTHON ?= python3
BIN := .venv/bin
SAMPLE := .venv/sample.mp4
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2

.PHONY: demo test check man clean

demo: .venv/ready
	$(BIN)/purekv demo --clip-only --output $(SAMPLE) --quiet
	OMP_NUM_THREADS=2 $(BIN)/purekv ask $(SAMPLE) "what happens?" -m demo --budget 0.2 --stats --report demo-report.html

test: .venv/ready
	$(BIN)/python -m pytest -n $(WORKERS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

man: .venv/ready
	mkdir -p build
	$(BIN)/python -m purekv_cli.manual build/purekv.1

clean:
	rm -rf .venv build dist

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "purekv needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
