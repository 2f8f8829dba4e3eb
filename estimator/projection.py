"""Q for people given P: the encoder's answer, refined to the maximum likelihood."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Float64, Int32

from estimator.likelihood import (
    Ancestry,
    AncestryStatistics,
    FrequencyTiles,
    Packed,
    TileShape,
    ancestry_statistics,
    hessian_stride,
)
from estimator.relaxation import newton_ancestry

# Largest change of an entry of Q by the step that is a person's last: what remains is
# a twentieth of it or less, and the rounding of float32.
TOLERANCE = 5e-5
# Every third step takes the Hessian of the one before it: from an encoder's answer two
# Newton steps leave next to nothing, and a pass for the gradient alone costs half.
_PERIOD = 3
# Fall of the likelihood, per variant, that is rounding of the probabilities.
_ROUNDING = 1e-8


class Projection(NamedTuple):
    """Q and the log-likelihood of each person at it."""

    ancestry: Ancestry
    log_likelihood: Float64[Array, " people"]


class _Refinement(NamedTuple):
    """People of a tile on their way; `hessian` is of an earlier trial, or of this."""

    best: Projection
    trial: Ancestry
    hessian: Float32[Array, "people pairs"]
    n_evaluated: Int32[Array, ""]
    unsettled: Bool[Array, " people"]


def project_ancestry(
    packed: Packed,
    initial: Float32[Array, "people k"],
    frequencies: FrequencyTiles,
    *,
    refine: int,
    tile: TileShape,
) -> Projection:
    """Refine Q by Newton steps with P fixed, never to a lower likelihood.

    What rounding of the probabilities may be is no fall.

    Given P the log-likelihood of each person is concave in Q and the steps converge
    fast: from an encoder's answer, or from 1/K everywhere, three or four reach the
    maximum to float32.

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
    most = jnp.asarray(refine, jnp.int32)
    return _project(packed, initial, frequencies, most, tile=tile)


@partial(jax.jit, static_argnames=("tile",))
def _project(
    packed: Packed,
    initial: Ancestry,
    frequencies: FrequencyTiles,
    refine: Int32[Array, ""],
    *,
    tile: TileShape,
) -> Projection:
    """Refine each tile of people until its own are settled."""
    n_people, k = initial.shape
    n_variants = frequencies.shape[0] * tile.variants
    stride, rounding = hessian_stride(n_variants), n_variants * _ROUNDING

    def people_tile(index: Array) -> Projection:
        rows = (index * tile.people, tile.people)
        block = jax.lax.dynamic_slice_in_dim(packed, *rows)
        start = jax.lax.dynamic_slice_in_dim(initial, *rows)

        def statistics(state: _Refinement, stride: int) -> AncestryStatistics:
            return ancestry_statistics(
                block, state.trial, frequencies, tile=tile, stride=stride
            )

        def evaluate(state: _Refinement) -> _Refinement:
            found = jax.lax.cond(
                state.n_evaluated % _PERIOD < _PERIOD - 1,
                lambda: statistics(state, stride),
                lambda: statistics(state, 0)._replace(hessian=state.hessian),
            )
            return _advance(state, found, rounding)

        def unfinished(state: _Refinement) -> Array:
            return jnp.any(state.unsettled) & (state.n_evaluated <= refine)

        nothing = jnp.full(tile.people, -jnp.inf, jnp.float64)
        first = _Refinement(
            Projection(start, nothing),
            start,
            jnp.zeros((tile.people, k * (k + 1) // 2), jnp.float32),
            jnp.asarray(0, jnp.int32),
            jnp.ones(tile.people, bool),
        )
        return jax.lax.while_loop(unfinished, evaluate, first).best

    found = jax.lax.map(people_tile, jnp.arange(n_people // tile.people))
    return Projection(
        found.ancestry.reshape(n_people, k), found.log_likelihood.reshape(n_people)
    )


def _advance(
    state: _Refinement, found: AncestryStatistics, rounding: float
) -> _Refinement:
    """Step on where the trial was no worse, else go halfway back.

    Whoever is settled stays, so that nobody's Q depends on who is in the same tile.
    """
    better = found.log_likelihood >= state.best.log_likelihood - rounding
    better = better & state.unsettled
    row = better[:, None]
    best = Projection(
        jnp.where(row, state.trial, state.best.ancestry),
        jnp.where(better, found.log_likelihood, state.best.log_likelihood),
    )
    halfway = (state.best.ancestry + state.trial) * jnp.float32(0.5)
    stepped = newton_ancestry(state.trial, found.gradient, found.hessian)
    trial = jnp.where(row, stepped, halfway)
    moved = jnp.max(jnp.abs(trial - best.ancestry), axis=1)
    small = moved <= TOLERANCE
    last = (better & small)[:, None]
    best = best._replace(ancestry=jnp.where(last, trial, best.ancestry))
    unsettled = state.unsettled & ~small
    return _Refinement(best, trial, found.hessian, state.n_evaluated + 1, unsettled)
