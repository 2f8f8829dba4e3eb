"""Part of a cohort as a prepared store: the blocks of people whose files changed.

What `prepare` does for everybody and for a fit, at the variants of a model. Rows of
the store are people in the cohort's order, with those left out closed up.
"""

import numpy as np
import numpy.typing as npt

from estimator.packing import ENCODINGS, GENOTYPES, Encoding
from pipeline import plan, schema
from pipeline.cohort import Cohort
from pipeline.decode import BlockTask, Columns, decode_block
from pipeline.filling import lay_out
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import KIND, Prepared, open_prepared
from pipeline.progress import track
from pipeline.store import Store, is_complete
from pipeline.tasks import Cluster

Integers = npt.NDArray[np.int64]
_OF_PEOPLE = ("sample_id", "sample_population")


def plan_scan(cohort: Cohort, n_variants: int, chunks: list[bool]) -> list[Rows]:
    """Blocks of people that have anybody of some of the cohort's chunks.

    Parameters
    ----------
    cohort
        The cohort.
    n_variants
        The model's variants.
    chunks
        Whether to look at each chunk of people.
    """
    size = cohort.sample_chunk
    return [
        rows
        for rows in plan.plan_blocks(cohort.n_samples, n_variants, size)
        if any(chunks[rows.start // size : -(-rows.stop // size)])
    ]


def scanned_people(blocks: list[Rows]) -> Integers:
    """Positions of the people of some blocks."""
    parts = [np.arange(rows.start, rows.stop) for rows in blocks]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def scan_people(
    cohort: Cohort,
    blocks: list[Rows],
    columns: Columns,
    model: Store,
    path: Location,
    in_fit: npt.NDArray[np.bool_],
    cluster: Cluster,
) -> Prepared:
    """Decode some blocks of people at a model's variants.

    Parameters
    ----------
    cohort
        The cohort.
    blocks
        The blocks, one at least.
    columns
        Where each variant of the model comes from.
    model
        The model.
    path
        Where the store is built. One that was begun is continued.
    in_fit
        Of everybody in the cohort, whose residuals the others' are compared with.
    cluster
        Workers.
    """

    def laid_out(encoding: Encoding) -> Store:
        keys = {name: model.read(name) for name in schema.VARIANT_KEYS}
        people = scanned_people(blocks)
        wanted = [name for name in _OF_PEOPLE if name in cohort.dataset]
        part = Cohort(cohort.url, cohort.dataset[wanted].isel(samples=people))
        size = cohort.sample_chunk
        store = lay_out(part, path, columns, keys, encoding, size)
        store.write("sample_in_fit", schema.PREPARED["sample_in_fit"], in_fit[people])
        return store

    if not is_complete(path, KIND):
        store = Store.resume(path, KIND) or laid_out(GENOTYPES)
        # As for a projection, a block stops at the first call that is too wide.
        while (needed := _fill(cohort, blocks, store, cluster)) is not None:
            store = laid_out(needed)
        store.finish()
    return open_prepared(path)


def _fill(
    cohort: Cohort, blocks: list[Rows], store: Store, cluster: Cluster
) -> Encoding | None:
    """Decode what is left; returns a wider encoding if the calls need it."""
    store.track_blocks(len(blocks))
    stops = np.cumsum([len(rows) for rows in blocks]).tolist()
    targets = [
        Rows(stop - len(rows), stop) for rows, stop in zip(blocks, stops, strict=True)
    ]
    tasks = [
        BlockTask(cohort.url, store.path, block, targets[block], blocks[block])
        for block in store.blocks_left()
    ]
    needed = []
    with track("reading genotypes", len(tasks)) as progress:
        for wider in cluster.run_all(decode_block, tasks):
            needed += [wider] if wider is not None else []
            progress.advance()
    return max(needed, key=ENCODINGS.index, default=None)
