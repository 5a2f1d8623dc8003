# make book | test | reproduce | bench | notebooks | clean; each sets up .venv first where it is not there.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

.PHONY: book test reproduce bench notebooks clean

book: $(STAMP)
	$(BIN)/python book/build.py

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest
	$(BIN)/pytest --nbval --nbval-current-env $(NOTEBOOKS)

reproduce: $(STAMP)
	$(BIN)/ddcore reproduce

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench.py

# Executes the committed notebooks in place and normalises them.
notebooks: $(STAMP)
	$(BIN)/python -m ddcore.companion.notebooks

clean:
	rm -rf .venv _build book/notebooks book/assets/vendor *.egg-info

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ddcore needs Python 3.11 or later and $(PYTHON) is older or missing: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
