"""Genotype counts of a prepared store, from those of its blocks.

Whoever packs a block counts it too, which takes a tenth of the work of counting the
calls of the cohort (`calls`): what a run without quality control has to know of its
variants. The counts of blocks are there until the store is finished, so that none is
counted again when it is continued.
"""

from collections.abc import Sequence

import numpy as np

from estimator.packing import GENOTYPES
from pipeline import calls, schema
from pipeline.calls import CallCounts
from pipeline.plan import Rows
from pipeline.schema import BLOCK_COUNTS
from pipeline.store import Store

# Variants of a chunk of counts.
_CHUNK_VARIANTS = 2**16


def lay_out_counts(store: Store, blocks: Sequence[Rows]) -> None:
    """Make room for the counts of each block, in a store of calls at two bits."""
    assert store.dtype("call_genotype_packed") == GENOTYPES.dtype, "at two bits a call"
    spec = schema.block_counts(max(map(len, blocks)))
    n_variants = store.attrs["n_variants"]
    shape = (len(blocks), n_variants, len(calls.GENOTYPES))
    chunks = (1, _CHUNK_VARIANTS, len(calls.GENOTYPES))
    store.lay_out(BLOCK_COUNTS, spec, shape, chunks)


def sum_counts(store: Store, n_variants: int) -> CallCounts:
    """Counts of everybody in a store whose blocks are all written.

    Parameters
    ----------
    store
        The store.
    n_variants
        Variants of the cohort. Those that are not in the store count nothing.
    """
    n_blocks, n_packed, n_genotypes = store.shape(BLOCK_COUNTS)
    total = np.zeros((n_packed, n_genotypes), np.int64)
    for block in range(n_blocks):
        total += store.read(BLOCK_COUNTS, slice(block, block + 1))[0]
    table = np.zeros((n_variants, calls.N_COLUMNS), np.int64)
    table[store.read("variant_index"), :n_genotypes] = total
    return CallCounts(table, store.read("sample_n_called"))
