"""Starting frequencies of the populations whose people are labelled.

Runs inside a worker, on a sample of the labelled people and of the variants.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from scipy import optimize

from estimator.likelihood import frequency_statistics
from estimator.quadratic import pair_indices
from estimator.relaxation import fix_ancestry
from estimator.spectral import FREQUENCY_MARGIN
from estimator.tiling import pad_shard, tile_shape, tile_variants, untile_variants
from pipeline import plan
from pipeline.config import FitConfig
from pipeline.prepared import Prepared, open_store
from pipeline.stream import read_rows

FloatArray = npt.NDArray[np.float32]


def labelled_frequencies(
    prepared: Prepared,
    config: FitConfig,
    columns: slice,
    pooled: npt.NDArray[np.float64],
) -> FloatArray:
    """Frequencies of the variants among the people of each label.

    One allele is added to those counted, at the pooled frequency, so that a variant
    that no labelled person has does not rule the population out for others.

    Parameters
    ----------
    prepared
        The people; those labelled are fixed to a population.
    config
        Number of people to read at most.
    columns
        Packed columns to read.
    pooled
        Pooled frequency of each variant in these columns, in [0, 1].

    Returns
    -------
    Shape (labelled populations, variants), inside (0, 1); no row without labels.
    """
    if prepared.fixed is None:
        return np.empty((0, len(pooled)), np.float32)
    fixed = np.where(prepared.in_fit, prepared.fixed, -1)
    n_labels = int(fixed.max()) + 1
    most = max(config.start_people // n_labels, 1)
    of_label = [np.flatnonzero(fixed == label) for label in range(n_labels)]
    chosen = np.sort(np.concatenate([p[:: -(-len(p) // most)] for p in of_label]))
    tile = tile_shape()
    packed = jax.device_put(pad_shard(_read_people(prepared, chosen, columns), tile))
    f = pooled.clip(FREQUENCY_MARGIN, 1 - FREQUENCY_MARGIN).astype(np.float32)
    tiles = tile_variants(np.repeat(f[None], n_labels, 0), tile.width)
    nobody = jnp.zeros((packed.shape[0], n_labels), jnp.float32)
    ancestry = fix_ancestry(nobody, fixed[chosen])
    # Padding is missing in every variant: any row will do, and zeros give p = 0.
    ancestry = ancestry.at[len(chosen) :].set(1 / n_labels)
    statistics = frequency_statistics(packed, ancestry, tiles, tile=tile)
    first, second = pair_indices(n_labels)
    diagonal = np.flatnonzero(first == second)
    slope = untile_variants(np.asarray(statistics.gradient), len(f))
    curvature = untile_variants(np.asarray(statistics.hessian), len(f))[diagonal]
    # At one frequency f for all, slope = g/f - r/(1 - f) and curvature =
    # g/f^2 + r/(1 - f)^2: two equations for the alleles counted of each kind.
    alternate = f**2 * (curvature * (1 - f) + slope)
    reference = (1 - f) ** 2 * (curvature * f - slope)
    return ((alternate + f) / (alternate + reference + 1)).clip(
        FREQUENCY_MARGIN, 1 - FREQUENCY_MARGIN
    )


def _read_people(
    prepared: Prepared, rows: npt.NDArray[np.intp], columns: slice
) -> npt.NDArray[np.uint8]:
    """Packed genotypes of some people, chunk by chunk, at some columns."""
    store = open_store(prepared.path)
    parts = []
    for block in plan.split_rows(prepared.n_samples, prepared.unit):
        within = rows[(rows >= block.start) & (rows < block.stop)] - block.start
        if len(within):
            parts.append(read_rows(store, block)[within][:, columns].copy())
    return np.concatenate(parts)


def place_first(known: FloatArray, found: FloatArray) -> FloatArray:
    """Put known frequencies first, in place of the populations found most like them.

    Parameters
    ----------
    known
        Frequencies of L populations.
    found
        Frequencies of K populations, K >= L, at the same variants.

    Returns
    -------
    K rows: the known ones, then those found that are like none of them, in order.
    """
    squares = np.sum((known[:, None].astype(np.float64) - found[None]) ** 2, axis=2)
    _, taken = optimize.linear_sum_assignment(squares)
    return np.concatenate([known, np.delete(found, taken, axis=0)])
