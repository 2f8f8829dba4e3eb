"""Many small concave quadratic programmes at once, solved exactly on the device.

One Newton step of the relaxation is, for every person or variant, a quadratic
programme in K variables: maximise g'd - d'Hd/2 over steps d that keep x + d within
bounds and, for a person, keep its sum. A primal active-set method solves each in a
few factorisations and leaves exact zeros. Problems run along the last axis, so that
every operation is elementwise over them.
"""

import operator
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from estimator.tiling import ChunkSize

# Relative to the mean diagonal of H: keeps float32 elimination stable where H is
# singular (a person with fewer calls than K, two equal populations). It damps the
# step and leaves the optimum where it is.
RIDGE = 1e-6
# A multiplier within this fraction of the largest gradient entry counts as zero.
MULTIPLIER_TOLERANCE = 1e-6

# What rounding may leave between a value in [0, 1] and its bound.
ROUNDING = 2.0**-22

Vectors = Float32[Array, "k problems"]
Matrices = Float32[Array, "k k problems"]


class _State(NamedTuple):
    step: Vectors
    free: Bool[Array, "k problems"]
    done: Bool[Array, " problems"]
    iteration: Array


def pair_indices(n_populations: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each of the K(K+1)/2 distinct entries of a K x K Hessian."""
    return np.triu_indices(n_populations)


def symmetric_from_pairs(
    pairs: Float32[Array, "pairs problems"], n_populations: int
) -> Matrices:
    """Expand the K(K+1)/2 distinct entries to full symmetric matrices."""
    rows, columns = pair_indices(n_populations)
    position = np.zeros((n_populations, n_populations), np.int32)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return pairs[position]


def multiply(
    matrix: Float[Array, "k k problems"],
    vector: Float[Array | np.ndarray, "k problems"],
) -> Float[Array, "k problems"]:
    """Products of as many matrices and vectors."""
    # Unrolled, because XLA does not vectorise sums over an axis before the last.
    columns = (matrix[:, i] * vector[i][None] for i in range(len(vector)))
    return reduce(operator.add, columns)


def eliminate(
    matrix: Float[Array, "k k problems"], right: Float[Array, "k r problems"]
) -> Float[Array, "k r problems"]:
    """Solve symmetric positive definite systems by Gauss-Jordan elimination."""
    index = jnp.arange(matrix.shape[0])

    def pivot(i: Array, both: tuple[Array, Array]) -> tuple[Array, Array]:
        column = jax.lax.dynamic_index_in_dim(both[0], i, 1, keepdims=False)
        diagonal = jax.lax.dynamic_index_in_dim(column, i, 0)
        here = (index == i)[:, None]
        # Row i is divided by the pivot, and multiples of it are taken from the others.
        # Written as one product, which XLA computes in place: updating a row is slower.
        multiple = jnp.where(here, -1.0, column) / diagonal

        def reduce(rows: Array) -> Array:
            row = jax.lax.dynamic_index_in_dim(rows, i, 0)
            others = jnp.where(here[:, None], 0.0, rows)
            return others - multiple[:, None] * row

        return reduce(both[0]), reduce(both[1])

    # A loop is compiled sooner than unrolled pivots, and no slower for all it does to
    # columns that are done with.
    return jax.lax.fori_loop(0, len(index), pivot, (matrix, right))[1]


def _newton_direction(
    residual: Vectors,
    hessian: Matrices,
    free: Bool[Array, "k problems"],
    sum_is_fixed: bool,
) -> tuple[Vectors, Float32[Array, " problems"]]:
    """Best step in the free variables, and the multiplier of the sum."""
    both_free = free[:, None] & free[None, :]
    identity = jnp.eye(hessian.shape[0], dtype=hessian.dtype)[:, :, None]
    if not sum_is_fixed:
        reduced = jnp.where(both_free, hessian, identity)
        solution = eliminate(reduced, jnp.where(free, residual, 0.0)[:, None])
        return solution[:, 0], jnp.zeros_like(residual[0])
    # Where the sum is zero, neither a constant in every entry of H nor one in g
    # changes the objective. They are chosen to keep the system well conditioned:
    # a singular H would otherwise leave the sum to the difference of huge numbers.
    shift = jnp.mean(jnp.einsum("kkp->kp", hessian), axis=0)
    reduced = jnp.where(both_free, hessian + shift[None, None], identity)
    weight = free.astype(residual.dtype)
    n_free = jnp.maximum(jnp.sum(weight, axis=0), 1.0)
    mean = jnp.sum(residual * weight, axis=0) / n_free
    right = jnp.stack([(residual - mean[None]) * weight, weight], axis=1)
    solution = eliminate(reduced, right)
    total = jnp.sum(solution, axis=0)
    # No free variable leaves 0/0: the step is zero whatever the multiplier.
    multiplier = total[0] / jnp.maximum(total[1], jnp.finfo(total.dtype).tiny)
    direction = solution[:, 0] - multiplier[None] * solution[:, 1]
    excess = jnp.sum(direction * weight, axis=0) / n_free
    return (direction - excess[None]) * weight, mean + multiplier


# Problems solved together.
CHUNK = ChunkSize(cpu=128, gpu=65_536)


@partial(jax.jit, static_argnames=("sum_is_fixed",))
def solve_quadratic(
    gradient: Vectors,
    hessian: Matrices,
    lower: Vectors,
    upper: Vectors,
    *,
    sum_is_fixed: bool,
) -> Vectors:
    """Maximise g'd - d'Hd/2 subject to lower <= d <= upper (and sum(d) = 0).

    Parameters
    ----------
    gradient
        g of each problem.
    hessian
        H of each problem, symmetric and positive semi-definite (the negative
        Hessian of a log-likelihood).
    lower, upper
        Bounds of the step, lower <= 0 <= upper, so that d = 0 is feasible.
    sum_is_fixed
        Whether the entries of d must sum to zero (a step on the simplex).

    Returns
    -------
    The steps d; never worse than d = 0. A variable that ends at a bound is there
    exactly.

    References
    ----------
    Nocedal and Wright (2006), Numerical Optimization, algorithm 16.3.
    """
    k, n_problems = gradient.shape
    chunk = CHUNK.of(n_problems)
    padding = -n_problems % chunk

    def chunks(values: Array) -> Array:
        padded = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, padding)])
        return jnp.moveaxis(padded.reshape(*values.shape[:-1], -1, chunk), -2, 0)

    steps = jax.lax.map(
        lambda problems: _solve_chunk(*problems, sum_is_fixed=sum_is_fixed),
        (chunks(gradient), chunks(hessian), chunks(lower), chunks(upper)),
    )
    return jnp.moveaxis(steps, 0, 1).reshape(k, -1)[:, :n_problems]


def _solve_chunk(
    gradient: Vectors,
    hessian: Matrices,
    lower: Vectors,
    upper: Vectors,
    *,
    sum_is_fixed: bool,
) -> Vectors:
    k, n_problems = gradient.shape
    diagonal = jnp.einsum("kkp->kp", hessian)
    ridge = RIDGE * jnp.mean(diagonal, axis=0) + jnp.finfo(jnp.float32).tiny ** 0.5
    hessian = hessian + ridge[None, None] * jnp.eye(k, dtype=hessian.dtype)[:, :, None]
    tolerance = MULTIPLIER_TOLERANCE * jnp.max(jnp.abs(gradient), axis=0)

    def iterate(state: _State) -> _State:
        residual = gradient - multiply(hessian, state.step)
        direction, multiplier = _newton_direction(
            residual, hessian, state.free, sum_is_fixed
        )
        direction = jnp.where(state.free, direction, 0.0)
        room = jnp.where(direction < 0, lower - state.step, upper - state.step)
        ratio = jnp.where(direction == 0, jnp.inf, room / direction)
        shortest = jnp.min(ratio, axis=0)
        blocked = shortest < 1
        moved = state.step + jnp.minimum(shortest, 1.0)[None] * direction
        # Where the sum is fixed, several meet their bounds together but for rounding.
        left = jnp.abs(room) - shortest[None] * jnp.abs(direction)
        near = (direction != 0) & (left <= ROUNDING)
        hits = state.free & blocked[None] & ((ratio <= shortest[None]) | near)
        at_bound = jnp.where(direction < 0, lower, upper)
        moved = jnp.where(hits, at_bound, jnp.clip(moved, lower, upper))

        # After a full step: does a variable at a bound want to come back inside?
        residual = gradient - multiply(hessian, moved)
        pull = residual - multiplier[None]
        inward = jnp.where(moved <= lower, pull, jnp.where(moved >= upper, -pull, 0.0))
        inward = jnp.where(state.free, 0.0, inward)
        strongest = jnp.max(inward, axis=0)
        wants_release = ~blocked & (strongest > tolerance)
        release = wants_release[None] & ~state.free & (inward == strongest[None])
        free = (state.free & ~hits) | release
        return _State(
            jnp.where(state.done[None], state.step, moved),
            jnp.where(state.done[None], state.free, free),
            state.done | (~blocked & ~wants_release),
            state.iteration + 1,
        )

    def unfinished(state: _State) -> Array:
        return (state.iteration < 4 * k + 4) & ~jnp.all(state.done)

    # A variable starts fixed where it sits at a bound and is pushed outwards.
    shift = jnp.mean(gradient, axis=0, keepdims=True) if sum_is_fixed else 0.0
    stuck = ((lower >= 0) & (gradient <= shift)) | ((upper <= 0) & (gradient >= shift))
    start = _State(
        jnp.zeros_like(gradient),
        ~stuck,
        jnp.zeros(n_problems, bool),
        jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(unfinished, iterate, start).step
