"""Which of the correlated variants to keep, and of any that exclude one another.

The driver's part of pruning; the workers' is `linkage`.
"""

import dask.array as da
import numpy as np
import numpy.typing as npt

from pipeline import linkage


def prune(
    dosage: da.Array,
    ends: npt.NDArray[np.int64],
    minor_frequency: npt.NDArray[np.float64],
    max_r2: float,
) -> npt.NDArray[np.bool_]:
    """Choose variants of which no two in a window have an r2 that reaches `max_r2`.

    Variants are taken by falling minor allele frequency, then by position, and each
    one kept drops those linked to it: a maximal independent set. sgkit's ld_prune
    with a variant_score may also drop a variant for one that is itself dropped.

    Parameters
    ----------
    dosage
        Alternate alleles, variants x people, 0 to 2 and missing -1.
    ends
        Where each variant's window ends, as `linkage.window_ends` gives it.
    minor_frequency
        Minor allele frequency of each variant.
    max_r2
        Squared correlation that links two variants, in [0, 1]; 0 links those with
        any correlation at all.
    """
    first, second = linkage.linked_pairs(dosage, ends, max_r2)
    return independent(first, second, np.argsort(-minor_frequency, kind="stable"))


def independent(
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    by_priority: npt.NDArray[np.intp],
) -> npt.NDArray[np.bool_]:
    """Choose a maximal set of which no two are a pair.

    Parameters
    ----------
    first, second
        The pairs.
    by_priority
        Everything that there is to choose from, the most wanted first. What is taken
        drops all that it is in a pair with.

    >>> independent(np.array([0, 1]), np.array([1, 2]), np.array([1, 0, 2]))
    array([False,  True, False])
    """
    # sgkit.maximal_independent_set chooses the same, and takes three seconds to import
    # and compile, which is longer than this takes for a million.
    priority = np.empty_like(by_priority)
    priority[by_priority] = np.arange(by_priority.size)
    better = np.minimum(priority[first], priority[second])
    worse = np.maximum(priority[first], priority[second])
    order = np.argsort(better, kind="stable")
    better, worse = better[order], worse[order]
    bounds = np.flatnonzero(np.diff(better, prepend=-1, append=-1))
    lost = np.zeros(by_priority.size, dtype=np.bool_)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if not lost[better[start]]:
            lost[worse[start:stop]] = True
    kept = np.empty_like(lost)
    kept[by_priority] = ~lost
    return kept
