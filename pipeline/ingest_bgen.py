"""Import dosages of BGEN files, through sgkit's reader.

Reads FILE.bgen, and FILE.sample where it is beside; writes VCF Zarr with the expected
number of alternate alleles in `call_dosage`, and no genotypes. Invariant: the first
allele of a variant is its reference, the second is counted, and a dosage is NaN only
where the file says that nothing is known.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cbgen
import numpy as np
import numpy.typing as npt
import xarray as xr
from sgkit.io.bgen.bgen_reader import BgenReader

from pipeline import bgen_file, pieces, remedies, source_people, vcf_zarr
from pipeline.config import SourceConfig
from pipeline.encode import chunk_sizes
from pipeline.errors import InputError
from pipeline.quantities import count_things
from pipeline.source_files import SourceFiles

logger = logging.getLogger(__name__)

_N_ALLELES = 2
# Probabilities that are in memory at a time.
_WINDOW_BYTES = 16 * 2**20
_BYTES_PER_CALL = 3 * 4
# Rounding of probabilities that are stored in few bits and add up to 1.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Variants:
    """Those with two alleles, of all in the file.

    Attributes
    ----------
    rows
        Their positions in the file.
    n_total
        Number of all.
    kept
        What they are.
    """

    rows: npt.NDArray[np.int64]
    n_total: int
    kept: list[bgen_file.Variant]


def ingest(
    source: SourceFiles, folder: Path, n_workers: int, config: SourceConfig
) -> None:
    """Write the store `folder/store` of a BGEN file, or go on writing it.

    Ids are those of the .sample file, else those in the BGEN file; a file without any
    is refused, and so are two of which one names other people. Variants that have not
    two alleles are left out and counted.

    Raises
    ------
    InputError
        If a file is damaged or empty, has no ids, has an id twice, or holds phased
        calls or calls that are not diploid.
    """
    bgen = source.path
    sample = next(iter(source.companions), None)
    header = bgen_file.read_header(bgen, sample)
    n_samples = header.n_samples
    ids = _read_ids(source, header, config.sample_id)
    found = _read_variants(bgen, header)
    try:
        index = _make_index(bgen, folder)
        if len(found.rows) < found.n_total:
            logger.warning(
                "%s: left out %s without exactly two alleles",
                bgen,
                count_things(found.n_total - len(found.rows), "variant", "variants"),
            )
        variants, people = chunk_sizes(n_samples)
        store = folder / "store"
        if not (folder / "laid_out").exists():
            variables = _variables(found, ids)
            vcf_zarr.lay_out(store, variables, vcf_zarr.DOSAGE, variants, people)
            (folder / "laid_out").touch()
        piece = functools.partial(
            _write_rows, bgen, sample, index, store, found.rows, n_samples, variants
        )
        n_pieces = -(-len(found.rows) // variants)
        pieces.complete(piece, n_pieces, folder / "written", n_workers)
    except pieces.LibraryError as error:
        raise InputError(
            f"{bgen} could not be imported ({error}); check that it is whole"
        ) from error


def _read_ids(source: SourceFiles, header: bgen_file.Header, kind: str) -> list[str]:
    """Ids of the people, of the .sample file if there is one."""
    bgen = source.path
    own = None
    if header.ids_start is not None:
        own = bgen_file.read_ids(bgen, header.ids_start)
        _check_number(bgen, len(own), bgen, header)
    if source.companions:
        people = source_people.read_sample(source.companions[0])
        _check_number(people.table, len(people), bgen, header)
        if own is not None:
            source_people.check_own_ids(bgen, own, people)
    elif own is not None:
        people = source_people.People(bgen, own)
    else:
        raise InputError(
            f"{bgen} has no sample ids; put {bgen.with_suffix('.sample')} beside it"
        )
    return people.sample_ids(kind)


def _check_number(
    table: Path, n_named: int, bgen: Path, header: bgen_file.Header
) -> None:
    if n_named != header.n_samples:
        raise InputError(
            f"{table} names {n_named} people, and {bgen} is of {header.n_samples}; "
            "give the two that belong together"
        )


def _make_index(bgen: Path, folder: Path) -> Path:
    """List where each variant begins, not beside the user's file but in the folder."""
    index = folder / "variants.metafile"
    if not index.exists():
        partial = folder / "variants.partial"
        with pieces.listening(), cbgen.bgen_file(bgen) as file:
            file.create_metafile(partial, verbose=False)
        partial.rename(index)
    return index


