"""Variants as they might have come out: genotypes drawn, and the models of them.

Of a variant that few people carry, a population may well be without any. Its frequency
is then fitted at the bound, where the likelihood has a slope that no quadratic model
about the true frequency has. So genotypes are drawn, and each variant is modelled as a
fit models it, where its likelihood is highest.

References
----------
Efron and Tibshirani (1993), An Introduction to the Bootstrap. Parametric bootstrap.
Tang, Peng, Wang and Risch (2005), Genetic Epidemiology 28:289-301. The EM algorithm.
"""

import numpy as np
import numpy.typing as npt

from estimator.basis import Models, change_of_frequencies, step_in_basis
from estimator.config import MIN_FREQUENCY
from estimator.quadratic import pair_indices

Floats = npt.NDArray[np.float32]

# People that alleles are drawn for, each with those of all whom one stands for.
MAX_PEOPLE = 64
# EM comes near the maximum from anywhere, and Newton's method from there to it.
EM_STEPS, NEWTON_STEPS = 4, 2


def draw_variants(
    ancestry: Floats, frequencies: Floats, alleles: float, rng: np.random.Generator
) -> Models:
    """Draw genotypes of variants, and model each where its likelihood is highest.

    Parameters
    ----------
    ancestry
        Q of some people, one a column.
    frequencies
        P, one variant a column, inside (0, 1).
    alleles
        Called alleles of a variant, of everybody together.
    rng
        What draws.

    Returns
    -------
    Models of the variants, with these people's Q known.
    """
    stride = -(-ancestry.shape[1] // MAX_PEOPLE)
    q = ancestry[:, rng.integers(stride) :: stride]
    counts = _draw_alleles(q, frequencies, alleles, rng)
    p = _nearly_fitted(q, frequencies, *counts)
    for _ in range(NEWTON_STEPS):
        models = _expand(q, p, *counts)
        same = change_of_frequencies(np.eye(len(q)))
        p = np.asarray(step_in_basis(models, same, simplex=False))
    return _expand(q, p, *counts)


def _draw_alleles(
    q: Floats, frequencies: Floats, alleles: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Alternate and reference alleles of people by variants."""
    share = alleles / q.shape[1]
    shape = q.shape[1], frequencies.shape[1]
    called = np.floor(np.float32(share) + rng.random(shape, np.float32))
    alternate = rng.binomial(called.astype(np.int64), _pooled(q, frequencies))
    return alternate.astype(np.float32), (called - alternate).astype(np.float32)


def _pooled(q: Floats, p: Floats) -> Floats:
    """Frequencies in people: people by variants."""
    return np.clip(q.T @ p, MIN_FREQUENCY, 1 - MIN_FREQUENCY)


def _nearly_fitted(
    q: Floats, p: Floats, alternate: Floats, reference: Floats
) -> Floats:
    """Frequencies after some steps of EM: alleles, by the population they are from."""
    for _ in range(EM_STEPS):
        f = _pooled(q, p)
        first = p * (q @ (alternate / f))
        both = first + (1 - p) * (q @ (reference / (1 - f)))
        # A population without people keeps what it had.
        p = np.divide(first, both, out=p.copy(), where=both > 0)
        p = np.clip(p, MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    return p


def _expand(q: Floats, p: Floats, alternate: Floats, reference: Floats) -> Models:
    """Models of the variants' log-likelihoods at P."""
    first, second = pair_indices(len(q))
    f = _pooled(q, p)
    rise, fall = alternate / f, reference / (1 - f)
    hessian = (q[first] * q[second]) @ (rise / f + fall / (1 - f))
    return Models(p, q @ (rise - fall), hessian, np.zeros(p.shape[1], bool))
