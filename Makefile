# Every target sets up what it needs: a virtual environment in .venv with the
# pinned versions of constraints.txt, made with nothing but venv and pip.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_OUTPUT ?= demo-output

.PHONY: venv demo test soak lint bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "streamixture needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	# Only its data files are read, so none of its dependencies are needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps peddy==0.4.8
	touch $@

demo: venv
	$(BIN)/streamixture demo --output $(DEMO_OUTPUT) --overwrite

test: venv
	$(BIN)/python -m pytest

# The fault tests that take minutes, and stores of another version of bio2zarr.
soak: venv
	$(BIN)/python -m pytest -m soak

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: venv
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.kernels
	$(BIN)/python -m tests.benchmarks.stages
	$(BIN)/python -m tests.benchmarks.scaling

clean:
	rm -rf .venv $(DEMO_OUTPUT) *.egg-info
