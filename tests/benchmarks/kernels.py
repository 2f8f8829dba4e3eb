"""What a genotype costs in each kernel, beside what this machine can do.

    python -m tests.benchmarks.kernels [-k 8]

One thread. The machine's rates are measured first: a product of float32 matrices that
stay in cache, and a copy that does not. A kernel's floating-point operations are those
of its matrix products alone. The table goes to tests/benchmarks/KERNELS.md.
"""

import argparse
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.devices import worker_environment

os.environ.update(worker_environment(None))

# What follows reads the environment when it is imported.
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from estimator.basis import (  # noqa: E402
    Models,
    change_of_ancestry,
    change_of_frequencies,
    step_in_basis,
    surface,
)
from estimator.likelihood import (  # noqa: E402
    ancestry_statistics,
    frequency_statistics,
    likelihood_slopes,
)
from estimator.tiling import tile_shape, tile_variants, untile_variants

RESULTS = Path(__file__).parent / "KERNELS.md"
N_PEOPLE, N_BYTES = 1_024, 8_192
REPEATS = 5


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _cost(function: Callable[[], Any]) -> float:
    """CPU seconds of a call, the least of several, after one that compiles."""
    jax.block_until_ready(function())
    costs = []
    for _ in range(REPEATS):
        start = _cpu_seconds()
        jax.block_until_ready(function())
        costs.append(_cpu_seconds() - start)
    return min(costs)


def _machine() -> tuple[float, float]:
    """Float32 operations a second of a product in cache, and bytes a second copied."""
    size, times = 256, 200
    left = jnp.ones((size, size), jnp.float32)

    @jax.jit
    def products(matrix: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times, lambda _, m: left @ m * 1e-3, matrix)

    rate = 2 * size**3 * times / _cost(lambda: products(left))
    block = np.ones(1 << 28, np.uint8)
    target = np.empty_like(block)
    return rate, 2 * block.nbytes / _cost(lambda: np.copyto(target, block))


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", type=int, default=8)
    k = parser.parse_args().k
    pairs = k * (k + 1) // 2
    rng = np.random.default_rng(0)
    tile = tile_shape()
    packed = jnp.asarray(rng.integers(0, 256, (N_PEOPLE, N_BYTES), np.uint8))
    q = jnp.asarray(rng.dirichlet([0.5] * k, N_PEOPLE).astype(np.float32))
    n_variants = 4 * N_BYTES
    p = jnp.asarray(rng.uniform(0.05, 0.95, (k, n_variants)).astype(np.float32))
    tiles = tile_variants(p, tile.width)
    n_genotypes = N_PEOPLE * n_variants
    kernels: dict[str, tuple[Callable[..., Any], int]] = {
        "Q's gradient and Hessian, likelihood": (
            ancestry_statistics,
            4 * k + 2 * pairs,
        ),
        "P's gradient and Hessian": (frequency_statistics, 4 * k + 2 * pairs),
        "both gradients, likelihood (training)": (likelihood_slopes, 6 * k),
    }
    rate, bandwidth = _machine()
    lines = [
        f"# What a genotype costs, K = {k}, one thread",
        "",
        f"This machine multiplies at {rate / 1e9:.0f} GFLOP/s in float32 and copies "
        f"{bandwidth / 1e9:.1f} GB/s ({platform.machine()}, jax {jax.__version__}).",
        "",
        "| kernel | CPU ns a genotype | of it, products at the machine's rate | "
        "reading packed genotypes |",
        "|---|---|---|---|",
    ]
    for name, (kernel, operations) in kernels.items():
        cost = _cost(lambda kernel=kernel: kernel(packed, q, tiles, tile=tile))  # type: ignore[misc]
        figures = (cost / n_genotypes, operations / rate, 0.25 / bandwidth)
        cells = " | ".join(f"{figure * 1e9:.2f}" for figure in figures)
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| step, from the sums | CPU us each |", "|---|---|"]
    found = frequency_statistics(packed, q, tiles, tile=tile)
    sums = [np.asarray(untile_variants(each, n_variants)) for each in found]
    variants = Models(np.asarray(p), sums[0], sums[1], np.zeros(n_variants, bool))
    of_people = ancestry_statistics(packed, q, tiles, tile=tile)
    people = Models(
        np.asarray(q).T,
        np.asarray(of_people.gradient).T,
        np.asarray(of_people.hessian).T,
        np.zeros(N_PEOPLE, bool),
    )
    for name, models, change, simplex in (
        ("a variant's P", variants, change_of_frequencies(np.eye(k)), False),
        ("a person's Q", people, change_of_ancestry(np.eye(k)), True),
    ):
        for what, function in (("step", step_in_basis), ("surface", surface)):
            cost = _cost(
                lambda f=function, m=models, c=change, s=simplex: f(m, c, simplex=s)  # type: ignore[misc]
            )
            lines.append(f"| {what} of {name} | {cost / len(models.held) * 1e6:.2f} |")
    print("\n".join(lines))
    RESULTS.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