def _read_variants(bgen: Path, header: bgen_file.Header) -> _Variants:
    rows, kept = [], []
    for row, variant in enumerate(bgen_file.read_variants(bgen, header)):
        if len(variant.alleles) == _N_ALLELES:
            rows.append(row)
            kept.append(variant)
    if not kept:
        raise InputError(f"{bgen} has no biallelic variants; there is nothing to fit")
    return _Variants(np.array(rows, np.int64), header.n_variants, kept)


def _variables(found: _Variants, ids: list[str]) -> xr.Dataset:
    contig_ids = list(dict.fromkeys(variant.contig for variant in found.kept))
    numbers = {name: number for number, name in enumerate(contig_ids)}
    variables = vcf_zarr.variant_variables(
        contig_ids,
        np.array([numbers[variant.contig] for variant in found.kept], np.int32),
        np.array([variant.position for variant in found.kept], np.int32),
        np.array([variant.alleles for variant in found.kept], object),
        [variant.name for variant in found.kept],
    )
    return variables.assign(sample_id=("samples", np.array(ids, object)))


def _write_rows(
    bgen: Path,
    sample: Path | None,
    index: Path,
    store: Path,
    rows: npt.NDArray[np.int64],
    n_samples: int,
    chunk: int,
    number: int,
) -> None:
    """Write the dosages of one chunk of variants."""
    start = number * chunk
    wanted = rows[start : start + chunk]
    dosages = np.empty((len(wanted), n_samples), np.float32)
    window = max(_WINDOW_BYTES // (_BYTES_PER_CALL * n_samples), 1)
    place = 0
    with pieces.listening():
        reader = BgenReader(bgen, metafile_path=index)
    for run in _runs(wanted, window):
        with pieces.listening():
            probabilities = _read_run(reader, run, sample)
        _check_probabilities(bgen, run, probabilities, sample)
        read = probabilities[..., 1] + 2 * probabilities[..., 2]
        dosages[place : place + len(read)] = read
        place += len(read)
    vcf_zarr.write_rows(store, vcf_zarr.DOSAGE, start, dosages)


def _runs(rows: npt.NDArray[np.int64], longest: int) -> Iterator[slice]:
    """Runs of consecutive variants, none longer than ``longest``.

    >>> list(_runs(np.array([0, 1, 2, 4]), 2))
    [slice(0, 2, None), slice(2, 3, None), slice(4, 5, None)]
    """
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for run in np.split(rows, breaks):
        for begin in range(0, len(run), longest):
            part = run[begin : begin + longest]
            yield slice(int(part[0]), int(part[-1]) + 1)


def _read_run(
    reader: BgenReader, run: slice, sample: Path | None
) -> npt.NDArray[np.float32]:
    """Probabilities of 0, 1 and 2 alternate alleles, (variants, samples, 3)."""
    try:
        return np.asarray(reader[run, slice(None), slice(None)])
    except AssertionError as error:
        raise InputError(
            f"{reader.path}: one of the variants {run.start} to {run.stop - 1} is "
            "phased or not diploid; "
            f"{remedies.bgen_as_pgen(reader.path, sample, autosomes=True)}"
        ) from error


def _check_probabilities(
    bgen: Path,
    run: slice,
    probabilities: npt.NDArray[np.float32],
    sample: Path | None,
) -> None:
    unknown = np.isnan(probabilities)
    haploid = unknown.any(axis=2) != unknown.all(axis=2)
    outside = (probabilities < -_TOLERANCE) | (probabilities > 1 + _TOLERANCE)
    autosomes = remedies.bgen_as_pgen(bgen, sample, autosomes=True)
    for fault, what, remedy in (
        (haploid, "diploid", autosomes),
        (outside.any(axis=2), "probabilities", "the file is damaged; copy it again"),
    ):
        if fault.any():
            variant, person = np.argwhere(fault)[0].tolist()
            raise InputError(
                f"{bgen}: the call of person {person} at variant {run.start + variant} "
                f"is not {what}; {remedy}"
            )
