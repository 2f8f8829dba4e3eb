# Every target sets up what it needs: a virtual environment in .venv with the
# pinned versions of constraints.txt, made with nothing but venv and pip.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO_OUTPUT ?= demo-output

# Programs, and the packages of Debian that have them, installed where one is missing.
define need
	@test "$$(id -u)" = 0 || { echo "make $@ needs root, on Debian or a relative" >&2; exit 1; }; \
	PATH=$$PATH:/usr/sbin; missing=; \
	for program in $(1); do command -v $$program > /dev/null || missing="$$missing $$program"; done; \
	test -z "$$missing" && exit; \
	command -v apt-get > /dev/null || { echo "make $@ needs$$missing; install them, or run it where apt-get can" >&2; exit 1; }; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(2) > /dev/null || \
		{ echo "make $@ could not install $(2); apt-get says why above" >&2; exit 1; }
endef

.PHONY: venv demo test test-slurm test-advice install-test image-test soak lint bench clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "streamixture needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	# Only its data files are read, so none of its dependencies are needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps peddy==0.4.8
	# Only its definitions of resources are read. Apart from the rest, because without
	# its dependencies it would break the `dask` command.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/dask-kubernetes dask-kubernetes==2026.3.0
	touch $@

demo: venv
	$(BIN)/streamixture demo --output $(DEMO_OUTPUT) --overwrite

# A process for each core of two; the tests of a file stay together, with what they share.
test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Needs root: Slurm and munge run on this machine for as long as the tests, on loopback.
test-slurm: venv
	$(call need,slurmctld slurmd sbatch munged openssl,slurm-wlm munge openssl)
	$(BIN)/python -m pytest -m slurm tests/test_deploy_slurm.py

# Needs root, where the programs are not there: commands that messages recommend.
test-advice: venv
	$(call need,plink2 bcftools tabix,plink2 bcftools tabix)
	$(BIN)/python -m pytest tests/test_pipeline_advice.py

# What `pip install .` gives, with the pip that Python brings and no constraints.
install-test: venv
	$(BIN)/python -m pytest -m install tests/test_install.py

# Needs root: builds deploy/Dockerfile on a Debian made for it, and runs the image.
image-test: venv
	$(call need,buildah debootstrap,buildah debootstrap ca-certificates)
	$(BIN)/python -m pytest -m image tests/test_deploy_image.py

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
