"""Starting values for Q and P from the leading components of the genotypes.

Half the genotype is QP in expectation, so with f the pooled frequencies the centred
genotypes are QP - 1f' plus noise, of rank K - 1. A randomised singular value
decomposition finds that part, 1f' + USV' = LR with K columns and rows, without the
noise; alternating least squares then factors the small LR into a Q on the simplex
and a P in the box, with no further look at the genotypes.

Least squares has several local optima. It starts from the extreme people in the space
of components (the successive projection algorithm) and from random frequencies, and
the closest fit is kept, of those that come near it on fewer variants.

References
----------
Halko, Martinsson and Tropp (2011), SIAM Review 53:217-288.
Gillis and Vavasis (2014), IEEE Transactions on Pattern Analysis 36:698-711.
"""

from dataclasses import dataclass

import jax
import numpy as np
import numpy.typing as npt

from estimator.centred import centred_times, centred_transposed_times
from estimator.packing import PackedArray, packed_width
from estimator.tiling import TileShape, pad_shard, tile_variants, untile_variants

OVERSAMPLING = 10
POWER_ITERATIONS = 4
N_RANDOM_STARTS = 3
MAX_ALTERNATIONS = 300
# Root mean square change of P at which the alternations stop.
ALTERNATION_TOLERANCE = 1e-4
# The factorisation needs no more variants than this to find Q, and fewer to tell which
# of its local optima is the best.
MAX_FACTOR_VARIANTS = 8_192
MAX_TRIAL_VARIANTS = 2_048
# Losses of the trial that differ by less than this may be in another order.
TRIAL_MARGIN = 1.05
# Losses below this share of the squares that they are the difference of are rounding.
ROUNDING = 1e-12
# Keeps starting frequencies where a Newton step is well scaled.
FREQUENCY_MARGIN = 1e-3

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StartingValues:
    """Q (people, populations) and P (populations, variants), float32."""

    ancestry: npt.NDArray[np.float32]
    frequencies: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _LowRank:
    left: FloatArray  # K x people
    right: FloatArray  # K x variants

    def every(self, stride: int) -> "_LowRank":
        """The same at some of the variants, evenly spaced."""
        return _LowRank(self.left, np.ascontiguousarray(self.right[:, ::stride]))


