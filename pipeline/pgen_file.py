"""The header of a PLINK 2 .pgen file: its size, and whether it may hold dosages.

References
----------
The PGEN specification: github.com/chrchang/plink-ng/tree/master/pgen_spec
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

MAGIC = b"\x6c\x1b"
# Storage modes: that of .bed, which counts nothing, and those of fixed width.
_BED = 0x01
_FIXED_HARD_CALLS = 0x02
_FIXED_DOSAGES = (0x03, 0x04)
_HEADER = struct.Struct("<2sBIIB")
# Types of records are of this many bits where none has phase or dosages.
_BITS_MASK = 0x0F
_FIRST_OF_EIGHT_BITS = 4


@dataclass(frozen=True)
class Header:
    """What the start of a .pgen file says.

    Attributes
    ----------
    n_variants, n_samples
        Size of the file; None where it does not say.
    may_have_dosages
        False if no genotype has a dosage.
    """

    n_variants: int | None
    n_samples: int | None
    may_have_dosages: bool


def read_header(pgen: Path) -> Header:
    """Read the header.

    Raises
    ------
    InputError
        If the file is no PLINK file of genotypes.
    """
    with pgen.open("rb") as file:
        start = file.read(_HEADER.size)
    if not start.startswith(MAGIC):
        raise InputError(
            f"{pgen} does not start with the PLINK magic number; check that it holds "
            "genotypes of PLINK 2, and copy it again"
        )
    if len(start) < _HEADER.size or start[len(MAGIC)] == _BED:
        return Header(None, None, False)
    _, mode, n_variants, n_samples, kinds = _HEADER.unpack(start)
    if mode == _FIXED_HARD_CALLS:
        return Header(n_variants, n_samples, False)
    many_kinds = kinds & _BITS_MASK >= _FIRST_OF_EIGHT_BITS
    return Header(n_variants, n_samples, mode in _FIXED_DOSAGES or many_kinds)


def check_sizes(
    pgen: Path, header: Header, variants: tuple[Path, int], people: tuple[Path, int]
) -> None:
    """Refuse tables of other sizes than the genotypes.

    Parameters
    ----------
    pgen
        The genotypes.
    header
        Their header.
    variants, people
        A table of each, and how many it names.

    Raises
    ------
    InputError
        If one names more, or fewer.
    """
    for (table, n_named), n_held, what in (
        (variants, header.n_variants, "variants"),
        (people, header.n_samples, "people"),
    ):
        if n_held is not None and n_held != n_named:
            raise InputError(
                f"{table} names {n_named} {what}, and {pgen} is of {n_held}; give "
                "files that were made together"
            )
