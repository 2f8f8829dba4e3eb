"""The step of the basis: derivatives by differences, and what it must leave alone."""

import itertools

import numpy as np
import pytest

from estimator import basis, basis_choice
from estimator.basis import Models, change_of_ancestry, change_of_frequencies
from estimator.basis_choice import choose_basis
from estimator.config import MIN_FREQUENCY
from estimator.quadratic import pair_indices
from tests import oracle

K, N_PEOPLE, N_VARIANTS = 3, 60, 90


def models(position, gradient, hessian, held=None):
    """Models from full Hessians (n, k, k)."""
    n = position.shape[1]
    rows, columns = pair_indices(len(position))
    return Models(
        position.astype(np.float32),
        gradient.astype(np.float32),
        hessian[:, rows, columns].T.astype(np.float32),
        np.zeros(n, bool) if held is None else held,
    )


def random_hessians(rng, n):
    roots = rng.normal(size=(n, K, 6))
    return 20 * roots @ roots.transpose(0, 2, 1)


def people(seed=0, held=None):
    """Models with a third of the people at some bound."""
    rng = np.random.default_rng(seed)
    q = rng.dirichlet([0.5] * K, N_PEOPLE)
    q[q < 0.05] = 0
    q /= q.sum(axis=1, keepdims=True)
    gradient = 15 * rng.normal(size=(K, N_PEOPLE))
    return models(q.T, gradient, random_hessians(rng, N_PEOPLE), held)


def variants(seed=1):
    rng = np.random.default_rng(seed)
    p = rng.uniform(-0.2, 1.2, (K, N_VARIANTS))
    p = np.clip(p, MIN_FREQUENCY, 1 - MIN_FREQUENCY)
    gradient = 15 * rng.normal(size=(K, N_VARIANTS))
    return models(p, gradient, random_hessians(rng, N_VARIANTS))


def small_step(rng, size):
    step = size * rng.normal(size=(K, K))
    return step - step.mean(axis=1, keepdims=True)


CASES = [
    pytest.param(people, change_of_ancestry, True, id="people"),
    pytest.param(variants, change_of_frequencies, False, id="variants"),
]


def further(change, simplex, step):
    """The change of a further step 1 + D within the coordinates of a change."""
    return basis.Change(
        np.asarray(change.to_old, np.float64) @ (np.eye(K) + step),
        np.linalg.inv(np.eye(K) + step) @ np.asarray(change.to_new, np.float64),
    )


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("make", "change_of", "simplex"), CASES)
def test_surface__has_the_derivatives_of_its_value(make, change_of, simplex, far):
    rng = np.random.default_rng(3)
    change = change_of(np.eye(K) + (small_step(rng, 0.05) if far else 0))
    found = basis.surface(make(), change, simplex=simplex)
    step = small_step(rng, 1)
    # Of ancestry D is the transpose of a step whose rows sum to zero.
    direction = step.T if simplex else step

    def value(share):
        moved = further(change, simplex, share * direction)
        cast = basis.Change(*(each.astype(np.float32) for each in moved))
        return float(basis.surface(make(), cast, simplex=simplex).value)

    slope = (value(1e-3) - value(-1e-3)) / 2e-3
    expected = np.sum(np.asarray(found.gradient) * direction)
    np.testing.assert_allclose(slope, expected, rtol=0.02, atol=1)
    # A second difference in D is linear in the values' coordinates, as D is.
    size = 4e-3
    bend = (value(size) + value(-size) - 2 * float(found.value)) / size**2
    curved = np.einsum("abcd,ab,cd->", found.curvature, direction, direction)
    np.testing.assert_allclose(bend, curved, rtol=0.15)


@pytest.mark.parametrize(("make", "change_of", "simplex"), CASES)
def test_pull__is_the_gradient_of_the_surface_at_the_old_basis(
    make, change_of, simplex
):
    unmoved = change_of(np.eye(K))
    values = basis.step_in_basis(make(), unmoved, simplex=simplex)
    pulled = np.asarray(basis.pull(make(), values, simplex=simplex))
    gradient = np.asarray(basis.surface(make(), unmoved, simplex=simplex).gradient)
    expected = gradient.T if simplex else -gradient
    np.testing.assert_allclose(pulled, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("make", "change_of", "simplex"), CASES)
def test_step_in_basis__stays_in_the_constraints_and_beats_the_start(
    make, change_of, simplex
):
    rng = np.random.default_rng(5)
    change = change_of(np.eye(K) + small_step(rng, 0.1))
    values = np.asarray(basis.step_in_basis(make(), change, simplex=simplex))
    if simplex:
        assert (values >= 0).all()
        np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-6)
    else:
        assert (values >= MIN_FREQUENCY).all()
        assert (values <= 1 - MIN_FREQUENCY).all()
    assert float(basis.surface(make(), change, simplex=simplex).value) > 0


