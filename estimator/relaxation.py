"""Block relaxation: one exact Newton step for Q, one for P.

With P fixed the log-likelihood is concave in each person's row of Q, and with Q fixed
in each variant's column of P. A step maximises the second-order expansion of a block
within its constraints (the simplex, or the box), all blocks of a kind at once.

References
----------
Alexander, Novembre and Lange (2009), Genome Research 19:1655-1664.
Alexander and Lange (2011), BMC Bioinformatics 12:246.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int

from estimator.config import MIN_FREQUENCY
from estimator.likelihood import (
    Ancestry,
    FrequencyTiles,
    Packed,
    TileShape,
    ancestry_statistics,
)
from estimator.quadratic import solve_quadratic, symmetric_from_pairs


class RelaxedAncestry(NamedTuple):
    """Q after a step, and the log-likelihood of each person before it."""

    ancestry: Ancestry
    log_likelihood: Float64[Array, " people"]


def newton_ancestry(
    ancestry: Ancestry,
    gradient: Ancestry,
    hessian: Float32[Array, "people pairs"],
) -> Ancestry:
    """Q after one Newton step on the simplex, from the statistics at Q."""
    k = ancestry.shape[1]
    q = ancestry.T
    step = solve_quadratic(
        gradient.T, symmetric_from_pairs(hessian.T, k), -q, 1.0 - q, sum_is_fixed=True
    )
    moved = jnp.clip(q + step, 0.0, 1.0)
    # Rounding moves the sum by a few units in the last place; restore it.
    return (moved / jnp.sum(moved, axis=0, keepdims=True)).T


def fix_ancestry(ancestry: Ancestry, population: Int[np.ndarray, " n"]) -> Ancestry:
    """Q with some people's ancestry all in a given population.

    Parameters
    ----------
    ancestry
        Q.
    population
        Population of the first people, -1 for those who keep their row; the people
        after them keep theirs too.
    """
    padded = np.full(len(ancestry), -1, population.dtype)
    padded[: len(population)] = population
    given = padded[:, None] == np.arange(ancestry.shape[1])
    return jnp.where((padded >= 0)[:, None], given.astype(np.float32), ancestry)


@partial(jax.jit, static_argnames=("tile",))
def relax_ancestry(
    packed: Packed, ancestry: Ancestry, frequencies: FrequencyTiles, *, tile: TileShape
) -> RelaxedAncestry:
    """One pass over a shard and one Newton step for Q with P fixed."""
    statistics = ancestry_statistics(packed, ancestry, frequencies, tile=tile)
    moved = newton_ancestry(ancestry, statistics.gradient, statistics.hessian)
    return RelaxedAncestry(moved, statistics.log_likelihood)


@jax.jit
def newton_frequencies(
    frequencies: Float32[Array, "k variants"],
    gradient: Float32[Array, "k variants"],
    hessian: Float32[Array, "pairs variants"],
) -> Float32[Array, "k variants"]:
    """P after one Newton step in the box, from the summed statistics at P."""
    k = frequencies.shape[0]
    # A start from a pooled frequency of 0 or 1 must not leave an empty interval.
    inside = jnp.clip(frequencies, MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
    step = solve_quadratic(
        gradient,
        symmetric_from_pairs(hessian, k),
        MIN_FREQUENCY - inside,
        1.0 - MIN_FREQUENCY - inside,
        sum_is_fixed=False,
    )
    return jnp.clip(inside + step, MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
