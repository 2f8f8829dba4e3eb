"""Where the true populations are: found from people drawn about known ones."""

import numpy as np
import pytest

from estimator import faces
from estimator.faces import NEAR, UNTOLD, find_faces

K = 3
# True populations, as mixtures of those of the fit.
CORNERS = np.array([[1.05, -0.03, -0.02], [0.02, 1.01, -0.03], [-0.04, 0.01, 1.03]])
ERROR = 0.02


def drawn(
    n: int,
    alpha: float,
    seed: int,
    *,
    pure: float = 0.0,
    noise: float = 1.0,
    corners: np.ndarray = CORNERS,
) -> tuple[np.ndarray, np.ndarray]:
    """True ancestry of people, and where they are fitted without bounds."""
    rng = np.random.default_rng(seed)
    k = len(corners)
    q = rng.dirichlet(np.full(k, alpha), n).T
    one = rng.random(n) < pure
    q[:, one] = np.eye(k)[rng.integers(k, size=one.sum())].T
    error = noise * ERROR * rng.standard_normal((k, n))
    # Errors of one share are others' too; each has the variance that is said of it.
    error = (error - error.mean(axis=0)) / np.sqrt(1 - 1 / k)
    return q, corners.T @ q + error


def found(x: np.ndarray, **given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = x.shape[1]
    held = given.get("held", np.zeros(n, bool))
    q = given.get("q", np.clip(x, 0, 1))
    simplex = find_faces(x, np.full(x.shape, ERROR), q, held)
    return simplex.corners, np.sqrt(np.einsum("abab->ab", simplex.covariance))


@pytest.mark.parametrize(("alpha", "pure"), [(0.25, 0), (1, 0), (1, 0.5), (0.25, 0.3)])
def test_find_faces__comes_near_as_it_says(alpha, pure):
    off = ~np.eye(K, dtype=bool)
    wrong, ratios = [], []
    for seed in range(10):
        corners, errors = found(drawn(1000, alpha, seed, pure=pure)[1])
        wrong.append((corners - CORNERS)[off])
        ratios.append(wrong[-1] / errors[off])
    # As the fit has them, they are wrong by up to 2.5 times the error of a person.
    assert np.sqrt(np.mean(np.square(wrong))) < 0.7 * ERROR
    # The spread is taken as it is likeliest, which says errors too small.
    assert 0.3 < np.sqrt(np.mean(np.square(ratios))) < 2.2


@pytest.mark.parametrize(("alpha", "outside"), [(2, 0.04), (4, 0.08)])
def test_find_faces__where_hardly_anybody_is_near_errors_are_as_long(alpha, outside):
    off = ~np.eye(K, dtype=bool)
    corners = (1 + K * outside) * np.eye(K) - outside
    ratios = []
    for seed in range(10):
        moved, errors = found(drawn(1000, alpha, seed, corners=corners)[1])
        ratios.append((moved - corners)[off] / errors[off])
    # 2.3 and 3.5 where an even density alone is thought of.
    assert 0.3 < np.sqrt(np.mean(np.square(ratios))) < 1.25 + 0.25 * alpha


def test_find_faces__rows_sum_to_one_and_so_do_their_errors():
    simplex = find_faces(
        drawn(500, 0.5, 1)[1],
        np.full((K, 500), ERROR),
        np.zeros((K, 500)),
        np.zeros(500, bool),
    )
    np.testing.assert_allclose(simplex.corners.sum(axis=1), 1)
    np.testing.assert_allclose(simplex.covariance.sum(axis=1), 0, atol=1e-12)
    flat = simplex.covariance.reshape(K * K, K * K)
    np.testing.assert_allclose(flat, flat.T, atol=1e-12)
    assert (np.linalg.eigvalsh(flat) > -1e-12).all()


def test_find_faces__error_falls_with_the_number_of_people():
    errors = [found(drawn(n, 0.25, 2)[1])[1].mean() for n in (125, 8_000)]
    # 64 times the people; how they are spread has to be told by them too.
    assert 3 < errors[0] / errors[1] < 10


def test_find_faces__nobody_near_zero_tells_nothing():
    x = np.full((2, 50), 0.5)
    corners, errors = found(x)
    np.testing.assert_allclose(corners, np.eye(2))
    np.testing.assert_allclose(errors, UNTOLD)


def test_find_faces__given_ancestry_tells_it_at_once():
    held = np.arange(120) < 90
    q = np.repeat(np.eye(K), 40, axis=1)
    rng = np.random.default_rng(3)
    x = CORNERS.T @ q + ERROR * rng.standard_normal(q.shape)
    corners, errors = found(x, q=q, held=held)
    off = ~np.eye(K, dtype=bool)
    np.testing.assert_allclose(errors[:2][off[:2]], ERROR / np.sqrt(40), rtol=0.2)
    # Ten of the last population's are given; the others tell of it too.
    assert (errors[2][off[2]] < ERROR / np.sqrt(10)).all()
    assert np.abs((corners - CORNERS) / errors)[off].max() < 4


def test_find_faces__errors_larger_than_they_are_said_to_be_are_found_out():
    # Half of the people are of one population alone, and three times as far apart as
    # their standard errors have it: no more of another population for it.
    wide = drawn(800, 1.0, 5, pure=0.9, noise=2.0)[1]
    corners, errors = found(wide)
    assert np.abs(corners - CORNERS).max() < 0.015
    narrow = found(drawn(800, 1.0, 5, pure=0.9)[1])[1]
    assert errors.mean() > 1.3 * narrow.mean()


@pytest.mark.parametrize("alpha", [0.25, 1, 4])
def test_find_faces__ends_where_it_is_likeliest(alpha, monkeypatch):
    x = drawn(500, alpha, 6)[1]
    corners, errors = found(x)
    monkeypatch.setattr(faces, "LEAST_GAIN", 1e-9)
    monkeypatch.setattr(faces, "MAX_STEPS", 400)
    off = ~np.eye(K, dtype=bool)
    further, _ = found(x)
    # Up to 0.1 where the spread is held while the face is moved.
    assert (np.abs(further - corners)[off] < 0.02 * errors[off]).all()


def test_find_faces__people_far_from_zero_change_nothing():
    x = drawn(600, 0.5, 7)[1]
    far = np.array([[0.5], [0.3], [0.2]]).repeat(100, axis=1)
    assert (far > NEAR * ERROR).all()
    np.testing.assert_allclose(found(x)[0], found(np.hstack([x, far]))[0], atol=1e-12)


def test_find_faces__same_people_same_bytes():
    x = drawn(300, 0.5, 8)[1]
    assert found(x)[0].tobytes() == found(x)[0].tobytes()
