"""Lay out a prepared store, and fill it from a cohort's chunks on the workers.

Whoever prepares to fit, projects, or prepares anew some of the people of a cohort,
does it with these. One task decodes one block of people and writes whole chunks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import ENCODINGS, GENOTYPES, Encoding, packed_width
from pipeline import decode, plan, prepared, schema
from pipeline.cohort import Cohort
from pipeline.location import Location, locate
from pipeline.progress import track
from pipeline.store import Store, write_all
from pipeline.tasks import Cluster


def variant_keys(
    cohort: Cohort, index: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]]:
    """Contig, position, alleles and id of some of a cohort's variants."""
    alleles = cohort.alleles
    return {
        "variant_contig_name": cohort.contigs[index],
        "variant_position": cohort.positions[index],
        "variant_allele": np.stack(
            [alleles.reference[index], alleles.alternate[index]], axis=1
        ),
        "variant_id": cohort.variant_ids[index],
    }


def columns_of(cohort: Cohort, index: npt.NDArray[np.int64]) -> decode.Columns:
    """Columns of some of a cohort's variants, as they are written."""
    slots = cohort.slots_of(index)
    return decode.Columns(index, np.zeros(len(index), bool), slots)


def lay_out(
    cohort: Cohort,
    path: Location,
    columns: decode.Columns,
    keys: dict[str, npt.NDArray[Any]],
    encoding: Encoding = GENOTYPES,
    sample_chunk: int | None = None,
) -> Store:
    """Create a prepared store with everything but the genotypes in it.

    Its chunks are made for a cohort with the given number of people in a chunk, by
    default that of this one.
    """
    sample_chunk = sample_chunk or cohort.sample_chunk
    store = Store.create(path, prepared.KIND)
    write_all(
        store,
        schema.PREPARED,
        {**keys, "variant_index": columns.index, "sample_id": cohort.sample_ids},
    )
    if columns.slots is not None:
        store.write(schema.ALTERNATE_SLOT, schema.PREPARED_SLOT, columns.slots)
    if columns.swapped.any():
        store.write("variant_swapped", schema.PREPARED_SWAPPED, columns.swapped)
    if "sample_population" in cohort.dataset:
        labels = cohort.dataset["sample_population"].values.astype(str)
        store.write("sample_population", schema.POPULATION, labels)
    if set(schema.GROUPS) <= set(cohort.dataset):
        further = {name: cohort.dataset[name].values for name in schema.GROUPS}
        write_all(store, schema.GROUPS, further)
    unit = plan.chunk_people(sample_chunk)
    store.lay_out(
        "call_genotype_packed",
        schema.packed_calls(encoding.dtype.name),
        (cohort.n_samples, packed_width(len(columns))),
        (unit, plan.CHUNK_WIDTH),
    )
    name = "sample_n_called"
    store.lay_out(name, schema.PREPARED[name], (cohort.n_samples,), (unit,))
    store.set_attrs(
        source=locate(cohort.url).name,
        sample_chunk=sample_chunk,
        n_variants=len(columns),
    )
    return store


def fill(cohort: Cohort, store: Store, cluster: Cluster) -> Encoding | None:
    """Decode every block that is left on the cluster's workers.

    Nothing may be laid out in the store from here on.

    Returns
    -------
    The encoding that the calls need, where that of the store cannot hold them all: it
    has to be laid out again. None where every block is written.
    """
    blocks = plan_store_blocks(cohort, store)
    store.track_blocks(len(blocks))
    tasks = [
        decode.BlockTask(cohort.url, store.path, block, blocks[block])
        for block in store.blocks_left()
    ]
    needed = []
    with track("preparing genotypes", len(tasks)) as progress:
        # To the last, for no task may write once the store is laid out again.
        for wider in cluster.run_all(decode.decode_block, tasks):
            needed += [wider] if wider is not None else []
            progress.advance()
    return max(needed, key=ENCODINGS.index, default=None)


def plan_store_blocks(cohort: Cohort, store: Store) -> list[plan.Rows]:
    """Blocks of people of a store that is laid out for a cohort."""
    return plan.plan_blocks(
        cohort.n_samples,
        store.attrs["n_variants"],
        cohort.sample_chunk,
        store.dtype("call_genotype_packed").itemsize,
    )