def spectral_start(
    packed: PackedArray,
    frequency: npt.NDArray[np.float64],
    n_populations: int,
    *,
    seed: int,
    tile: TileShape,
) -> StartingValues:
    """Q and P for the people and variants given.

    Parameters
    ----------
    packed
        Genotypes of a sample of people and variants, as `estimator.packing` has them.
    frequency
        Pooled frequency of each variant's alternate allele, in [0, 1].
    n_populations
        K, at most the number of people and of variants.
    seed
        Of the random projections and the random starts.
    tile
        Size of the steps of the genotype products.

    Returns
    -------
    Starting values, near the least-squares solution; P inside (0, 1).

    Raises
    ------
    ValueError
        If K is more than the data can carry, or the widths disagree.
    """
    largest = min(len(packed), len(frequency))
    if not 1 <= n_populations <= largest:
        raise ValueError(
            f"n_populations must lie in [1, {largest}] for {len(packed)} people and "
            f"{len(frequency)} variants, got {n_populations}"
        )
    rng = np.random.default_rng(seed)
    low_rank = _decompose(packed, frequency, n_populations, rng, tile)
    reduced = low_rank.every(-(-len(frequency) // MAX_FACTOR_VARIANTS))
    stride = -(-reduced.right.shape[1] // MAX_TRIAL_VARIANTS)
    trial = reduced.every(stride)
    random = rng.uniform(0.05, 0.95, (N_RANDOM_STARTS, *reduced.right.shape))
    candidates = [_extreme_people(low_rank.left).T @ reduced.right, *random]
    losses = [_alternate(trial, _bounded(p[:, ::stride])).loss for p in candidates]
    best = TRIAL_MARGIN * min(losses)
    fits = [
        _alternate(reduced, _bounded(candidate))
        for candidate, loss in zip(candidates, losses, strict=True)
        if loss <= best
    ]
    closest = min(fits, key=lambda fit: fit.loss)
    frequencies = _least_squares_frequencies(low_rank, closest.ancestry)
    return StartingValues(
        np.ascontiguousarray(closest.ancestry.T, np.float32),
        frequencies.astype(np.float32),
    )


def _decompose(
    packed: PackedArray,
    frequency: npt.NDArray[np.float64],
    n_populations: int,
    rng: np.random.Generator,
    tile: TileShape,
) -> _LowRank:
    """Pooled frequencies plus the K - 1 leading components of what remains."""
    n_people, n_variants = packed.shape[0], len(frequency)
    if packed.shape[1] != packed_width(n_variants):
        raise ValueError(
            f"{n_variants} variants are {packed_width(n_variants)} elements a person; "
            f"the packed genotypes have {packed.shape[1]}"
        )
    padded = jax.device_put(pad_shard(packed, tile))
    f = tile_variants(frequency[None].astype(np.float32), tile.width)
    rank = min(n_populations - 1 + OVERSAMPLING, n_people, n_variants)
    random = rng.standard_normal((rank, n_variants)).astype(np.float32)
    factor = tile_variants(random, tile.width, fill=0.0)
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(np.asarray(centred_times(padded, f, factor, tile=tile)))[0]
        factor = centred_transposed_times(padded, f, jax.device_put(basis), tile=tile)
    projected = untile_variants(np.asarray(factor), n_variants).astype(np.float64)
    u, s, vt = np.linalg.svd(projected, full_matrices=False)
    kept = slice(0, n_populations - 1)
    people = (u[:, kept] * s[kept]).T @ basis[:n_people].astype(np.float64).T
    left = np.vstack([np.ones(n_people), people])
    return _LowRank(left, np.vstack([frequency, vt[kept]]))


def _extreme_people(left: FloatArray) -> FloatArray:
    """Columns of the K people who span the largest simplex, chosen greedily."""
    remaining = left[1:] - left[1:].mean(axis=1, keepdims=True)
    chosen = [int(np.argmax(np.sum(remaining**2, axis=0)))]
    remaining = remaining - remaining[:, chosen]
    for _ in range(len(left) - 1):
        squares = np.sum(remaining**2, axis=0)
        chosen.append(int(np.argmax(squares)))
        largest = squares[chosen[-1]]
        direction = remaining[:, chosen[-1]] / np.sqrt(max(largest, 1e-300))
        remaining = remaining - np.outer(direction, direction @ remaining)
    return left[:, chosen]


@dataclass(frozen=True)
class _Factors:
    ancestry: FloatArray  # K x people
    loss: float


def _alternate(low_rank: _LowRank, frequencies: FloatArray) -> _Factors:
    """Alternating least squares for LR = QP within the constraints, from P."""
    for _ in range(MAX_ALTERNATIONS):
        ancestry = _least_squares_ancestry(low_rank, frequencies)
        updated = _least_squares_frequencies(low_rank, ancestry)
        change = np.sqrt(np.mean((updated - frequencies) ** 2))
        frequencies = updated
        if change < ALTERNATION_TOLERANCE:
            break
    # |LR - QP|^2 from K x K products alone.
    size = np.sum(
        (low_rank.left @ low_rank.left.T) * (low_rank.right @ low_rank.right.T)
    )
    loss = (
        size
        - 2 * np.sum((ancestry @ low_rank.left.T) * (frequencies @ low_rank.right.T))
        + np.sum((ancestry @ ancestry.T) * (frequencies @ frequencies.T))
    )
    # Where nothing is left, rounding would decide, and could make it negative.
    return _Factors(ancestry, max(float(loss), ROUNDING * float(size)))


def _least_squares_ancestry(low_rank: _LowRank, frequencies: FloatArray) -> FloatArray:
    gram = frequencies @ frequencies.T
    inside = _solve(gram, frequencies @ low_rank.right.T) @ low_rank.left
    np.clip(inside, 0, None, out=inside)
    total = inside.sum(axis=0)
    empty = total == 0
    inside /= np.where(empty, 1, total)
    inside[:, empty] = 1 / len(inside)
    return inside


def _least_squares_frequencies(low_rank: _LowRank, ancestry: FloatArray) -> FloatArray:
    gram = ancestry @ ancestry.T
    return _bounded(_solve(gram, ancestry @ low_rank.left.T) @ low_rank.right)


def _solve(gram: FloatArray, right: FloatArray) -> FloatArray:
    """Solve K normal equations, singular where populations coincide or are empty."""
    ridge = 1e-9 * np.trace(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + ridge, right)


def _bounded(frequencies: FloatArray) -> FloatArray:
    return np.clip(frequencies, FREQUENCY_MARGIN, 1 - FREQUENCY_MARGIN)
