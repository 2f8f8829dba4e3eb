"""Error of the fitted populations, which the ancestry of everybody shares.

The standard error of a person's Q given P (`uncertainty`) leaves out that P was
estimated from the same genotypes. Two things are missing.

P has noise at every variant. With V_j the covariance of column j of P, a person's
Hessian sum_j w_ij P_j P_j' counts the noise as differences between populations, and is
too large by S = sum_j w_ij V_j; and the person's own noise falls on that of P. With H
the Hessian found, the covariance of their Q is (H - S)^-1 H (H - S)^-1. As V_j is
(sum_i w_ij Q_i Q_i')^-1, and w_ij varies little between people, S is close to
(sum_i Q_i Q_i')^-1 for every called genotype.

And Q A^-1, A P fit as well as Q, P but for the bounds (`basis`), which tell the basis A
with an error that moves everybody. Its covariance is the inverse of the curvature of F,
but along axes where F is flat no further than the next bounds. It also has a bias:
where people have none of some population, noise takes half of them below zero, and F
rises when the populations move apart until they are inside. The bias is that of fits to
quadratic models of people and variants drawn about a truth, which is the fit with the
bias found so far undone, but for zeros, and with what is below one standard error at
zero too. A fit to such a draw tells in turn how much that estimate lacks.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap. Parametric bootstrap.
Hall and Martin (1988), Biometrika 75:661-671. The bootstrap, iterated.
Benaych-Georges and Nadakuditi (2012), Journal of Multivariate Analysis 111:120-135.
The same factor, for singular vectors.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from estimator.acceleration import MAX_RADIUS
from estimator.basis import (
    Change,
    Matrix,
    Models,
    change_of_ancestry,
    change_of_frequencies,
    step_in_basis,
)
from estimator.basis_choice import BasisObjective, choose_basis, row_directions
from estimator.config import MIN_FREQUENCY
from estimator.quadratic import RIDGE, pair_indices
from estimator.uncertainty import MAX_STANDARD_ERROR, PopulationError

Matrices = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# Draws that find the bias, and how many of the last of them are averaged.
DRAWS = 12
AVERAGED = 9
# Share of the way to what a draw says.
_GAIN = 0.7
# Errors of the basis this many times their median are looked at twice, so many times.
FLAT = 3.0
MAX_SHORTENINGS = 8
# The fall may begin all at once, when the square root would lead too near.
LEAST_SHORTENING = 0.5
# What a standard error lowers a log-likelihood by.
HALF = 0.5
# Noise of P beyond this share of the differences is not told from them.
MAX_NOISE = 0.5


def population_error(
    people: Models,
    variants: Models,
    *,
    weights: tuple[float, float],
    information: Matrix,
    n_called: float,
    seed: int,
) -> PopulationError:
    """Estimate the error of fitted populations from models at the maximum.

    Parameters
    ----------
    people, variants
        Models of a sample of each.
    weights
        How many people, and how many variants, one of the sample stands for.
    information
        Sum over everybody in the fit of Q_i Q_i', times the share of called genotypes.
    n_called
        Mean number of a person's called genotypes.
    seed
        Of the draws.
    """
    k = len(information)
    if k == 1:
        return PopulationError(*(np.zeros((1,) * n, np.float32) for n in (2, 3, 2)))
    noise = _frequency_noise(people, information, n_called)
    covariance = _basis_covariance(people, variants, weights)
    bias = _basis_bias(people, variants, weights, np.random.default_rng(seed))
    squares = np.einsum("akck->kac", covariance)
    squares += np.einsum("ak,ck->kac", bias, bias)
    return PopulationError(*(x.astype(np.float32) for x in (noise, squares, bias)))


def _frequency_noise(people: Models, information: Matrix, n_called: float) -> Matrix:
    """S for one called genotype, at most a share of what the Hessian has for one."""
    within = scipy.linalg.helmert(len(information)).T
    noise = np.linalg.pinv(information, hermitian=True)
    hessian = _full(people.hessian, len(information)).mean(axis=0) / n_called
    values, vectors = np.linalg.eigh(within.T @ hessian @ within)
    # Rounding may leave a direction that nothing tells a little below zero.
    told = np.maximum(values, RIDGE * np.trace(hessian))
    white = within @ (vectors / np.sqrt(told))
    largest = np.linalg.eigvalsh(white.T @ noise @ white)[-1]
    return noise * min(1.0, MAX_NOISE / max(largest, np.finfo(float).tiny))


def _basis_covariance(
    people: Models, variants: Models, weights: tuple[float, float]
) -> Matrices:
    """Covariance of the entries of A, indexed as (a, b, c, d)."""
    k = len(people.position)
    objective = BasisObjective(people, variants, weights)
    here = objective.expand(np.eye(k))
    directions = row_directions(k)
    values, vectors = np.linalg.eigh(
        -directions.T @ here.curvature.reshape(k * k, k * k) @ directions
    )
    # A basis that nothing tells has an error as large as any.
    errors = np.maximum(values, MAX_STANDARD_ERROR**-2) ** -0.5
    vectors = directions @ vectors
    for i in np.flatnonzero(errors > FLAT * np.median(errors)):
        axis = vectors[:, i].reshape(k, k)
        errors[i] = _error_along(axis, objective, here.value, errors[i])
    root = vectors * errors
    return (root @ root.T).reshape(k, k, k, k)


def _error_along(
    axis: Matrix, objective: BasisObjective, top: float, error: float
) -> float:
    """Step along an axis that lowers F by a half, forth and back on average.

    F may be flat as far as the next bounds only, of which its curvature knows nothing.
    """
    unmoved = np.eye(len(axis))
    for _ in range(MAX_SHORTENINGS):
        steps = (error * axis, -error * axis)
        fall = top - np.mean([objective.expand(unmoved + s).value for s in steps])
        if not fall > 2 * HALF:
            break
        error *= max(np.sqrt(HALF / fall), LEAST_SHORTENING)
    return error


def _basis_bias(
    people: Models,
    variants: Models,
    weights: tuple[float, float],
    rng: np.random.Generator,
) -> Matrix:
    """Mean of A - 1 when the populations that are there are the unit matrix.

    The fit that is drawn about is not the truth, and what is found from it too small:
    by about as much as what is found from a fit to a draw is smaller than that.
    """
    draws = _Draws(people, variants, weights)
    found = draws.find_bias(rng)
    again = _Draws(*draws.fit(found, rng), weights).find_bias(rng)
    return _drawn_apart(2 * found - again)


def _drawn_apart(bias: Matrix) -> Matrix:
    """Without populations that draw together: zeros that were kept see to that."""
    return np.where(np.diagonal(bias)[:, None] > 0, bias, 0.0)


class _Draws:
    """Data drawn about a fit from which its bias is taken, and the fits to them."""

    def __init__(
        self, people: Models, variants: Models, weights: tuple[float, float]
    ) -> None:
        self._people, self._variants, self._weights = people, variants, weights
        self._errors = _errors(people, len(people.position))
        self._roots = [_root(m, len(m.position)) for m in (people, variants)]

    def find_bias(self, rng: np.random.Generator) -> Matrix:
        """Bias that the fits to the draws have, where this fit has it too."""
        unmoved = np.eye(len(self._people.position))
        bias, found = np.zeros_like(unmoved), []
        for _ in range(DRAWS):
            basis = self._choose_basis(*self._draw(bias, rng))
            bias = _drawn_apart(bias + _GAIN * (basis - unmoved - bias))
            found.append(bias)
        return np.mean(found[-AVERAGED:], axis=0)

    def fit(self, bias: Matrix, rng: np.random.Generator) -> tuple[Models, Models]:
        """Models of a draw, about what was fitted to it."""
        people, variants = self._draw(bias, rng)
        basis = self._choose_basis(people, variants)
        return (
            _at_maximum(people, change_of_ancestry(basis), simplex=True),
            _at_maximum(variants, change_of_frequencies(basis), simplex=False),
        )

    def _draw(self, bias: Matrix, rng: np.random.Generator) -> tuple[Models, Models]:
        """Models of drawn data, about their truth."""
        truth = _undo(self._people, self._variants, bias, self._errors)
        people, variants = (
            models._replace(gradient=_draw(root, rng))
            for models, root in zip(truth, self._roots, strict=True)
        )
        return people, variants

    def _choose_basis(self, people: Models, variants: Models) -> Matrix:
        return choose_basis(
            people, variants, weights=self._weights, gradient=None, radius=MAX_RADIUS
        )


def _at_maximum(models: Models, change: Change, *, simplex: bool) -> Models:
    """Models about their maxima in another basis, where their slope is not needed."""
    k = len(models.position)
    turn = np.asarray(change.to_old, float)
    hessian = turn.T @ _full(models.hessian, k) @ turn
    first, second = pair_indices(k)
    return Models(
        np.asarray(step_in_basis(models, change, simplex=simplex)),
        np.zeros_like(models.gradient),
        np.ascontiguousarray(hessian[:, first, second].T.astype(np.float32)),
        models.held,
    )


def _undo(
    people: Models, variants: Models, bias: Matrix, errors: Matrix
) -> tuple[Models, Models]:
    """Models expanded at what, with this bias, would have been fitted as it was."""
    basis = np.eye(len(bias)) + bias
    q = basis.T @ people.position
    # Were those at zero let go, the bias would feed itself.
    absent = (np.asarray(people.position) == 0) | (q < errors)
    q = np.where(absent & (q < q.max(axis=0)), 0.0, q)
    q = np.where(people.held, people.position, q / q.sum(axis=0))
    p = np.linalg.solve(basis, np.asarray(variants.position, float))
    p = np.clip(p, MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    return (
        people._replace(position=q.astype(np.float32)),
        variants._replace(position=p.astype(np.float32)),
    )


def _full(hessian: npt.ArrayLike, k: int) -> Matrices:
    """K x K matrices from K(K+1)/2 entries of each."""
    first, second = pair_indices(k)
    full = np.zeros((np.shape(hessian)[1], k, k))
    full[:, first, second] = full[:, second, first] = np.asarray(hessian, float).T
    return full


def _errors(people: Models, k: int) -> Matrix:
    """Standard errors of Q given P where nothing is at a bound, one person a column."""
    within = scipy.linalg.helmert(k).T
    reduced = within.T @ _full(people.hessian, k) @ within
    scale = np.trace(reduced, axis1=1, axis2=2)[:, None, None]
    ridge = (RIDGE * scale + np.finfo(np.float32).tiny) * np.eye(k - 1)
    inverse = np.linalg.inv(reduced + ridge)
    variance = np.einsum("ka,nab,kb->kn", within, inverse, within)
    return np.sqrt(np.maximum(variance, 0))


def _root(models: Models, k: int) -> Floats:
    """Matrices L with LL' = H, the covariance of the scores."""
    values, vectors = np.linalg.eigh(_full(models.hessian, k))
    # In place and kept in half the room: workers have little beside their shards.
    vectors *= np.sqrt(np.maximum(values, 0))[:, None]
    return vectors.astype(np.float32)


def _draw(root: Floats, rng: np.random.Generator) -> Floats:
    """Scores of a draw, one a column."""
    normal = rng.standard_normal(root.shape[:2], np.float32)
    return np.ascontiguousarray(np.einsum("nab,nb->an", root, normal))
