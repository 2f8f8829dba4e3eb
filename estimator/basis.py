"""The basis step: move the populations themselves, along which relaxation creeps.

For any matrix A whose rows sum to 1, (Q A^-1)(A P) is QP: the populations can be
replaced by mixtures of themselves, and only the bounds of Q and P tell the difference.
Block relaxation, which moves Q and P in turn, needs many rounds along these K(K - 1)
directions. But its statistics are enough to see where they lead. With m_i the
quadratic model of a person's log-likelihood and m_j that of a variant's,

    F(A) = sum_i max over y in the simplex of m_i(A' y)
         + sum_j max over r in the box of m_j(A^-1 r)

is maximised over A by Newton's method, without a look at the genotypes. Where nothing
is at a bound F is constant; each bound that holds adds its multiplier to the gradient
of F and what it takes away from the model to the curvature.

The gradient at A = 1 is summed over everybody and every variant (`pull`), so that a
fit that has reached the maximum stays there; the rest is taken from a sample, which
decides only how fast it is reached (`basis_choice`).
"""

import operator
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Bool, Float32, Float64

from estimator.config import MIN_FREQUENCY
from estimator.quadratic import RIDGE, multiply, solve_quadratic, symmetric_from_pairs
from estimator.tiling import ChunkSize

Matrix = npt.NDArray[np.float64]
Values = Float32[Array, "k n"] | Float32[np.ndarray, "k n"]
Held = Bool[Array, " n"] | Bool[np.ndarray, " n"]

_HIGHEST = jax.lax.Precision.HIGHEST
_product = partial(jnp.matmul, precision=_HIGHEST)


class Models(NamedTuple):
    """Quadratic models of the log-likelihood of some people, or of some variants.

    Attributes
    ----------
    position
        Where they were expanded: rows of Q, or columns of P, one a column.
    gradient
        First derivatives there.
    hessian
        Minus the second, K(K+1)/2 entries in the order of `pair_indices`.
    held
        Whose ancestry is given and stays; no variant.
    """

    position: Values
    gradient: Values
    hessian: Float32[Array, "pairs n"] | Float32[np.ndarray, "pairs n"]
    held: Held


class Change(NamedTuple):
    """What makes values in the old basis of those in a new one, and back."""

    to_old: Float32[Array, "k k"] | Float32[np.ndarray, "k k"]
    to_new: Float32[Array, "k k"] | Float32[np.ndarray, "k k"]


def change_of_ancestry(basis: Matrix) -> Change:
    """How rows of Q change with the basis."""
    return Change(basis.T.astype(np.float32), np.linalg.inv(basis).T.astype(np.float32))


def change_of_frequencies(basis: Matrix) -> Change:
    """How columns of P change with the basis."""
    return Change(np.linalg.inv(basis).astype(np.float32), basis.astype(np.float32))


class _Optimum(NamedTuple):
    """Best values of models in a new basis, and the models' derivatives there."""

    values: Float32[Array, "k n"]
    gradient: Float32[Array, "k n"]
    hessian: Float32[Array, "k k n"]


class Surface(NamedTuple):
    """Sum of the models' maxima, as a function of a further change of basis 1 + D."""

    value: Float64[Array, ""]
    gradient: Float64[Array, "k k"]
    curvature: Float64[Array, "k k k k"]


