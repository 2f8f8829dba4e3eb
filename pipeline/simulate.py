"""Simulate admixed cohorts with known ancestry, written as VCF Zarr.

Two models: independent variants under Balding and Nichols, drawn chunk by chunk so
that memory holds one chunk; and haplotypes of an msprime genealogy, with linkage. The
truth is stored beside the genotypes. The same seed and chunk sizes give the same bytes.
"""

from pathlib import Path

import numpy as np
import xarray as xr

from pipeline import vcf_zarr
from pipeline.draws import (
    CallKinds,
    blur_genotypes,
    draw_genotypes,
    erase_alleles,
    erase_calls,
)
from pipeline.genealogy import simulate_genealogy
from pipeline.location import Location
from pipeline.newcomers import draw_newcomers
from pipeline.truth import (
    ALLELE_STREAM,
    CHUNK_STREAM,
    N_CONTIGS,
    SimulatedCohort,
    check_parameters,
    move_to_x,
    random_generator,
    simulate_truth,
)

# Reference and alternate of which neither strand looks like the other.
_ALLELE_PAIRS = np.array(["AC", "AG", "CA", "CT", "GA", "GT", "TC", "TG"])


def write_cohort(
    path: str | Path,
    truth: SimulatedCohort,
    *,
    kinds: CallKinds | None = None,
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
    kinds
        What the calls are like.
    missing_rate
        Probability that a whole genotype is missing, without `kinds`.
    seed
        Seed of alleles and missing calls, at least 0.
    chunk_variants, chunk_samples
        Size of a chunk.

    Raises
    ------
    InputError
        If a rate or a chunk size is out of its range.
    """
    kinds = kinds or CallKinds(missing_rate=missing_rate)
    kinds.check()
    chunks = {"chunk_variants": chunk_variants, "chunk_samples": chunk_samples}
    check_parameters(**chunks)
    truth = move_to_x(truth, kinds.x_share) if kinds.x_share else truth
    variables = _truth_variables(truth, seed)
    variables.attrs = {
        "source": "streamixture simulate",
        "simulation": {**truth.parameters, **kinds.as_json(), "seed": seed},
    }
    n_calls = chunk_variants * chunk_samples
    genotypes = _genotype_source(truth, kinds, seed, n_calls)
    dosages = kinds.dosage_blur is not None
    vcf_zarr.write_vcf_zarr(path, variables, genotypes, dosages=dosages, **chunks)


def _genotype_source(
    truth: SimulatedCohort, kinds: CallKinds, seed: int, n_calls: int
) -> vcf_zarr.GenotypeSource:
    """Draw chunks of at most `n_calls` genotypes, each valid until the next is."""
    # One buffer for all chunks: each is on disk before the next is drawn.
    buffer = np.empty(2 * n_calls, np.int8)

    def genotypes(rows: slice, columns: slice) -> vcf_zarr.Genotypes | vcf_zarr.Dosages:
        chunk = (CHUNK_STREAM, rows.start, columns.start)
        generator = random_generator(seed, *truth.stream, *chunk)
        shape = (rows.stop - rows.start, columns.stop - columns.start, 2)
        block = buffer[: int(np.prod(shape))].reshape(shape)
        people, variants = truth.ancestry[columns], truth.frequencies[:, rows]
        if truth.genotypes is None:
            draw_genotypes(people, variants, generator, out=block)
        else:
            block[:] = truth.genotypes[rows, columns]
        erase_calls(block, kinds.missing_rate, generator)
        erase_alleles(block, kinds.half_rate, generator)
        on_x = truth.contig[rows] == N_CONTIGS
        males = np.arange(columns.start, columns.stop) % 2 == 1
        block[np.ix_(on_x, males, [False, True])] = -2
        if kinds.dosage_blur is None:
            return block
        expected = 2 * (people @ variants).T
        return blur_genotypes(block, expected, kinds.dosage_blur, generator)

    return genotypes


def _truth_variables(truth: SimulatedCohort, seed: int) -> xr.Dataset:
    n_samples, n_variants = truth.ancestry.shape[0], truth.frequencies.shape[1]
    alleles = truth.alleles
    if alleles is None:
        generator = random_generator(seed, ALLELE_STREAM)
        pairs = generator.integers(len(_ALLELE_PAIRS), size=n_variants)
        alleles = _ALLELE_PAIRS[pairs].view("U1").reshape(n_variants, 2)
    variables = vcf_zarr.cohort_variables(
        _contig_ids(truth),
        truth.contig,
        truth.position,
        alleles,
        [f"{truth.id_prefix}{number:07d}" for number in range(1, n_samples + 1)],
    )
    ancestry = truth.ancestry.astype(np.float32)
    frequencies = truth.frequencies.T.astype(np.float32)
    return variables.assign(
        simulated_ancestry_proportion=(("samples", "populations"), ancestry),
        simulated_population_frequency=(("variants", "populations"), frequencies),
    )


def _contig_ids(truth: SimulatedCohort) -> list[str]:
    autosomes = [str(number) for number in range(1, N_CONTIGS + 1)]
    return [*autosomes, "X"] if (truth.contig == N_CONTIGS).any() else autosomes


def simulate(
    path: str | Location,
    *,
    n_samples: int,
    n_variants: int,
    n_populations: int,
    fst: float = 0.05,
    dirichlet: float = 0.25,
    kinds: CallKinds | None = None,
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
    kinds, missing_rate, chunk_variants, chunk_samples
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
    kinds = kinds or CallKinds(missing_rate=missing_rate)
    model = simulate_genealogy if genealogy else simulate_truth
    with vcf_zarr.new_store(path, overwrite=overwrite) as store:
        sizes = (n_samples, n_variants, n_populations)
        truth = model(*sizes, fst=fst, dirichlet=dirichlet, seed=seed)
        chunks = {"chunk_variants": chunk_variants, "chunk_samples": chunk_samples}
        write_cohort(store, truth, kinds=kinds, seed=seed, **chunks)


def simulate_newcomers(
    path: str | Location,
    truth: str | Location,
    *,
    n_samples: int,
    dirichlet: float = 0.25,
    kinds: CallKinds | None = None,
    overwrite: bool = False,
    seed: int,
) -> None:
    """Simulate people of the populations of a simulated store, into a new one.

    Parameters
    ----------
    path
        Folder for the store.
    truth, n_samples, dirichlet, seed
        As for `draw_newcomers`.
    kinds
        What the calls are like. X is as in the first store.
    overwrite
        Replace a Zarr store that is already at `path`.

    Raises
    ------
    InputError
        If the truth will not do, something is at `path` already or a parameter is out
        of its range.
    """
    drawn = draw_newcomers(truth, n_samples, dirichlet=dirichlet, seed=seed)
    with vcf_zarr.new_store(path, overwrite=overwrite) as store:
        write_cohort(store, drawn, kinds=kinds, seed=seed)
