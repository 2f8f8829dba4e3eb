"""Import PLINK 2 filesets, through pgenlib.

Reads PREFIX.pgen with PREFIX.pvar (or .pvar.zst) and PREFIX.psam; writes the hard
calls as VCF Zarr. Invariant: variants with several alternate alleles are left out and
counted, and all others are stored in the order of the files.
"""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pgenlib
import xarray as xr

from pipeline import pieces, tables, vcf_zarr
from pipeline.encode import chunk_sizes
from pipeline.errors import InputError
from pipeline.source_files import SourceFiles

logger = logging.getLogger(__name__)

_MAGIC = b"\x6c\x1b"
_HEADER = "#CHROM"
_SAMPLE_HEADERS = ("#IID", "#FID")
_WITHOUT_HEADER = ["#CHROM", "ID", "CM", "POS", "ALT", "REF"]  # as in .bim
_MISSING = -9
# Alleles of 0, 1 and 2 alternate alleles, and of a missing call.
_ALLELES = np.array([[0, 0], [0, 1], [1, 1], [-1, -1]], np.int8)
# Calls that are unpacked at a time: one byte counted, two bytes written.
_WINDOW_CALLS = 16 * 2**20


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
    """

    pgen: Path
    n_samples: int
    allele_offsets: npt.NDArray[np.uintp]
    rows: npt.NDArray[np.uint32]

    def open(self) -> pgenlib.PgenReader:
        """The genotypes, to be closed."""
        return pgenlib.PgenReader(
            bytes(self.pgen),
            raw_sample_ct=self.n_samples,
            variant_ct=len(self.allele_offsets) - 1,
            allele_idx_offsets=self.allele_offsets,
        )


@dataclass(frozen=True)
class _Variants:
    """The lines of a .pvar file."""

    contigs: list[str]
    positions: list[int]
    names: list[str]
    alleles: list[tuple[str, str]]
    n_alleles: list[int]


def ingest(source: SourceFiles, folder: Path, n_workers: int) -> None:
    """Write the store `folder/store` of a fileset, or go on writing it.

    REF becomes the reference, also where the file calls it provisional. A sample id is
    the IID; FID and SID, where there are any, are kept beside it.

    Raises
    ------
    InputError
        If a file is damaged or empty, if they do not fit one another, or if an id is
        there twice.
    """
    pgen = source.path
    pvar, psam = source.companions
    samples = _read_psam(psam)
    found = _read_pvar(pvar)
    n_alleles = np.array(found.n_alleles, np.uintp)
    rows = np.flatnonzero(n_alleles == 2).astype(np.uint32)
    if rows.size == 0:
        raise InputError(
            f"{pvar} has no biallelic variants; there is nothing to import"
        )
    offsets = np.concatenate([np.zeros(1, np.uintp), np.cumsum(n_alleles)])
    fileset = _Fileset(pgen, samples.sizes["samples"], offsets, rows)
    _check_pgen(fileset)
    if rows.size < n_alleles.size:
        logger.warning(
            "%s: %d variants with several alternate alleles are left out",
            pgen,
            n_alleles.size - rows.size,
        )
    variants, people = chunk_sizes(fileset.n_samples)
    store = folder / "store"
    if not (folder / "laid_out").exists():
        variables = _variables(found, rows).merge(samples)
        vcf_zarr.lay_out(store, variables, vcf_zarr.GENOTYPE, variants, people)
        (folder / "laid_out").touch()
    piece = functools.partial(_write_rows, fileset, store, variants)
    n_pieces = -(-rows.size // variants)
    try:
        pieces.complete(piece, n_pieces, folder / "written", n_workers)
    except pieces.LibraryError as error:
        raise _damaged(pgen, error) from error


def _damaged(pgen: Path, error: Exception) -> InputError:
    return InputError(
        f"{pgen} could not be imported ({error}); check that it is whole and belongs "
        "to its .pvar and .psam"
    )


def _read_psam(psam: Path) -> xr.Dataset:
    """Ids of the people; without a header the columns are those of .fam."""
    columns = ["#FID", "IID"]
    ids: dict[str, list[str]] = {}
    for number, fields in tables.read_rows(psam):
        if fields[0] in _SAMPLE_HEADERS:
            columns = fields
        elif not fields[0].startswith("#"):
            if len(fields) < len(columns):
                raise InputError(
                    f"{psam} line {number} has {len(fields)} columns, not "
                    f"{len(columns)}; repair it"
                )
            for name, value in zip(columns, fields, strict=False):
                if name.removeprefix("#") in ("FID", "IID", "SID"):
                    ids.setdefault(name.removeprefix("#"), []).append(value)
    if not ids.get("IID"):
        raise InputError(f"{psam} names no people (IID); there is nothing to import")
    tables.check_unique(psam, ids["IID"])
    names = {"IID": "sample_id", "FID": "sample_family_id", "SID": "sample_source_id"}
    return xr.Dataset(
        {names[n]: ("samples", np.array(ids[n], object)) for n in names if n in ids}
    )


def _read_pvar(pvar: Path) -> _Variants:
    found = _Variants([], [], [], [], [])
    columns = _WITHOUT_HEADER
    for number, fields in tables.read_rows(pvar):
        if fields[0] == _HEADER:
            columns = _check_columns(pvar, fields)
        elif not fields[0].startswith("#"):
            row = len(found.names) + 1
            named = _name_fields(pvar, number, columns, fields)
            alternates = named["ALT"].split(",")
            found.contigs.append(named[_HEADER])
            found.positions.append(tables.parse_position(pvar, row, named["POS"]))
            found.names.append(named["ID"])
            found.alleles.append((named["REF"], alternates[0]))
            found.n_alleles.append(1 + len(alternates))
    if not found.names:
        raise InputError(f"{pvar} has no variants; there is nothing to import")
    return found


def _check_columns(pvar: Path, columns: list[str]) -> list[str]:
    missing = [name for name in _WITHOUT_HEADER if name not in (*columns, "CM")]
    if missing:
        raise InputError(f"{pvar} has no column {missing[0]}; write it again")
    return columns


def _name_fields(
    pvar: Path, number: int, columns: list[str], fields: list[str]
) -> dict[str, str]:
    if columns is _WITHOUT_HEADER and len(fields) == len(columns) - 1:
        # As in .bim, but without the position in centimorgans.
        columns = [name for name in columns if name != "CM"]
    if len(fields) < len(columns):
        raise InputError(
            f"{pvar} line {number} has {len(fields)} columns, not {len(columns)}; "
            "repair it"
        )
    return dict(zip(columns, fields, strict=False))


def _check_pgen(fileset: _Fileset) -> None:
    with fileset.pgen.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InputError(
                f"{fileset.pgen} does not start with the PLINK magic number; make it "
                "again with plink2 --make-pgen"
            )
    try:
        with pieces.listening(), fileset.open() as reader:
            # The last record, and so the end of the file.
            buffer = np.empty(fileset.n_samples, np.int8)
            reader.read(int(fileset.rows[-1]), buffer)
    except pieces.LibraryError as error:
        raise _damaged(fileset.pgen, error) from error


def _variables(found: _Variants, rows: npt.NDArray[np.uint32]) -> xr.Dataset:
    kept = rows.tolist()
    contig_ids = list(dict.fromkeys(found.contigs))
    numbers = {name: number for number, name in enumerate(contig_ids)}
    return vcf_zarr.variant_variables(
        contig_ids,
        np.array([numbers[found.contigs[row]] for row in kept], np.int32),
        np.array([found.positions[row] for row in kept], np.int32),
        np.array([found.alleles[row] for row in kept], object),
        [found.names[row] for row in kept],
    )


def _write_rows(fileset: _Fileset, store: Path, chunk: int, number: int) -> None:
    """Write the genotypes of one chunk of variants."""
    start = number * chunk
    rows = fileset.rows[start : start + chunk]
    calls = np.empty((len(rows), fileset.n_samples, 2), np.int8)
    window = max(_WINDOW_CALLS // fileset.n_samples, 1)
    with pieces.listening(), fileset.open() as reader:
        for begin in range(0, len(rows), window):
            wanted = rows[begin : begin + window]
            counts = np.empty((len(wanted), fileset.n_samples), np.int8)
            reader.read_list(wanted, counts)
            counts[counts == _MISSING] = len(_ALLELES) - 1
            calls[begin : begin + window] = _ALLELES[counts]
    vcf_zarr.write_rows(store, vcf_zarr.GENOTYPE, start, calls)
