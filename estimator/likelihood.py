"""The binomial log-likelihood of the ADMIXTURE model, its gradients and Hessians.

With p = QP the frequency of the alternate allele for a person and a variant, g the
alternate alleles counted and n those observed (2 of a diploid call, 1 of a half or
haploid one, 0 where the call is missing):

    log-likelihood   sum g log p + (n - g) log(1 - p)
    d                g / p - (n - g) / (1 - p)
    w                g / p^2 + (n - g) / (1 - p)^2
    gradient of Q    d P'          negative Hessian    w (P_k P_l)'
    gradient of P    Q' d          negative Hessian    (Q_k Q_l)' w

Everything is a matrix product over tiles of people and variants that stay in cache;
no matrix of people by variants is ever held in floating point. Genotypes arrive
packed, in any encoding (`estimator.packing`, `estimator.calls`), and are cut up as
`estimator.tiling` says.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Float64, UInt

from estimator.calls import (
    Codes,
    Counts,
    count_alleles,
    evidence,
    sum_of_logs,
    unpack_codes,
)
from estimator.config import MIN_FREQUENCY
from estimator.packing import VARIANTS_PER_BYTE
from estimator.quadratic import pair_indices
from estimator.tiling import TileShape, slice_tile

Packed = UInt[Array, "people elements"]
Ancestry = Float32[Array, "people k"]
FrequencyTiles = Float32[Array, "tiles 4 k width"]

# Variants that tell a person's Hessian well enough for a Newton step.
_HESSIAN_VARIANTS = 12_288


def hessian_share(n_variants: int) -> int:
    """How many of four neighbouring variants have to count in a person's Hessian.

    A step needs no exact Hessian: an error of a hundredth leaves a hundredth of the
    step to the next one. Standard errors take them all.

    >>> hessian_share(20_000), hessian_share(40_000), hessian_share(100_000)
    (4, 2, 1)
    """
    for share in (1, 2):
        if share * n_variants >= VARIANTS_PER_BYTE * _HESSIAN_VARIANTS:
            return share
    return VARIANTS_PER_BYTE


class AncestryStatistics(NamedTuple):
    """Derivatives of the log-likelihood in the rows of Q, and its value."""

    gradient: Float32[Array, "people k"]
    hessian: Float32[Array, "people pairs"]
    log_likelihood: Float64[Array, " people"]


class FrequencyStatistics(NamedTuple):
    """Derivatives of the log-likelihood in the columns of P, tiled as P is."""

    gradient: Float32[Array, "tiles 4 k width"]
    hessian: Float32[Array, "tiles 4 pairs width"]


class LikelihoodSlopes(NamedTuple):
    """First derivatives of the log-likelihood in Q and in P, and its value."""

    ancestry: Float32[Array, "people k"]
    frequencies: Float32[Array, "tiles 4 k width"]
    log_likelihood: Float64[Array, " people"]


def _frequency(ancestry: Ancestry, frequencies: Float32[Array, "k width"]) -> Array:
    """Individual allele frequencies QP, kept inside (0, 1) against rounding."""
    mixed = jnp.matmul(ancestry, frequencies, precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(mixed, MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)


class _Derivatives(NamedTuple):
    first: Float32[Array, "people width"]
    second: Float32[Array, "people width"]


def _derivatives(counts: Counts, p: Array) -> _Derivatives:
    """First derivative of the log-likelihood in p, and minus the second."""
    per_alternate = 1.0 / p
    per_reference = 1.0 / (1.0 - p)
    alternate = counts.alternate * per_alternate
    reference = counts.reference * per_reference
    return _Derivatives(
        alternate - reference, alternate * per_alternate + reference * per_reference
    )


def _pairs(rows: Float32[Array, "k n"]) -> Float32[Array, "pairs n"]:
    first, second = pair_indices(rows.shape[0])
    return rows[first] * rows[second]


_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("tile", "of_four"))
def ancestry_statistics(
    packed: Packed,
    ancestry: Ancestry,
    frequencies: FrequencyTiles,
    *,
    tile: TileShape,
    of_four: int = VARIANTS_PER_BYTE,
) -> AncestryStatistics:
    """Gradient and negative Hessian of each person's log-likelihood in Q.

    Parameters
    ----------
    packed
        Genotypes, a whole number of tiles in both directions (`pad_shard`).
    ancestry
        Q of the same people.
    frequencies
        P from `tile_variants`.
    tile
        The tile that ``packed`` was padded to and ``frequencies`` laid out for.
    of_four
        How many of four neighbouring variants count in the Hessian, for the others too
        (`hessian_share`): 4, 2 or 1, and with 0 the Hessian is zero. The gradient and
        the value are always of all.

    Returns
    -------
    Statistics of every person. The Hessian holds K(K+1)/2 entries in the order of
    `pair_indices`. Logarithms are taken and summed in float64 (`sum_of_logs`).
    """
    positions = range(VARIANTS_PER_BYTE)
    counted = [i for i in positions if i * of_four % VARIANTS_PER_BYTE < of_four]
    n_people, k = ancestry.shape
    n_tiles = frequencies.shape[0]

    def people_tile(row: Array) -> AncestryStatistics:
        q = jax.lax.dynamic_slice_in_dim(ancestry, row * tile.people, tile.people)

        def variant_tile(column: Array, sums: AncestryStatistics) -> AncestryStatistics:
            block = slice_tile(packed, row, column, tile)
            gradient, hessian, log_likelihood = sums
            parts = []
            for position in positions:
                codes = unpack_codes(block, position)
                p_tile = frequencies[column, position]
                p = _frequency(q, p_tile)
                first, second = _derivatives(count_alleles(codes), p)
                gradient = gradient + _product(first, p_tile.T)
                if position in counted:
                    hessian = hessian + _product(second, _pairs(p_tile).T)
                parts.append(evidence(codes, p))
            return AncestryStatistics(
                gradient, hessian, log_likelihood + sum_of_logs(parts)
            )

        start = AncestryStatistics(
            jnp.zeros((tile.people, k), jnp.float32),
            jnp.zeros((tile.people, k * (k + 1) // 2), jnp.float32),
            jnp.zeros(tile.people, jnp.float64),
        )
        return jax.lax.fori_loop(0, n_tiles, variant_tile, start)

    tiles = jax.lax.map(people_tile, jnp.arange(n_people // tile.people))
    weight = jnp.float32(VARIANTS_PER_BYTE / max(len(counted), 1))
    return AncestryStatistics(
        tiles.gradient.reshape(n_people, k),
        weight * tiles.hessian.reshape(n_people, -1),
        tiles.log_likelihood.reshape(n_people),
    )


@partial(jax.jit, static_argnames=("tile",))
def frequency_statistics(
    packed: Packed, ancestry: Ancestry, frequencies: FrequencyTiles, *, tile: TileShape
) -> FrequencyStatistics:
    """Gradient and negative Hessian of the shard's log-likelihood in P.

    Parameters and layout as in `ancestry_statistics`; the sums of several shards
    are added.
    """
    n_people, k = ancestry.shape
    n_pairs = k * (k + 1) // 2

    def variant_tile(column: Array) -> FrequencyStatistics:
        p_tiles = frequencies[column]

        def people_tile(row: Array, sums: FrequencyStatistics) -> FrequencyStatistics:
            block = slice_tile(packed, row, column, tile)
            q = jax.lax.dynamic_slice_in_dim(ancestry, row * tile.people, tile.people)
            q_pairs = _pairs(q.T)
            gradients, hessians = [], []
            for position in range(VARIANTS_PER_BYTE):
                counts = count_alleles(unpack_codes(block, position))
                first, second = _derivatives(counts, _frequency(q, p_tiles[position]))
                gradients.append(_product(q.T, first))
                hessians.append(_product(q_pairs, second))
            return FrequencyStatistics(
                sums.gradient + jnp.stack(gradients), sums.hessian + jnp.stack(hessians)
            )

        start = FrequencyStatistics(
            jnp.zeros((VARIANTS_PER_BYTE, k, tile.width), jnp.float32),
            jnp.zeros((VARIANTS_PER_BYTE, n_pairs, tile.width), jnp.float32),
        )
        return jax.lax.fori_loop(0, n_people // tile.people, people_tile, start)

    return jax.lax.map(variant_tile, jnp.arange(frequencies.shape[0]))


@partial(jax.jit, static_argnames=("tile",))
def likelihood_slopes(
    packed: Packed, ancestry: Ancestry, frequencies: FrequencyTiles, *, tile: TileShape
) -> LikelihoodSlopes:
    """Gradients of the log-likelihood in Q and in P at once, from one read.

    Parameters and layout as in `ancestry_statistics`. What first-order training
    needs, at half the cost of both kinds of statistics.
    """
    n_people, k = ancestry.shape

    def variant_tile(
        sums: tuple[Array, Array], column: Array
    ) -> tuple[tuple[Array, Array], Array]:
        p_tiles = frequencies[column]

        def people_tile(
            row: Array, sums: tuple[Array, Array, Array]
        ) -> tuple[Array, Array, Array]:
            block = slice_tile(packed, row, column, tile)
            rows = (row * tile.people, tile.people)
            q = jax.lax.dynamic_slice_in_dim(ancestry, *rows)
            q_slope = jnp.zeros_like(q)
            p_slopes, parts = [], []
            for position in range(VARIANTS_PER_BYTE):
                codes = unpack_codes(block, position)
                p = _frequency(q, p_tiles[position])
                first = _derivatives(count_alleles(codes), p).first
                q_slope = q_slope + _product(first, p_tiles[position].T)
                p_slopes.append(_product(q.T, first))
                parts.append(evidence(codes, p))
            return (
                _add_rows(sums[0], q_slope, rows),
                _add_rows(sums[1], sum_of_logs(parts), rows),
                sums[2] + jnp.stack(p_slopes),
            )

        *of_people, p_slope = jax.lax.fori_loop(
            0, n_people // tile.people, people_tile, (*sums, jnp.zeros_like(p_tiles))
        )
        return (of_people[0], of_people[1]), p_slope

    start = (jnp.zeros_like(ancestry), jnp.zeros(n_people, jnp.float64))
    columns = jnp.arange(frequencies.shape[0])
    (q_slope, log_likelihood), p_slope = jax.lax.scan(variant_tile, start, columns)
    return LikelihoodSlopes(q_slope, p_slope, log_likelihood)


def _add_rows(total: Array, part: Array, rows: tuple[Array, int]) -> Array:
    """Add a tile's sums to its rows of a total."""
    sums = jax.lax.dynamic_slice_in_dim(total, *rows) + part
    return jax.lax.dynamic_update_slice_in_dim(total, sums, rows[0], 0)


def tile_derivatives(
    codes: Codes,
    ancestry: Ancestry,
    frequencies: Float32[Array, "k width"],
) -> tuple[Float32[Array, "people width"], Float32[Array, "people width"]]:
    """Return d and w of some variants' genotypes; zero where missing."""
    first, second = _derivatives(
        count_alleles(codes), _frequency(ancestry, frequencies)
    )
    return first, second


def pair_products(rows: Float32[Array, "k n"]) -> Float32[Array, "pairs n"]:
    """Products of every pair of rows, in the order of `pair_indices`."""
    return _pairs(rows)
