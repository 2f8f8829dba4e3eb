"""The variants that .pvar and .bim files name.

Reads these tables; writes nothing. Invariant: alleles are reference, then alternates,
which of .bim are its second and its first.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline import tables, vcf_zarr
from pipeline.alleles import PLACEHOLDERS
from pipeline.errors import InputError

_HEADER = "#CHROM"
_WITHOUT_HEADER = ["#CHROM", "ID", "CM", "POS", "ALT", "REF"]  # as in .bim


@dataclass(frozen=True)
class Variants:
    """The lines of a .pvar or .bim file.

    Attributes
    ----------
    contigs, positions, names
        Where each variant is, and its id.
    alleles
        Reference and alternates.
    """

    contigs: list[str]
    positions: list[int]
    names: list[str]
    alleles: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def n_alleles(self) -> npt.NDArray[np.uintp]:
        """Number of the alleles of each."""
        return np.array([len(each) for each in self.alleles], np.uintp)

    @property
    def biallelic_mask(self) -> npt.NDArray[np.bool_]:
        """True for variants of which no two alternates have names of alleles."""
        return np.array(
            [
                len(each) == 2 or len(set(each[1:]) - PLACEHOLDERS) <= 1
                for each in self.alleles
            ]
        )

    def variables(self, rows: npt.NDArray[np.integer]) -> xr.Dataset:
        """What a VCF Zarr store has of some of them, in order."""
        kept = rows.tolist()
        most = max(len(self.alleles[row]) for row in kept)
        contig_ids = list(dict.fromkeys(self.contigs))
        numbers = {name: number for number, name in enumerate(contig_ids)}
        return vcf_zarr.variant_variables(
            contig_ids,
            np.array([numbers[self.contigs[row]] for row in kept], np.int32),
            np.array([self.positions[row] for row in kept], np.int32),
            np.array([_padded(self.alleles[row], most) for row in kept], object),
            [self.names[row] for row in kept],
        )


def _padded(alleles: tuple[str, ...], size: int) -> list[str]:
    return [*alleles, *[""] * (size - len(alleles))]


def read_variants(table: Path) -> Variants:
    """Read a .pvar file, with or without its header, or a .bim file.

    Raises
    ------
    InputError
        If a column is missing or a line damaged, or there is no variant.
    """
    found = Variants([], [], [], [])
    columns = _WITHOUT_HEADER
    for number, fields in tables.read_rows(table):
        if fields[0] == _HEADER:
            columns = _check_columns(table, fields)
        elif not fields[0].startswith("#"):
            row = len(found) + 1
            named = _name_fields(table, number, columns, fields)
            found.contigs.append(named[_HEADER])
            found.positions.append(tables.parse_position(table, row, named["POS"]))
            found.names.append(named["ID"])
            found.alleles.append((named["REF"], *named["ALT"].split(",")))
    if not found.names:
        raise InputError(f"{table} has no variants; there is nothing to import")
    return found


def _check_columns(table: Path, columns: list[str]) -> list[str]:
    missing = [name for name in _WITHOUT_HEADER if name not in (*columns, "CM")]
    if missing:
        raise InputError(f"{table} has no column {missing[0]}; write it again")
    return columns


def _name_fields(
    table: Path, number: int, columns: list[str], fields: list[str]
) -> dict[str, str]:
    if columns is _WITHOUT_HEADER and len(fields) == len(columns) - 1:
        # As in .bim, but without the position in centimorgans.
        columns = [name for name in columns if name != "CM"]
    tables.check_width(table, number, fields, len(columns))
    return dict(zip(columns, fields, strict=False))
