"""What every test runs under: one CPU device, float64 allowed, checked shapes.

The jaxtyping annotations of the kernels are checked by beartype when a function is
traced or called, and in the estimator's tests arrays keep the dtypes and ranks that
the code gives them.
"""

import os

from pipeline import devices

# Read once, when jax starts its backend: one thread makes sums repeatable and leaves
# the other cores to the tests' own clusters. What one process has compiled, others of
# the tests and their workers need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", devices.compilation_cache())
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

# `config`, `encoder`, `metrics` and `model` are left out: they take bad input on
# purpose and answer it with their own errors, which a type check would forestall.
CHECKED_MODULES = (
    "acceleration",
    "calls",
    "centred",
    "joint",
    "likelihood",
    "packing",
    "projection",
    "quadratic",
    "relaxation",
    "residuals",
    "spectral",
    "training",
    "uncertainty",
)
jaxtyping.install_import_hook(
    [f"estimator.{name}" for name in CHECKED_MODULES], "beartype.beartype"
)


@pytest.fixture(autouse=True)
def _strict_jax(request):
    """Refuse silent promotion in the estimator's own tests.

    Optax raises a float to an integer power, so a test of an optimizer's step
    carries the mark ``optax`` and is left out.
    """
    is_estimator = request.path.name.startswith("test_estimator_")
    if not is_estimator or request.node.get_closest_marker("optax"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def pytest_configure(config):
    config.addinivalue_line("markers", "optax: runs an optimizer's step")