def test_step_in_basis__leaves_those_who_are_held():
    held = np.arange(N_PEOPLE) % 4 == 0
    of_people = people(held=held)
    change = change_of_ancestry(np.eye(K) + small_step(np.random.default_rng(6), 0.1))
    values = np.asarray(basis.step_in_basis(of_people, change, simplex=True))
    np.testing.assert_array_equal(values[:, held], of_people.position[:, held])


def test_step_in_basis__of_frequencies_outside_the_bounds():
    rising = models(
        np.array([[0.0, 1.0, 0.5]]),
        np.array([[3.0, -3.0, 0.0]]),
        np.full((3, 1, 1), 10.0),
    )
    values = basis.step_in_basis(
        rising, change_of_frequencies(np.eye(1)), simplex=False
    )
    np.testing.assert_allclose(values, [[0.3, 0.7, 0.5]], atol=3e-5)


def half_of(whole):
    return Models(
        whole.position[:, ::2],
        whole.gradient[:, ::2],
        whole.hessian[:, ::2],
        whole.held[::2],
    )


def everything(of_people, of_variants):
    q = basis.step_in_basis(of_people, change_of_ancestry(np.eye(K)), simplex=True)
    p = basis.step_in_basis(
        of_variants, change_of_frequencies(np.eye(K)), simplex=False
    )
    pulled = basis.pull(of_people, q, simplex=True) + basis.pull(
        of_variants, p, simplex=False
    )
    return np.asarray(pulled)


def value_in(chosen, of_people, of_variants):
    return float(
        basis.surface(of_people, change_of_ancestry(chosen), simplex=True).value
        + basis.surface(of_variants, change_of_frequencies(chosen), simplex=False).value
    )


def test_choose_basis__does_not_depend_on_the_last_bit_of_a_length(monkeypatch):
    of_people, of_variants = people(), variants()
    whole = {
        "weights": (1, 1),
        "gradient": everything(of_people, of_variants),
        "radius": 0.4,
    }
    expected = choose_basis(of_people, of_variants, **whole)
    length, calls = basis_choice._length, itertools.count()

    def rounded(step):
        # A step cut down to the radius comes out longer than it.
        return length(step) * (1 + 1e-14 * next(calls))

    monkeypatch.setattr(basis_choice, "_length", rounded)
    found = choose_basis(of_people, of_variants, **whole)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_choose_basis__gains_on_the_models():
    of_people, of_variants = people(), variants()
    chosen = choose_basis(
        of_people,
        of_variants,
        weights=(1, 1),
        gradient=everything(of_people, of_variants),
        radius=0.4,
    )
    np.testing.assert_allclose(chosen.sum(axis=1), 1, atol=1e-12)
    assert np.abs(chosen - np.eye(K)).max() > 1e-3
    best = value_in(chosen, of_people, of_variants)
    gain = best - value_in(np.eye(K), of_people, of_variants)
    assert gain > 10
    rng = np.random.default_rng(7)
    for _ in range(10):
        near = chosen + small_step(rng, 0.01) @ chosen
        # The last Newton step gained a tenth of the first one's at most.
        assert value_in(near, of_people, of_variants) < best + 0.01 * gain


def test_choose_basis__a_sample_is_held_to_the_gradient_over_everybody():
    of_people, of_variants = people(), variants()
    half = [half_of(each) for each in (of_people, of_variants)]
    # At a maximum over everybody the pull is zero, whatever the sample says.
    chosen = choose_basis(*half, weights=(2, 2), gradient=np.zeros((K, K)), radius=0.4)
    np.testing.assert_allclose(chosen, np.eye(K), atol=1e-9)


@pytest.mark.parametrize(("k", "radius"), [(1, 0.4), (K, 0.0)])
def test_choose_basis__has_no_choice(k, radius):
    rng = np.random.default_rng(8)
    of_people, of_variants = (
        Models(m.position[:k], m.gradient[:k], m.hessian[: k * (k + 1) // 2], m.held)
        for m in (people(), variants())
    )
    chosen = choose_basis(
        of_people,
        of_variants,
        weights=(1, 1),
        gradient=rng.normal(size=(k, k)),
        radius=radius,
    )
    np.testing.assert_array_equal(chosen, np.eye(k))


@pytest.mark.parametrize("gradient", [np.nan, np.inf])
def test_choose_basis__of_what_is_not_a_number_stays(gradient):
    of_people, of_variants = people(), variants()
    chosen = choose_basis(
        of_people,
        of_variants,
        weights=(1, 1),
        gradient=np.full((K, K), gradient),
        radius=0.4,
    )
    np.testing.assert_array_equal(chosen, np.eye(K))


def test_change_of_basis__leaves_every_frequency_of_a_person():
    data = oracle.simulate(20, 50, K, seed=2)
    chosen = np.eye(K) + small_step(np.random.default_rng(9), 0.1)
    of_people, of_variants = change_of_ancestry(chosen), change_of_frequencies(chosen)
    q = np.asarray(of_people.to_new) @ data.ancestry.T
    p = np.asarray(of_variants.to_new) @ data.frequencies
    np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-6)
    expected = data.ancestry @ data.frequencies
    np.testing.assert_allclose(q.T @ p, expected, atol=1e-6)
