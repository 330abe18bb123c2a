# make demo: install, run the main job on sample_slides/, print the counts next to the truth.
# make test: install, lint, check types and layers, run the fast tests (under 5 minutes on two cores).
# make test-all: the same with all tests: those that start a browser, install a package or take long. CI runs this.
# make docs: build the documentation with the API reference into site/.
# make bench: measure every stage against its lower bound (20 minutes, on an idle machine); writes performance/results and the
#   table in performance/README.md. Real data is found through SLIDEPIPE_TEST_DATA; without it those measurements are skipped.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS := demo_results
# Test processes. Two, also on larger machines: many tests start worker processes. Tests of a module share its fixtures, so a
# module runs in one process (loadscope).
JOBS ?= 2

.PHONY: demo test test-all check docs bench clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "slidepipe needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/slidepipe run sample_slides/well --config configs/demo.yaml --out $(RESULTS)
	@$(BIN)/python sample_slides/compare.py $(RESULTS)
	@echo
	@echo "Open $(RESULTS)/report.html in a browser; the table is $(RESULTS)/counts.csv"

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.plain_english

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope -m "not (slow or browser or install)"

test-all: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict
	@echo "Open site/index.html in a browser"

bench: $(VENV)/installed
	$(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m performance.bench

clean:
	rm -rf $(VENV) $(RESULTS) site
