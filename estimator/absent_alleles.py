"""Alleles that a fit has as absent from a population, and what they say of its people.

The frequency of an allele that nobody of a population carries is fitted as zero. Then
those people's own genotypes are certain: they add nothing to their likelihood that they
could have, and make them look as little as can be like anybody else. In other samples
some of them would carry the allele, and its frequency would be above zero for it; where
frequencies are above zero, what carriers' scores have more is what others' have less,
and the mean score of the true Q is zero. So at absent alleles it is short of zero by
what those without one have: people of the population are fitted too near the corner.

Whose genotypes are certain in this way: whoever would have raised the frequency by
carrying one, as nobody else's ancestry explains it. One that is carried by a person of
frequency f adds q_l / f to the slope of the log-likelihood, which at zero is -n_l with
n_l alleles in population l and no carriers anywhere; where others' ancestry explains
some, it came out below zero by a normal error, whose deviation is one over that of the
frequency, and its mean is sqrt(2 / pi) of that.

People who are not in the fit do carry some, and look like others for it. Among
frequencies that came out below zero by a normal error, where any above was as likely,
the mean is sqrt(2 pi) / 4 of its standard deviation.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.config import MIN_FREQUENCY

FloatArray = npt.NDArray[np.float32]

PLOIDY = 2
HALF = 0.5
# Variants that are looked at, of those that lack an allele somewhere.
MOST = 1_024
# People by so many are held at a time.
_AT_ONCE = 256
# Means, in standard deviations: of an error that is below zero, and of what is above
# zero and came out below.
_MEAN_ERROR = np.float32(np.sqrt(2 / np.pi))
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
    return -_summed(_certain, absent, noise, ancestry, n_called)


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
    return _summed(_carried, absent, noise, ancestry, n_called)


def _summed(
    weigh: Callable[["_Part", FloatArray, FloatArray], npt.NDArray[Any]],
    absent: Absent,
    noise: npt.ArrayLike,
    ancestry: FloatArray,
    n_called: npt.ArrayLike,
) -> FloatArray:
    """Scores of people: frequencies, each by a weight, over a person's called alleles.

    Parameters
    ----------
    weigh
        Weights of people by variants, for a part, their Q and their frequencies.
    """
    total = np.zeros(ancestry.shape)
    for part in _parts(absent, noise):
        weights = weigh(part, ancestry, _pooled(ancestry, part.frequencies))
        total += weights @ part.frequencies.T.astype(float)
    called = np.float32(absent.each) * np.asarray(n_called, np.float32)
    return called[:, None] * total.astype(np.float32)


def _certain(
    part: "_Part", ancestry: FloatArray, f: FloatArray
) -> npt.NDArray[np.bool_]:
    """Who would have raised the frequency of some population by carrying the allele."""
    certain = np.zeros(f.shape, bool)
    for q, lacking, error, rarest in zip(ancestry.T, *part[1:], strict=True):
        slope = np.minimum(_MEAN_ERROR / error, 1 / rarest)
        certain |= lacking & (q[:, None] > slope * f)
    return certain


def _carried(part: "_Part", ancestry: FloatArray, f: FloatArray) -> FloatArray:
    """Alleles that people have of populations that lack them, over what is fitted."""
    carried = np.zeros_like(f)
    for q, lacking, error, rarest in zip(ancestry.T, *part[1:], strict=True):
        own = q[:, None]
        frequency = np.maximum(f, own * rarest + np.float32(MIN_FREQUENCY))
        carried += own * (lacking * (_MEAN_BELOW * error)) / frequency
    return carried


def _pooled(ancestry: FloatArray, frequencies: FloatArray) -> FloatArray:
    """Frequencies in people, the same bits whoever they are looked at with.

    Products of matrices are not, in single precision.
    """
    f = np.zeros((len(ancestry), frequencies.shape[1]), np.float32)
    for q, p in zip(ancestry.T, frequencies, strict=True):
        f += q[:, None] * p
    return f


class _Part(NamedTuple):
    """Some of the variants.

    Attributes
    ----------
    frequencies, lacking
        As in `Absent`.
    errors
        Standard errors of the frequencies.
    rarest
        Frequency of an allele that a population has one of.
    """

    frequencies: FloatArray
    lacking: npt.NDArray[np.bool_]
    errors: FloatArray
    rarest: FloatArray


def _parts(absent: Absent, noise: npt.ArrayLike) -> Iterator[_Part]:
    told_by = np.linalg.pinv(np.asarray(noise, float), hermitian=True)
    people = told_by.sum(axis=1, keepdims=True)
    # One allele at least, of a population without people.
    rarest = 1 / np.maximum(PLOIDY * people, 1)
    told_by = PLOIDY * told_by * rarest
    variance = np.diagonal(noise)[:, None] / PLOIDY
    for start in range(0, absent.frequencies.shape[1], _AT_ONCE):
        columns = slice(start, start + _AT_ONCE)
        p = absent.frequencies[:, columns]
        # Of the people who tell a frequency, by the populations that they are of.
        pooled = np.clip(told_by @ p, rarest, HALF)
        # Above zero, where a population has no people and `noise` says nothing of it.
        errors = np.sqrt(np.maximum(variance * pooled * (1 - pooled), rarest**2 / 2))
        few = (errors.astype(np.float32), rarest[:, 0].astype(np.float32))
        yield _Part(p, absent.lacking[:, columns], *few)
