"""Standard errors of ancestry proportions, at the maximum of the likelihood.

With H the negative Hessian of a person's log-likelihood in Q, and A its inverse within
the directions that the constraints leave (`_direction`), the observed information gives
the covariance A. It counts every variant as one more observation, which linked variants
are not. The jackknife takes the scores s_b of blocks of variants, long enough to be
nearly independent of each other, in place of the likelihood's word for their variance:

    covariance    B / (B - 1) * A (sum_b (s_b - s m_b / M) (s_b - s m_b / M)') A

with s the sum of the s_b, m_b the variants of block b of B, and M those of all. This is
the infinitesimal form of the jackknife that deletes a block at a time, and needs one
pass over the genotypes. P is treated as known, unless the error of the populations is
given (`population_error`), which adds to each person's noise and moves them together.
With S that noise, the score of the true q of people who are not in the fit is -S q on
average: they come out (H - S)^-1 S q too near the middle, which their intervals count.
At alleles that a fit has as absent (`absent_alleles`) that of people in the fit is
below zero, and that of others above.

A proportion at zero stays there under small changes of the data, so it does not move
with the others. In other samples it would leave zero where its score, negative here,
came out positive: with s the standard error that it has when it is let go together with
those above zero, and m < 0 the Newton step that it then wants, its estimate is
max(0, N(m, s^2)). The root mean square of that, about the zero which is the estimate,
is its standard error, or what makes 1.96 of them reach to m + 1.96 s, if that is more:
intervals about N(m, s^2) hold what is true as often as others. A bootstrap of the
bounded estimate would have its standard deviation, about a mean above zero.

What it leaves zero by is taken from those above zero, in the proportions of A. For a
person at a vertex, who has all of one ancestry, the same mean square is the standard
error of that. Entries inside have intervals, which should hold what is true: what this
one has, by the likelihood, is N(m, s^2) among numbers above zero, whose mean is a bias
of theirs and whose variance adds to theirs.

References
----------
Efron and Hinkley (1978), Biometrika 65:457-482. Observed information.
Jaeckel (1972), Bell Laboratories memorandum 72-1215. Infinitesimal jackknife.
Kunsch (1989), Annals of Statistics 17:1217-1241. Blocks of dependent observations.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32

from estimator.bounded import (
    bounded_square,
    covering_variance,
    moments_above_zero,
    square_at_zero,
)
from estimator.likelihood import (
    Ancestry,
)
from estimator.quadratic import (
    RIDGE,
    eliminate,
    multiply,
    symmetric_from_pairs,
)

# No quantity in [0, 1] has a larger one: that of a person whom the data tell nothing.
MAX_STANDARD_ERROR = 0.5
_TINY = float(np.finfo(np.float32).tiny)

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class PopulationError(NamedTuple):
    """What the error of the fitted populations adds to that of a person's Q.

    Attributes
    ----------
    noise
        What the noise of P adds to a person's Hessian, for each called genotype.
    basis
        For each population a matrix whose quadratic form in a person's Q is the mean
        square that the error of the basis gives to that entry of it.
    bias
        The part of that error which is no chance: where the fitted Q is q, the true one
        is about q + q'bias.
    """

    noise: Float32[Array, "k k"] | Float32[np.ndarray, "k k"]
    basis: Float32[Array, "k k k"] | Float32[np.ndarray, "k k k"]
    bias: Float32[Array, "k k"] | Float32[np.ndarray, "k k"]


@jax.jit
def standard_errors(
    ancestry: Ancestry,
    hessian: Float32[Array, "people pairs"],
    score: Ancestry,
    scatter: Float32[Array, "people pairs"] | None = None,
    *,
    error: PopulationError | None = None,
    n_called: Float32[Array, " people"] | None = None,
    in_fit: Bool[Array, " people"] | None = None,
    absent: Ancestry | None = None,
) -> Ancestry:
    """Standard error of every entry of Q.

    Parameters
    ----------
    ancestry
        Q at the maximum; an entry of exactly 0 is at its bound.
    hessian
        Negative Hessian of the log-likelihood in Q, from `block_scores` or
        `ancestry_statistics`.
    score
        Gradient of the same.
    scatter
        Of the blocks' scores; without it, the observed information alone.
    error
        Of the fitted populations; without it, they are taken as known.
    n_called
        Called genotypes of each person, with `error`.
    in_fit
        Of whose genotypes P was estimated, with `error`; without it, of everybody's.
    absent
        Mean score of the truth at alleles that a fit has as absent, with `error`: from
        `score_of_absent` for people in the fit, and `score_of_carried` for others.

    Returns
    -------
    In [0, 0.5]. With one population, 0.
    """
    k = ancestry.shape[1]
    free = ancestry.T > 0
    full = symmetric_from_pairs(hessian.T, k)
    largest = MAX_STANDARD_ERROR**2
    informative, middle = full, None
    if scatter is not None:
        middle = symmetric_from_pairs(scatter.T, k)
    shared = shift = pull = jnp.zeros_like(ancestry.T)
    targets = jnp.eye(k, dtype=ancestry.dtype)
    if error is not None:
        assert n_called is not None, "the noise of P is that of called genotypes"
        informative = full - jnp.asarray(error.noise)[:, :, None] * n_called[None, None]
        middle = full if middle is None else middle
        q = ancestry.T
        turned = _product(jnp.asarray(error.basis).reshape(k * k, k), q)
        shared = multiply(turned.reshape(k, k, -1), q)
        bias = jnp.asarray(error.bias)
        shift = _product(bias.T, q)
        shared = jnp.maximum(shared - shift**2, 0.0)
        if absent is not None:
            # A person at a corner stays there in samples like this one.
            inside = jnp.sum(free, axis=0) > 1
            pull = jnp.where(inside[None], -absent.T, pull)
        # The noise of P draws everybody to the middle, and those in the fit back by as
        # much, for it is their own noise too.
        if in_fit is not None:
            drawn = _product(jnp.asarray(error.noise), q) * n_called[None]
            pull = pull + jnp.where(in_fit[None], jnp.zeros_like(drawn), drawn)
        # Where it has drawn the populations apart, an error of the true Q is so much
        # larger.
        targets = targets + bias.T

    def add(others: _Others, population: Array) -> tuple[_Others, _Own]:
        own, target = jnp.arange(k) == population, targets[population]
        direction = _direction(informative, free | own[:, None], target)
        informed = jnp.sum(target[:, None] * direction, axis=0)
        estimated = informed
        if middle is not None:
            spread = multiply(middle, direction)
            estimated = jnp.sum(direction * spread, axis=0)
        # Where the data tell nothing, the scores have nothing to scatter either.
        variance = jnp.where(informed < largest, estimated, largest)
        step = jnp.sum(direction * score.T, axis=0)
        outward = jnp.sum(direction * pull, axis=0)
        leaves = ~jnp.any(free & own[:, None], axis=0) & (direction[population] > 0)
        moved = direction / jnp.where(leaves, direction[population], 1.0)[None]
        moved = jnp.where(leaves[None], moved, jnp.zeros_like(moved))
        mean, remaining = moments_above_zero(step, variance)
        square = bounded_square(step, variance)
        more = _Others(
            moved**2 * square[None], moved * mean[None], moved**2 * remaining[None]
        )
        return jax.tree.map(jnp.add, others, more), _Own(variance, step, outward)

    # One after the other: all at once would hold K matrices a person.
    nothing = jnp.zeros_like(ancestry.T)
    start = _Others(nothing, nothing, nothing)
    others, own = jax.lax.scan(add, start, jnp.arange(k))
    variance = own.variance + shared
    # A bias takes no proportion beyond its bounds.
    shift = jnp.clip(ancestry.T + shift + own.outward, 0.0, 1.0) - ancestry.T
    inside = covering_variance(variance + others.variance, shift + others.mean)
    whole = covering_variance(variance, shift) + others.square
    whole = jnp.where(jnp.sum(free, axis=0)[None] > 1, inside, whole)
    whole = jnp.where(free, whole, square_at_zero(own.step + shift, variance))
    return jnp.sqrt(jnp.clip(whole, 0.0, largest)).T


class _Own(NamedTuple):
    """Of each entry, let go if it is at zero: what it would do by itself.

    Attributes
    ----------
    variance
        Its variance, as far as it is the person's own.
    step
        The step that it wants, 0 if it is free. The bias comes to that, and is in those
        of the others already.
    outward
        How much less it was found to be than it is, because of the noise of P and of
        alleles that are absent from populations.
    """

    variance: Float32[Array, "k people"]
    step: Float32[Array, "k people"]
    outward: Float32[Array, "k people"]


class _Others(NamedTuple):
    """What entries at zero do to an entry, when they leave it.

    Attributes
    ----------
    square
        Mean square of the change in other samples.
    mean, variance
        Of the change from what was fitted to what is true.
    """

    square: Float32[Array, "k people"]
    mean: Float32[Array, "k people"]
    variance: Float32[Array, "k people"]


def _direction(
    hessian: Float32[Array, "k k people"], free: Array, target: Float32[Array, " k"]
) -> Float32[Array, "k people"]:
    """The inverse of H within steps of the free entries that sum to zero, times t.

    With Z a basis of those steps, Z (Z'HZ)^-1 Z't. A constant added to every entry of H
    changes nothing there, and keeps the system that is solved well conditioned.
    """
    k = hessian.shape[0]
    identity = jnp.eye(k, dtype=hessian.dtype)[:, :, None]
    shift = jnp.mean(jnp.einsum("kkp->kp", hessian), axis=0)
    floor = RIDGE * shift + _TINY**0.5
    raised = hessian + shift[None, None] + floor[None, None] * identity
    reduced = jnp.where(free[:, None] & free[None], raised, identity)
    weight = free.astype(hessian.dtype)
    right = jnp.stack([target[:, None] * weight, weight], axis=1)
    solution = eliminate(reduced, right)
    row, ones = solution[:, 0], solution[:, 1]
    total = jnp.maximum(jnp.sum(ones * weight, axis=0), _TINY)
    return (row - (jnp.sum(row * weight, axis=0) / total)[None] * ones) * weight
