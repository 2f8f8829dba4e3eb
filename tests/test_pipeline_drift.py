"""Drift figures of people whose likelihood and residuals are known."""

import dataclasses

import numpy as np
import pytest

from pipeline.drift import Drift, People, measure_drift, reasons_to_refit
from pipeline.reprocess_config import DriftConfig

N_VARIANTS, K = 2_000, 3


def people(n: int, seed: int, *, lower: float = 0.0, flagged: int = 0) -> People:
    """People whose likelihood depends on ancestry, lower by so much a genotype."""
    rng = np.random.default_rng(seed)
    q = rng.dirichlet([0.3] * K, n).astype(np.float32)
    n_called = rng.integers(N_VARIANTS // 2, N_VARIANTS, n)
    mean = -1.0 - 0.2 * (q * q[:, [1, 2, 0]]).sum(axis=1) - 0.3 * q[:, 0] - lower
    noise = rng.normal(0, 0.4, n) * np.sqrt(n_called)
    poorly = np.arange(n) < flagged
    return People(
        q,
        mean * n_called + noise,
        n_called,
        np.where(poorly, 0.1, 0.0).astype(np.float32),
        poorly,
    )


OPTIMISM = K / 400


def test_measure_drift__people_alike_do_not_drift():
    found = measure_drift(people(400, 0), people(100, 1, lower=OPTIMISM), 400)
    assert (found.n_training, found.n_newcomers) == (400, 100)
    assert found.newcomers_unlikely == 0
    assert found.newcomers_log_likelihood == pytest.approx(
        found.expected_log_likelihood, abs=0.003
    )
    assert found.fit_changed == 0
    assert reasons_to_refit(found, DriftConfig()) == []


def test_measure_drift__other_ancestry_alone_is_no_drift():
    rare = people(400, 1, lower=OPTIMISM)
    rare = rare.subset(rare.ancestry[:, 0] > 0.8)
    found = measure_drift(people(400, 0), rare, 400)
    assert found.newcomers_log_likelihood is not None
    assert found.training_log_likelihood is not None
    assert found.newcomers_log_likelihood < found.training_log_likelihood - 0.1
    assert found.newcomers_unlikely == 0


def test_measure_drift__unlikely_genotypes_and_residuals():
    newcomers = people(100, 1, lower=0.1, flagged=60)
    found = measure_drift(people(400, 0), newcomers, 500)
    assert found.newcomers_unlikely is not None
    assert found.newcomers_unlikely > 0.9
    assert found.training_unlikely == pytest.approx(0, abs=0.01)
    reasons = reasons_to_refit(found, DriftConfig())
    assert len(reasons) == 3
    assert reasons[0] == "20% of the people of the fit left or changed"
    assert "60% of 100 newcomers are not described by the populations" in reasons


def test_measure_drift__few_and_uncalled_people():
    nobody = people(100, 1).subset(np.zeros(100, bool))
    found = measure_drift(people(400, 0), nobody, 400)
    assert found.newcomers_unlikely is None
    assert reasons_to_refit(found, DriftConfig()) == []
    few = people(20, 1, lower=0.2, flagged=20)
    assert (
        reasons_to_refit(measure_drift(people(400, 0), few, 400), DriftConfig()) == []
    )
    uncalled = dataclasses.replace(few, n_called=np.zeros(20, np.int64))
    assert measure_drift(people(400, 0), uncalled, 400).n_newcomers == 0
    # A fit of hardly anybody.
    assert measure_drift(people(7, 0), few, 7).expected_log_likelihood is not None


def test_drift__figures_are_json():
    values = measure_drift(people(400, 0), people(50, 1), 400).as_json()
    assert Drift(**values).n_newcomers == 50
    assert all(isinstance(v, (int, float)) for v in values.values())


@pytest.mark.parametrize("n_training", [1, 50])
def test_measure_drift__people_of_one_likelihood_say_nothing(n_training):
    """As one person is, or copies: any newcomer would be unlikely beside them."""
    training = people(1, 0).subset(np.zeros(n_training, int))
    found = measure_drift(training, people(100, 1), n_training)
    assert found.training_unlikely is None
    assert found.newcomers_unlikely is None
    assert found.expected_log_likelihood is not None
    reasons = reasons_to_refit(found, DriftConfig())
    assert not [reason for reason in reasons if "unlikely" in reason]
