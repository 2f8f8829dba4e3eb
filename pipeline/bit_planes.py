"""Genotypes as bit planes, of which pairs of rows are compared by counting bits.

Pure arithmetic on chunks; no input or output. Runs inside the workers. One row is a
person, or a variant; a word holds 64 calls of it, and a comparison of two rows takes a
few instructions a word, exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

WORD_BITS = 64

Words = npt.NDArray[np.uint64]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class BitPlanes(NamedTuple):
    """Genotypes of some people, or variants: a bit for each call, rows by words of 64.

    Attributes
    ----------
    heterozygous, reference, alternate
        Bits of calls with one alternate allele, none, or two. Missing calls, and the
        bits after the last call, are in neither.
    """

    heterozygous: Words
    reference: Words
    alternate: Words

    @property
    def n_rows(self) -> int:
        """People, or variants.

        Not the length, which is that of a tuple of three: dask measures tuples by it.
        """
        return len(self.heterozygous)


def bit_planes(dosage: npt.NDArray[np.int8]) -> BitPlanes:
    """Bit planes of alternate alleles counted, missing -1, in the same rows.

    >>> planes = bit_planes(np.array([[1, -1, 2], [0, 1, 1]], np.int8))
    >>> planes.heterozygous.tolist(), planes.alternate.tolist()
    ([[1], [6]], [[4], [0]])
    """
    return BitPlanes(*(_pack(dosage == count) for count in (1, 0, 2)))


def _pack(bits: npt.NDArray[np.bool_]) -> Words:
    n_rows, n_calls = bits.shape
    padded = np.zeros((n_rows, -(-n_calls // WORD_BITS) * WORD_BITS), np.bool_)
    padded[:, :n_calls] = bits
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


@intrinsic
def count_bits(typing_context: Any, word: Any) -> Any:
    """The processor's population count, which numba has no name for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


def compile_function(function: _Function) -> _Function:
    """Compile with numba, and keep what is compiled for the processes after this one.

    Where numba finds no folder for that it would refuse to compile at all.
    """
    try:
        compiled = numba.njit(function, nogil=True, cache=True)
    except RuntimeError:
        compiled = numba.njit(function, nogil=True)
    return compiled
