"""How far from zero people are who have little of a population.

What is seen of a person is a distance u = t + an error of 1, in standard errors, with
t >= 0 what they have in truth; and of those alone for whom u is below a limit. Some
have nothing, and the density of the others goes with t^(alpha - 1), as that of a
Dirichlet distribution does near zero. How many go with each alpha the cohort tells, and
where it has too few near zero to tell, what was thought of before anybody was seen.

References
----------
Kiefer and Wolfowitz (1956), Annals of Mathematical Statistics 27:887-906. Integrating
parameters that come with each observation out of the likelihood.
Pritchard, Stephens and Donnelly (2000), Genetics 155:945-959. Dirichlet ancestry.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from estimator.basis import Matrix

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# How far from zero anybody may be in truth, and the steps in which t is looked at.
REACH, CELLS = 12.0, 36
# How t is spread: all at zero, or with t^(alpha - 1).
ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)
# What may be thought of before anybody is seen, one a row: that most go with alpha 1, 2
# or 4. In people that each spread is as good as seen in. Chosen by how often intervals
# held the truth in simulated cohorts, as are the alphas.
THOUGHTS = np.where(np.eye(1 + len(ALPHAS), dtype=bool)[-3:], 4.0, 0.1)
EM_STEPS = 3
_TINY = 1e-300


class Spreads(NamedTuple):
    """Likelihoods of people, one spread of t a row, and their slopes in the distance.

    Attributes
    ----------
    likelihood, slope
        Of each person, one a column.
    given
        Of whom it is known that t is zero.
    """

    likelihood: Matrix
    slope: Matrix
    given: Mask


def _spread_out() -> tuple[Vector, Matrix]:
    """Places of t, and how much of each spread is at each."""
    edges = np.linspace(0, REACH, CELLS + 1)
    mass = np.zeros((1 + len(ALPHAS), 1 + CELLS))
    mass[0, 0] = 1
    mass[1:, 1:] = [np.diff((edges / REACH) ** alpha) for alpha in ALPHAS]
    return np.concatenate([[0], (edges[:-1] + edges[1:]) / 2]), mass


_PLACES, _MASS = _spread_out()


def spread_likelihoods(distance: Vector, limit: Vector, given: Mask) -> Spreads:
    """Likelihood of each person under each spread.

    Parameters
    ----------
    distance
        u of each person.
    limit
        What it had to be below, for the person to be seen.
    given
        Who are seen wherever they are, and have nothing.
    """
    z, normal = _errors_of(distance)
    density, slope = _MASS @ normal, _MASS @ (-z * normal)
    z, normal = _errors_of(limit)
    seen, edge = _MASS @ scipy.special.ndtr(z) + _TINY, _MASS @ normal
    return Spreads(
        np.where(given, density, density / seen) + _TINY,
        np.where(given, slope, slope / seen - density * edge / seen**2),
        given,
    )


def _errors_of(distance: Vector) -> tuple[Matrix, Matrix]:
    """What the error would be at each place, and its density."""
    z = distance - _PLACES[:, None]
    return z, np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)


def weigh(spreads: Spreads, weights: Vector, thought: Vector) -> Vector:
    """How many go with each spread, by some steps of EM from weights nearby."""
    each = spreads.likelihood[:, ~spreads.given]
    for _ in range(EM_STEPS):
        parts = each * weights[:, None]
        counts = thought + np.sum(parts / parts.sum(axis=0), axis=1)
        weights = counts / counts.sum()
    return weights


def mix(of_spreads: Matrix, weights: Vector, given: Mask) -> Vector:
    """Likelihoods, or slopes, of people whose spread is not known."""
    return np.where(given, of_spreads[0], weights @ of_spreads)


def scores_of_weights(spreads: Spreads, weights: Vector) -> Matrix:
    """Derivatives of log-likelihoods by the logarithms of the weights."""
    whole = mix(spreads.likelihood, weights, spreads.given)
    scores = weights[:, None] * (spreads.likelihood / whole - 1)
    return np.where(spreads.given, 0, scores)
