# `make demo`: pretrain, probe and report on the embedded data. `make test`: the tests. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA := data
RUN := runs/demo

.PHONY: demo test test-all lint site clean

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The switch silences a note on the future of mkdocs, not a warning about these pages.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

$(VENV)/.users: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/.developers: $(VENV)/.users requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	touch $@

demo: $(VENV)/.users
	$(BIN)/python -m geomoe.cli.prepare --dataset synthetic_landsat --data_dir $(DATA)
	$(BIN)/python train.py --config configs/pretrain_synthetic.py --workdir $(RUN) --config.data.data_dir=$(DATA)
	$(BIN)/python probe.py --config configs/probe_synthetic.py --config.checkpoint=$(RUN) --config.data.data_dir=$(DATA)
	$(BIN)/python -m geomoe.cli.report $(RUN) --data_dir $(DATA)

# What the long tests alone can use; a test that lacks it says so and is skipped.
$(VENV)/.long: $(VENV)/.developers requirements-long.txt
	-$(PIP) -r requirements-long.txt
	touch $@

test: $(VENV)/.developers
	$(BIN)/python -m pytest -q -m "not long" -n 2 --dist loadfile

# The long ones measure time and memory, and start processes of their own: one after the other.
test-all: $(VENV)/.long
	$(BIN)/python -m pytest -q -m "not long" -n 2 --dist loadfile
	$(BIN)/python -m pytest -q -m long

lint: $(VENV)/.developers
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --strict --site-dir $(VENV)/.site

# The documentation in site/, to look at or to publish; `.venv/bin/python -m mkdocs serve` shows changes as they are made.
site: $(VENV)/.developers
	$(MKDOCS) build --strict

clean:
	rm -rf $(VENV) $(DATA) runs site
