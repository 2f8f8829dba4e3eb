"""Matching of components and RMSE, against enumeration of all permutations."""

import itertools

import numpy as np
import pytest

from estimator import metrics


def random_proportions(n_people=12, n_populations=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_populations, 0.5), size=n_people)


def test_match_components__undoes_a_permutation():
    Q = random_proportions()
    order = np.array([2, 0, 3, 1])
    permutation = metrics.match_components(Q, Q[:, order])
    np.testing.assert_array_equal(permutation, order)


@pytest.mark.parametrize("n_populations", [1, 2, 3, 5])
def test_match_components__is_the_best_of_all_permutations(n_populations):
    Q = random_proportions(n_populations=n_populations, seed=1)
    reference = random_proportions(n_populations=n_populations, seed=2)

    def distance(order):
        return np.sum((Q[:, list(order)] - reference) ** 2)

    best = min(itertools.permutations(range(n_populations)), key=distance)
    assert tuple(metrics.match_components(Q, reference)) == best


def test_match_components__is_not_greedy():
    # Column 0 is nearest to both references; giving it to the first costs more.
    reference = np.array([[1.0, 0.9], [0.0, 0.0]])
    Q = np.array([[0.95, 0.2], [0.0, 0.0]])
    by_hand = [np.sum((Q[:, o] - reference) ** 2) for o in ([0, 1], [1, 0])]
    expected = [[0, 1], [1, 0]][int(np.argmin(by_hand))]
    assert metrics.match_components(Q, reference).tolist() == expected


def test_match_components__accepts_allele_frequencies():
    P = np.random.default_rng(3).uniform(size=(3, 40))
    order = [1, 2, 0]
    assert metrics.match_components(P.T, P[order].T).tolist() == order


def test_rmse__zero_up_to_permutation_and_not_without_matching():
    Q = random_proportions()
    shuffled = Q[:, [3, 2, 1, 0]]
    assert metrics.rmse(Q, shuffled) == 0
    expected = np.sqrt(np.mean((Q - shuffled) ** 2))
    assert metrics.rmse(Q, shuffled, match=False) == pytest.approx(expected)


def test_rmse__known_value():
    Q = [[0.8, 0.2], [0.3, 0.7]]
    reference = [[0.1, 0.9], [0.7, 0.3]]
    assert metrics.rmse(Q, reference) == pytest.approx(np.sqrt(0.1**2 / 2))


def test_rmse__computes_in_float64():
    Q = random_proportions()
    difference = 1e-10
    shifted = Q + difference
    assert metrics.rmse(Q, shifted) == pytest.approx(difference, rel=1e-4)
    assert isinstance(metrics.rmse(Q.astype(np.float32), shifted), float)


@pytest.mark.parametrize(
    ("Q", "reference", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), r"got \(2, 3\) and \(2, 2\)"),
        (np.ones(3), np.ones(3), r"two tables of one shape .*got \(3,\) and \(3,\)"),
        (np.ones((0, 2)), np.ones((0, 2)), r"are empty, of shape \(0, 2\)"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), "Q is not finite.* row 1"),
        (np.ones((1, 1)), np.array([[np.inf]]), "Q_reference is not finite.* row 0"),
    ],
)
@pytest.mark.parametrize("function", [metrics.match_components, metrics.rmse])
def test_metrics__refuse_what_cannot_be_compared(function, Q, reference, message):
    with pytest.raises(ValueError, match=message):
        function(Q, reference)
