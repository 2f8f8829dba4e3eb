"""What every test runs under: one CPU device, strict jax, checked shapes.

Arrays keep the dtypes and ranks that the code gives them (no silent promotion), and
the jaxtyping annotations of the kernels are checked by beartype when a function is
traced or called.
"""

import os

# Read once, when jax starts its backend: one thread makes sums repeatable and leaves
# the other cores to the tests' own clusters.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)

import jax
import jaxtyping

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# `config`, `metrics` and `model` are left out: they take bad input on purpose and
# answer it with their own errors, which a type check would forestall.
CHECKED_MODULES = (
    "acceleration",
    "centred",
    "likelihood",
    "packing",
    "projection",
    "quadratic",
    "relaxation",
    "spectral",
    "training",
)
jaxtyping.install_import_hook(
    [f"estimator.{name}" for name in CHECKED_MODULES], "beartype.beartype"
)