def _feasible(values: Array, simplex: bool) -> Array:
    if not simplex:
        return jnp.clip(values, MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
    inside = jnp.clip(values, 0.0, 1.0)
    # Rounding moves the sum by a few units in the last place; restore it.
    return inside / jnp.sum(inside, axis=0, keepdims=True)


def _hessian_of(models: Models) -> Array:
    return symmetric_from_pairs(jnp.asarray(models.hessian), len(models.position))


def _optimum(models: Models, change: Change, simplex: bool) -> _Optimum:
    """Maximise the models over values in a new basis."""
    hessian = _hessian_of(models)
    start = _feasible(_product(change.to_new, models.position), simplex)
    held = jnp.asarray(models.held)[None]
    start = jnp.where(held, jnp.asarray(models.position), start)

    def slope(values: Array) -> Array:
        moved = _product(change.to_old, values) - models.position
        old = models.gradient - multiply(hessian, moved)
        return _product(change.to_old.T, old)

    to_old = jnp.asarray(change.to_old)
    turned = jnp.einsum("ak,abn->kbn", to_old, hessian, precision=_HIGHEST)
    # Elementwise: a matrix product over the middle axis would be transposed first.
    columns = (turned[:, b, None] * row[None, :, None] for b, row in enumerate(to_old))
    changed = reduce(operator.add, columns)
    lower, upper = (0.0, 1.0) if simplex else (MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
    room = lower - start, upper - start
    step = solve_quadratic(slope(start), changed, *room, sum_is_fixed=simplex)
    # What moved all the way is at the bound, whatever the rounding of the sum.
    moved = jnp.where(step == room[1], upper, start + step)
    moved = jnp.where(step == room[0], lower, moved)
    values = jnp.where(held, start, _feasible(moved, simplex))
    return _Optimum(values, slope(values), changed)


@partial(jax.jit, static_argnames=("simplex",))
def step_in_basis(
    models: Models, change: Change, *, simplex: bool
) -> Float32[Array, "k n"]:
    """Values that maximise the models within the constraints, in another basis.

    Parameters
    ----------
    models
        People, or variants.
    change
        `change_of_ancestry` for people, `change_of_frequencies` for variants.
    simplex
        Whether values are ancestry, and not frequencies.
    """
    return _optimum(models, change, simplex).values


class _Bound(NamedTuple):
    free: Bool[Array, "k n"]
    multiplier: Float64[Array, "k n"]


def _bound(values: Array, gradient: Array, held: Array, simplex: bool) -> _Bound:
    """Which values are free, and the multipliers of those that are not."""
    slope = gradient.astype(jnp.float64)
    if not simplex:
        free = (values > MIN_FREQUENCY) & (values < 1.0 - MIN_FREQUENCY)
        return _Bound(free, jnp.where(free, 0.0, slope))
    free = (values > 0) & ~held[None]
    # A constant in a person's gradient changes nothing, as rows of A keep their sum.
    # Where some are free, it is the multiplier of the sum.
    counted = free | ~jnp.any(free, axis=0, keepdims=True)
    n_counted = jnp.sum(counted, axis=0).astype(slope.dtype)
    level = jnp.sum(jnp.where(counted, slope, 0.0), axis=0) / n_counted
    return _Bound(free, jnp.where(free, 0.0, slope - level[None]))


@partial(jax.jit, static_argnames=("simplex",))
def pull(models: Models, values: Values, *, simplex: bool) -> Float64[Array, "k k"]:
    """Gradient of F at A = 1 from some people, or variants.

    Parameters
    ----------
    models
        People, or variants.
    values
        What maximises them within the constraints.
    simplex
        Whether values are ancestry, and not frequencies.
    """
    moved = values - models.position
    slope = models.gradient - multiply(_hessian_of(models), moved)
    held, values = jnp.asarray(models.held), jnp.asarray(values)
    multiplier = _bound(values, jnp.asarray(slope), held, simplex).multiplier
    gradient = multiplier @ values.astype(jnp.float64).T
    return gradient.T if simplex else -gradient


def _times(left: Array, right: Array) -> Array:
    """Products of as many small matrices, elementwise over the last axis."""

    def add(i: Array, total: Array) -> Array:
        column = jax.lax.dynamic_index_in_dim(left, i, 1)
        row = jax.lax.dynamic_index_in_dim(right, i, 0)
        return total + column * row

    return jax.lax.fori_loop(0, right.shape[0], add, jnp.zeros_like(right))


def _inverse(matrix: Array) -> Array:
    """Inverse of symmetric positive definite matrices, by Gauss and Jordan in place.

    In half the time that `eliminate` would take to carry the unit matrix along.
    """
    index = jnp.arange(matrix.shape[0])

    def pivot(i: Array, rows: Array) -> Array:
        row, column = (
            jax.lax.dynamic_index_in_dim(rows, i, axis, keepdims=False)
            for axis in (0, 1)
        )
        # Column i has become that of the unit matrix, and gives its place to the
        # inverse's.
        here = (index == i)[:, None]
        diagonal = jax.lax.dynamic_index_in_dim(column, i, 0)
        scaled = jnp.where(here, 1.0, row) / diagonal
        others = jnp.where(here[None], 0.0, rows) - column[:, None] * scaled[None]
        return jax.lax.dynamic_update_index_in_dim(others, scaled, i, 0)

    return jax.lax.fori_loop(0, len(index), pivot, matrix)


def _inverse_on(hessian: Array, free: Array, simplex: bool) -> Array:
    """Inverse of H within the free variables and, on the simplex, a sum of zero."""
    k = hessian.shape[0]
    both = free[:, None] & free[None, :]
    identity = jnp.broadcast_to(
        jnp.eye(k, dtype=hessian.dtype)[:, :, None], hessian.shape
    )
    scale = jnp.mean(jnp.einsum("kkn->kn", hessian), axis=0)[None, None]
    ridge = (RIDGE * scale + jnp.finfo(jnp.float32).tiny ** 0.5) * identity
    # Where the sum is zero, a constant in every entry of H changes nothing.
    shift = scale if simplex else jnp.zeros_like(scale)
    reduced = jnp.where(both, hessian + shift + ridge, identity)
    inverse = jnp.where(both, _inverse(reduced), 0.0)
    if not simplex:
        return inverse
    column = jnp.sum(inverse, axis=1)
    total = jnp.maximum(jnp.sum(column, axis=0), jnp.finfo(jnp.float32).tiny)
    return inverse - column[:, None] * column[None] / total[None, None]


# Models whose surface is computed together.
CHUNK = ChunkSize(cpu=256, gpu=8_192)


@partial(jax.jit, static_argnames=("simplex",))
def surface(models: Models, change: Change, *, simplex: bool) -> Surface:
    """Sum of the models' maxima in a basis, its gradient and second derivatives.

    With v the best values, W the inverse of their H within the free ones and s the
    multipliers, a further change 1 + D has the second derivative
    -(Dv)'H(Dv) + (D's - HDv)'W(D's - HDv).
    """
    k, n = models.position.shape
    chunk = CHUNK.of(n)

    def chunks(values: Array) -> Array:
        padding = [(0, 0)] * (values.ndim - 1) + [(0, -n % chunk)]
        padded = jnp.pad(values, padding, mode="edge")
        return jnp.moveaxis(padded.reshape(*values.shape[:-1], -1, chunk), -2, 0)

    def add(total: Surface, of: tuple[Models, Array]) -> tuple[Surface, None]:
        part = _surface_of_chunk(*of, change, simplex)
        return jax.tree.map(jnp.add, total, part), None

    counted = jnp.arange(-(-n // chunk) * chunk).reshape(-1, chunk) < n
    start = Surface(
        jnp.zeros((), jnp.float64),
        jnp.zeros((k, k), jnp.float64),
        jnp.zeros((k, k, k, k), jnp.float64),
    )
    split = Models(*map(chunks, map(jnp.asarray, models)))
    return jax.lax.scan(add, start, (split, counted))[0]


def _surface_of_chunk(
    models: Models, counted: Array, change: Change, simplex: bool
) -> Surface:
    """Surface of some models; others only fill the chunk."""
    k, n = models.position.shape
    values, slope, h = _optimum(models, change, simplex)
    moved = (_product(change.to_old, values) - models.position).astype(jnp.float64)
    old = _hessian_of(models).astype(jnp.float64)
    bent = multiply(old, moved)
    rise = jnp.asarray(models.gradient).astype(jnp.float64)
    value = jnp.sum(jnp.where(counted[None], moved * (rise - 0.5 * bent), 0.0))

    free, multiplier = _bound(values, slope, jnp.asarray(models.held), simplex)
    v = jnp.where(counted[None], values, 0.0)
    s = jnp.where(counted[None], multiplier, 0.0).astype(jnp.float32)
    w = _inverse_on(h, free, simplex)
    wh = _times(w, h)
    kept = h - _times(h, wh)

    def summed(left: Array, right: Array, inner: Array) -> Array:
        """Sums over n of left_a right_b inner_cd, indexed (a, b, c, d)."""
        outer = (left[:, None] * right[None]).reshape(k * k, n)
        found = _product(outer, inner.reshape(k * k, n).T)
        return found.reshape(k, k, k, k).astype(jnp.float64)

    mixed = summed(s, v, wh).transpose(0, 2, 3, 1)
    curvature = (
        -summed(v, v, kept).transpose(2, 0, 3, 1)
        - mixed
        - mixed.transpose(2, 3, 0, 1)
        + summed(s, s, w).transpose(0, 2, 1, 3)
    )
    gradient = jnp.where(counted[None], multiplier, 0.0) @ v.astype(jnp.float64).T
    return Surface(value, gradient, curvature)
