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
rises when the populations move apart until they are inside; where populations have none
of some allele, it is the other way about. The bias is that of fits to people and
variants drawn about a truth (`drawn_variants`), which is drawn itself, given the fit
with the bias found so far undone (`drawn_truth`). What draws say rises with the bias
that was undone, and so does its error.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap. Parametric bootstrap.
Benaych-Georges and Nadakuditi (2012), Journal of Multivariate Analysis 111:120-135.
The same factor, for singular vectors.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from estimator.acceleration import MAX_RADIUS
from estimator.basis import Matrix, Models
from estimator.basis_choice import BasisObjective, choose_basis, row_directions
from estimator.config import MIN_FREQUENCY
from estimator.drawn_truth import draw_ancestry, draw_frequencies
from estimator.drawn_variants import draw_variants
from estimator.quadratic import RIDGE, pair_indices
from estimator.uncertainty import MAX_STANDARD_ERROR, PopulationError

Matrices = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

# Draws that bring the bias near what the draws say, by more than the whole way because
# what they say rises with it; and those after them, whose mean it is.
FIRST_DRAWS, FIRST_GAIN = 4, 1.8
DRAWS, GAIN = 8, 0.8
# What draws say rises with the bias that was undone, and so does its error. The error
# that people share was .6 to 2 times what the curvature tells in simulated cohorts of
# 18 kinds, 1.3 in the median; this in the variance holds nearly all of them.
UNDONE = 3.0
# Errors of the basis this many times their median are looked at twice, so many times.
FLAT = 3.0
MAX_SHORTENINGS = 8
# The fall may begin all at once, when the square root would lead too near.
LEAST_SHORTENING = 0.5
# What a standard error lowers a log-likelihood by.
HALF = 0.5
PLOIDY = 2
_VARIANTS_AT_ONCE = 512
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
    alleles = PLOIDY * n_called / (weights[1] * len(variants.held))
    rng = np.random.default_rng(seed)
    bias = _basis_bias(people, variants, weights, alleles, n_called * noise, rng)
    squares = UNDONE * np.einsum("akck->kac", covariance)
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
    alleles: float,
    noise: Matrix,
    rng: np.random.Generator,
) -> Matrix:
    """Mean of A - 1 when the populations that are there are the unit matrix.

    It is the bias of draws about a truth, which is the fit with that bias undone.

    Parameters
    ----------
    alleles
        Called alleles of a genotype.
    noise
        S for all of a person's called genotypes.
    """
    k = len(people.position)
    q, p = (np.asarray(models.position, float) for models in (people, variants))
    at_bound = (p <= MIN_FREQUENCY) | (p >= 1 - MIN_FREQUENCY)
    observed = np.asarray(people.hessian)
    of_noise = _share_out(noise, observed)
    errors = _errors(observed, observed - of_noise, k)
    n_alleles = alleles * weights[0] * q.shape[1]
    bias, found = np.zeros((k, k)), []
    for gain in [FIRST_GAIN] * FIRST_DRAWS + [GAIN] * DRAWS:
        basis = np.eye(k) + bias
        ancestry = draw_ancestry(basis.T @ q, q == 0, errors, rng)
        ancestry = np.where(people.held, q, ancestry)
        undone = np.linalg.solve(basis, p)
        frequencies = draw_frequencies(undone, at_bound, ancestry, n_alleles, rng)
        truth = ancestry.astype(np.float32), frequencies.astype(np.float32)
        # Of the people who have none of a population, half are fitted at the bound.
        # Variants fitted there too tell nothing of those, as the Hessian observed has
        # it, and all of what is expected of the others.
        expected = _expected_hessian(*truth, weights[1] * alleles)
        hessian = (observed + expected) / 2
        drawn = choose_basis(
            Models(
                truth[0],
                _draw_scores(hessian, k, rng),
                hessian - of_noise,
                people.held,
            ),
            draw_variants(*truth, n_alleles, rng),
            weights=weights,
            gradient=None,
            radius=MAX_RADIUS,
        )
        bias = bias + gain * (drawn - np.eye(k) - bias)
        # Or there might be no way to undo it.
        bias *= MAX_RADIUS / max(np.abs(bias).sum(axis=1).max(), MAX_RADIUS)
        found.append(bias)
    return np.mean(found[FIRST_DRAWS:], axis=0)


def _share_out(noise: Matrix, hessian: Floats) -> Floats:
    """S of each person, less where they have fewer called genotypes than others."""
    first, second = pair_indices(len(noise))
    told = hessian[first == second].sum(axis=0)
    share = np.minimum(told / max(told.mean(), np.finfo(np.float32).tiny), 1)
    return noise[first, second].astype(np.float32)[:, None] * share


def _expected_hessian(q: Floats, p: Floats, alleles: float) -> Floats:
    """Hessians of people that are expected of variants of so many alleles each."""
    first, second = pair_indices(len(q))
    hessian = np.zeros((len(first), q.shape[1]), np.float32)
    # People by variants is more than there is room for.
    for start in range(0, p.shape[1], _VARIANTS_AT_ONCE):
        block = p[:, start : start + _VARIANTS_AT_ONCE]
        frequency = q.T @ block
        weight = np.float32(alleles) / (frequency * (1 - frequency))
        hessian += (block[first] * block[second]) @ weight.T
    return hessian


def _full(hessian: npt.ArrayLike, k: int) -> Matrices:
    """K x K matrices from K(K+1)/2 entries of each."""
    first, second = pair_indices(k)
    full = np.zeros((np.shape(hessian)[1], k, k))
    full[:, first, second] = full[:, second, first] = np.asarray(hessian, float).T
    return full


def _errors(observed: npt.ArrayLike, clean: npt.ArrayLike, k: int) -> Matrix:
    """Standard errors of Q where nothing is at a bound, one person a column."""
    within = scipy.linalg.helmert(k).T
    reduced = within.T @ _full(clean, k) @ within
    scale = np.trace(reduced, axis1=1, axis2=2)[:, None, None]
    ridge = (RIDGE * np.abs(scale) + np.finfo(np.float32).tiny) * np.eye(k - 1)
    inverse = within @ np.linalg.inv(reduced + ridge) @ within.T
    variance = np.einsum("nka,nab,nbk->kn", inverse, _full(observed, k), inverse)
    return np.sqrt(np.clip(variance, RIDGE**2, MAX_STANDARD_ERROR**2))


def _draw_scores(hessian: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Scores whose covariance is the Hessian, one a column."""
    values, vectors = np.linalg.eigh(_full(hessian, k))
    # In place: workers have little beside their shards.
    vectors *= np.sqrt(np.maximum(values, 0))[:, None]
    normal = rng.standard_normal(vectors.shape[:2])
    return np.einsum("nab,nb->an", vectors, normal).astype(np.float32)
