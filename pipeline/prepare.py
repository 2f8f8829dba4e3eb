"""Cohort and masks to `prepared.zarr`: people-major packed genotypes.

Everybody in the cohort is prepared, in the cohort's order, so that rows here are rows
there; `sample_in_fit` says who informs the fit. The cohort is read once: with quality
control all `candidates` are packed first, and what is kept is taken from them; without
it, everything is packed in place.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import block_counts, candidates, prepared, qc, qc_summary, schema
from pipeline.candidates import Candidates
from pipeline.cohort import Cohort
from pipeline.config import QCConfig
from pipeline.filling import columns_of, fill, lay_out, plan_store_blocks, variant_keys
from pipeline.location import Location, delete_tree
from pipeline.progress import track
from pipeline.relatedness import Relatives
from pipeline.store import Store, is_complete, write_all
from pipeline.tasks import Cluster

logger = logging.getLogger(__name__)


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
        Thresholds of quality control. The cohort is read once, with it or without,
        unless it has dosages or calls of one allele.
    cluster
        Workers that count, prune and decode.
    attrs
        Provenance, kept in the store's attributes.

    Raises
    ------
    InputError
        If quality control leaves nothing, or the cohort cannot be read.
    """
    if config.enabled:
        _prepare_checked(cohort, path, config, cluster, attrs)
    else:
        _prepare_all(cohort, path, config, cluster, attrs)


def _prepare_checked(
    cohort: Cohort,
    path: Location,
    config: QCConfig,
    cluster: Cluster,
    attrs: dict[str, Any],
) -> None:
    """Pack what may be kept, check its quality, and take from it what is."""
    beside = path.with_name(prepared.CANDIDATES)
    store, packed = Store.resume(path, prepared.KIND), None
    if store is None or beside.exists():
        packed = _pack_candidates(cohort, beside, config, cluster)
    store = store or _lay_out_checked(cohort, path, config, attrs, packed)
    if packed is None:
        needed = fill(cohort, store, cluster)
        assert needed is None, f"the counts did not tell that calls need {needed}"
    else:
        _select(packed, cohort, store, cluster)
    store.finish()
    delete_tree(beside)


def _pack_candidates(
    cohort: Cohort, path: Location, config: QCConfig, cluster: Cluster
) -> Candidates | None:
    """Pack all variants that may be kept; None where they do not fit into two bits."""
    if cohort.has_dosages:
        return None
    if is_complete(path, prepared.KIND):
        return Candidates(prepared.open_store(path), cohort.n_variants)
    store = Store.resume(path, prepared.KIND)
    if store is None:
        variants = qc.candidate_variants(cohort, config)
        store = candidates.lay_out_candidates(cohort, path, variants)
    if fill(cohort, store, cluster) is not None:
        delete_tree(path)
        return None
    store.finish()
    return Candidates(store, cohort.n_variants)


def _select(packed: Candidates, cohort: Cohort, store: Store, cluster: Cluster) -> None:
    """Take the variants that a store has from the candidates."""
    blocks = plan_store_blocks(cohort, store)
    store.track_blocks(len(blocks))
    tasks = [
        candidates.SelectTask(packed.store.path, store.path, block, blocks[block])
        for block in store.blocks_left()
    ]
    with track("selecting variants", len(tasks)) as progress:
        for _ in cluster.run_all(candidates.select_block, tasks):
            progress.advance()


def _prepare_all(
    cohort: Cohort,
    path: Location,
    config: QCConfig,
    cluster: Cluster,
    attrs: dict[str, Any],
) -> None:
    """Pack all variants with calls, and count them as they are packed."""
    store = Store.resume(path, prepared.KIND)
    if store is None and not cohort.has_dosages:
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
    columns = columns_of(cohort, index)
    store = lay_out(cohort, path, columns, variant_keys(cohort, index))
    block_counts.lay_out_counts(store, plan_store_blocks(cohort, store))
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
    cohort: Cohort,
    path: Location,
    config: QCConfig,
    attrs: dict[str, Any],
    packed: Candidates | None = None,
) -> Store:
    """Lay out a store of the variants that pass quality control."""
    with track("quality control"):
        result = qc.quality_control(cohort, config, packed)
    _warn_of_relatives(result)
    index = np.flatnonzero(result.variant_mask)
    columns = columns_of(cohort, index)
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


def _warn_of_relatives(result: qc.QCResult) -> None:
    steps = [step for step in result.steps if step.name == "relatives"]
    # A step without a threshold was switched off.
    removed = [step.removed for step in steps if step.threshold is not None]
    line = qc_summary.say_relatives(
        _count_relatives(result.relatives), removed[0] if removed else None
    )
    if line:
        logger.warning("%s", line)


def _count_relatives(relatives: Relatives | None) -> dict[str, int] | None:
    """Pairs of relatives, None where nobody looked."""
    if relatives is None:
        return None
    return {
        "duplicate_pairs": relatives.n_duplicates,
        "first_degree_pairs": relatives.n_first_degree,
        "second_degree_pairs": relatives.n_second_degree,
        "n_samples_inbred": relatives.n_inbred,
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
