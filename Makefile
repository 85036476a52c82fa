# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := build/demo
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: demo test check docs bench bench-record clean

demo: $(VENV)/.installed
	$(BIN)/python benchmarks/demo.py --work $(DEMO)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(SITE)

# The site of all documents, in build/site.
docs: $(VENV)/.installed
	$(SITE)

# What moved since the last record, by ratios; it informs, and never fails.
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/quick.py

bench-record: $(VENV)/.installed
	$(BIN)/python benchmarks/quick.py --record

# One venv for all of it. torch comes first, by itself: nothing that follows may replace it.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "Installing PyTorch and the rest into $(VENV): once, some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,test,docs]'
	touch $@

clean:
	rm -rf build $(VENV) *.egg-info
