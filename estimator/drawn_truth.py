"""Truths that may be behind a fit: Q and P drawn given what was fitted.

What is fitted at a bound may be as well inside, and what is fitted near one at it. So
what is within some standard errors of a bound is drawn from its posterior; the rest
stays as it was fitted. The posterior is that of a normal error, of which a value at the
bound says only that it came out beyond. How the ancestry of people is spread near zero
is read off the cohort itself, as a density that falls (Grenander 1956) and some who
have none at all; frequencies of populations that parted are about those of all of
them, by as much as F_ST says (Balding and Nichols 1995).

References
----------
Balding and Nichols (1995), Genetica 96:3-12. Frequencies of populations that parted.
Grenander (1956), Skandinavisk Aktuarietidskrift 39:125-153. Densities that fall.
Robbins (1956), Proceedings of the Third Berkeley Symposium 1:157-163. Empirical Bayes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from estimator.basis import Matrix
from estimator.config import MIN_FREQUENCY

Mask = npt.NDArray[np.bool_]

# In standard errors: what is drawn at all, and how far from what was fitted.
NEAR, FAR = 4.0, 7.0
# Ancestry near zero, in standard errors: what it may be, and the ends of the uniform
# densities that a falling one is a mixture of, the first of which is zero itself.
SPACING = 0.25
PLACES = np.arange(0, FAR + SPACING / 2, SPACING)
ENDS = np.array([0.0, 1.0, 2.0, NEAR, FAR])
EM_STEPS = 30
# Cells that a frequency is drawn from, and how far they reach, in standard errors.
CELLS, REACH = 32, 3.0
# Frequencies drawn together: workers have little room beside their shards.
AT_ONCE = 2_048
# Means of populations, and F_ST, are kept this far inside of their bounds.
INSIDE = 1e-4
HALF = 0.5
_TINY = np.finfo(float).tiny


def draw_ancestry(
    q: Matrix, at_zero: Mask, errors: Matrix, rng: np.random.Generator
) -> Matrix:
    """Draw the ancestry that people may have in truth.

    Parameters
    ----------
    q
        As it was fitted, one person a column, in the basis of the truth; there it may
        be beyond its bounds.
    at_zero
        What was fitted as zero.
    errors
        Standard errors where nothing is at a bound, above zero.
    rng
        What draws.

    Returns
    -------
    Columns in [0, 1] that sum to 1.
    """
    drawn = np.array(q, float)
    # The largest is what the others leave.
    near = (q < NEAR * errors) & (q < q.max(axis=0))
    for found, which, zero, error in zip(drawn, near, at_zero, errors, strict=True):
        if which.any():
            scaled = found[which] / error[which]
            found[which] = error[which] * _draw_near_zero(scaled, zero[which], rng)
    drawn = np.maximum(drawn, 0)
    return drawn / drawn.sum(axis=0)


def _draw_near_zero(
    x: Matrix, at_zero: Mask, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Draw what is near zero, in standard errors, from its posterior."""
    parts = (PLACES > 0) & (PLACES <= ENDS[:, None])
    parts[0] = PLACES == 0
    prior = parts / parts.sum(axis=1, keepdims=True)
    # Only what came out near is looked at.
    seen = prior @ scipy.special.ndtr(NEAR - PLACES)
    prior /= seen[:, None]
    z = x[:, None] - PLACES
    # By hand, for scipy.stats takes a worker a third of a second to load.
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    likelihood = np.where(at_zero[:, None], scipy.special.ndtr(z), density)
    of_parts = likelihood @ prior.T + _TINY
    weights = np.full(len(ENDS), 1 / len(ENDS))
    for _ in range(EM_STEPS):
        share = of_parts * weights
        weights = np.mean(share / share.sum(axis=1, keepdims=True), axis=0)
    place = _draw_index((likelihood * (weights @ prior) + _TINY).T, rng)
    within = SPACING * (rng.random(len(x)) - 0.5)
    return np.where(place == 0, 0.0, PLACES[place] + within)


