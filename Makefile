# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := build/demo
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

HOURS ?= 2
FUZZ_SECONDS ?= 1800

.PHONY: demo test check docs bench bench-record fuzz soak audit clean

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

# What reads anybody's bytes, fed with damaged ones: half an hour for each target.
fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS)

# Hours of streaming with faults; before it the machines of the tests with many more examples.
soak: $(VENV)/.installed
	MACHINE_EXAMPLES=300 MACHINE_STEPS=40 $(BIN)/python -m pytest -q tests/test_machines.py
	$(BIN)/python benchmarks/soak.py --hours $(HOURS)

# Known vulnerabilities of what is pinned; fails, too, where the advisories cannot be reached.
audit: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# One venv for all of it. torch comes first, by itself: nothing that follows may replace it.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "Installing PyTorch and the rest into $(VENV), some 2 GB: once, some minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[trainer,test,docs]'
	touch $@

clean:
	rm -rf build $(VENV) *.egg-info
