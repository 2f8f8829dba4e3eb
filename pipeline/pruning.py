"""Which of the correlated variants to keep, and of any that exclude one another.

Apart from `linkage`, which workers import, because sgkit costs each process that loads
it more memory than a block of genotypes.
"""

import dask.array as da
import numpy as np
import numpy.typing as npt
import sgkit

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


def rehearse() -> None:
    """Have compiled what `independent` calls, which takes a second the first time."""
    first = np.zeros(1, np.int64)
    independent(first, first + 1, np.arange(2))


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
    priority = np.empty_like(by_priority)
    priority[by_priority] = np.arange(by_priority.size)
    better = np.minimum(priority[first], priority[second])
    worse = np.maximum(priority[first], priority[second])
    order = np.lexsort((worse, better))
    dropped = sgkit.maximal_independent_set({"i": better[order], "j": worse[order]})
    lost = dropped["ld_prune_index_to_drop"].values.astype(np.intp)
    kept = np.ones(by_priority.size, dtype=np.bool_)
    kept[by_priority[lost]] = False
    return kept
