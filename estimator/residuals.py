"""Residual correlation of people: whom the populations of a model do not describe.

With r = g - n QP what the model leaves of a person's allele counts, zero where missing,
the residuals of two people are uncorrelated where it holds. They correlate where both
descend from a population that it lacks, or are kin: by 2F at a distance Fst = F from
the mixture that stands for the absent population, and by twice the kinship of kin.

P was estimated from the people themselves, which makes their residuals correlate
negatively, by -1/(n - 1) among n people of one population. With I_j the information on
P at a variant (the sums that P's Newton step has), to first order

    E[r_ij r_sj] = - n_ij n_sj q_i' I_j^-1 q_s        for i, s both in the fit

and 0 where one of them is not. It is taken off; nothing is dropped from the fit. It is
taken off the variance of a person's own residuals as well (i = s), which are too small
by as much: the correlations then stay within -1 and 1 for people who make up a
population nearly by themselves. Whose residuals have no variance has no correlation.

A person is compared with references, some hundred people of the cohort, on two halves
of the variants: long stretches in turn, so that the halves are hardly linked. The
nearest references on one half are found by chance or by what is shared with them; their
median correlation on the other half is then 0 in the first case. The statistic is the
mean of both ways round. That the halves differ only by chance gives its standard error,
with all the linkage that there is. The median stays put for the few kin that a person
has among the references.

References
----------
Garcia-Erill and Albrechtsen (2020), Molecular Ecology Resources 20:936-949.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Bool, Float, Float32, Int

from estimator.calls import count_alleles, is_missing, unpack_codes
from estimator.config import MIN_FREQUENCY
from estimator.likelihood import Ancestry, FrequencyTiles, Packed
from estimator.packing import VARIANTS_PER_BYTE
from estimator.quadratic import pair_indices
from estimator.tiling import TileShape, slice_tile, tile_variants

HALVES = 2
# References whose correlations on the other half of the variants are looked at: a
# population shows once the references have five or so of its people.
N_NEAREST = 8
# Variance of the median of as many standard normal values.
_MEDIAN_VARIANCE = 0.168
# Correlation of the two medians, by the share of the references that are nearest.
_BOTH_HALVES = 1.4
# Of the references' mean sum of squares, below which residuals tell nothing: a person
# whom the model reproduces has next to none.
_LEAST_SIZE = 1e-3
# What is known of P without any people.
_PRIOR_ALLELES = 0.01

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_Doubles = npt.NDArray[np.float64]


class Panel(NamedTuple):
    """What people are compared with; tiles of one half of the variants, then the other.

    Attributes
    ----------
    frequencies
        P.
    residuals
        Residuals of the references.
    weight
        Sum of their squares, by which a variant counts in a person's share of calls.
    """

    frequencies: FrequencyTiles
    residuals: Float32[Array, "tiles 4 references width"]
    weight: Float32[Array, "tiles 4 1 width"]


class ResidualSums(NamedTuple):
    """Sums over the variants of each half.

    Attributes
    ----------
    products
        Of a person's residuals with each reference's.
    squares
        Of the person's own.
    called, alleles
        Weights of the variants called, once and times the alleles observed.
    """

    products: Float32[Array | np.ndarray, "people halves references"]
    squares: Float32[Array | np.ndarray, "people halves"]
    called: Float32[Array | np.ndarray, "people halves"]
    alleles: Float32[Array | np.ndarray, "people halves"]


class References(NamedTuple):
    """What is known of the references beside their residuals.

    Attributes
    ----------
    ancestry
        Their Q.
    size
        Sum of squares on each half, if all variants that anybody has were called.
    alleles
        Alleles observed at a variant on average, weighted, 0 to 2.
    weight
        Sum of the weights of each half.
    covariance
        Sum of I_j^-1 over each half; zeros where P was not estimated from them.
    """

    ancestry: Float32[np.ndarray, "references k"]
    size: Float[np.ndarray, "references halves"]
    alleles: Float[np.ndarray, "references halves"]
    weight: Float[np.ndarray, " halves"]
    covariance: Float[np.ndarray, "halves k k"]


class Correlations(NamedTuple):
    """Corrected residual correlations with each reference, NaN where nothing tells.

    Within -1 and 1.
    """

    halves: Float[np.ndarray, "halves people references"]
    whole: Float[np.ndarray, "people references"]


class FitCheck(NamedTuple):
    """Residual correlation of each person with the nearest, and its standard error.

    NaN where the calls of a person tell nothing.
    """

    correlation: Float32[np.ndarray, " people"]
    standard_error: Float32[np.ndarray, " people"]


def tile_halves(
    values: Float32[Array | np.ndarray, "halves rows variants"],
    width: int,
    fill: float,
) -> Float32[Array, "tiles 4 rows width"]:
    """Lay out rows of both halves for the kernels, whole tiles each."""
    short = -values.shape[2] % (width * VARIANTS_PER_BYTE)
    halves = list(np.asarray(values))
    if short:
        padding = ((0, 0), (0, short))
        halves = [np.pad(half, padding, constant_values=fill) for half in halves]
    return tile_variants(np.concatenate(halves, axis=1), width)


class _Residuals(NamedTuple):
    residuals: Float32[Array, "people width"]
    called: Float32[Array, "people width"]
    observed: Float32[Array, "people width"]


def _residuals(block: Array, position: int, q: Array, p_tile: Array) -> _Residuals:
    codes = unpack_codes(block, position)
    counts = count_alleles(codes)
    mixed = jnp.clip(_product(q, p_tile), MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
    observed = counts.alternate + counts.reference
    called = jnp.where(is_missing(codes), jnp.float32(0), jnp.float32(1))
    return _Residuals(counts.alternate - observed * mixed, called, observed)


@partial(jax.jit, static_argnames=("tile",))
def reference_residuals(
    packed: Packed, ancestry: Ancestry, frequencies: FrequencyTiles, *, tile: TileShape
) -> Float32[Array, "tiles 4 people width"]:
    """Residuals of people few enough to hold them, tiled as P is.

    Parameters and layout as in `likelihood.ancestry_statistics`.
    """

    def variant_tile(column: Array) -> Float32[Array, "4 people width"]:
        start = (jnp.int32(0), column * tile.width)
        block = jax.lax.dynamic_slice(packed, start, (packed.shape[0], tile.width))
        return jnp.stack(
            [
                _residuals(block, i, ancestry, frequencies[column, i]).residuals
                for i in range(VARIANTS_PER_BYTE)
            ]
        )

    return jax.lax.map(variant_tile, jnp.arange(frequencies.shape[0], dtype=jnp.int32))


@partial(jax.jit, static_argnames=("tile",))
def residual_sums(
    packed: Packed, ancestry: Ancestry, panel: Panel, *, tile: TileShape
) -> ResidualSums:
    """Compare the residuals of people with those of the references.

    Parameters
    ----------
    packed
        Genotypes at the panel's variants, each half a whole number of tiles.
    ancestry
        Q of the same people.
    panel
        The references.
    tile
        The tile that all were laid out for.
    """
    n_people = packed.shape[0]
    n_tiles, _, n_references, _ = panel.residuals.shape
    per_half = n_tiles // HALVES

    def people_tile(row: Array) -> ResidualSums:
        q = jax.lax.dynamic_slice_in_dim(ancestry, row * tile.people, tile.people)

        def variant_tile(column: Array, sums: ResidualSums) -> ResidualSums:
            block = slice_tile(packed, row, column, tile)
            products, squares, called, alleles = sums
            for position in range(VARIANTS_PER_BYTE):
                found = _residuals(
                    block, position, q, panel.frequencies[column, position]
                )
                weight = panel.weight[column, position]
                products = products + _product(
                    found.residuals, panel.residuals[column, position].T
                )
                squares = squares + jnp.sum(found.residuals**2, axis=1)
                called = called + jnp.sum(found.called * weight, axis=1)
                alleles = alleles + jnp.sum(found.observed * weight, axis=1)
            return ResidualSums(products, squares, called, alleles)

        nothing = jnp.zeros(tile.people, jnp.float32)
        products = jnp.zeros((tile.people, n_references), jnp.float32)
        start = ResidualSums(products, nothing, nothing, nothing)

        def half_sums(half: Array) -> ResidualSums:
            first = half * per_half
            return jax.lax.fori_loop(first, first + per_half, variant_tile, start)

        return jax.lax.map(half_sums, jnp.arange(HALVES))

    tiles = jax.lax.map(people_tile, jnp.arange(n_people // tile.people))
    # From (tiles, halves, people) to (people, halves).
    rows = [jnp.moveaxis(part, 1, 2) for part in tiles]
    return ResidualSums(*(part.reshape(n_people, *part.shape[2:]) for part in rows))


def frequency_covariance(
    information: Float32[np.ndarray, "pairs variants"],
    frequencies: Float32[np.ndarray, "k variants"],
) -> Float[np.ndarray, "k k"]:
    """Sum over variants of the covariance of P's error.

    Parameters
    ----------
    information
        On P at each variant: the negative Hessian, in the order of `pair_indices`; zero
        where nobody has calls.
    frequencies
        P.
    """
    k = len(frequencies)
    first, second = pair_indices(k)
    matrices = np.zeros((information.shape[1], k, k))
    matrices[:, first, second] = matrices[:, second, first] = information.T
    p = frequencies.T.astype(np.float64)
    # So that a population without people has an inverse.
    matrices[:, range(k), range(k)] += _PRIOR_ALLELES / (p * (1 - p))
    informed = information.any(axis=0)
    return np.linalg.inv(matrices[informed]).sum(axis=0)


def describe_references(
    ancestry: Float32[np.ndarray, "references k"],
    sums: ResidualSums,
    weight: Float[np.ndarray, " halves"],
    covariance: Float[np.ndarray, "halves k k"],
) -> References:
    """Summarise the references, from their own sums with one another.

    Parameters
    ----------
    ancestry, weight, covariance
        As in `References`.
    sums
        From `residual_sums`.
    """
    share = _share(sums.called, weight)
    size = np.asarray(sums.squares, np.float64) * share
    return References(ancestry, size, _share(sums.alleles, weight), weight, covariance)


def _share(part: npt.ArrayLike, weight: _Doubles) -> _Doubles:
    return np.asarray(part, np.float64) / np.maximum(weight, np.finfo(np.float64).tiny)


def correlate(
    sums: ResidualSums,
    ancestry: Float32[np.ndarray, "people k"],
    in_fit: Bool[np.ndarray, " people"],
    references: References,
) -> Correlations:
    """Residual correlations with each reference, corrected for the estimation of P.

    Each sum is over the variants that both have called, which is taken to be the
    product of their shares.

    Parameters
    ----------
    sums
        From `residual_sums`.
    ancestry
        Q of the people.
    in_fit
        Who of them P was estimated from.
    references
        The references; of these all, or nobody.
    """
    size = np.asarray(sums.squares, np.float64) * _share(sums.called, references.weight)
    alleles = _share(sums.alleles, references.weight) * in_fit[:, None]
    people = alleles.T[:, :, None] * ancestry.astype(np.float64)
    others = references.alleles.T[:, :, None] * references.ancestry.astype(np.float64)
    expected = people @ references.covariance @ others.transpose(0, 2, 1)
    products = np.asarray(sums.products, np.float64).transpose(1, 0, 2) + expected
    own = _variances(size.T, people, references)
    of_others = _variances(references.size.T, others, references)
    with np.errstate(invalid="ignore"):
        halves = products / np.sqrt(own[:, :, None] * of_others[:, None])
        total = own.sum(axis=0)[:, None] * of_others.sum(axis=0)[None]
        whole = products.sum(axis=0) / np.sqrt(total)
    # Missing calls are allowed for by shares, which are near to what both have called.
    return Correlations(np.clip(halves, -1, 1), np.clip(whole, -1, 1))


def _variances(size: _Doubles, alleles: _Doubles, references: References) -> _Doubles:
    """Corrected sums of squares of people on each half, NaN where there are none.

    Parameters
    ----------
    size
        Sums of squares, (halves, people).
    alleles
        Alleles observed of each population, (halves, people, k); zeros for people whom
        P was not estimated from.
    references
        The references.
    """
    mean = references.weight / len(references.ancestry)
    told = (size > 0) & (size >= _LEAST_SIZE * mean[:, None])
    absorbed = np.sum(alleles @ references.covariance * alleles, axis=2)
    return np.where(told, size + absorbed, np.nan)


def check_fit(
    halves: Float[np.ndarray, "halves people references"],
    own: Int[np.ndarray, " people"],
) -> FitCheck:
    """Residual correlation of each person with the references nearest to them.

    Parameters
    ----------
    halves
        From `correlate`.
    own
        Place of the person among the references, who are more than `N_NEAREST`; -1 for
        those who are none.
    """
    masked = np.array(halves)
    people = np.flatnonzero(own >= 0)
    masked[:, people, own[people]] = np.nan
    difference = masked[0] - masked[1]
    # Whatever is shared, is so on both halves: their difference is chance alone.
    known = np.isfinite(difference)
    n_known = known.sum(axis=1)
    squares = np.where(known, difference, 0) ** 2
    enough = n_known > N_NEAREST
    variance = squares.sum(axis=1) / np.maximum(n_known, 1) / HALVES
    medians = []
    for chosen, judged in ((0, 1), (1, 0)):
        candidates = np.where(known, masked[chosen], -np.inf)
        nearest = np.argpartition(-candidates, N_NEAREST, axis=1)[:, :N_NEAREST]
        values = np.take_along_axis(np.where(known, masked[judged], 0), nearest, axis=1)
        medians.append(np.median(values, axis=1))
    # A reference near by chance on both halves counts in both medians, and for more.
    both = 1 + _BOTH_HALVES * N_NEAREST / np.maximum(n_known, 1)
    error = np.sqrt(variance * both * (_MEDIAN_VARIANCE / HALVES))
    return FitCheck(
        np.where(enough, np.mean(medians, axis=0), np.nan).astype(np.float32),
        np.where(enough, error, np.nan).astype(np.float32),
    )
