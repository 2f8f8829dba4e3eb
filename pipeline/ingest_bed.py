"""Import PLINK 1 filesets, through bio2zarr.

Reads PREFIX.bed with PREFIX.bim and PREFIX.fam; writes VCF Zarr. Invariant: the three
files fit one another, and every id is stored as it is written in them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from bio2zarr import plink

from pipeline import encode, pieces, tables
from pipeline.errors import InputError
from pipeline.source_files import SourceFiles

_MAGIC = b"\x6c\x1b"
_HEADER_BYTES = 3
_VARIANT_MAJOR = 1
_N_COLUMNS = 6
_PEOPLE_PER_BYTE = 4
# Of many, enough that nobody has nothing but the code that padding has.
_VARIANTS_LOOKED_AT = 10_000
# What pandas, behind bio2zarr, takes for a missing value.
_READ_AS_MISSING = frozenset(
    ["NA", "N/A", "n/a", "<NA>", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None"]
)


def ingest(source: SourceFiles, folder: Path, n_workers: int) -> None:
    """Write the store `folder/store` of a fileset, or go on writing it.

    Allele 1 (the fifth column of .bim, usually the minor allele) becomes the
    alternate and allele 2 (the sixth) the reference, so the number of alternate
    alleles is the number of copies of allele 1 that .bed stores. ADMIXTURE's P on the
    same files is the frequency of allele 2. Allele codes are kept as they are,
    including '0' for the unseen allele of a monomorphic variant. Sample ids are the
    individual ids, without the family ids.

    Raises
    ------
    InputError
        If a file is damaged or empty, if they do not fit one another, or if an id is
        there twice.
    """
    bed = source.path
    sample_ids = _check_files(bed)
    try:
        encode.encode(plink.PlinkFormat, bed.with_suffix(""), folder, n_workers)
    except pieces.LibraryError as error:
        # bio2zarr guesses the separator of each table from its first lines.
        raise InputError(
            f"{bed} could not be imported ({error}); separate the columns of .bim and "
            ".fam by single tabs, without commas"
        ) from error
    _check_sample_ids(bed.with_suffix(".fam"), sample_ids, folder / "store")


def _check_files(bed: Path) -> list[str]:
    """Sample ids of a fileset whose three files fit one another."""
    bim, fam = bed.with_suffix(".bim"), bed.with_suffix(".fam")
    sample_ids = [row[1] for row in _rows(fam)]
    n_variants = _count_variants(bim)
    for companion, n_rows in ((fam, len(sample_ids)), (bim, n_variants)):
        if n_rows == 0:
            raise InputError(f"{companion} is empty; there is nothing to import")
    tables.check_unique(fam, sample_ids)
    _check_bed(bed, n_variants, len(sample_ids))
    _check_padding(bed, n_variants, len(sample_ids))
    return sample_ids


def _rows(table: Path) -> Iterator[list[str]]:
    """Fields of each line of a .bim or .fam file, both of which have six columns."""
    for number, fields in tables.read_rows(table):
        if len(fields) != _N_COLUMNS:
            raise InputError(
                f"{table} line {number} has {len(fields)} columns, not 6; repair it"
            )
        yield fields


def _count_variants(bim: Path) -> int:
    n_variants = 0
    for contig, name, _, position, *alleles in _rows(bim):
        n_variants += 1
        tables.parse_position(bim, n_variants, position)
        if not _READ_AS_MISSING.isdisjoint([contig, name, *alleles]):
            raise InputError(
                f"{bim} row {n_variants}: a name or allele that reads as a missing "
                "value (NA, null or the like); rename it"
            )
    return n_variants


def _check_bed(bed: Path, n_variants: int, n_samples: int) -> None:
    with bed.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if header[:2] != _MAGIC or len(header) < _HEADER_BYTES:
        raise InputError(
            f"{bed} does not start with the PLINK 1 magic number; "
            "make it again with plink --make-bed"
        )
    if header[2] != _VARIANT_MAJOR:
        raise InputError(
            f"{bed} is stored person by person; convert it with plink --make-bed"
        )
    expected = _HEADER_BYTES + n_variants * ((n_samples + 3) // 4)
    size = bed.stat().st_size
    if size != expected:
        raise InputError(
            f"{bed} holds {size} bytes, but {n_variants} variants (.bim) of "
            f"{n_samples} people (.fam) need {expected}; make the three files together"
        )


def _check_sample_ids(fam: Path, expected: list[str], store: Path) -> None:
    # A guessed separator or an id such as 'NA' would go wrong without an error.
    with xr.open_zarr(store, chunks=None, mask_and_scale=False) as dataset:
        imported = dataset["sample_id"].values.tolist()
    for row, (want, got) in enumerate(zip(expected, imported, strict=True), start=1):
        if want != got:
            raise InputError(
                f"{fam} row {row}: the id {want!r} is read as {got!r}; rename it"
            )


def _check_padding(bed: Path, n_variants: int, n_samples: int) -> None:
    """Refuse a file of more people than .fam names, in bytes of the same number."""
    used_bits = 2 * (n_samples % _PEOPLE_PER_BYTE)
    if not used_bits:
        return
    width = -(-n_samples // _PEOPLE_PER_BYTE)
    shape = (min(n_variants, _VARIANTS_LOOKED_AT), width)
    packed = np.memmap(bed, np.uint8, "r", _HEADER_BYTES, shape)
    surplus = np.flatnonzero(packed[:, -1] >> used_bits)
    if surplus.size:
        raise InputError(
            f"{bed} has genotypes beyond the {n_samples} people of .fam at variant "
            f"{surplus[0] + 1}; make the three files together"
        )
