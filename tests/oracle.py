"""The ADMIXTURE model in float64 numpy: dense, slow and plain, to compare against.

Genotypes are counts of people by variants with anything negative missing, or pairs of
alternate alleles and alleles observed (see `counts`); Q is people
by populations and P populations by variants. Nothing here is shared with `estimator`
but the bound on frequencies.
"""

from dataclasses import dataclass

import numpy as np
import scipy.optimize

from estimator.config import MIN_FREQUENCY


@dataclass(frozen=True)
class Cohort:
    """Simulated genotypes and the parameters that they were drawn from."""

    genotypes: np.ndarray
    ancestry: np.ndarray
    frequencies: np.ndarray

    @property
    def n_observed(self):
        return int((self.genotypes >= 0).sum())


@dataclass(frozen=True)
class Optimum:
    ancestry: np.ndarray
    frequencies: np.ndarray
    log_likelihood: float


def simulate(
    n_people, n_variants, k, *, seed, missing_rate=0.02, fst=0.2, concentration=0.3
):
    """Draw a cohort from the Balding-Nichols model with Dirichlet ancestry."""
    rng = np.random.default_rng(seed)
    ancestral = rng.uniform(0.1, 0.9, n_variants)
    scale = (1 - fst) / fst
    frequencies = rng.beta(
        ancestral * scale, (1 - ancestral) * scale, (k, n_variants)
    ).clip(0.01, 0.99)
    ancestry = rng.dirichlet(np.full(k, concentration), n_people)
    genotypes = rng.binomial(2, ancestry @ frequencies).astype(np.int8)
    genotypes[rng.uniform(size=genotypes.shape) < missing_rate] = -1
    return Cohort(genotypes, ancestry, frequencies)


def pooled_frequency(genotypes):
    """Frequency of the alternate allele among called genotypes; 0.5 without any."""
    called = (genotypes >= 0).sum(axis=0)
    alternate = np.where(genotypes >= 0, genotypes, 0).sum(axis=0)
    return np.where(called > 0, alternate / (2 * np.maximum(called, 1)), 0.5)


def counts(genotypes):
    """Alternate and reference alleles counted, both zero where missing.

    Instead of genotypes, a pair of alternate alleles (fractional or not) and of
    alleles observed (0, 1 or 2).
    """
    if isinstance(genotypes, tuple):
        alternate, observed = genotypes
        return alternate, observed - alternate
    called = genotypes >= 0
    alternate = np.where(called, genotypes, 0).astype(np.float64)
    return alternate, np.where(called, 2 - alternate, 0.0)


def person_log_likelihood(genotypes, ancestry, frequencies):
    p = ancestry.astype(np.float64) @ frequencies.astype(np.float64)
    alternate, reference = counts(genotypes)
    return (alternate * np.log(p) + reference * np.log1p(-p)).sum(axis=1)


def log_likelihood(genotypes, ancestry, frequencies):
    return float(person_log_likelihood(genotypes, ancestry, frequencies).sum())


def slopes(genotypes, ancestry, frequencies):
    """First derivative of each genotype's log-likelihood in p, minus the second."""
    p = ancestry.astype(np.float64) @ frequencies.astype(np.float64)
    alternate, reference = counts(genotypes)
    first = alternate / p - reference / (1 - p)
    return first, alternate / p**2 + reference / (1 - p) ** 2


def ancestry_gradient(genotypes, ancestry, frequencies):
    return slopes(genotypes, ancestry, frequencies)[0] @ frequencies.T


def ancestry_hessian(genotypes, ancestry, frequencies):
    """Negative Hessians in the rows of Q, shape (people, K, K)."""
    second = slopes(genotypes, ancestry, frequencies)[1]
    return np.einsum("im,km,lm->ikl", second, frequencies, frequencies, optimize=True)


def frequency_gradient(genotypes, ancestry, frequencies):
    return ancestry.T @ slopes(genotypes, ancestry, frequencies)[0]


def frequency_hessian(genotypes, ancestry, frequencies):
    """Negative Hessians in the columns of P, shape (variants, K, K)."""
    second = slopes(genotypes, ancestry, frequencies)[1]
    return np.einsum("im,ik,il->mkl", second, ancestry, ancestry, optimize=True)


def central_difference(function, at, index, step=1e-5):
    """Derivative of a function of an array in one of its entries."""
    shift = np.zeros_like(at, dtype=np.float64)
    shift[index] = step
    return (function(at + shift) - function(at - shift)) / (2 * step)


def expectation_maximisation(genotypes, ancestry, frequencies):
    """One step of EM for both (Tang et al. 2005, doi:10.1002/gepi.20064)."""
    p = ancestry @ frequencies
    alternate, reference = counts(genotypes)
    ratio, complement = alternate / p, reference / (1 - p)
    called = np.maximum((alternate + reference).sum(axis=1, keepdims=True), 1)
    share = ancestry * (ratio @ frequencies.T + complement @ (1 - frequencies).T)
    informative = (genotypes >= 0).any(axis=1, keepdims=True)
    up = frequencies * (ancestry.T @ ratio)
    down = (1 - frequencies) * (ancestry.T @ complement)
    total = up + down
    updated = np.where(total > 0, up / np.where(total > 0, total, 1), frequencies)
    return (
        np.where(informative, share / called, ancestry),
        updated.clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY),
    )


def fit(genotypes, ancestry, frequencies, *, em_steps=20, fixed=None):
    """Climb from a start to the maximum of the likelihood it leads to.

    EM, then bounded quasi-Newton on P and on rows of Q written as shares u / sum(u),
    which leaves only bounds as constraints. People who are fixed keep their Q.
    """
    free = np.ones(len(ancestry), bool) if fixed is None else ~fixed
    given = ancestry
    for _ in range(em_steps):
        ancestry, frequencies = expectation_maximisation(
            genotypes, ancestry, frequencies
        )
        ancestry = np.where(free[:, None], ancestry, given)
    shape, n_ancestry = ancestry[free].shape, ancestry[free].size

    def split(x):
        shares = x[:n_ancestry].reshape(shape)
        total = shares.sum(axis=1, keepdims=True)
        q = given.astype(np.float64)
        q[free] = shares / total
        return q, total, x[n_ancestry:].reshape(frequencies.shape)

    def loss(x):
        q, total, p = split(x)
        slope = ancestry_gradient(genotypes, q, p)[free]
        slope = (slope - (slope * q[free]).sum(axis=1, keepdims=True)) / total
        gradient = [slope.ravel(), frequency_gradient(genotypes, q, p).ravel()]
        return -log_likelihood(genotypes, q, p), -np.concatenate(gradient)

    bounds = [(0.0, 1.0)] * n_ancestry
    bounds += [(MIN_FREQUENCY, 1 - MIN_FREQUENCY)] * frequencies.size
    start = np.concatenate([ancestry[free].ravel(), frequencies.ravel()])
    found = scipy.optimize.minimize(
        loss,
        start.clip(*np.transpose(bounds)),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 5000, "maxfun": 10000, "maxcor": 30, "ftol": 1e-15},
    )
    q, _, p = split(found.x)
    return Optimum(q, p, log_likelihood(genotypes, q, p))
