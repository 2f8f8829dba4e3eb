"""Error of the fitted populations, which the ancestry of everybody shares.

The standard error of a person's Q given P (`uncertainty`) leaves out that P was
estimated from the same genotypes. Two things are missing.

P has noise at every variant. With V_j the covariance of column j of P, a person's
Hessian sum_j w_ij P_j P_j' counts the noise as differences between populations, and is
too large by S = sum_j w_ij V_j; and the person's own noise falls on that of P. With H
the Hessian found, the covariance of their Q is (H - S)^-1 H (H - S)^-1. As V_j is
(sum_i w_ij Q_i Q_i')^-1, and w_ij varies little between people, S is close to
(sum_i Q_i Q_i')^-1 for every called genotype.

And Q A^-1, A P fit as well as Q, P but for the bounds (`basis`). Where those have put
the populations is not where they are. How far off they are, and how well that is known,
is read off the people who have none of a population, or little (`faces`), as they would
be fitted without bounds of Q and without those of P (`absent_alleles`).

References
----------
Benaych-Georges and Nadakuditi (2012), Journal of Multivariate Analysis 111:120-135.
The same factor, for singular vectors.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from estimator.absent_alleles import Absent, score_of_absent
from estimator.basis import Matrix, Models
from estimator.faces import Faces, find_faces
from estimator.quadratic import RIDGE, pair_indices
from estimator.uncertainty import MAX_STANDARD_ERROR, PopulationError

Matrices = npt.NDArray[np.float64]

# Noise of P beyond this share of the differences is not told from them.
MAX_NOISE = 0.5


def population_error(
    people: Models,
    absent: Absent,
    *,
    information: Matrix,
    n_called: float,
) -> PopulationError:
    """Estimate the error of fitted populations from people at the maximum.

    Parameters
    ----------
    people
        Models of a sample of them.
    absent
        Alleles that populations lack.
    information
        Sum over everybody in the fit of Q_i Q_i', times the share of called genotypes.
    n_called
        Mean number of a person's called genotypes.
    """
    k = len(information)
    if k == 1:
        return PopulationError(*(np.zeros((1,) * n, np.float32) for n in (2, 3, 2)))
    noise = _frequency_noise(people, information, n_called)
    ancestry = np.asarray(people.position)
    called = np.full(ancestry.shape[1], n_called)
    short = score_of_absent(absent, noise, ancestry.T, called)
    score = np.asarray(people.gradient, float) - short.T
    found, errors = _without_bounds(people, score, n_called * noise)
    faces = find_faces(found, errors, ancestry.astype(float), np.asarray(people.held))
    bias, covariance = _of_ancestry(faces)
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


def _without_bounds(
    people: Models, score: Matrix, noise: Matrix
) -> tuple[Matrix, Matrix]:
    """What would be fitted without bounds, one person a column, and its errors.

    Parameters
    ----------
    score
        First derivatives of people's log-likelihoods.
    noise
        S for all of a person's called genotypes.
    """
    k = len(noise)
    within = scipy.linalg.helmert(k).T
    observed = _full(people.hessian, k)
    told = np.trace(observed, axis1=1, axis2=2)
    # Less where they have fewer called genotypes than others.
    share = np.minimum(told / max(told.mean(), np.finfo(float).tiny), 1)
    reduced = within.T @ (observed - share[:, None, None] * noise) @ within
    scale = np.trace(reduced, axis1=1, axis2=2)[:, None, None]
    ridge = (RIDGE * np.abs(scale) + np.finfo(np.float32).tiny) * np.eye(k - 1)
    inverse = within @ np.linalg.inv(reduced + ridge) @ within.T
    step = np.einsum("nab,bn->an", inverse, score)
    variance = np.einsum("nka,nab,nbk->kn", inverse, observed, inverse)
    # Nothing tells of people without genotypes.
    variance = np.where(told > 0, variance, MAX_STANDARD_ERROR**2)
    errors = np.sqrt(np.clip(variance, RIDGE**2, MAX_STANDARD_ERROR**2))
    return np.asarray(people.position, float) + step, errors


def _of_ancestry(faces: Faces) -> tuple[Matrix, Matrices]:
    """V^-1 - 1, which is what true ancestry has more of each fitted, and its error."""
    back = np.linalg.inv(faces.corners)
    turned = np.einsum("ai,ijmn,cm->ajcn", back, faces.covariance, back)
    covariance = np.einsum("ajcn,jb,nd->abcd", turned, back, back)
    return back - np.eye(len(back)), covariance


def _full(hessian: npt.ArrayLike, k: int) -> Matrices:
    """K x K matrices from K(K+1)/2 entries of each."""
    first, second = pair_indices(k)
    full = np.zeros((np.shape(hessian)[1], k, k))
    full[:, first, second] = full[:, second, first] = np.asarray(hessian, float).T
    return full
