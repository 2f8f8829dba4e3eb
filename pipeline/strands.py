"""Which strand a cohort reports A/T and C/G variants on, told by their frequencies.

At other variants, where the alleles tell the strand, the cohort's frequencies are those
of a mixture of the model's populations, its mean ancestry, give or take a dispersion
that is measured there. Under the model of Balding and Nichols the count at an A/T or
C/G variant is then beta-binomial, with mean e on the strand as it is written and 1 - e
on the opposite one. A strand is decided where it is 10,000 times as likely as the other
and the frequency is within 4 standard deviations of its own; the cohort's size and its
distance from the model's populations both enter, and variants near frequency 1/2 stay
undecided.

Pure functions of float64 arrays. Turning a count x of n into n - x turns the answer
round exactly, so that it does not depend on how the cohort writes its alleles.

References
----------
Balding and Nichols (1995), Genetica 96:3-12.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.special import gammaln

# Variants below which neither mean ancestry nor dispersion can be told.
MIN_REFERENCE = 100
MIN_LOG_ODDS = float(np.log(10_000))
MAX_DEVIATIONS = 4.0
# Expected frequencies nearer 0 or 1 say no more, because the model's are estimates.
_EXPECTED_RANGE = (0.01, 0.99)
# Where the dispersion is measured: rarer alleles tell little of it.
_COMMON_RANGE = (0.05, 0.95)
_MIN_DISPERSION = 1e-4
_SUM_WEIGHT = 1e3

Floats = npt.NDArray[np.float64]


def mean_ancestry(frequency: Floats, frequencies: Floats) -> Floats:
    """Mixture of populations whose frequencies are nearest a cohort's.

    By least squares with the weights of binomial counts, which come from the mixture
    itself: those of an even one first.

    Parameters
    ----------
    frequency
        The cohort's, in [0, 1]; shape (variants,).
    frequencies
        P inside (0, 1), shape (populations, variants).

    Returns
    -------
    Shape (populations,), on the simplex.
    """
    mixture = np.full(len(frequencies), 1 / len(frequencies))
    for _ in range(2):
        expected = mixture @ frequencies
        weight = 1 / np.sqrt(expected * (1 - expected))
        # A row that outweighs all others, so that the shares sum to 1.
        total = _SUM_WEIGHT * np.linalg.norm(weight)
        rows = np.vstack([(frequencies * weight).T, np.full(len(mixture), total)])
        mixture = nnls(rows, np.append(frequency * weight, total))[0]
        mixture /= mixture.sum()
    return mixture


def dispersion(frequency: Floats, n_alleles: Floats, expected: Floats) -> float:
    """Variance of frequencies about those expected, in units of e (1 - e).

    Beyond that of drawing `n_alleles`: what Fst is between two populations. Between
    0.0001 and 1, which is also what one allele a variant, or none, tells.
    """
    lowest, highest = _COMMON_RANGE
    common = (expected > lowest) & (expected < highest)
    f, e, n = frequency[common], expected[common], n_alleles[common]
    if n.max(initial=0) < 2:
        return 1.0
    excess = np.mean((f - e) ** 2 / (e * (1 - e)) - 1 / n)
    return float(np.clip(excess / np.mean(1 - 1 / n), _MIN_DISPERSION, 1.0))


def decide(
    n_alternate: Floats, n_alleles: Floats, expected: Floats, spread: float
) -> npt.NDArray[np.int8]:
    """Which strand the counts of A/T and C/G variants are of.

    Parameters
    ----------
    n_alternate
        Alternate alleles of the model that were counted, as they are written.
    n_alleles
        Alleles counted.
    expected
        Frequency of the model's alternate allele at the cohort's mean ancestry.
    spread
        Dispersion of frequencies, in (0, 1].

    Returns
    -------
    1 for the strand as written, -1 for the opposite one, 0 where neither is decided.
    """
    x, n = n_alternate, n_alleles
    e = expected.clip(*_EXPECTED_RANGE)
    precision = max(1 / spread - 1, 1.0)
    alternate, reference = e * precision, (1 - e) * precision
    written = gammaln(x + alternate) + gammaln(n - x + reference)
    opposite = gammaln(x + reference) + gammaln(n - x + alternate)
    log_odds = written - opposite
    counted = np.maximum(n, 1)
    deviation = np.sqrt(e * (1 - e) * (1 / counted + spread))
    decided = np.sign(log_odds)
    distance = np.where(decided > 0, x - e * n, (n - x) - e * n) / counted
    sure = np.abs(log_odds) >= MIN_LOG_ODDS
    near = np.abs(distance) <= MAX_DEVIATIONS * deviation
    return np.where(sure & near & (n > 0), decided, 0).astype(np.int8)
