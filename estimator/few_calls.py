"""Standard errors of ancestry proportions of people with few called genotypes.

With few calls the log-likelihood of a person is wide beside the simplex, and neither
its maximum nor the curvature there says where the truth may be: at a corner nothing
may curve at all. So it is followed over the whole simplex. For every entry of Q, with
L(x) the most that the likelihood can be where that entry is x (its profile),

    1.96 e = the least r whose [q - r, q + r] has .95 of the integral of L over [0, 1]

where q is the estimate. The likelihood is taken as the quadratic of its score and
Hessian at the estimate, which these people's differs little from. Without information
L is flat, and 1.96 e reaches over 95 % of what there is.

A jackknife over blocks of variants needs many blocks with calls. Where there are calls
enough in few blocks, its variance is that of few observations (`few_blocks_factor`).

References
----------
Murphy and van der Vaart (2000), J. Am. Stat. Assoc. 95:449-465. Profile likelihood.
Student (1908), Biometrika 6:1-25.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.special
from jaxtyping import Array, Float32

from estimator.counting import count_called
from estimator.likelihood import Ancestry
from estimator.packing import VARIANTS_PER_BYTE, PackedArray
from estimator.quadratic import multiply, solve_quadratic, symmetric_from_pairs
from estimator.uncertainty import MAX_STANDARD_ERROR

# People with fewer have their likelihood followed over the simplex.
FEW_CALLS = 512
# A variance of so many blocks is known well enough, or of half of those there are.
FEW_BLOCKS = 16
_NORMAL, _COVERED = 1.959964, 0.95
# Distances from the estimate at which the profile is taken, dense near it.
_DISTANCES = (np.arange(33, dtype=np.float32) / 32) ** 2

Vector = npt.NDArray[np.float64]


@jax.jit
def profile_errors(
    ancestry: Ancestry, hessian: Float32[Array, "people pairs"], score: Ancestry
) -> Ancestry:
    """Standard error of every entry of Q, from the profile of its likelihood.

    Parameters
    ----------
    ancestry, hessian, score
        As in `standard_errors`, without the error of the populations.

    Returns
    -------
    In [0, 0.5]. With one population, 0.
    """
    n_people, k = ancestry.shape
    if k == 1:
        return jnp.zeros_like(ancestry)
    bend = symmetric_from_pairs(hessian.T, k)
    slope = score.T - jnp.mean(score.T, axis=0, keepdims=True)
    distance = jnp.asarray(_DISTANCES)[:, None]

    def profile(entry: Array, value: Array) -> Array:
        """Most of the log-likelihood where one entry is such a value."""
        own = (jnp.arange(k) == entry)[:, None]
        rest = (1.0 - value) / (k - 1)
        step = jnp.where(own, value[None], rest[None]) - ancestry.T
        if k > 2:
            room = jnp.where(own, 0.0, ancestry.T + step)
            most = jnp.where(own, 0.0, 1.0 - room)
            rise = slope - multiply(bend, step)
            step = step + solve_quadratic(rise, bend, -room, most, sum_is_fixed=True)
        turn = multiply(bend, step)
        return jnp.sum((slope - 0.5 * turn) * step, axis=0)

    def of_entry(entry: Array) -> Array:
        q = ancestry[:, entry]
        sides = []
        for side in (q[None] - distance, q[None] + distance):
            inside = jnp.clip(side, 0.0, 1.0)
            level = jax.lax.map(partial(profile, entry), inside)
            sides.append(jnp.where(side == inside, level, -jnp.inf))
        both = jnp.stack(sides)
        highest = jnp.max(both, axis=(0, 1), keepdims=True)
        density = jnp.sum(jnp.exp(both - highest), axis=0)
        return _reach(distance, density)

    reach = jax.lax.map(of_entry, jnp.arange(k))
    return jnp.minimum(reach.T / _NORMAL, MAX_STANDARD_ERROR)


def _reach(distance: Array, density: Array) -> Array:
    """Distance within which most of a density lies, each column one."""
    width = distance[1:] - distance[:-1]
    parts = 0.5 * width * (density[1:] + density[:-1])
    mass = jnp.cumsum(parts, axis=0)
    wanted = _COVERED * mass[-1:]
    before = jnp.sum(mass < wanted, axis=0)[None]
    part = jnp.take_along_axis(parts, before, axis=0)
    left = wanted - (jnp.take_along_axis(mass, before, axis=0) - part)
    share = left / jnp.maximum(part, jnp.finfo(part.dtype).tiny)
    start = jnp.take_along_axis(jnp.broadcast_to(distance, density.shape), before, 0)
    step = jnp.take_along_axis(jnp.broadcast_to(width, parts.shape), before, 0)
    return (start + share * step)[0]


def count_blocks(packed: PackedArray, bounds: Sequence[int]) -> Vector:
    """How many blocks of variants each person's calls are in, were they spread evenly.

    Parameters
    ----------
    packed
        Genotypes of people.
    bounds
        First variant of each block, and the number of variants.

    >>> count_blocks(np.array([[0, 255], [0, 0]], np.uint8), [0, 4, 8]).tolist()
    [1.0, 2.0]
    """
    # To whole elements: a variant more or less makes no difference.
    edges = [-(-bound // VARIANTS_PER_BYTE) for bound in bounds]
    cut = zip(edges[:-1], edges[1:], strict=True)
    called = [count_called(packed[:, first:last]) for first, last in cut]
    counts = np.stack(called, axis=1).astype(np.float64)
    squares = np.maximum(np.sum(counts**2, axis=1), 1)
    return np.asarray(np.sum(counts, axis=1) ** 2 / squares)


def few_blocks_factor(n_blocks: Vector) -> npt.NDArray[np.float32]:
    """How much wider intervals are whose variance is that of few blocks.

    >>> few_blocks_factor(np.array([2.0, 11.0, 1e6])).round(3)
    array([6.483, 1.137, 1.   ], dtype=float32)
    """
    freedom = np.maximum(n_blocks - 1, 1)
    tail = scipy.special.stdtrit(freedom, (1 + _COVERED) / 2)
    return np.asarray(tail / _NORMAL, np.float32)
