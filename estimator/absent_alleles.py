"""Alleles that a fit has as absent from a population, and what they say of its people.

The frequency of an allele that nobody of a population carries is fitted as zero. Then
those people's own genotypes are certain: they add nothing to their likelihood that they
could have, and make them look as little as can be like anybody else. In other samples
some of them would carry the allele, and its frequency would be above zero for it; where
frequencies are above zero, what carriers' scores have more is what others' have less,
and the mean score of the true Q is zero. So at absent alleles it is short of zero by
what those without one have: people of the population are fitted too near the corner.

Whose genotypes are certain in this way: whoever would have raised the frequency by
carrying one, as nobody else's ancestry explains it. With n_l alleles in population l,
its slope at zero is -n_l, and one carried by a person of frequency f adds q_l / f.

People who are not in the fit do carry some, and look like others for it. Among
frequencies that came out below zero by a normal error, where any above was as likely,
the mean is sqrt(2 pi) / 4 of its standard deviation.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.config import MIN_FREQUENCY

FloatArray = npt.NDArray[np.float32]

PLOIDY = 2
# Variants that are looked at, of those that lack an allele somewhere.
MOST = 1_024
# People by so many are held at a time.
_AT_ONCE = 256
# Mean, in standard deviations, of what is above zero and came out below.
_MEAN_BELOW = np.float32(np.sqrt(2 * np.pi) / 4)


class Absent(NamedTuple):
    """Variants with an allele that some population lacks.

    Attributes
    ----------
    frequencies
        Of that allele, one variant a column.
    lacking
        In which populations it was fitted as absent.
    each
        Called alleles that one stands for, for each called genotype of a person.
    """

    frequencies: FloatArray
    lacking: npt.NDArray[np.bool_]
    each: float


def find_absent(frequencies: FloatArray) -> Absent:
    """Find variants with an allele that some population lacks, by P of all variants."""
    low = frequencies <= MIN_FREQUENCY
    high = frequencies >= 1 - MIN_FREQUENCY
    zero, one = (np.flatnonzero(some.any(axis=0)) for some in (low, high))
    stride = max(1, -(-(len(zero) + len(one)) // MOST))
    zero, one = zero[::stride], one[::stride]
    return Absent(
        np.concatenate([frequencies[:, zero], 1 - frequencies[:, one]], axis=1),
        np.concatenate([low[:, zero], high[:, one]], axis=1),
        PLOIDY * stride / frequencies.shape[1],
    )


def score_of_absent(
    absent: Absent, noise: npt.ArrayLike, ancestry: FloatArray, n_called: npt.ArrayLike
) -> FloatArray:
    """What a person's score is short of at alleles that were fitted as absent.

    Parameters
    ----------
    absent
        Variants with such alleles.
    noise
        S for one called genotype (`population_error`), the inverse of the sum of
        Q_i Q_i' over everybody in the fit.
    ancestry
        Q of people in the fit, one a row.
    n_called
        Called genotypes of each.

    Returns
    -------
    At most zero, one person a row.
    """
    alleles = _alleles(noise)
    total = np.zeros_like(ancestry)
    for start in range(0, absent.frequencies.shape[1], _AT_ONCE):
        columns = slice(start, start + _AT_ONCE)
        p = absent.frequencies[:, columns]
        f = ancestry @ p
        certain = np.zeros(f.shape, bool)
        for q, lacking, n in zip(
            ancestry.T, absent.lacking[:, columns], alleles, strict=True
        ):
            certain |= lacking & (q[:, None] > n * f)
        total += certain.astype(np.float32) @ p.T
    called = np.float32(absent.each) * np.asarray(n_called, np.float32)
    return -called[:, None] * total


def score_of_carried(
    absent: Absent, noise: npt.ArrayLike, ancestry: FloatArray, n_called: npt.ArrayLike
) -> FloatArray:
    """What the score of newcomers has more, of alleles that were fitted as absent.

    Parameters
    ----------
    absent, noise, n_called
        As in `score_of_absent`.
    ancestry
        Q of people who are not in the fit, one a row.

    Returns
    -------
    At least zero, one person a row.
    """
    alleles = _alleles(noise)
    # Frequencies are told by people of whom a population has so many alleles.
    told_by = np.linalg.pinv(np.asarray(noise, float), hermitian=True)
    everybody = np.maximum(told_by.sum(axis=1, keepdims=True), 1 / PLOIDY)
    told_by = (told_by / everybody).astype(np.float32)
    variance = (np.diagonal(noise) / PLOIDY).astype(np.float32)
    total = np.zeros_like(ancestry)
    for start in range(0, absent.frequencies.shape[1], _AT_ONCE):
        columns = slice(start, start + _AT_ONCE)
        p = absent.frequencies[:, columns]
        f = ancestry @ p
        for i, lacking in enumerate(absent.lacking[:, columns]):
            rarest = 1 / alleles[i]
            pooled = np.clip(told_by[i] @ p, rarest, 0.5)
            true = _MEAN_BELOW * np.sqrt(variance[i] * pooled * (1 - pooled))
            own = ancestry[:, i, None]
            frequency = np.maximum(f, own * rarest + np.float32(MIN_FREQUENCY))
            total += (own * (lacking * true) / frequency) @ p.T
    called = np.float32(absent.each) * np.asarray(n_called, np.float32)
    return called[:, None] * total


def _alleles(noise: npt.ArrayLike) -> FloatArray:
    """Alleles of each population at a variant."""
    people = np.linalg.pinv(np.asarray(noise, float), hermitian=True).sum(axis=1)
    # One at least, of a population without people.
    return np.maximum(PLOIDY * people, 1).astype(np.float32)
