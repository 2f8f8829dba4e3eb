"""The calls of a cohort in numbers: genotype counts, and counts of alternate alleles.

Reads the genotypes of chosen variants and people as they lie in the cohort's chunks;
writes nothing. Invariant: the numbers depend on the genotypes, never on the chunks.

A call counts only if both alleles are known: half calls (0/., ./1) and haploid calls
are missing.
"""

from dataclasses import dataclass
from typing import Self

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from pipeline.cohort import Cohort
from pipeline.errors import InputError

Mask = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]

GENOTYPES = ("0/0", "0/1", "1/1")
# A diploid int8 call read as one 16-bit number, in either byte order.
_HOM_REF_CODE = 0x0000
_HET_CODES = (0x0001, 0x0100)
_HOM_ALT_CODE = 0x0101
_MISSING_BITS = 0x8080
# Rows counted at a time: they stay in cache, and uint8 holds the sum of a column.
_TILE_ROWS = 128


@dataclass(frozen=True, eq=False)
class CallCounts:
    """Genotype counts of every variant, and called genotypes of every person.

    Attributes
    ----------
    genotypes
        One row per variant, with the columns of GENOTYPES.
    sample_called
        One number per person. Like `genotypes`, zero for what was not counted.
    """

    genotypes: npt.NDArray[np.int64]
    sample_called: npt.NDArray[np.int64]

    def __sub__(self, other: Self) -> "CallCounts":
        return CallCounts(
            self.genotypes - other.genotypes, self.sample_called - other.sample_called
        )

    @property
    def n_called(self) -> npt.NDArray[np.int64]:
        """Called genotypes of every variant."""
        return self.genotypes.sum(axis=1)

    @property
    def n_alternate(self) -> npt.NDArray[np.int64]:
        """Alternate alleles among the called genotypes of every variant."""
        return self.genotypes[:, 1] + 2 * self.genotypes[:, 2]

    @property
    def alternate_frequency(self) -> Fractions:
        """Frequency of the alternate allele, in [0, 1]; NaN where nobody is called."""
        return _fraction(self.n_alternate, 2 * self.n_called)

    @property
    def minor_frequency(self) -> Fractions:
        """Frequency of the rarer allele, in [0, 0.5]; NaN where nobody is called."""
        # From the rarer allele's count: 1 - frequency would round .05 up or down.
        n_alleles = 2 * self.n_called
        n_minor = np.minimum(self.n_alternate, n_alleles - self.n_alternate)
        return _fraction(n_minor, n_alleles)


def _fraction(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Fractions:
    fraction = np.full(whole.shape, np.nan)
    return np.divide(part, whole, out=fraction, where=whole > 0)


def count_calls(cohort: Cohort, variants: Mask, samples: Mask) -> CallCounts:
    """Count the genotypes of some variants in some people, in one dask computation.

    Parameters
    ----------
    cohort
        The cohort.
    variants, samples
        True for what is counted. The variants are biallelic.

    Raises
    ------
    InputError
        If a call has a third allele.
    """
    genotypes = np.zeros((cohort.n_variants, 3), dtype=np.int64)
    sample_called = np.zeros(cohort.n_samples, dtype=np.int64)
    if variants.any() and samples.any():
        calls = _select(cohort, variants, samples)
        by_variant, by_sample = dask.compute(*_lazy_counts(calls))
        invalid = np.flatnonzero(by_variant[:, 3])
        if invalid.size:
            index = np.flatnonzero(variants)[invalid[0]]
            raise InputError(
                f"{cohort.url}: call_genotype has an allele above 1 at variant "
                f"{index}, for which variant_allele lists two; convert it again"
            )
        genotypes[variants] = by_variant[:, :3]
        sample_called[samples] = by_sample
    return CallCounts(genotypes, sample_called)


def dosage(cohort: Cohort, variants: Mask, samples: Mask) -> da.Array:
    """Alternate alleles of every call, lazily: int8, variants x samples, missing -1.

    Parameters
    ----------
    cohort
        The cohort.
    variants, samples
        True for the rows and columns of the result.
    """
    calls = _select(cohort, variants, samples)
    return calls.map_blocks(
        _dosage_block, drop_axis=2, meta=np.empty((0, 0), dtype=np.int8)
    )


def _select(cohort: Cohort, variants: Mask, samples: Mask) -> da.Array:
    calls = cohort.dataset["call_genotype"].data
    # Selecting everything would copy every chunk.
    if not samples.all():
        calls = calls[:, np.flatnonzero(samples)]
    if not variants.all():
        calls = calls[np.flatnonzero(variants)]
    return calls


def _lazy_counts(calls: da.Array) -> tuple[da.Array, da.Array]:
    """Sum both margins from one visit to each chunk.

    sgkit's variant_stats and sample_stats count the same in two visits and five
    times the CPU time, and its count_variant_genotypes joins all people of a row of
    chunks in memory. The tests hold this one to theirs.
    """
    rows, columns, _ = calls.chunks
    one_per_row, one_per_column = (1,) * len(rows), (1,) * len(columns)
    blocks = da.blockwise(
        _count_block,
        "vs",
        calls,
        "vsp",
        adjust_chunks={"v": one_per_row, "s": one_per_column},
        concatenate=True,
        meta=np.empty((0, 0), dtype=object),
    )
    by_variant = blocks.map_blocks(
        lambda block: block[0, 0][0][:, np.newaxis],
        chunks=(rows, one_per_column, (4,)),
        new_axis=2,
        meta=np.empty((0, 0, 0), dtype=np.int64),
    )
    by_sample = blocks.map_blocks(
        lambda block: block[0, 0][1][np.newaxis],
        chunks=(one_per_row, columns),
        meta=np.empty((0, 0), dtype=np.int64),
    )
    return by_variant.sum(axis=1), by_sample.sum(axis=0)


def _call_codes(calls: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.uint16]:
    if calls.dtype != np.int8:
        # 2 stands for any allele that a biallelic variant cannot have.
        calls = np.clip(calls, -1, 2).astype(np.int8)
    return np.ascontiguousarray(calls).view(np.uint16)[..., 0]


def _count_block(calls: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.object_]:
    """Count one chunk, as one element that holds both margins.

    The first has hom ref, het, hom alt and invalid calls of each variant, the second
    the called genotypes of each person.
    """
    codes = _call_codes(calls)
    by_variant = np.zeros((codes.shape[0], 4), dtype=np.int64)
    by_sample = np.zeros(codes.shape[1], dtype=np.int64)
    for start in range(0, codes.shape[0], _TILE_ROWS):
        tile = codes[start : start + _TILE_ROWS]
        counts = by_variant[start : start + _TILE_ROWS]
        hom_ref = tile == _HOM_REF_CODE
        het = (tile == _HET_CODES[0]) | (tile == _HET_CODES[1])
        hom_alt = tile == _HOM_ALT_CODE
        for column, genotype in enumerate((hom_ref, het, hom_alt)):
            counts[:, column] = np.count_nonzero(genotype, axis=1)
        called = hom_ref | het | hom_alt
        missing = (tile & _MISSING_BITS) != 0
        counts[:, 3] = np.count_nonzero(~(called | missing), axis=1)
        by_sample += called.view(np.uint8).sum(axis=0, dtype=np.uint8)
    result = np.empty((1, 1), dtype=object)
    result[0, 0] = (by_variant, by_sample)
    return result


def _dosage_block(calls: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.int8]:
    codes = _call_codes(calls)
    alternate = ((codes & 0xFF) + (codes >> 8)).astype(np.int8)
    alternate[(codes & _MISSING_BITS) != 0] = -1
    return alternate
