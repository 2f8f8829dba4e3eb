"""Steps of Q with P fixed: an exact Newton step from the statistics of a pass.

The log-likelihood is then concave in each person's row of Q. A step maximises its
second-order expansion on the simplex, for everybody at once. Rounds, which step P too,
use `basis` instead.

References
----------
Alexander, Novembre and Lange (2009), Genome Research 19:1655-1664.
Alexander and Lange (2011), BMC Bioinformatics 12:246.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from estimator.likelihood import Ancestry
from estimator.quadratic import solve_quadratic, symmetric_from_pairs


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
