"""Q for people given P: the encoder's answer, refined to the maximum likelihood."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Float64

from estimator.likelihood import Ancestry, FrequencyTiles, Packed, TileShape
from estimator.relaxation import relax_ancestry

# Largest change of an entry of Q below which refining stops early.
TOLERANCE = 1e-6


class Projection(NamedTuple):
    """Q and the log-likelihood of each person at it."""

    ancestry: Ancestry
    log_likelihood: Float64[Array, " people"]


class _Refinement(NamedTuple):
    best: Projection
    trial: Ancestry
    unsettled: Bool[Array, ""]


@partial(jax.jit, static_argnames=("tile",))
def _refine(
    packed: Packed,
    state: _Refinement,
    frequencies: FrequencyTiles,
    *,
    tile: TileShape,
) -> _Refinement:
    """Evaluate the trial; step on where it was no worse, else go halfway back."""
    relaxed = relax_ancestry(packed, state.trial, frequencies, tile=tile)
    better = relaxed.log_likelihood >= state.best.log_likelihood
    row = better[:, None]
    best = Projection(
        jnp.where(row, state.trial, state.best.ancestry),
        jnp.where(better, relaxed.log_likelihood, state.best.log_likelihood),
    )
    halfway = (state.best.ancestry + state.trial) * jnp.float32(0.5)
    trial = jnp.where(row, relaxed.ancestry, halfway)
    unsettled = jnp.max(jnp.abs(trial - best.ancestry)) > TOLERANCE
    return _Refinement(best, trial, unsettled)


def project_ancestry(
    packed: Packed,
    initial: Float32[Array, "people k"],
    frequencies: FrequencyTiles,
    *,
    refine: int,
    tile: TileShape,
) -> Projection:
    """Refine Q by Newton steps with P fixed, never to a lower likelihood.

    Given P the log-likelihood of each person is concave in Q and the steps converge
    quadratically: from an encoder's answer, or from 1/K everywhere, three or four
    reach the maximum to float32.

    Parameters
    ----------
    packed
        Genotypes, padded to whole tiles (`pad_shard`).
    initial
        Q to start from, rows on the simplex.
    frequencies
        P from `tile_variants`.
    refine
        Most Newton steps, at least 0; 0 returns ``initial`` and its likelihood.
    tile
        The tile that the arguments were padded and laid out for.
    """
    nothing = jnp.full(initial.shape[0], -jnp.inf, jnp.float64)
    state = _Refinement(Projection(initial, nothing), initial, jnp.asarray(True))
    for _ in range(refine + 1):
        state = _refine(packed, state, frequencies, tile=tile)
        if not state.unsettled:
            break
    return state.best
