"""Which basis to take next: Newton's method on the surface of the models' maxima.

Plain numpy on matrices of the size of K, or K^2, on the host (`basis`).
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg

from estimator.basis import (
    Matrix,
    Models,
    Surface,
    change_of_ancestry,
    change_of_frequencies,
    surface,
)

MAX_NEWTON_STEPS = 5
MAX_REDUCTIONS = 3
# A Newton step that gains less than this share of the first one's gain is the last.
SMALL_GAIN = 0.1
# A step cut down to the radius is as long as that but for rounding, and not beyond it.
_BEYOND = 1 + 1e-6


class Expansion(NamedTuple):
    """F near a basis, in the entries of a further step E: (1 + E) A."""

    value: float
    gradient: Matrix
    curvature: Matrix


class BasisObjective:
    """F of a sample, which can be made to agree at A = 1 with the whole's gradient.

    Parameters
    ----------
    people, variants
        Models of a sample of each.
    weights
        How many people, and how many variants, one of the sample stands for.
    """

    def __init__(
        self, people: Models, variants: Models, weights: tuple[float, float]
    ) -> None:
        self._people, self._variants = people, variants
        self._weights = weights
        self._correction = np.zeros((len(people.position),) * 2)

    def match(self, here: Expansion, gradient: Matrix) -> Expansion:
        """Make the gradient at A = 1, where F was expanded, the given one."""
        self._correction = gradient - here.gradient
        return here._replace(gradient=gradient)

    def expand(self, basis: Matrix) -> Expansion:
        """Expand F at a basis."""
        k = len(basis)
        of_people: Surface = jax.device_get(
            surface(self._people, change_of_ancestry(basis), simplex=True)
        )
        of_variants: Surface = jax.device_get(
            surface(self._variants, change_of_frequencies(basis), simplex=False)
        )
        # D is E' for people, and (1 + E)^-1 - 1 = -E + EE for variants.
        turned = of_people.curvature.transpose(1, 0, 3, 2)
        second = np.einsum("ac,be->abec", of_variants.gradient, np.eye(k))
        second = second + second.transpose(2, 3, 0, 1)
        n_people, n_variants = self._weights
        gradient = n_people * of_people.gradient.T - n_variants * of_variants.gradient
        curvature = n_people * turned + n_variants * (of_variants.curvature + second)
        return Expansion(
            n_people * float(of_people.value)
            + n_variants * float(of_variants.value)
            + float(np.sum(self._correction * (basis - np.eye(k)))),
            np.asarray(gradient) + self._correction @ basis.T,
            np.asarray(curvature),
        )


def choose_basis(
    people: Models,
    variants: Models,
    *,
    weights: tuple[float, float],
    gradient: Matrix,
    radius: float,
) -> Matrix:
    """Choose the populations of the next point, as mixtures of the present ones.

    Parameters
    ----------
    people, variants
        Models of a sample of each.
    weights
        How many people, and how many variants, one of the sample stands for.
    gradient
        Sum of `pull` over everybody and every variant.
    radius
        Longest step, as the largest sum over a row of the absolute entries of A - 1;
        below 1, so that A has an inverse.

    Returns
    -------
    A, of K rows that each sum to 1: the new P is close to A P, the new Q to Q A^-1.
    The unit matrix where nothing is gained.
    """
    k = len(people.position)
    basis = np.eye(k)
    if k == 1 or radius == 0:
        return basis
    objective = BasisObjective(people, variants, weights)
    here, first_gain = objective.match(objective.expand(basis), gradient), 0.0
    if not np.isfinite(here.gradient).all():
        return basis
    for _ in range(MAX_NEWTON_STEPS):
        step = _newton_step(here, radius)
        for _ in range(MAX_REDUCTIONS):
            tried = basis + step @ basis
            found = objective.expand(tried)
            if found.value > here.value:
                break
            step = step / 4
        else:
            break
        gain = found.value - here.value
        basis, here = tried, found
        first_gain = first_gain or gain
        too_far = _length(basis - np.eye(k)) > _BEYOND * radius
        if gain <= SMALL_GAIN * first_gain or too_far:
            break
    return basis


def _length(step: Matrix) -> float:
    return float(np.abs(step).sum(axis=1).max())


def row_directions(k: int) -> Matrix:
    """Orthonormal steps of a K x K matrix whose rows keep their sums, one a column."""
    return np.kron(np.eye(k), scipy.linalg.helmert(k).T)


def _newton_step(here: Expansion, radius: float) -> Matrix:
    """Newton step whose rows sum to zero, no longer than the radius."""
    k = len(here.gradient)
    directions = row_directions(k)
    slope = directions.T @ here.gradient.ravel()
    curvature = -directions.T @ here.curvature.reshape(k * k, k * k) @ directions
    scale = float(np.abs(np.diagonal(curvature)).max())
    if not np.isfinite(scale) or scale == 0:
        return np.zeros((k, k))
    shift = 1e-9 * scale
    while True:
        # Shifted until it is positive definite, as it is near the maximum.
        try:
            factor = scipy.linalg.cho_factor(
                curvature + shift * np.eye(len(curvature)), lower=True
            )
            break
        except np.linalg.LinAlgError:
            shift *= 100
    step = (directions @ scipy.linalg.cho_solve(factor, slope)).reshape(k, k)
    return step * min(1.0, radius / max(_length(step), 1e-300))
