"""The layout of a BGEN file: header, sample ids, and where each variant is.

Reads everything but the probabilities, and checks that each block lies inside the file:
the C library behind sgkit's reader does not, and ends the process on a file that was
cut short.

References
----------
The BGEN format, version 1.2, layout 2: www.chg.ox.ac.uk/~gav/bgen_format
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline import remedies
from pipeline.errors import InputError

_MAGICS = (b"bgen", bytes(4))
_LAYOUT = 2
_SHORT, _LONG = struct.Struct("<H"), struct.Struct("<I")
_HEADER = struct.Struct("<IIII4s")


@dataclass(frozen=True)
class Header:
    """What the start of a BGEN file says.

    Attributes
    ----------
    n_variants, n_samples
        Size of the file.
    first_variant
        Where the first variant begins, in bytes.
    ids_start
        Where the sample ids begin; None if the file has none.
    """

    n_variants: int
    n_samples: int
    first_variant: int
    ids_start: int | None


@dataclass(frozen=True)
class Variant:
    """One variant: names, place, and alleles in the file's order."""

    name: str
    contig: str
    position: int
    alleles: tuple[str, ...]


class _Reader:
    """Reads a file in pieces, none of which may lie beyond its end."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = path.stat().st_size

    def take(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) < n_bytes:
            raise self._cut_short()
        return data

    def skip(self, n_bytes: int) -> None:
        if self._file.seek(n_bytes, 1) > self._size:
            raise self._cut_short()

    def jump(self, place: int) -> None:
        self._file.seek(0)
        self.skip(place)

    def number(self, kind: struct.Struct) -> int:
        return int(kind.unpack(self.take(kind.size))[0])

    def text(self, kind: struct.Struct) -> str:
        data = self.take(self.number(kind))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self._path}: a name or allele is not text ({error}); the file is "
                "damaged, copy it again"
            ) from error

    def _cut_short(self) -> InputError:
        return InputError(
            f"{self._path} holds {self._size} bytes, fewer than its variants need; "
            "copy it again"
        )


def read_header(bgen: Path, sample: Path | None = None) -> Header:
    """Read the header of a file with variants and people in it.

    Parameters
    ----------
    bgen
        The file.
    sample
        The .sample file that belongs to it, for the message.

    Raises
    ------
    InputError
        If the file is no BGEN file of layout 2, or is empty.
    """
    with bgen.open("rb") as file:
        start = file.read(_HEADER.size)
        fields = _HEADER.unpack(start) if len(start) == _HEADER.size else None
        if fields is None or fields[-1] not in _MAGICS:
            raise InputError(
                f"{bgen} does not start as a BGEN file; check that it is one, and whole"
            )
        offset, header_bytes, n_variants, n_samples, _ = fields
        reader = _Reader(file, bgen)
        # Free text lies between; flags are the header's last four bytes.
        reader.jump(header_bytes)
        flags = reader.number(_LONG)
    layout = flags >> 2 & 0xF
    if layout != _LAYOUT:
        raise InputError(
            f"{bgen} has layout {layout}, and only layout 2 (BGEN 1.2 and later) is "
            f"read; {remedies.bgen_as_pgen(bgen, sample)}"
        )
    if n_variants == 0 or n_samples == 0:
        raise InputError(
            f"{bgen} holds {n_variants} variants of {n_samples} people; there is "
            "nothing to fit"
        )
    ids_start = _LONG.size + header_bytes if flags >> 31 else None
    return Header(n_variants, n_samples, _LONG.size + offset, ids_start)


def read_ids(bgen: Path, start: int) -> list[str]:
    """Sample ids in the file itself, from where they begin.

    Raises
    ------
    InputError
        If the file ends before, or the ids are not text.
    """
    with bgen.open("rb") as file:
        reader = _Reader(file, bgen)
        reader.jump(start)
        reader.number(_LONG)
        return [reader.text(_SHORT) for _ in range(reader.number(_LONG))]


def read_variants(bgen: Path, header: Header) -> Iterator[Variant]:
    """All variants, in the file's order.

    Raises
    ------
    InputError
        If the file ends before the last of them does, or names are not text.
    """
    with bgen.open("rb") as file:
        reader = _Reader(file, bgen)
        reader.jump(header.first_variant)
        for _ in range(header.n_variants):
            own, name = reader.text(_SHORT), reader.text(_SHORT)
            contig, position = reader.text(_SHORT), reader.number(_LONG)
            n_alleles = reader.number(_SHORT)
            alleles = tuple(reader.text(_LONG) for _ in range(n_alleles))
            reader.skip(reader.number(_LONG))
            yield Variant(name or own or ".", contig, position, alleles)
