"""Cohort and masks to `prepared.zarr`: people-major packed genotypes.

Everybody in the cohort is prepared, in the cohort's order, so that rows here are rows
there; `sample_in_fit` says who informs the fit. One task decodes one block of people
and writes whole chunks.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import ENCODINGS, GENOTYPES, Encoding, packed_width
from pipeline import block_counts, decode, plan, prepared, qc, schema
from pipeline.cohort import Cohort
from pipeline.config import QCConfig
from pipeline.location import Location, locate
from pipeline.progress import track
from pipeline.relatedness import Relatives
from pipeline.store import Store, write_all
from pipeline.tasks import Cluster


def prepare(
    cohort: Cohort,
    path: Location,
    config: QCConfig,
    cluster: Cluster,
    attrs: dict[str, Any],
) -> None:
    """Check quality and write a prepared store for the fit.

    Parameters
    ----------
    cohort
        The cohort.
    path
        Where the store is built. An unfinished one of the same cohort and
        configuration is continued: it holds what quality control found.
    config
        Thresholds of quality control. Without it, the cohort is read once: frequencies
        are counted as the genotypes are packed.
    cluster
        Workers that count, prune and decode.
    attrs
        Provenance, kept in the store's attributes.

    Raises
    ------
    InputError
        If quality control leaves nothing, or the cohort cannot be read.
    """
    store = Store.resume(path, prepared.KIND)
    if store is None and not config.enabled and not cohort.has_dosages:
        store = _lay_out_biallelic(cohort, path)
    store = store or _lay_out_checked(cohort, path, config, attrs)
    needed = fill(cohort, store, cluster)
    if not _is_described(store) and not (
        needed is None and _describe_filled(cohort, store, attrs)
    ):
        # Calls of one allele or variants without any, which are counted beforehand.
        store = _lay_out_checked(cohort, path, config, attrs)
        needed = fill(cohort, store, cluster)
    assert needed is None, f"the counts did not tell that calls need {needed}"
    store.discard(schema.BLOCK_COUNTS)
    store.finish()


def _lay_out_biallelic(cohort: Cohort, path: Location) -> Store:
    """Lay out a store of all variants that could be kept, before any is counted."""
    index = np.flatnonzero(qc.biallelic_variants(cohort))
    columns = decode.Columns(index, np.zeros(len(index), bool))
    store = lay_out(cohort, path, columns, variant_keys(cohort, index))
    block_counts.lay_out_counts(store, _plan_blocks(cohort, store))
    return store


def _describe_filled(cohort: Cohort, store: Store, attrs: dict[str, Any]) -> bool:
    """Describe a filled store of all biallelic variants by the counts of its blocks.

    Returns
    -------
    False if it has variants that are not kept.
    """
    counts = block_counts.sum_counts(store, cohort.n_variants)
    result = qc.keep_called(cohort, counts)
    index = store.read("variant_index")
    whole = bool(result.variant_mask[index].all())
    if whole:
        _describe(cohort, store, index, result, attrs)
    return whole


def _lay_out_checked(
    cohort: Cohort, path: Location, config: QCConfig, attrs: dict[str, Any]
) -> Store:
    """Lay out a store of the variants that pass quality control."""
    with track("quality control"):
        result = qc.quality_control(cohort, config)
    index = np.flatnonzero(result.variant_mask)
    columns = decode.Columns(index, np.zeros(len(index), bool))
    keys = variant_keys(cohort, index)
    store = lay_out(cohort, path, columns, keys, result.encoding)
    _describe(cohort, store, index, result, attrs)
    return store


def _describe(
    cohort: Cohort,
    store: Store,
    index: npt.NDArray[np.int64],
    result: qc.QCResult,
    attrs: dict[str, Any],
) -> None:
    """Write what was found out about people and variants; attributes last of all."""
    write_all(
        store,
        schema.PREPARED,
        {
            "variant_frequency": result.alternate_frequency[index],
            "sample_call_rate": result.sample_call_rate,
            "sample_in_fit": result.sample_mask,
        },
    )
    if result.relatives is not None and len(result.relatives.kinship):
        write_all(store, schema.RELATIVES, _pairs(result.relatives))
    store.set_attrs(
        qc_steps=_steps(result),
        relatives=_count_relatives(result.relatives),
        genome_build=cohort.genome_build,
        **attrs,
    )


def _is_described(store: Store) -> bool:
    return "qc_steps" in store.attrs


def _pairs(relatives: Relatives) -> dict[str, npt.NDArray[Any]]:
    return {
        "relatives_sample": np.stack([relatives.first, relatives.second], axis=1),
        "relatives_kinship": relatives.kinship,
    }


def _count_relatives(relatives: Relatives | None) -> dict[str, int] | None:
    """Pairs of relatives, None where nobody looked."""
    if relatives is None:
        return None
    return {
        "first_degree_pairs": relatives.n_first_degree,
        "second_degree_pairs": relatives.n_second_degree,
    }


def _steps(result: qc.QCResult) -> list[dict[str, Any]]:
    return [
        {
            "name": step.name,
            "axis": step.axis,
            "threshold": step.threshold,
            "removed": int(step.removed),
            "remaining": int(step.remaining),
        }
        for step in result.steps
    ]


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
    if columns.swapped.any():
        store.write("variant_swapped", schema.PREPARED_SWAPPED, columns.swapped)
    if "sample_population" in cohort.dataset:
        labels = cohort.dataset["sample_population"].values.astype(str)
        store.write("sample_population", schema.POPULATION, labels)
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
    blocks = _plan_blocks(cohort, store)
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


def _plan_blocks(cohort: Cohort, store: Store) -> list[plan.Rows]:
    return plan.plan_blocks(
        cohort.n_samples,
        store.attrs["n_variants"],
        cohort.sample_chunk,
        store.dtype("call_genotype_packed").itemsize,
    )
