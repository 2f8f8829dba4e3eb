"""Blocks of neighbouring variants, for errors that linkage does not make too small.

Pure arithmetic, from the contig of each variant. Blocks have about as many variants
each, so that each tells about as much, and none goes over the end of a contig.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def plan_variant_blocks(
    contigs: Sequence[str] | npt.NDArray[np.str_], n_blocks: int
) -> npt.NDArray[np.int64]:
    """Cut the variants into blocks.

    Parameters
    ----------
    contigs
        Contig of each variant, in order; at least one variant.
    n_blocks
        Blocks wanted. Every contig has at least one and no block is without a variant,
        so that there may be a few more or fewer.

    Returns
    -------
    First variant of each block, rising from 0, and the number of variants.

    >>> plan_variant_blocks(["1"] * 6 + ["2"] * 3 + ["X"], 5).tolist()
    [0, 2, 4, 6, 7, 9, 10]
    """
    names = np.asarray(contigs)
    changes = np.flatnonzero(names[1:] != names[:-1]) + 1
    edges = [0, *changes.tolist(), len(names)]
    size = max(len(names) / n_blocks, 1)
    bounds = [0]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        n_within = max(round((stop - start) / size), 1)
        cuts = start + np.arange(1, n_within + 1) * (stop - start) // n_within
        bounds += cuts.tolist()
    return np.array(bounds, np.int64)
