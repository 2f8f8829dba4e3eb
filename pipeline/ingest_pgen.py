"""Import PLINK 2 filesets, through pgenlib.

Reads PREFIX.pgen with PREFIX.pvar (or .pvar.zst, or .bim) and PREFIX.psam (or .fam);
writes the hard calls, or the dosages, as VCF Zarr. Invariant: variants with several
alternate alleles are left out and counted, unless all but one of these stand for none,
and all others are stored in the order of the files.
"""

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pgenlib
import xarray as xr

from pipeline import pgen_file, pieces, source_people, variant_tables, vcf_zarr
from pipeline.config import SourceConfig
from pipeline.encode import chunk_sizes
from pipeline.errors import InputError
from pipeline.quantities import count_things
from pipeline.source_files import SourceFiles
from pipeline.source_people import People

logger = logging.getLogger(__name__)

_MISSING = -9
# Alleles of 0, 1 and 2 alternate alleles, and of a missing call.
_ALLELES = np.array([[0, 0], [0, 1], [1, 1], [-1, -1]], np.int8)
# Calls that are unpacked at a time: up to five bytes read, two or four written.
_WINDOW_CALLS = 8 * 2**20
# Dosages are stored in units of 2^-14; what is nearer to a call says the same.
_DOSAGE_UNIT = 2.0**-14


@dataclass(frozen=True)
class _Fileset:
    """What the processes that read the genotypes need.

    Attributes
    ----------
    pgen
        The genotypes.
    n_samples
        People.
    allele_offsets
        Where each variant's alleles begin among all, and their number.
    rows
        Variants to import, by position in the file.
    may_have_dosages
        Whether there may be dosages beside the hard calls.
    """

    pgen: Path
    n_samples: int
    allele_offsets: npt.NDArray[np.uintp]
    rows: npt.NDArray[np.uint32]
    may_have_dosages: bool

    def open(self) -> pgenlib.PgenReader:
        """The genotypes, to be closed."""
        return pgenlib.PgenReader(
            bytes(self.pgen),
            raw_sample_ct=self.n_samples,
            variant_ct=len(self.allele_offsets) - 1,
            allele_idx_offsets=self.allele_offsets,
        )


