"""Import PLINK 1 filesets, through bio2zarr.

Reads PREFIX.bed with PREFIX.bim and PREFIX.fam; writes VCF Zarr. Invariant: the three
files fit one another, and every id is stored as it is written in them.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from bio2zarr import plink

from pipeline import encode, pieces, remedies, source_people, tables
from pipeline.config import FID_IID, SourceConfig
from pipeline.errors import InputError
from pipeline.source_files import SourceFiles

_MAGIC = b"\x6c\x1b"
_HEADER_BYTES = 3
_VARIANT_MAJOR = 1
_TABLES = (".bim", ".fam")
_N_COLUMNS = 6
_POSITION = 3
_PEOPLE_PER_BYTE = 4
# Of many, enough that nobody has nothing but the code that padding has.
_VARIANTS_LOOKED_AT = 10_000


class _Fileset(plink.PlinkFormat):
    """A fileset as bio2zarr reads it, but for its two tables.

    bio2zarr guesses one separator for a whole table, and reads an id "NA" as missing.
    PLINK separates columns by blanks and tabs of any number.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.paths = plink.PlinkPaths(*(f"{prefix}{s}" for s in (".bed", *_TABLES)))
        self.bim = _read_table(self.paths.bim_path, plink.BIM_FIELDS)
        self.bim["position"] = self.bim["position"].astype("int32")
        self.fam = _read_table(self.paths.fam_path, plink.FAM_FIELDS)
        self._num_records, self._num_samples = len(self.bim), len(self.fam)
        sizes = self._num_records, self._num_samples
        self.bed_reader = plink.BedReader(self.paths.bed_path, *sizes)


class _FilesetOfFamilies(_Fileset):
    """The same, with family and individual ids together as the ids of people."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        people = source_people.read_fam(Path(self.paths.fam_path))
        self.fam["individual_id"] = people.sample_ids(FID_IID)


def _read_table(path: str, fields: list[tuple[str, Any, str]]) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep=r"\s+",
        names=[name for name, *_ in fields],
        dtype=str,
        keep_default_na=False,
        na_filter=False,
        quoting=csv.QUOTE_NONE,
    )


def ingest(
    source: SourceFiles, folder: Path, n_workers: int, config: SourceConfig
) -> None:
    """Write the store `folder/store` of a fileset, or go on writing it.

    Allele 1 (the fifth column of .bim, usually the minor allele) becomes the
    alternate and allele 2 (the sixth) the reference, so the number of alternate
    alleles is the number of copies of allele 1 that .bed stores. ADMIXTURE's P on the
    same files is the frequency of allele 2. Allele codes are kept as they are,
    including '0' for the unseen allele of a monomorphic variant.

    Raises
    ------
    InputError
        If a file is damaged or empty, if they do not fit one another, or if an id is
        there twice.
    """
    bed = source.path
    if config.dosages:
        raise InputError(f"{bed} holds no dosages; leave --dosages out")
    people = source_people.read_fam(bed.with_suffix(".fam"))
    sample_ids = people.sample_ids(config.sample_id)
    for other in source.others:
        source_people.check_beside(people, other)
    n_variants = _count_variants(bed.with_suffix(".bim"))
    _check_bed(bed, n_variants, len(people))
    _check_padding(bed, n_variants, len(people))
    fileset = _FilesetOfFamilies if config.sample_id == FID_IID else _Fileset
    try:
        encode.encode(fileset, bed.with_suffix(""), folder, n_workers)
    except pieces.LibraryError as error:
        raise InputError(
            f"{bed} could not be imported ({error}); check that it is whole and "
            "belongs to its .bim and .fam"
        ) from error
    _check_sample_ids(people.table, sample_ids, folder / "store")


def _count_variants(bim: Path) -> int:
    n_variants = 0
    for fields in tables.read_rows_of(bim, _N_COLUMNS):
        n_variants += 1
        tables.parse_position(bim, n_variants, fields[_POSITION])
    if n_variants == 0:
        raise InputError(f"{bim} is empty; there is nothing to import")
    return n_variants


def _check_bed(bed: Path, n_variants: int, n_samples: int) -> None:
    with bed.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if header[:2] != _MAGIC or len(header) < _HEADER_BYTES:
        raise InputError(
            f"{bed} does not start with the PLINK 1 magic number; check that it holds "
            "PLINK's genotypes and is no BED file of regions"
        )
    if header[2] != _VARIANT_MAJOR:
        raise InputError(
            f"{bed} is stored person by person; {remedies.BED_BY_VARIANTS}"
        )
    expected = _HEADER_BYTES + n_variants * ((n_samples + 3) // 4)
    size = bed.stat().st_size
    if size != expected:
        raise InputError(
            f"{bed} holds {size} bytes, but {n_variants} variants (.bim) of "
            f"{n_samples} people (.fam) need {expected}; make the three files together"
        )


def _check_sample_ids(fam: Path, expected: list[str], store: Path) -> None:
    # Two readers of one table must not differ in silence.
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
