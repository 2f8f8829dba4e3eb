"""Simulate admixed cohorts with known ancestry, written as VCF Zarr.

Two models: independent variants under Balding and Nichols, drawn chunk by chunk so
that memory holds one chunk; and haplotypes of an msprime genealogy, with linkage. The
truth is stored beside the genotypes. The same seed and chunk sizes give the same bytes.
"""

from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, UInt16

from pipeline import vcf_zarr
from pipeline.genealogy import simulate_genealogy
from pipeline.location import Location
from pipeline.truth import (
    ALLELE_STREAM,
    CHUNK_STREAM,
    N_CONTIGS,
    SimulatedCohort,
    check_parameters,
    random_generator,
    simulate_truth,
)

# Reference and alternate of which neither strand looks like the other.
_ALLELE_PAIRS = np.array(["AC", "AG", "CA", "CT", "GA", "GT", "TC", "TG"])
# Thresholds and draws are 16-bit; 65535 leaves room for a frequency of exactly 1.
_DRAW_SCALE = 65_535
_TILE_CALLS = 32_768


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
    if missing_rate == 0:
        return
    calls = genotypes.reshape(-1, 2)
    # The gaps between missing calls are geometric: one draw for each missing call,
    # not for each call. The block holds enough of them to pass the end but for luck.
    expected = len(calls) * missing_rate
    n_gaps = int(expected + 10 * np.sqrt(expected) + 10)
    last = -1
    while last < len(calls):
        missing = last + np.cumsum(generator.geometric(missing_rate, n_gaps))
        calls[missing[missing < len(calls)]] = -1
        last = int(missing[-1])


def write_cohort(
    path: str | Path,
    truth: SimulatedCohort,
    *,
    missing_rate: float = 0.01,
    seed: int,
    chunk_variants: int = 10_000,
    chunk_samples: int = 1_000,
) -> None:
    """Write a simulated cohort as VCF Zarr, one chunk in memory at a time.

    Adds `simulated_ancestry_proportion` (samples, populations) and
    `simulated_population_frequency` (variants, populations), both float32. Each chunk
    has a random generator of its own, so that the bytes depend on the seed and the
    chunk sizes alone.

    Parameters
    ----------
    path
        A path where nothing is yet.
    truth
        Q, P and positions.
    missing_rate
        Probability that a whole genotype is missing (-1, -1), in [0, 1).
    seed
        Seed of alleles and missing calls, at least 0.
    chunk_variants, chunk_samples
        Size of a chunk.

    Raises
    ------
    InputError
        If `missing_rate` or a chunk size is out of its range.
    """
    chunks = {"chunk_variants": chunk_variants, "chunk_samples": chunk_samples}
    check_parameters(missing_rate=missing_rate, **chunks)
    variables = _truth_variables(truth, seed)
    variables.attrs = {
        "source": "streamixture simulate",
        "simulation": {**truth.parameters, "missing_rate": missing_rate, "seed": seed},
    }
    n_calls = chunk_variants * chunk_samples
    genotypes = _genotype_source(truth, missing_rate, seed, n_calls)
    vcf_zarr.write_vcf_zarr(path, variables, genotypes, **chunks)


def _genotype_source(
    truth: SimulatedCohort, missing_rate: float, seed: int, n_calls: int
) -> vcf_zarr.GenotypeSource:
    """Draw chunks of at most `n_calls` genotypes, each valid until the next is."""
    # One buffer for all chunks: each is on disk before the next is drawn.
    buffer = np.empty(2 * n_calls, np.int8)

    def genotypes(rows: slice, columns: slice) -> vcf_zarr.Genotypes:
        generator = random_generator(seed, CHUNK_STREAM, rows.start, columns.start)
        shape = (rows.stop - rows.start, columns.stop - columns.start, 2)
        block = buffer[: int(np.prod(shape))].reshape(shape)
        if truth.genotypes is None:
            people, variants = truth.ancestry[columns], truth.frequencies[:, rows]
            draw_genotypes(people, variants, generator, out=block)
        else:
            block[:] = truth.genotypes[rows, columns]
        erase_calls(block, missing_rate, generator)
        return block

    return genotypes


def _truth_variables(truth: SimulatedCohort, seed: int) -> xr.Dataset:
    n_samples, n_variants = truth.ancestry.shape[0], truth.frequencies.shape[1]
    pairs = random_generator(seed, ALLELE_STREAM).integers(
        len(_ALLELE_PAIRS), size=n_variants
    )
    variables = vcf_zarr.cohort_variables(
        [str(number) for number in range(1, N_CONTIGS + 1)],
        truth.contig,
        truth.position,
        _ALLELE_PAIRS[pairs].view("U1").reshape(n_variants, 2),
        [f"S{number:07d}" for number in range(1, n_samples + 1)],
    )
    ancestry = truth.ancestry.astype(np.float32)
    frequencies = truth.frequencies.T.astype(np.float32)
    return variables.assign(
        simulated_ancestry_proportion=(("samples", "populations"), ancestry),
        simulated_population_frequency=(("variants", "populations"), frequencies),
    )


def simulate(
    path: str | Location,
    *,
    n_samples: int,
    n_variants: int,
    n_populations: int,
    fst: float = 0.05,
    dirichlet: float = 0.25,
    missing_rate: float = 0.01,
    genealogy: bool = False,
    chunk_variants: int = 10_000,
    chunk_samples: int = 1_000,
    overwrite: bool = False,
    seed: int,
) -> None:
    """Simulate a cohort into a new VCF Zarr store; a failure leaves nothing behind.

    Parameters
    ----------
    path
        Folder for the store.
    n_samples, n_variants, n_populations, fst, dirichlet, seed
        As for `simulate_truth`.
    missing_rate, chunk_variants, chunk_samples
        As for `write_cohort`.
    genealogy
        Linked variants from `simulate_genealogy` instead of independent ones.
    overwrite
        Replace a Zarr store that is already at `path`.

    Raises
    ------
    InputError
        If something is at `path` already or a parameter is out of its range.
    """
    model = simulate_genealogy if genealogy else simulate_truth
    with vcf_zarr.new_store(path, overwrite=overwrite) as store:
        sizes = (n_samples, n_variants, n_populations)
        truth = model(*sizes, fst=fst, dirichlet=dirichlet, seed=seed)
        chunks = {"chunk_variants": chunk_variants, "chunk_samples": chunk_samples}
        write_cohort(store, truth, missing_rate=missing_rate, seed=seed, **chunks)
