# Each command sets up .venv first where it is not there. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

# Some machines forbid Python to keep what it compiles; then each of the hundred starts compiles
# everything that it imports, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help book test check notebooks reproduce bench clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(STAMP)  ## run what changed in the notebooks, build the pages: _build/html/index.html
	$(BIN)/python book/build.py

# As many at once as there are processors, of one thread each.
test: export OMP_NUM_THREADS = 1
test: check  ## run every test that this machine can, the notebooks' outputs included
	$(BIN)/pytest -n logical --dist loadfile --nbval --nbval-current-env tests $(NOTEBOOKS)

check: $(STAMP)  ## read the code without running it: lint, format, types; seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

notebooks: $(STAMP)  ## run the committed notebooks, write their outputs into them
	$(BIN)/python -m ddcore.paper.notebooks

reproduce: $(STAMP)  ## run the paper's experiments that have no record yet
	$(BIN)/ddcore reproduce

bench: $(STAMP)  ## time the ways to the meta-gradient, beside a published one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench.py

clean:  ## remove .venv, the pages and whatever else was built
	rm -rf .venv _build build dist book/notebooks book/evidence book/assets/vendor *.egg-info

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ddcore needs Python 3.11 or later and $(PYTHON) is older or missing: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
