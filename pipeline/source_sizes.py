"""How many people and variants files have that are not imported yet.

Reads headers, indexes and tables, never a genotype; writes nothing.
"""

import importlib
import math
from typing import NamedTuple

from pipeline import bgen_file, source_files, tables
from pipeline.errors import InputError
from pipeline.source_files import SourceFiles

_BED_HEADER_BYTES, _PEOPLE_PER_BYTE = 3, 4


class SourceSizes(NamedTuple):
    """Size of a cohort in files.

    Attributes
    ----------
    n_samples, n_variants
        People and variants, those included that an import leaves out.
    """

    n_samples: int
    n_variants: int


def read_sizes(found: SourceFiles) -> SourceSizes:
    """Size of a cohort, without importing it.

    Raises
    ------
    InputError
        If a file is damaged, not indexed, or does not fit the others.
    """
    if found.kind == source_files.BGEN:
        header = bgen_file.read_header(found.path)
        return SourceSizes(header.n_samples, header.n_variants)
    if found.kind == source_files.VCF:
        # It brings bio2zarr, which other formats do without.
        module = importlib.import_module("pipeline.ingest_vcf")
        return SourceSizes(*module.read_sizes(found.files))
    variants, people = (
        sum(not fields[0].startswith("#") for _, fields in tables.read_rows(table))
        for table in found.companions[:2]
    )
    if found.kind == source_files.BED:
        _check_bed(found, people, variants)
    return SourceSizes(people, variants)


def _check_bed(found: SourceFiles, n_samples: int, n_variants: int) -> None:
    size = found.path.stat().st_size
    wanted = _BED_HEADER_BYTES + n_variants * math.ceil(n_samples / _PEOPLE_PER_BYTE)
    if size != wanted:
        raise InputError(
            f"{found.path} has {size} bytes, and {wanted} are {n_variants} variants of "
            f"{n_samples} people, as its .bim and .fam have them; copy it again"
        )
