"""Cohorts of linked variants: mosaics of haplotypes from an msprime genealogy.

msprime gives SOURCE_HAPLOTYPES haplotypes of each population; the populations split
from one ancestor at the time that makes their expected Fst (Hudson's) the one asked
for. Every chromosome of the cohort is a mosaic of them: segments of exponential length,
each copied from a random haplotype of a population drawn from the person's Dirichlet
proportions. The Q of a person is the share of their own alleles that was copied from
each population, over the variants kept, not the proportions that segments were drawn
with. Alleles have the ADMIXTURE model's expectation given this Q and the haplotypes'
frequencies, but neighbouring variants are correlated. All in memory; the same seed
gives the same cohort.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float64, Int8, Int32, Int64

from pipeline.errors import InputError, install_extra
from pipeline.truth import (
    SPACING_BP,
    TRUTH_STREAM,
    SimulatedCohort,
    check_parameters,
    random_generator,
)

POPULATION_SIZE = 10_000
SOURCE_HAPLOTYPES = 200
RECOMBINATION_RATE = 1e-8
MUTATION_RATE = 1e-8


def simulate_genealogy(
    n_samples: int,
    n_variants: int,
    n_populations: int,
    *,
    fst: float = 0.05,
    dirichlet: float = 0.25,
    generations: int = 10,
    seed: int,
) -> SimulatedCohort:
    """Simulate linked variants on one contig from a coalescent genealogy.

    `frequencies` are those of the source haplotypes, where 0 and 1 occur.

    Parameters
    ----------
    n_samples, n_variants, n_populations, fst, dirichlet, seed
        As for `simulate_truth`, except that the seed is below 2**31 - 1.
    generations
        Generations since admixture; segments average 1 / `generations` Morgan.

    Raises
    ------
    InputError
        If msprime is missing, a parameter out of range, or variants are too few.

    References
    ----------
    Baumdicker et al. (2022), Genetics 220:iyab229.
    """
    check_parameters(n_samples=n_samples, n_variants=n_variants, seed=seed)
    check_parameters(n_populations=n_populations, fst=fst, dirichlet=dirichlet)
    check_parameters(generations=generations)
    sources, position = _source_haplotypes(n_populations, n_variants, fst, seed)
    generator = random_generator(seed, TRUTH_STREAM)
    proportions = generator.dirichlet(np.full(n_populations, dirichlet), n_samples)
    haplotypes = np.empty((n_variants, 2 * n_samples), np.int8)
    copied = np.zeros((n_samples, n_populations))
    for h in range(2 * n_samples):
        origin = _draw_mosaic(position, proportions[h // 2], generations, generator)
        haplotypes[:, h] = sources[*origin, np.arange(n_variants)]
        copied[h // 2] += np.bincount(origin[0], minlength=n_populations)
    return SimulatedCohort(
        ancestry=copied / (2 * n_variants),
        frequencies=sources.mean(axis=1),
        contig=np.zeros(n_variants, np.int32),
        position=position,
        parameters={"model": "genealogy", "fst": fst, "dirichlet": dirichlet},
        genotypes=haplotypes.reshape(n_variants, n_samples, 2),
    )


def _source_haplotypes(
    n_populations: int, n_variants: int, fst: float, seed: int
) -> tuple[
    Int8[np.ndarray, "populations haplotypes variants"], Int32[np.ndarray, " variants"]
]:
    """Haplotypes of unadmixed populations, and the positions of their variants."""
    sites = _simulate_sites(n_populations, n_variants, fst, seed)
    # All sites would be some twenty times those asked for; a few of them are invariant,
    # where a mutation was undone.
    n_candidates = min(sites.num_sites, 2 * n_variants)
    candidates = np.arange(n_candidates) * sites.num_sites // max(n_candidates, 1)
    thinned = sites.delete_sites(np.setdiff1d(range(sites.num_sites), candidates))
    matrix = thinned.genotype_matrix().astype(np.int8)
    variable = np.flatnonzero(matrix.min(axis=1) < matrix.max(axis=1))
    if variable.size < n_variants:
        raise InputError(
            f"the genealogy has {variable.size} variants, not the {n_variants} asked "
            "for; raise n_variants or try another seed"
        )
    kept = variable[np.arange(n_variants) * variable.size // n_variants]
    haplotypes = matrix[kept].T.reshape(n_populations, SOURCE_HAPLOTYPES, n_variants)
    return haplotypes, thinned.tables.sites.position[kept].astype(np.int32) + 1


def _simulate_sites(n_populations: int, n_variants: int, fst: float, seed: int) -> Any:
    """Tree sequence of all populations' haplotypes, with its mutations."""
    try:
        msprime = importlib.import_module("msprime")
    except ImportError as error:
        raise InputError(
            f"cohorts from a genealogy need msprime; {install_extra('test')}"
        ) from error
    demography = msprime.Demography()
    names = [f"source_{index}" for index in range(n_populations)]
    for name in (*names, "ancestor"):
        demography.add_population(name=name, initial_size=POPULATION_SIZE)
    # Hudson's Fst is T / (T + 2N): the mean coalescence time within a population is
    # 2N generations, and that between two which split T generations ago is T + 2N.
    split = 2 * POPULATION_SIZE * fst / (1 - fst)
    demography.add_population_split(split, derived=names, ancestral="ancestor")
    trees = msprime.sim_ancestry(
        samples=dict.fromkeys(names, SOURCE_HAPLOTYPES // 2),
        demography=demography,
        sequence_length=SPACING_BP * (n_variants + 1),
        recombination_rate=RECOMBINATION_RATE,
        random_seed=seed + 1,
    )
    return msprime.sim_mutations(
        trees,
        rate=MUTATION_RATE,
        model=msprime.BinaryMutationModel(),
        random_seed=seed + 1,
    )


def _draw_mosaic(
    position: Int32[np.ndarray, " variants"],
    proportions: Float64[np.ndarray, " populations"],
    generations: int,
    generator: np.random.Generator,
) -> tuple[Int64[np.ndarray, " variants"], Int64[np.ndarray, " variants"]]:
    """Source population and haplotype that each allele of a chromosome copies."""
    distance = np.diff(position, prepend=position[:1])
    rate = generations * RECOMBINATION_RATE
    switches = generator.random(position.size) < -np.expm1(-rate * distance)
    segment = np.cumsum(switches)
    n_segments = int(segment[-1]) + 1
    population = generator.choice(proportions.size, n_segments, p=proportions)
    haplotype = generator.integers(SOURCE_HAPLOTYPES, size=n_segments)
    return population[segment], haplotype[segment]
