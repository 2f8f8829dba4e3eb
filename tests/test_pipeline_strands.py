"""The statistics of strands against simulated cohorts and scipy's distributions."""

import numpy as np
import pytest
import scipy.stats

from pipeline import strands


def _populations(n_variants: int, fst: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = (1 - fst) / fst
    ancestral = rng.uniform(0.05, 0.95, n_variants)
    drawn = rng.beta(ancestral * scale, (1 - ancestral) * scale, (3, n_variants))
    return drawn.clip(1e-3, 1 - 1e-3)


def test_mean_ancestry__is_the_mixture_that_frequencies_come_from():
    p = _populations(5_000, 0.1, 0)
    truth = np.array([0.7, 0.3, 0.0])
    np.testing.assert_allclose(strands.mean_ancestry(truth @ p, p), truth, atol=1e-3)


def test_dispersion__is_what_frequencies_were_drawn_with():
    rng = np.random.default_rng(1)
    e = rng.uniform(0.1, 0.9, 20_000)
    for spread, n in ((0.01, 50), (0.1, 1_000), (0.05, 2)):
        precision = 1 / spread - 1
        p = rng.beta(e * precision, (1 - e) * precision)
        x = rng.binomial(n, p)
        found = strands.dispersion(x / n, np.full(len(e), float(n)), e)
        assert found == pytest.approx(spread, rel=0.1, abs=0.01)


def test_dispersion__without_anything_to_measure_is_the_largest():
    assert strands.dispersion(np.zeros(0), np.zeros(0), np.zeros(0)) == 1
    assert strands.dispersion(np.ones(3), np.ones(3), np.full(3, 0.5)) == 1


@pytest.mark.parametrize(("x", "n", "e"), [(3, 40, 0.1), (30, 40, 0.8), (0, 2, 0.05)])
def test_decide__odds_are_those_of_the_beta_binomial(x, n, e, monkeypatch):
    spread = 0.02
    a, b = e * (1 / spread - 1), (1 - e) * (1 / spread - 1)
    odds = scipy.stats.betabinom.logpmf(x, n, a, b)
    odds -= scipy.stats.betabinom.logpmf(x, n, b, a)
    arguments = (np.array([float(x)]), np.array([float(n)]), np.array([e]), spread)
    for offset, expected in ((-1e-6, np.sign(odds)), (1e-6, 0)):
        monkeypatch.setattr(strands, "MIN_LOG_ODDS", abs(odds) + offset)
        assert strands.decide(*arguments).tolist() == [expected]


@pytest.mark.parametrize(
    ("x", "n", "e", "spread", "decision"),
    [
        (40, 400, 0.1, 0.001, 1),
        (360, 400, 0.1, 0.001, -1),
        (200, 400, 0.1, 0.001, 0),  # on neither strand
        (190, 400, 0.5, 0.001, 0),  # both strands alike
        (196, 400, 0.48, 0.001, 0),  # too near one half
        (0, 2, 0.1, 0.001, 0),  # one person does not tell
        (40, 400, 0.1, 0.5, 0),  # another population altogether
        (0, 0, 0.1, 0.001, 0),  # nobody is called
        (0, 4_000, 1e-5, 0.001, 1),
        (4_000, 4_000, 1e-5, 0.001, -1),
    ],
)
def test_decide__cases(x, n, e, spread, decision):
    arguments = (np.array([float(x)]), np.array([float(n)]), np.array([e]), spread)
    assert strands.decide(*arguments).tolist() == [decision]


def test_decide__turning_every_count_round_turns_every_decision_round_exactly():
    rng = np.random.default_rng(2)
    n = rng.integers(0, 500, 5_000).astype(float)
    x = np.floor(n * rng.random(5_000))
    e = rng.random(5_000)
    turned = strands.decide(n - x, n, e, 0.01)
    np.testing.assert_array_equal(strands.decide(x, n, e, 0.01), -turned)


@pytest.mark.parametrize("n_people", [20, 300])
def test_decide__of_simulated_cohorts_is_hardly_ever_wrong(n_people):
    """Cohorts of other populations than the model's, which drifted from them."""
    rng = np.random.default_rng(n_people)
    p = _populations(40_000, 0.1, 3)
    scale = (1 - 0.02) / 0.02
    drifted = rng.beta(p * scale, (1 - p) * scale)
    q = rng.dirichlet([0.5, 0.2, 0.1], n_people)
    x = rng.binomial(2, q @ drifted).sum(axis=0).astype(float)
    n = np.full(x.size, 2.0 * n_people)
    mixture = strands.mean_ancestry(x[:20_000] / n[:20_000], p[:, :20_000])
    expected = mixture @ p
    spread = strands.dispersion(x[:20_000] / n[:20_000], n[:20_000], expected[:20_000])
    decision = strands.decide(x[20_000:], n[20_000:], expected[20_000:], spread)
    assert np.count_nonzero(decision < 0) <= 4
    assert np.count_nonzero(decision > 0) > (8_000 if n_people > 100 else 5_000)
