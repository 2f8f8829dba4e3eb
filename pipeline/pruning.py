"""Which of the correlated variants to keep.

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
    n_variants = ends.size
    by_priority = np.argsort(-minor_frequency, kind="stable")
    priority = np.empty_like(by_priority)
    priority[by_priority] = np.arange(n_variants)
    better = np.minimum(priority[first], priority[second])
    worse = np.maximum(priority[first], priority[second])
    order = np.lexsort((worse, better))
    pruned = sgkit.maximal_independent_set({"i": better[order], "j": worse[order]})
    lost = pruned["ld_prune_index_to_drop"].values.astype(np.intp)
    kept = np.ones(n_variants, dtype=np.bool_)
    kept[by_priority[lost]] = False
    return kept
