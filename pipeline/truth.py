"""What a simulated cohort is made from: Q, P and the places of its variants.

Draws them for independent variants under the model of Balding and Nichols; pure
arithmetic, no input or output. Invariant: the same seed gives the same truth.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Shaped

from pipeline.errors import InputError
from pipeline.vcf_zarr import Genotypes

N_CONTIGS = 22
SPACING_BP = 10_000
FREQUENCY_RANGE = (0.05, 0.95)
FREQUENCY_CLIP = 1e-3

# One stream of random numbers for each purpose, so that none depends on another.
TRUTH_STREAM, ALLELE_STREAM, CHUNK_STREAM, NEWCOMER_STREAM = range(4)

# What the store of independent variants says of its model.
INDEPENDENT = "Balding-Nichols"


@dataclass(frozen=True)
class SimulatedCohort:
    """What a simulated cohort was made from.

    Attributes
    ----------
    ancestry
        Q: each person's share of each population; rows sum to 1.
    frequencies
        P: frequency of the alternate allele in each population, in [0, 1].
    contig
        Index of each variant's contig, from 0; contig i is named str(i + 1), and the
        one after N_CONTIGS of them X.
    position
        Base-pair position on the contig, increasing.
    parameters
        The model and its parameters, for the store's attributes.
    genotypes
        Alleles (0 or 1) where the model yields them at once; None where they are to be
        drawn from Q and P, each allele Bernoulli(sum_k Q_ik P_kj) on its own.
    alleles
        Reference and alternate of each variant; None where they are to be drawn.
    id_prefix
        What ids of people begin with.
    stream
        What the streams of the genotypes' random numbers begin with.
    """

    ancestry: Float[np.ndarray, "samples populations"]
    frequencies: Float[np.ndarray, "populations variants"]
    contig: Int32[np.ndarray, " variants"]
    position: Int32[np.ndarray, " variants"]
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    genotypes: Genotypes | None = None
    alleles: Shaped[np.ndarray, "variants 2"] | None = None
    id_prefix: str = "S"
    stream: tuple[int, ...] = ()


def random_generator(seed: int, *stream: int) -> np.random.Generator:
    """Make the generator of one of a seed's independent streams."""
    sequence = np.random.SeedSequence(seed, spawn_key=stream)
    return np.random.Generator(np.random.SFC64(sequence))


def check_parameters(**values: float) -> None:
    """Check parameters by their names.

    Raises
    ------
    InputError
        If one is out of its range.
    """
    for name, value in values.items():
        if name.startswith(("n_", "chunk_", "generations")) and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
        if name == "seed" and value < 0:
            raise InputError(f"seed is {value}; it must be at least 0")
        if name == "fst" and not 0 < value < 1:
            raise InputError(f"fst is {value}; it must be between 0 and 1")
        if name == "dirichlet" and not value > 0:
            raise InputError(f"dirichlet is {value}; it must be positive")
        if name in ("missing_rate", "half_rate") and not 0 <= value < 1:
            raise InputError(f"{name} is {value}; it must be in [0, 1)")
        if name in ("x_share", "dosage_blur") and not 0 <= value <= 1:
            raise InputError(f"{name} is {value}; it must be in [0, 1]")


def simulate_truth(
    n_samples: int,
    n_variants: int,
    n_populations: int,
    *,
    fst: float = 0.05,
    dirichlet: float = 0.25,
    seed: int,
) -> SimulatedCohort:
    """Draw Q and P of a cohort of independent variants.

    An ancestral frequency p is uniform on FREQUENCY_RANGE; each population's is
    Beta(p (1 - F) / F, (1 - p) (1 - F) / F), kept FREQUENCY_CLIP away from 0 and 1.
    Variants are spread evenly over 22 contigs, SPACING_BP apart.

    Parameters
    ----------
    n_samples, n_variants, n_populations
        Size of the cohort and number of populations, each at least 1.
    fst
        F, the divergence of every population from the ancestral one, in (0, 1).
    dirichlet
        Concentration of the symmetric Dirichlet that a person's ancestry comes from;
        below 1, most of it from few populations.
    seed
        Seed, at least 0.

    Raises
    ------
    InputError
        If a parameter is out of its range.

    References
    ----------
    Balding and Nichols (1995), Genetica 96:3-12.
    """
    check_parameters(n_samples=n_samples, n_variants=n_variants, seed=seed)
    check_parameters(n_populations=n_populations, fst=fst, dirichlet=dirichlet)
    generator = random_generator(seed, TRUTH_STREAM)
    ancestry = generator.dirichlet(np.full(n_populations, dirichlet), n_samples)
    frequencies = _draw_frequencies((n_populations, n_variants), fst, generator)
    contig, position = _places(n_variants)
    return SimulatedCohort(
        ancestry=ancestry,
        frequencies=frequencies,
        contig=contig,
        position=position,
        parameters={"model": INDEPENDENT, "fst": fst, "dirichlet": dirichlet},
    )


def move_to_x(truth: SimulatedCohort, share: float) -> SimulatedCohort:
    """The same cohort with a share of its variants, the last ones, on contig X."""
    n_variants = len(truth.contig)
    first = n_variants - round(share * n_variants)
    contig, position = truth.contig.copy(), truth.position.copy()
    contig[first:] = N_CONTIGS
    rank = np.arange(1, n_variants - first + 1)
    spacing = min(SPACING_BP, np.iinfo(np.int32).max // max(rank.size, 1))
    position[first:] = rank * spacing
    return dataclasses.replace(truth, contig=contig, position=position)


def _draw_frequencies(
    shape: tuple[int, int], fst: float, generator: np.random.Generator
) -> Float[np.ndarray, "populations variants"]:
    ancestral = generator.uniform(*FREQUENCY_RANGE, shape[1])
    spread = (1 - fst) / fst
    frequencies = generator.beta(ancestral * spread, (1 - ancestral) * spread, shape)
    return frequencies.clip(FREQUENCY_CLIP, 1 - FREQUENCY_CLIP)


def _places(
    n_variants: int,
) -> tuple[Int32[np.ndarray, " variants"], Int32[np.ndarray, " variants"]]:
    """Contig and position of variants spread evenly over all contigs."""
    contig = np.arange(n_variants) * N_CONTIGS // n_variants
    rank = np.arange(n_variants) - np.searchsorted(contig, contig)
    # Closer together where a contig would not fit the positions' 32 bits.
    spacing = min(SPACING_BP, np.iinfo(np.int32).max // int(rank.max() + 1))
    return contig.astype(np.int32), ((rank + 1) * spacing).astype(np.int32)
