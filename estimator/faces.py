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

where t is spread as the cohort has it (`near_zero`). D, and how it is spread, maximise
the likelihood of everybody near zero, t integrated out. Unlike that of the fit, its
maximum goes to the truth as people become many; the information of it says how far it
may be from there, and too little, as the spread is taken where it is likeliest.

Where hardly anybody is near zero of a population, as where everybody is admixed, they
do not tell whether the density of t is even or goes to zero with it, by which a face is
here or far outside. Each is thought of, and D is the mean over them, as likely as they
are.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from estimator.basis import Matrix
from estimator.near_zero import (
    THOUGHTS,
    Mask,
    Spreads,
    Vector,
    mix,
    scores_of_weights,
    spread_likelihoods,
    weigh,
)

Matrices = npt.NDArray[np.float64]

# In standard errors: who is near zero.
NEAR = 4.0
# Standard deviation of D before anybody is seen.
UNTOLD = 0.2
# Errors may be larger than the likelihood has them: linked variants are not as many
# observations, nor people of one population all alike. That they are not is thought of
# first, as strongly as so many people would say it.
SCALES = (1.25, 1.5, 2.0, 2.5)
SCALED_BEFORE = 8.0
MAX_STEPS, MAX_REDUCTIONS = 40, 6
# In standard errors of somebody near.
LONGEST_STEP = 2.0
# Of the logarithm of a weight.
MOST_TURNED = 2.0
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

    def spreads(self, moved: Vector) -> Spreads:
        """Likelihoods where the face has moved by D."""
        shift = moved @ self.shares
        return spread_likelihoods(self.distance - shift, self.limit - shift, self.given)


class _Face(NamedTuple):
    """D of one population, its covariance, and how likely it is."""

    moved: Vector
    covariance: Matrix
    log_posterior: float

    def log_evidence(self) -> float:
        """How likely is what was thought of, whatever D is (Laplace)."""
        return self.log_posterior + 0.5 * np.linalg.slogdet(self.covariance)[1]


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
        moved, of_moved = _find_face(_people_near(population, x, errors, q, held))
        others = np.flatnonzero(np.arange(k) != population)
        corners[others, population] = moved
        # What a population has of this one, it lacks of its own.
        corners[others, others] -= moved
        moves = np.zeros((k - 1, k, k))
        moves[np.arange(k - 1), others, population] = 1
        moves[np.arange(k - 1), others, others] = -1
        covariance += np.einsum("iab,ij,jcd->abcd", moves, of_moved, moves)
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


def _find_face(near: _Near) -> tuple[Vector, Matrix]:
    """D of one population and its covariance, over all that may be thought of first."""
    first, scale = _find_errors(near)
    faces = [first]
    for thought in THOUGHTS[1:]:
        faces.append(_find_scaled(thought, near, scale, first.moved))
    likely = scipy.special.softmax([face.log_evidence() for face in faces])
    each = np.array([face.moved for face in faces])
    within = np.einsum("t,tij->ij", likely, [face.covariance for face in faces])
    return likely @ each, within + np.cov(each.T, aweights=likely, ddof=0)


def _find_errors(near: _Near) -> tuple[_Face, float]:
    """D by the first thought, and how large errors are where that is the likeliest."""
    likeliest = 1.0
    face = _find_scaled(THOUGHTS[0], near, likeliest, np.zeros(len(near.shares)))
    for scale in SCALES:
        wider = _find_scaled(THOUGHTS[0], near, scale, face.moved)
        if wider.log_posterior <= face.log_posterior:
            break
        face, likeliest = wider, scale
    return face, likeliest


def _find_scaled(thought: Vector, near: _Near, scale: float, moved: Vector) -> _Face:
    """D where errors are so many times what they should be, from a D nearby."""
    near = _Near(
        near.distance / scale, near.shares / scale, near.given, near.limit / scale
    )
    spreads, weights = near.spreads(moved), thought / thought.sum()
    for _ in range(MAX_STEPS):
        weights = weigh(spreads, weights, thought)
        here = _log_posterior(thought, spreads, weights, moved)
        step, turn, information = _newton_step(thought, near, moved, spreads, weights)
        for _ in range(MAX_REDUCTIONS):
            ahead, turned = moved + step, weights * np.exp(turn)
            turned /= turned.sum()
            tried = near.spreads(ahead)
            gain = _log_posterior(thought, tried, turned, ahead) - here
            if gain > 0:
                break
            step, turn = step / 3, turn / 3
        else:
            break
        moved, weights, spreads = ahead, turned, tried
        if gain < LEAST_GAIN:
            break
    # Densities of the distance as it was.
    wider = (len(near.distance) + SCALED_BEFORE) * float(np.log(scale))
    return _Face(moved, np.linalg.inv(information), here - wider)


def _log_posterior(
    thought: Vector, spreads: Spreads, weights: Vector, moved: Vector
) -> float:
    likelihood = mix(spreads.likelihood, weights, spreads.given)
    before = thought @ np.log(weights) - 0.5 * np.sum((moved / UNTOLD) ** 2)
    return float(np.log(likelihood).sum() + before)


def _newton_step(
    thought: Vector, near: _Near, moved: Vector, spreads: Spreads, weights: Vector
) -> tuple[Vector, Vector, Matrix]:
    """Steps of D and of the logarithms of the weights, and what tells of D alone.

    Information is the sum of squares of people's scores; for those whose ancestry is
    given, what is expected of that.
    """
    likelihood = mix(spreads.likelihood, weights, near.given)
    scores = -mix(spreads.slope, weights, near.given) / likelihood * near.shares
    of_weights = scores_of_weights(spreads, weights)
    told = of_weights @ of_weights.T + np.diag(thought)
    crossed = scores @ of_weights.T
    known = np.where(near.given, near.shares, scores)
    information = known @ known.T - crossed @ np.linalg.solve(told, crossed.T)
    information += np.eye(len(moved)) / UNTOLD**2
    # Slopes of the posterior: by D, and by the weights' logarithms.
    rising = scores.sum(axis=1) - moved / UNTOLD**2
    turning = of_weights.sum(axis=1) + thought - thought.sum() * weights
    rising -= crossed @ np.linalg.solve(told, turning)
    step = np.linalg.solve(information, rising)
    turn = np.linalg.solve(told, turning - crossed.T @ step)
    longest = np.abs(step @ near.shares).max(initial=_TINY) / LONGEST_STEP
    shorter = max(1.0, longest, np.abs(turn).max() / MOST_TURNED)
    return step / shorter, turn / shorter, information
