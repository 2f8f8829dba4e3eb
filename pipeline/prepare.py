"""Cohort and masks to `prepared.zarr`: people-major genotypes at two bits each.

Everybody in the cohort is prepared, in the cohort's order, so that rows here are rows
there; `sample_in_fit` says who informs the fit. One task decodes one block of people
and writes whole chunks.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.packing import count_called, packed_width
from pipeline import decode, plan, schema
from pipeline.cluster import Cluster
from pipeline.cohort import Cohort
from pipeline.config import QCConfig
from pipeline.errors import InputError
from pipeline.plan import Rows
from pipeline.progress import track
from pipeline.qc import QCResult, quality_control
from pipeline.store import Store, write_all

KIND = "prepared"


@dataclass(frozen=True)
class _Task:
    url: str
    path: Path
    block: int
    rows: Rows


def prepare(
    cohort: Cohort,
    path: Path,
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
        Where the store is built.
    config
        Thresholds of quality control.
    cluster
        Workers that count, prune and decode.
    attrs
        Provenance, kept in the store's attributes.

    Raises
    ------
    InputError
        If quality control leaves nothing, or the cohort cannot be read.
    """
    with track("quality control"):
        result = quality_control(cohort, config)
    index = np.flatnonzero(result.variant_mask)
    columns = decode.Columns(index, np.zeros(len(index), bool))
    store = lay_out(cohort, path, columns, variant_keys(cohort, index))
    write_all(
        store,
        schema.PREPARED,
        {
            "variant_frequency": result.alternate_frequency[index],
            "sample_call_rate": result.sample_call_rate,
            "sample_in_fit": result.sample_mask,
        },
    )
    fill(cohort, store, cluster)
    store.set_attrs(qc_steps=_steps(result), **attrs)
    store.finish()


def _steps(result: QCResult) -> list[dict[str, Any]]:
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
    path: Path,
    columns: decode.Columns,
    keys: dict[str, npt.NDArray[Any]],
) -> Store:
    """Create a prepared store with everything but the genotypes in it."""
    store = Store.create(path, KIND)
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
    unit = plan.chunk_people(cohort.sample_chunk)
    for name, shape in (
        ("call_genotype_packed", (cohort.n_samples, packed_width(len(columns)))),
        ("sample_n_called", (cohort.n_samples,)),
    ):
        spec = schema.PREPARED[name]
        store.lay_out(name, spec, shape, (unit, plan.CHUNK_BYTES)[: len(shape)])
    store.set_attrs(
        source=Path(cohort.url).name,
        sample_chunk=cohort.sample_chunk,
        n_variants=len(columns),
    )
    return store


def fill(cohort: Cohort, store: Store, cluster: Cluster) -> None:
    """Decode every block that is left on the cluster's workers."""
    n_variants = store.attrs["n_variants"]
    blocks = plan.plan_blocks(cohort.n_samples, n_variants, cohort.sample_chunk)
    store.track_blocks(len(blocks))
    tasks = [
        _Task(cohort.url, store.path, block, rows) for block, rows in enumerate(blocks)
    ]
    with track("preparing genotypes", len(tasks)) as progress:
        for _ in cluster.run_all(_decode_block, tasks):
            progress.advance()


def _decode_block(task: _Task) -> None:
    store = Store.open(task.path, KIND, writable=True)
    index = store.read("variant_index")
    swapped = np.zeros(len(index), bool)
    if "variant_swapped" in store:
        swapped = store.read("variant_swapped")
    packed = decode.decode_rows(task.url, task.rows, decode.Columns(index, swapped))
    store.write_rows("call_genotype_packed", task.rows, packed)
    store.write_rows("sample_n_called", task.rows, count_called(packed))
    store.mark_done(task.block)


@dataclass(frozen=True)
class Prepared:
    """What the driver knows of a prepared store; workers read the genotypes.

    Attributes
    ----------
    path
        The store.
    source
        Name of the cohort it was made from.
    n_samples, n_variants
        Its size.
    unit
        People in a chunk.
    sample_chunk
        People in a chunk of the cohort that it was made from.
    in_fit
        Who informs the fit.
    held_out
        Chunks of people kept out of the fit to judge it by.
    """

    path: Path
    source: str
    n_samples: int
    n_variants: int
    unit: int
    sample_chunk: int
    in_fit: npt.NDArray[np.bool_]
    held_out: tuple[Rows, ...] = ()

    @property
    def blocks_in_fit(self) -> list[Rows]:
        """Chunks with anybody who informs the fit."""
        blocks = plan.split_rows(self.n_samples, self.unit)
        return [rows for rows in blocks if self.in_fit[rows.slice].any()]

    def held_out_in(self, rows: Rows) -> tuple[Rows, ...]:
        """Chunks held out among some rows, which are whole chunks."""
        return tuple(
            block
            for block in self.held_out
            if rows.start <= block.start and block.stop <= rows.stop
        )

    @property
    def n_in_fit(self) -> int:
        """Number of people who inform the fit."""
        return int(np.count_nonzero(self.in_fit))


def open_prepared(path: Path) -> Prepared:
    """Open a finished prepared store.

    Raises
    ------
    InputError
        If it is missing, of another kind or unfinished.
    """
    store = Store.open(path, KIND)
    if not store.attrs.get("complete"):
        raise InputError(f"{path} is unfinished; run `streamixture prepare` again")
    store.check_whole()
    return Prepared(
        path=path,
        source=store.attrs["source"],
        n_samples=store.shape("sample_id")[0],
        n_variants=store.attrs["n_variants"],
        unit=store.chunks("call_genotype_packed")[0],
        sample_chunk=store.attrs["sample_chunk"],
        in_fit=store.read("sample_in_fit"),
    )


def hold_out(prepared: Prepared, fraction: float) -> Prepared:
    """Keep evenly spaced chunks of people out of the fit, to judge it by.

    Parameters
    ----------
    prepared
        The store; it is not changed.
    fraction
        Share of the chunks, in [0, 0.5]. A cohort of too few chunks keeps them all.
    """
    if not fraction:
        return prepared
    stride = round(1 / fraction)
    blocks = plan.split_rows(prepared.n_samples, prepared.unit)
    chosen = tuple(blocks[stride // 2 :: stride])
    in_fit = prepared.in_fit.copy()
    for rows in chosen:
        in_fit[rows.slice] = False
    return dataclasses.replace(prepared, in_fit=in_fit, held_out=chosen)
