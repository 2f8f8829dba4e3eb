"""Draw the calls of simulated cohorts: genotypes, and what goes missing of them.

Pure arithmetic on blocks and generators; no input or output.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, UInt16

from pipeline import vcf_zarr
from pipeline.errors import InputError
from pipeline.truth import check_parameters

# Thresholds and draws are 16-bit; 65535 leaves room for a frequency of exactly 1.
_DRAW_SCALE = 65_535
_TILE_CALLS = 32_768


@dataclass(frozen=True)
class CallKinds:
    """What is unlike whole diploid genotypes among the calls of a cohort.

    Attributes
    ----------
    missing_rate
        Probability that a whole genotype is missing (-1, -1), in [0, 1).
    half_rate
        Probability that one of the alleles of a call is missing (-1), in [0, 1).
    x_share
        Share of the variants that lie on X, in [0, 1]. There the people at odd indices
        are males: their calls are haploid, and the second allele is -2.
    dosage_blur
        None writes call_genotype. In [0, 1], call_dosage: each genotype is moved
        towards its expectation by a fraction uniform in [0, dosage_blur], as by
        imputation.
    """

    missing_rate: float = 0.01
    half_rate: float = 0.0
    x_share: float = 0.0
    dosage_blur: float | None = None

    def check(self) -> None:
        """Raise InputError if a value is out of its range."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        check_parameters(**given)
        if self.dosage_blur is not None and (self.half_rate or self.x_share):
            raise InputError(
                "dosages are of two alleles; leave out half calls and X, or dosage_blur"
            )

    def as_json(self) -> dict[str, Any]:
        """The values that make a difference, for the store's attributes."""
        given = dataclasses.asdict(self)
        default = dataclasses.asdict(CallKinds())
        changed = {k: v for k, v in given.items() if v != default[k]}
        return {**changed, "missing_rate": self.missing_rate}


def draw_genotypes(
    ancestry: Float[np.ndarray, "samples populations"],
    frequencies: Float[np.ndarray, "populations variants"],
    generator: np.random.Generator,
    out: vcf_zarr.Genotypes | None = None,
) -> vcf_zarr.Genotypes:
    """Draw both alleles of every genotype: Bernoulli(sum_k Q_ik P_kj), independent.

    Probabilities are rounded to multiples of 2**-16. `out` is filled if given.
    """
    n_samples, n_variants = ancestry.shape[0], frequencies.shape[1]
    if out is None:
        out = np.empty((n_variants, n_samples, 2), np.int8)
    # Rows of Q sum to 1, so the half added here makes the truncation below round.
    scaled = np.ascontiguousarray(frequencies.T * _DRAW_SCALE + 0.5, np.float32)
    shares = np.ascontiguousarray(ancestry.T, np.float32)
    alleles = out.view(np.bool_)
    # Tiles that stay in cache, and small enough that their memory is used again
    # instead of being mapped anew, which can cost more than the arithmetic.
    step = max(1, _TILE_CALLS // n_samples)
    for start in range(0, n_variants, step):
        tile = slice(start, start + step)
        threshold = (scaled[tile] @ shares).astype(np.uint16)
        draws = _draw_uint16(generator, (2, *threshold.shape))
        for copy in range(2):
            np.less(draws[copy], threshold, out=alleles[tile, :, copy])
    return out


def _draw_uint16(
    generator: np.random.Generator, shape: tuple[int, ...]
) -> UInt16[np.ndarray, "..."]:
    # Four draws of 16 bits from each of 64 cost a fifth of drawing them singly.
    size = int(np.prod(shape))
    words = generator.integers(2**64, size=(size + 3) // 4, dtype=np.uint64)
    return words.view(np.uint16)[:size].reshape(shape)


def erase_calls(
    genotypes: vcf_zarr.Genotypes, missing_rate: float, generator: np.random.Generator
) -> None:
    """Set each genotype to (-1, -1) with probability `missing_rate`, in place."""
    calls = genotypes.reshape(-1, 2)
    for places in _draw_places(len(calls), missing_rate, generator):
        calls[places] = -1


def erase_alleles(
    genotypes: vcf_zarr.Genotypes, half_rate: float, generator: np.random.Generator
) -> None:
    """Set either allele of a genotype to -1 with probability `half_rate`, in place."""
    calls = genotypes.reshape(-1, 2)
    for places in _draw_places(len(calls), half_rate, generator):
        calls[places, generator.integers(2, size=len(places))] = -1


def _draw_places(
    n: int, rate: float, generator: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Each of n places with some probability, in runs."""
    if rate == 0:
        return
    # The gaps between places are geometric: one draw for each that is chosen, not for
    # each there is. The block holds enough of them to pass the end but for luck.
    expected = n * rate
    n_gaps = int(expected + 10 * np.sqrt(expected) + 10)
    last = -1
    while last < n:
        places = last + np.cumsum(generator.geometric(rate, n_gaps))
        yield places[places < n]
        last = int(places[-1])


def blur_genotypes(
    genotypes: vcf_zarr.Genotypes,
    expected: Float[np.ndarray, "variants samples"],
    blur: float,
    generator: np.random.Generator,
) -> vcf_zarr.Dosages:
    """Dosages between each genotype and its expectation, with the same expectation."""
    counts = genotypes.sum(axis=2, dtype=np.float32)
    counts[(genotypes < 0).any(axis=2)] = np.nan
    fraction = blur * generator.random(counts.shape, np.float32)
    return (counts + fraction * (expected - counts)).astype(np.float32).clip(0, 2)
