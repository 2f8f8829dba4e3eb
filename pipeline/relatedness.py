"""Close relatives in a cohort, and the largest part of it without any.

Relatives share more than ancestry, and a family would be taken for a population of its
own. Takes genotypes as a dask array; reads and writes no store. Invariant: the pairs
do not depend on blocks or workers.
"""

import dataclasses
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt

from pipeline import contigs, kinship, pruning
from pipeline.calls import CallSource, Fractions, Mask
from pipeline.cohort import Cohort

# Halfway between degrees, as powers of two: Manichaikul et al. (2010), table 1.
FIRST_DEGREE = 2.0**-2.5
SECOND_DEGREE = 2.0**-3.5

# Variants that are compared: with as many, unrelated people stay 10 standard deviations
# below the second degree. With fewer than the least number, some would reach it.
MAX_VARIANTS = 8_192
MIN_VARIANTS = 4_096
_MIN_MAF = 0.05

# People of a block; a task compares two blocks.
_BLOCK_PEOPLE = 1_024

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Relatives:
    """Pairs of close relatives.

    Attributes
    ----------
    first, second
        The two of each pair, by position; ``first < second``, in order.
    kinship
        Kinship coefficient of each pair, float32.
    n_inbred
        People whose calls are hardly ever heterozygous: of these only copies are found.
    """

    first: Integers
    second: Integers
    kinship: npt.NDArray[np.float32]
    n_inbred: int = 0

    @property
    def n_duplicates(self) -> int:
        """Pairs of the same person twice, of twins, or of copies of one line."""
        return int(np.count_nonzero(self.kinship >= kinship.DUPLICATE))

    @property
    def n_first_degree(self) -> int:
        """Pairs of parents and children, or of siblings."""
        return int(np.count_nonzero(self.kinship >= FIRST_DEGREE)) - self.n_duplicates

    @property
    def n_second_degree(self) -> int:
        """Pairs of second-degree relatives."""
        return len(self.kinship) - self.n_first_degree - self.n_duplicates


def search(
    cohort: Cohort,
    source: CallSource,
    variants: Mask,
    samples: Mask,
    minor_frequency: Fractions,
    min_kinship: float,
    n_autosomes: int = 0,
) -> Relatives | None:
    """Look for relatives among some people of a cohort.

    Reads them at common autosomal variants, evenly spaced among the given ones. Their
    linkage costs precision, and biases nothing.

    Parameters
    ----------
    cohort
        The cohort.
    source
        Where its calls are.
    variants, samples
        True for the variants to choose from, and for the people.
    minor_frequency
        Minor allele frequency of every variant.
    min_kinship
        Smallest kinship coefficient.
    n_autosomes
        As `contigs.informative` takes it.

    Returns
    -------
    Pairs by position in the cohort; None where there are fewer than MIN_VARIANTS
    variants to tell relatives by, or one person.
    """
    autosomal = contigs.informative(
        cohort.contig_names, include_x=False, n_autosomes=n_autosomes
    )
    common = minor_frequency >= _MIN_MAF
    eligible = np.flatnonzero(variants & common & autosomal[cohort.contig_numbers])
    people = np.flatnonzero(samples)
    if eligible.size < MIN_VARIANTS or people.size < 2:
        return None
    n_chosen = min(eligible.size, MAX_VARIANTS)
    chosen = np.zeros_like(variants)
    chosen[eligible[np.arange(n_chosen) * eligible.size // n_chosen]] = True
    found = find_relatives(source.dosage(chosen, samples), min_kinship)
    return dataclasses.replace(
        found, first=people[found.first], second=people[found.second]
    )


def find_relatives(dosage: da.Array, min_kinship: float = SECOND_DEGREE) -> Relatives:
    """Pairs of people whose kinship reaches a threshold.

    Every pair is looked at, at some 50 ns for 8,192 variants.

    Parameters
    ----------
    dosage
        Alternate alleles, variants x people, 0 to 2 and missing -1; some thousand
        common variants that are spread over the genome.
    min_kinship
        Smallest kinship coefficient, by default that of second-degree relatives.
    """
    blocks = dosage.rechunk((-1, _BLOCK_PEOPLE)).to_delayed()[0]
    pack = dask.delayed(kinship.planes_of_people, pure=False)
    planes = [pack(block) for block in blocks]
    compare = dask.delayed(kinship.related_pairs, pure=False)
    tasks = [
        compare(planes[i], planes[j], i * _BLOCK_PEOPLE, j * _BLOCK_PEOPLE, min_kinship)
        for i in range(len(planes))
        for j in range(i, len(planes))
    ]
    inbred = [dask.delayed(kinship.few_heterozygotes)(part) for part in planes]
    pairs, inbred = dask.compute(tasks, inbred)
    first, second, coefficient = (
        np.concatenate(part) for part in zip(*pairs, strict=True)
    )
    order = np.lexsort((second, first))
    return Relatives(
        first[order],
        second[order],
        coefficient[order],
        int(sum(np.count_nonzero(part) for part in inbred)),
    )


def unrelated(
    relatives: Relatives, call_rate: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Choose people of whom no two are relatives, and to whom nobody can be added.

    People are taken by number of relatives, those with fewest first, then by falling
    call rate, then by position; each one taken drops the relatives.

    Parameters
    ----------
    relatives
        The pairs.
    call_rate
        Call rate of each person.

    Returns
    -------
    True for the people chosen.
    """
    pairs = np.concatenate([relatives.first, relatives.second])
    n_relatives = np.bincount(pairs, minlength=call_rate.size)
    by_priority = np.lexsort((-call_rate, n_relatives))
    return pruning.independent(relatives.first, relatives.second, by_priority)