def _draw_index(mass: Matrix, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw a row of each column, as often as its mass says."""
    total = np.cumsum(mass, axis=0)
    return np.sum(total < total[-1] * rng.random(mass.shape[1]), axis=0)


class _Near(NamedTuple):
    """Frequencies near zero, or near one as those of the other allele.

    Attributes
    ----------
    value
        As it was fitted.
    at_bound
        Whether it was fitted as zero.
    others, own
        The frequency in the people who tell it is `others`, of other populations, and
        `own` for each unit of this one.
    noise
        Its variance, for each unit of that of an allele in those people.
    mean, concentration
        Of the Beta distribution that it has before anything is fitted.
    """

    value: npt.NDArray[np.float64]
    at_bound: Mask
    others: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    concentration: npt.NDArray[np.float64]

    def variance(self, value: Matrix) -> Matrix:
        """What the variance would be of such values."""
        pooled = np.clip(self.others + self.own * value, INSIDE, 1 - INSIDE)
        return self.noise * pooled * (1 - pooled)


def draw_frequencies(
    p: Matrix, at_bound: Mask, q: Matrix, alleles: float, rng: np.random.Generator
) -> Matrix:
    """Draw the frequencies that populations may have in truth.

    Parameters
    ----------
    p
        As they were fitted, one variant a column, in the basis of the truth; there they
        may be beyond their bounds.
    at_bound
        What was fitted as 0 or 1.
    q
        Ancestry of some people, one a column.
    alleles
        Called alleles of a variant, of everybody together.
    rng
        What draws.

    Returns
    -------
    Frequencies inside (0, 1).
    """
    # Those who tell a population's frequency, by the populations they are of.
    told_by = q**2 @ q.T
    told_by /= np.maximum(told_by.sum(axis=1, keepdims=True), _TINY)
    own = np.diagonal(told_by)[:, None]
    each = alleles / q.shape[1]
    # Nothing tells that of a population without people.
    told = each * q @ q.T + INSIDE * np.eye(len(q))
    noise = np.diagonal(np.linalg.inv(told))[:, None]
    inside = np.clip(p, 0, 1)
    pooled = told_by @ inside
    variance = noise * np.clip(pooled * (1 - pooled), INSIDE, None)
    mean, concentration = _prior(inside, variance, q.sum(axis=1) / q.sum())
    high = p > HALF
    low = np.where(high, 1 - p, p)
    row, column = np.nonzero(at_bound | (low < NEAR * np.sqrt(variance)))
    others = np.where(high, 1 - pooled - own * (1 - inside), pooled - own * inside)
    means = np.where(high, 1 - mean, mean)
    of_each = (low, at_bound, others, own, noise, means, concentration)
    drawn = np.array(inside)
    for start in range(0, len(row), AT_ONCE):
        which = row[start : start + AT_ONCE], column[start : start + AT_ONCE]
        near = _Near(*(np.broadcast_to(values, p.shape)[which] for values in of_each))
        found = _draw_near_bound(near, rng)
        drawn[which] = np.where(high[which], 1 - found, found)
    return np.clip(drawn, MIN_FREQUENCY, 1 - MIN_FREQUENCY)


def _prior(p: Matrix, variance: Matrix, share: Matrix) -> tuple[Matrix, Matrix]:
    """Means of all populations, and concentrations of the Beta distributions.

    A population is as far from the mean as F_ST says, but for what the mean has of it.
    """
    share = share[:, None]
    others = np.maximum(1 - np.sum(share**2), INSIDE)
    mean = np.clip(np.sum(share * p, axis=0), INSIDE, 1 - INSIDE)
    between = np.sum(share * (p - mean) ** 2) - np.sum(share * (1 - share) * variance)
    f_st = np.clip(between / others / np.sum(mean * (1 - mean)), INSIDE, 1 - INSIDE)
    return mean, 1 / np.maximum(f_st * (1 - share), INSIDE) - 1


def _draw_near_bound(near: _Near, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw frequencies near zero from their posteriors, from cells of even width."""
    # As far as a true value t may be: |t - value| is REACH errors of what is t, with
    # the variance of small frequencies, noise * (others + own * t).
    rise, level = REACH**2 * near.noise * near.own, REACH**2 * near.noise * near.others
    level = np.maximum(level, 0) + rise * np.maximum(near.value, 0)
    reach = (rise + np.sqrt(rise**2 + 4 * level)) / 2
    start = np.where(near.at_bound, 0, np.maximum(near.value - reach, 0))
    end = np.clip(near.value + reach, start + reach / CELLS, 1)
    width = (end - start) / CELLS
    edges = start + width * np.arange(CELLS + 1)[:, None]
    a, b = near.concentration * near.mean, near.concentration * (1 - near.mean)
    # The density has a pole at zero where a is below 1; its integral has none.
    held = np.diff(np.exp(a * np.log(edges + _TINY)), axis=0)
    middle = np.minimum(edges[:-1] + width / 2, 1 - INSIDE)
    spread = np.sqrt(near.variance(middle))
    z = (near.value - middle) / spread
    # That none is met with of an allele has e^-(z^2) where the variance is the mean, as
    # that of few alleles is, and about as much where it is even.
    none = -(np.minimum(z, 0) ** 2)
    likelihood = np.where(near.at_bound, none, -0.5 * z**2 - np.log(spread))
    log_mass = np.log(held + _TINY) + (b - 1) * np.log1p(-middle) + likelihood
    cell = _draw_index(np.exp(log_mass - log_mass.max(axis=0)), rng)
    within = rng.random(len(cell))
    first = (cell == 0) & (start == 0)
    within = np.where(first, np.exp(np.log(within + _TINY) / a), within)
    return start + width * (cell + within)
