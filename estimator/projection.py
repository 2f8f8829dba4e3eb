"""Q for people given P: the encoder's answer, refined to the maximum likelihood."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int32

from estimator.likelihood import (
    Ancestry,
    AncestryStatistics,
    FrequencyTiles,
    Packed,
    ancestry_statistics,
    hessian_share,
)
from estimator.packing import VARIANTS_PER_BYTE
from estimator.quadratic import pair_indices
from estimator.relaxation import newton_ancestry
from estimator.tiling import TileShape

# Largest s'Hs of the Newton step s that is a person's last, H the negative Hessian: the
# square of a seventh of a standard error. The likelihood is self-concordant: the step
# leaves little more than the square of that share, whatever the frequencies, and in
# practice 1e-4 of a standard error. With half of it, one person in 300 would take a
# third pass, and with them everybody in their tile.
#
# With many variants a Hessian hardly changes, and half of them tell it: every other
# pass keeps that of the one before, at half the cost. Such a step leaves a share of
# itself that its length beside that of the step before tells: four times their ratio
# times its length, squared, is at most the same. From an encoder's answer it leaves a
# three-hundredth of a standard error, and a thirteenth in one person of 2,500. To ask
# for half of that costs 15 % of the tiles a third pass, and leaves two thirds of it.
TOLERANCE = 0.02
# Change of an entry of Q at which it is no use to go back further.
_SMALLEST = 5e-5
# Fall of the likelihood, per variant, that is rounding of the probabilities.
_ROUNDING = 1e-8


class Projection(NamedTuple):
    """Q and the log-likelihood of each person at it."""

    ancestry: Ancestry
    log_likelihood: Float64[Array, " people"]


class _Refinement(NamedTuple):
    """People of a tile on their way.

    The Hessian is one at or before the best point, and ``bend`` the s'Hs of the step to
    the trial.
    """

    best: Projection
    trial: Ancestry
    hessian: Float32[Array, "people pairs"]
    bend: Float32[Array, " people"]
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
    fast: from an encoder's answer, or from 1/K everywhere, a few reach the maximum.

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
    rounding = n_variants * _ROUNDING
    keeps = hessian_share(n_variants) < VARIANTS_PER_BYTE
    # Half of them, however many: the first step, in standard errors, is the longer the
    # more there are.
    of_four = VARIANTS_PER_BYTE // 2 if keeps else VARIANTS_PER_BYTE

    def people_tile(index: Array) -> Projection:
        rows = (index * tile.people, tile.people)
        block = jax.lax.dynamic_slice_in_dim(packed, *rows)
        start = jax.lax.dynamic_slice_in_dim(initial, *rows)

        def evaluate(state: _Refinement, share: int) -> AncestryStatistics:
            return ancestry_statistics(
                block, state.trial, frequencies, tile=tile, of_four=share
            )

        def renew(state: _Refinement) -> _Refinement:
            found = evaluate(state, of_four)
            return _advance(state, found, True, refine, rounding)

        def keep(state: _Refinement) -> _Refinement:
            found = evaluate(state, 0)
            return _advance(state, found, False, refine, rounding)

        def refined(state: _Refinement) -> _Refinement:
            state = renew(state)
            if not keeps:
                return state
            return jax.lax.cond(unfinished(state), keep, lambda same: same, state)

        def unfinished(state: _Refinement) -> Array:
            return jnp.any(state.unsettled) & (state.n_evaluated <= refine)

        nothing = jnp.full(tile.people, -jnp.inf, jnp.float64)
        first = _Refinement(
            Projection(start, nothing),
            start,
            jnp.zeros((tile.people, k * (k + 1) // 2), jnp.float32),
            jnp.zeros(tile.people, jnp.float32),
            jnp.asarray(0, jnp.int32),
            jnp.ones(tile.people, bool),
        )
        return jax.lax.while_loop(unfinished, refined, first).best

    found = jax.lax.map(people_tile, jnp.arange(n_people // tile.people))
    return Projection(
        found.ancestry.reshape(n_people, k), found.log_likelihood.reshape(n_people)
    )


class _Model(NamedTuple):
    """What a step gains by the quadratic model of each person, and its s'Hs."""

    gain: Float64[Array, " people"]
    bend: Float32[Array, " people"]


def _model(step: Float32[Array, "people k"], found: AncestryStatistics) -> _Model:
    first, second = pair_indices(step.shape[1])
    twice = jnp.asarray(np.where(first == second, 1.0, 2.0), jnp.float32)
    bend = jnp.sum(found.hessian * twice[None] * step[:, first] * step[:, second], 1)
    # A constant in the gradient changes nothing, but it would blow up the rounding.
    slope = found.gradient - jnp.mean(found.gradient, axis=1, keepdims=True)
    gain = jnp.sum(slope * step, axis=1) - jnp.float32(0.5) * bend
    return _Model(gain.astype(jnp.float64), bend)


def _advance(
    state: _Refinement,
    found: AncestryStatistics,
    renewed: bool,
    refine: Int32[Array, ""],
    rounding: float,
) -> _Refinement:
    """Step on where the trial was no worse, else go halfway back.

    What was found has a Hessian if that was to be renewed.

    Whoever is settled stays, so that nobody's Q depends on who is in the same tile.
    """
    better = found.log_likelihood >= state.best.log_likelihood - rounding
    better = better & state.unsettled
    row = better[:, None]
    best = Projection(
        jnp.where(row, state.trial, state.best.ancestry),
        jnp.where(better, found.log_likelihood, state.best.log_likelihood),
    )
    hessian = jnp.where(row, found.hessian, state.hessian) if renewed else state.hessian
    found = found._replace(hessian=hessian)
    halfway = (state.best.ancestry + state.trial) * jnp.float32(0.5)
    stepped = newton_ancestry(state.trial, found.gradient, found.hessian)
    trial = jnp.where(row, stepped, halfway)
    model = _model(trial - state.trial, found)
    moved = jnp.max(jnp.abs(trial - best.ancestry), axis=1)
    if renewed:
        short = model.bend <= TOLERANCE
    else:
        short = jnp.float32(16) * model.bend**2 <= TOLERANCE * state.bend
    small = jnp.where(better, short, moved <= _SMALLEST)
    # The last step is not evaluated: the quadratic model says what it gains.
    last = better & small & (state.n_evaluated < refine)
    best = Projection(
        jnp.where(last[:, None], trial, best.ancestry),
        best.log_likelihood + jnp.where(last, model.gain, jnp.zeros_like(model.gain)),
    )
    unsettled = state.unsettled & ~small
    # After a step back nothing is known of how the Hessian changes.
    bend = jnp.where(better, model.bend, 0.0)
    return _Refinement(best, trial, hessian, bend, state.n_evaluated + 1, unsettled)