def ingest(
    source: SourceFiles, folder: Path, n_workers: int, config: SourceConfig
) -> None:
    """Write the store `folder/store` of a fileset, or go on writing it.

    REF becomes the reference, also where the file calls it provisional. FID and SID,
    where there are any, are kept beside the sample ids. How many genotypes have
    dosages that are not read is logged.

    Raises
    ------
    InputError
        If a file is damaged or empty, if they do not fit one another, or if an id is
        there twice.
    """
    pgen = source.path
    variants_table, people_table = source.companions
    people = source_people.read_psam(people_table)
    sample_ids = people.sample_ids(config.sample_id)
    for other in source.others:
        source_people.check_beside(people, other)
    found = variant_tables.read_variants(variants_table)
    # The dosages of several alternates are not read.
    wanted = found.n_alleles == 2 if config.dosages else found.biallelic_mask
    fileset = _fileset(pgen, found, wanted, variants_table, people)
    calls = vcf_zarr.DOSAGE if config.dosages else vcf_zarr.GENOTYPE
    n_variants, n_people = chunk_sizes(fileset.n_samples)
    store = folder / "store"
    if not (folder / "laid_out").exists():
        variables = found.variables(fileset.rows).merge(_samples(people, sample_ids))
        vcf_zarr.lay_out(store, variables, calls, n_variants, n_people)
        (folder / "laid_out").touch()
    piece = functools.partial(_write_rows, fileset, calls, folder, n_variants)
    n_pieces = -(-fileset.rows.size // n_variants)
    try:
        pieces.complete(piece, n_pieces, folder / "written", n_workers)
    except pieces.LibraryError as error:
        raise _damaged(pgen, error) from error
    if fileset.may_have_dosages and not config.dosages:
        _log_dosages(pgen, folder, n_pieces, fileset.rows.size * fileset.n_samples)


def _fileset(
    pgen: Path,
    found: variant_tables.Variants,
    wanted: npt.NDArray[np.bool_],
    table: Path,
    people: People,
) -> _Fileset:
    """The genotypes, once it is known that the tables fit them."""
    header = pgen_file.read_header(pgen)
    sizes = (table, len(found)), (people.table, len(people))
    pgen_file.check_sizes(pgen, header, *sizes)
    n_alleles = found.n_alleles
    rows = np.flatnonzero(wanted).astype(np.uint32)
    if rows.size == 0:
        raise InputError(
            f"{table} has no biallelic variants; there is nothing to import"
        )
    offsets = np.concatenate([np.zeros(1, np.uintp), np.cumsum(n_alleles)])
    fileset = _Fileset(pgen, len(people), offsets, rows, header.may_have_dosages)
    _check_pgen(fileset)
    if rows.size < n_alleles.size:
        logger.warning(
            "%s: left out %s with several alternate alleles",
            pgen,
            count_things(n_alleles.size - rows.size, "variant", "variants"),
        )
    return fileset


def _damaged(pgen: Path, error: Exception) -> InputError:
    return InputError(
        f"{pgen} could not be imported ({error}); check that it is whole and belongs "
        "to the tables beside it"
    )


def _check_pgen(fileset: _Fileset) -> None:
    try:
        with pieces.listening(), fileset.open() as reader:
            # The last record, and so the end of the file.
            buffer = np.empty(fileset.n_samples, np.int8)
            reader.read(int(fileset.rows[-1]), buffer)
    except pieces.LibraryError as error:
        raise _damaged(fileset.pgen, error) from error


def _samples(people: People, sample_ids: list[str]) -> xr.Dataset:
    ids = {
        "sample_id": sample_ids,
        "sample_family_id": people.family_ids,
        "sample_source_id": people.source_ids,
    }
    return xr.Dataset(
        {
            name: ("samples", np.array(values, object))
            for name, values in ids.items()
            if values is not None
        }
    )


def _write_rows(
    fileset: _Fileset,
    calls: vcf_zarr.CallArray,
    folder: Path,
    chunk: int,
    number: int,
) -> None:
    """Write the calls of one chunk of variants."""
    start = number * chunk
    rows = fileset.rows[start : start + chunk]
    shape = (len(rows), fileset.n_samples, *calls.ploidy)
    values = np.empty(shape, calls.dtype)
    window = max(_WINDOW_CALLS // fileset.n_samples, 1)
    counted = np.zeros(2, np.int64)
    with pieces.listening(), fileset.open() as reader:
        for begin in range(0, len(rows), window):
            wanted = rows[begin : begin + window]
            read: npt.NDArray[Any]
            if calls == vcf_zarr.DOSAGE:
                read = _read_dosages(reader, wanted, fileset.n_samples)
            elif (np.diff(fileset.allele_offsets)[wanted] > 2).any():
                read = _read_alleles(reader, wanted, fileset.n_samples)
            else:
                counts = np.empty((len(wanted), fileset.n_samples), np.int8)
                reader.read_list(wanted, counts)
                if fileset.may_have_dosages:
                    dosages = _read_dosages(reader, wanted, fileset.n_samples)
                    counted += _count_dosages(counts, dosages)
                counts[counts == _MISSING] = len(_ALLELES) - 1
                read = _ALLELES[counts]
            values[begin : begin + window] = read
    vcf_zarr.write_rows(folder / "store", calls, start, values)
    (folder / f"dosages_{number}").write_text(json.dumps(counted.tolist()))


def _read_alleles(
    reader: pgenlib.PgenReader, rows: npt.NDArray[np.uint32], n_samples: int
) -> npt.NDArray[np.int8]:
    """Allele numbers, where a variant lists more than one alternate."""
    alleles = np.empty((len(rows), 2 * n_samples), np.int32)
    reader.read_alleles_list(rows, alleles)
    return np.maximum(alleles, -1).astype(np.int8).reshape(len(rows), n_samples, 2)


def _read_dosages(
    reader: pgenlib.PgenReader, rows: npt.NDArray[np.uint32], n_samples: int
) -> npt.NDArray[np.float32]:
    """Expected alternate alleles; the hard calls where a genotype has no dosage."""
    dosages = np.empty((len(rows), n_samples), np.float32)
    reader.read_dosages_list(rows, dosages)
    dosages[dosages == _MISSING] = np.nan
    return dosages


def _count_dosages(
    counts: npt.NDArray[np.int8], dosages: npt.NDArray[np.float32]
) -> tuple[int, int]:
    """Genotypes whose dosage says more than the hard call, and those without a call."""
    # A comparison with NaN is false: nothing is known there.
    says_more = np.abs(dosages - counts) > _DOSAGE_UNIT
    lost = says_more & (counts == _MISSING)
    return int(says_more.sum()), int(lost.sum())


def _log_dosages(pgen: Path, folder: Path, n_pieces: int, n_genotypes: int) -> None:
    parts = [folder / f"dosages_{number}" for number in range(n_pieces)]
    counted = np.array([json.loads(part.read_text()) for part in parts]).sum(axis=0)
    n_dosages, n_lost = counted.tolist()
    if n_dosages:
        logger.warning(
            "%s: %.2f %% of the genotypes have a dosage that is no whole number, and "
            "%.2f %% are missing because it is too uncertain for a call; --dosages "
            "reads the dosages instead",
            pgen,
            100 * n_dosages / n_genotypes,
            100 * n_lost / n_genotypes,
        )
