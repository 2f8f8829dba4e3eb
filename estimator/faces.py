"""Where the true populations are, by the people who have little of one of them.

Bounds alone tell the populations of a fit (`basis`), and they tell them wrong: noise
takes half of the people who have none of a population below zero, and the likelihood
rises when the populations move apart until they are inside; where populations have
none of an allele, it is the other way about. True populations are V = 1 + D times those
of the fit, and without bounds a person of the true q would be fitted at V'q, but for a
normal error. That nobody has less than nothing of a population shows V: of those with
none of population a, and shares m of the others, the mean of x_a is sum_l m_l D_la, and
nobody's is below. With s the standard error of x_a,

    u = (x_a - sum_l m_l D_la) / s = t + normal error of 1,    t >= 0

where t is spread as the cohort has it: some have none, and the density of others goes
with t^(alpha - 1) near zero, as that of a Dirichlet distribution does. D, and how many
go with each alpha, maximise the likelihood of everybody near zero, t integrated out.
Unlike that of the fit, its maximum goes to the truth as people become many, and its
curvature says how far it may be from there.

Where hardly anybody is near zero of a population, those few, and that an even density
is thought of first, tell where it is.

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
Matrices = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# In standard errors: who is near zero, and how far from it they may be in truth.
NEAR, REACH = 4.0, 12.0
CELLS = 36
# How t is spread: all at zero, or with t^(alpha - 1).
ALPHAS = (0.25, 0.5, 1.0, 2.0, 4.0)
# People that each is as good as seen in.
SEEN_BEFORE = np.array([0.1, 0.1, 0.1, 3.0, 0.3, 0.3])
# Standard deviation of D before anybody is seen.
UNTOLD = 0.1
# Errors may be larger than the likelihood has them: linked variants are not as many
# observations, nor people of one population all alike. That they are not is thought of
# first, as strongly as so many people would say it.
SCALES = (1.25, 1.5, 2.0, 2.5)
SCALED_BEFORE = 8.0
EM_STEPS = 10
MAX_STEPS, MAX_REDUCTIONS = 40, 6
# In standard errors of somebody near.
LONGEST_STEP = 2.0
# Log-likelihood that a step has to gain, or it is the last.
LEAST_GAIN = 1e-4
_TINY = 1e-300


class Faces(NamedTuple):
    """The simplex of true ancestry, where the fit has it.

    Attributes
    ----------
    corners
        V: each true population, as a mixture of those of the fit; rows sum to 1.
    covariance
        Of its entries, indexed as (a, b, c, d).
    """

    corners: Matrix
    covariance: Matrices


class _Near(NamedTuple):
    """People near zero of one population, one a column.

    Attributes
    ----------
    distance
        x over its standard error; what is given of it is taken off.
    shares
        m of the other populations, over the same.
    given
        Whose ancestry is known.
    limit
        Distance that the others were chosen by being below.
    """

    distance: Vector
    shares: Matrix
    given: Mask
    limit: float


class _Spreads(NamedTuple):
    """Likelihoods of these people, one spread of t a row, and their slopes in u."""

    likelihood: Matrix
    slope: Matrix


class _Mixture(NamedTuple):
    """How many go with each spread, and what comes of it for each person."""

    weights: Vector
    likelihood: Vector
    log_posterior: float


class _Face(NamedTuple):
    """D of one population, its covariance, and how likely it is."""

    moved: Vector
    covariance: Matrix
    log_posterior: float


def find_faces(x: Matrix, errors: Matrix, q: Matrix, held: Mask) -> Faces:
    """Find the true populations.

    Parameters
    ----------
    x
        What would be fitted without bounds, one person a column; columns sum to 1.
    errors
        Its standard errors, above zero.
    q, held
        Ancestry, and of whom it was given.
    """
    k = len(x)
    corners, covariance = np.eye(k), np.zeros((k,) * 4)
    for population in range(k):
        near = _people_near(population, x, errors, q, held)
        face = _find_face(near)
        others = np.flatnonzero(np.arange(k) != population)
        corners[others, population] = face.moved
        # What a population has of this one, it lacks of its own.
        corners[others, others] -= face.moved
        moves = np.zeros((k - 1, k, k))
        moves[np.arange(k - 1), others, population] = 1
        moves[np.arange(k - 1), others, others] = -1
        covariance += np.einsum("iab,ij,jcd->abcd", moves, face.covariance, moves)
    return Faces(corners, covariance)


def _people_near(
    population: int, x: Matrix, errors: Matrix, q: Matrix, held: Mask
) -> _Near:
    near = x[population] < NEAR * errors[population]
    # The largest share is what the others leave.
    near &= x.argmax(axis=0) != population
    which = np.where(held, q[population] < 1, near)
    given, error = held[which], errors[population, which]
    others = np.delete(np.where(given, q[:, which], x[:, which]), population, axis=0)
    others = np.maximum(others, 0)
    shares = others / np.where(given, 1, np.maximum(others.sum(axis=0), _TINY))
    known = np.where(given, q[population, which], 0)
    return _Near((x[population, which] - known) / error, shares / error, given, NEAR)


def _spread_out() -> tuple[Vector, Matrix]:
    """Places of t, and how much of each spread is at each."""
    edges = np.linspace(0, REACH, CELLS + 1)
    mass = np.zeros((1 + len(ALPHAS), 1 + CELLS))
    mass[0, 0] = 1
    mass[1:, 1:] = [np.diff((edges / REACH) ** alpha) for alpha in ALPHAS]
    return np.concatenate([[0], (edges[:-1] + edges[1:]) / 2]), mass


_PLACES, _MASS = _spread_out()


def _spreads(near: _Near, moved: Vector) -> _Spreads:
    shift = moved @ near.shares

    def expected(limit: npt.NDArray[np.float64]) -> tuple[Matrix, Matrix, Matrix]:
        z = limit - shift - _PLACES[:, None]
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        return _MASS @ density, _MASS @ (-z * density), _MASS @ scipy.special.ndtr(z)

    density, slope, _ = expected(near.distance)
    # Only what is below the limit of being near is seen.
    edge, _, below = expected(np.full_like(near.distance, near.limit))
    seen, whole = below + _TINY, near.given
    likelihood = np.where(whole, density, density / seen) + _TINY
    return _Spreads(
        likelihood,
        np.where(whole, slope, slope / seen - density * edge / seen**2),
    )


def _mix(near: _Near, moved: Vector, spreads: _Spreads, weights: Vector) -> _Mixture:
    # Of those whose ancestry is given, nothing is left for t.
    likelihood = np.where(
        near.given, spreads.likelihood[0], weights @ spreads.likelihood
    )
    before = SEEN_BEFORE @ np.log(weights) - 0.5 * np.sum((moved / UNTOLD) ** 2)
    return _Mixture(weights, likelihood, float(np.log(likelihood).sum() + before))


def _weigh(near: _Near, spreads: _Spreads, weights: Vector) -> Vector:
    """How many go with each spread, by EM."""
    each = spreads.likelihood[:, ~near.given]
    for _ in range(EM_STEPS):
        parts = each * weights[:, None]
        counts = SEEN_BEFORE + np.sum(parts / parts.sum(axis=0), axis=1)
        weights = counts / counts.sum()
    return weights


def _newton_step(
    near: _Near, moved: Vector, spreads: _Spreads, mixture: _Mixture
) -> tuple[Vector, Matrix]:
    """Step of D, and the information of it that the weights leave.

    Information is the sum of squares of people's scores; for those whose ancestry is
    given, what is expected of that.
    """
    weights, likelihood, _ = mixture
    slope = np.where(near.given, spreads.slope[0], weights @ spreads.slope)
    scores = -slope / likelihood * near.shares
    of_weights = weights[:, None] * (spreads.likelihood / likelihood - 1)
    of_weights = np.where(near.given, 0, of_weights)
    crossed = scores @ of_weights.T
    told = of_weights @ of_weights.T + np.diag(SEEN_BEFORE)
    known = np.where(near.given, near.shares, scores)
    information = known @ known.T - crossed @ np.linalg.solve(told, crossed.T)
    information += np.eye(len(moved)) / UNTOLD**2
    step = np.linalg.solve(information, scores.sum(axis=1) - moved / UNTOLD**2)
    length = np.abs(step @ near.shares).max(initial=_TINY)
    return step * min(1, LONGEST_STEP / length), information


def _find_face(near: _Near) -> _Face:
    """D of one population, with the errors that are the likeliest."""
    face = _find_scaled(near, 1.0, np.zeros(len(near.shares)))
    for scale in SCALES:
        wider = _find_scaled(near, scale, face.moved)
        if wider.log_posterior <= face.log_posterior:
            break
        face = wider
    return face


def _find_scaled(near: _Near, scale: float, moved: Vector) -> _Face:
    """D where errors are so many times what they should be, from a D nearby."""
    near = near._replace(
        distance=near.distance / scale,
        shares=near.shares / scale,
        limit=near.limit / scale,
    )
    spreads = _spreads(near, moved)
    weights = SEEN_BEFORE / SEEN_BEFORE.sum()
    for _ in range(MAX_STEPS):
        weights = _weigh(near, spreads, weights)
        here = _mix(near, moved, spreads, weights)
        step, information = _newton_step(near, moved, spreads, here)
        for _ in range(MAX_REDUCTIONS):
            tried = _spreads(near, moved + step)
            gain = _mix(near, moved + step, tried, weights).log_posterior
            gain -= here.log_posterior
            if gain > 0:
                break
            step = step / 3
        else:
            break
        moved, spreads = moved + step, tried
        if gain < LEAST_GAIN:
            break
    # Densities of the distance as it was.
    height = here.log_posterior - (len(near.distance) + SCALED_BEFORE) * np.log(scale)
    return _Face(moved, np.linalg.inv(information), float(height))
