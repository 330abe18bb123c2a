# make demo: install, run the main job on sample_slides/, print the counts beside the truth.
# make test: install, lint, check types, run the tests.
# make bench: measure every stage beside its floor (20 minutes, on an idle machine), write performance/results and the table in
#   performance/README.md. What needs the real data finds it through SLIDEPIPE_TEST_DATA, or is left out.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RESULTS := demo_results

.PHONY: demo test bench clean

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

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/installed
	$(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m performance.bench

clean:
	rm -rf $(VENV) $(RESULTS)
