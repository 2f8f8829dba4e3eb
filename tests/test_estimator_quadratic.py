"""Many small quadratic programmes, against scipy's SLSQP one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from estimator import quadratic
from estimator.tiling import ChunkSize

SIZES = [1, 2, 3, 8, 25]


def random_problems(k, n_problems, *, sum_is_fixed, rank=None, seed=0):
    """Return g, H, lower and upper bounds as they occur in a fit, problems last.

    Every third point has variables at a bound.
    """
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_problems, k, rank or k + 2))
    scale = 10.0 ** rng.uniform(-1, 4, (n_problems, 1, 1))
    hessian = scale * factors @ factors.transpose(0, 2, 1)
    gradient = scale[..., 0] * rng.normal(size=(n_problems, k))
    if sum_is_fixed:
        at = rng.dirichlet(np.full(k, 0.7), n_problems)
        at[::3] = np.where(at[::3] < 1 / k, 0, at[::3])
        at /= at.sum(axis=1, keepdims=True)
    else:
        at = rng.uniform(size=(n_problems, k))
        at[::3] = np.round(at[::3])
    problems = (gradient.T, hessian.transpose(1, 2, 0), -at.T, 1 - at.T)
    return tuple(array.astype(np.float32) for array in problems)


def solve(problems, sum_is_fixed):
    arguments = (jnp.asarray(array, jnp.float32) for array in problems)
    step = quadratic.solve_quadratic(*arguments, sum_is_fixed=sum_is_fixed)
    return np.asarray(step)


def objective(problems, step):
    gradient, hessian = (array.astype(np.float64) for array in problems[:2])
    step = step.astype(np.float64)
    curvature = np.einsum("kp,klp,lp->p", step, hessian, step)
    return (gradient * step).sum(axis=0) - curvature / 2


def scipy_steps(problems, sum_is_fixed):
    """Solve each problem by SLSQP, its objective scaled to order one."""
    gradients, hessians, lower, upper = (a.astype(np.float64) for a in problems)
    steps = np.zeros_like(gradients)
    constraint = {"type": "eq", "fun": np.sum, "jac": np.ones_like}
    for index in range(gradients.shape[1]):
        scale = max(np.abs(gradients[:, index]).max(), hessians[..., index].max(), 1e-9)
        g, h = gradients[:, index] / scale, hessians[..., index] / scale
        steps[:, index] = scipy.optimize.minimize(
            lambda d, g=g, h=h: d @ h @ d / 2 - g @ d,
            np.zeros(len(g)),
            jac=lambda d, g=g, h=h: h @ d - g,
            bounds=list(zip(lower[:, index], upper[:, index], strict=True)),
            constraints=[constraint] if sum_is_fixed else [],
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        ).x
    return steps


def assert_feasible(problems, step, sum_is_fixed):
    _, _, lower, upper = problems
    assert (step >= lower).all()
    assert (step <= upper).all()
    if sum_is_fixed:
        np.testing.assert_allclose(step.sum(axis=0), 0, atol=2e-6)


def assert_as_good_as_scipy(problems, sum_is_fixed):
    step = solve(problems, sum_is_fixed)
    assert_feasible(problems, step, sum_is_fixed)
    reached = objective(problems, step)
    best = objective(problems, scipy_steps(problems, sum_is_fixed))
    scale = np.abs(problems[0]).max(axis=0) + np.abs(problems[1]).max(axis=(0, 1))
    assert (reached >= best - 2e-6 * scale).all()
    assert (reached >= -1e-6 * scale).all()
    return step


@pytest.mark.parametrize("sum_is_fixed", [True, False])
@pytest.mark.parametrize("k", SIZES)
def test_solve__as_good_as_scipy(k, sum_is_fixed):
    problems = random_problems(k, 12, sum_is_fixed=sum_is_fixed)
    step = assert_as_good_as_scipy(problems, sum_is_fixed)
    assert k == 1 or np.abs(step).max() > 0.1


@pytest.mark.parametrize("sum_is_fixed", [True, False])
@pytest.mark.parametrize("k", [3, 8])
def test_solve__singular_hessian(k, sum_is_fixed):
    problems = random_problems(k, 12, sum_is_fixed=sum_is_fixed, rank=1, seed=1)
    assert_as_good_as_scipy(problems, sum_is_fixed)


@pytest.mark.parametrize("sum_is_fixed", [True, False])
def test_solve__no_curvature_goes_to_a_corner(sum_is_fixed):
    g, h, lower, upper = random_problems(3, 12, sum_is_fixed=sum_is_fixed, seed=2)
    problems = (g, np.zeros_like(h), lower, upper)
    step = assert_as_good_as_scipy(problems, sum_is_fixed)
    if sum_is_fixed:
        # All weight on the variable of the highest gradient, in one step.
        np.testing.assert_allclose(
            (step - lower)[g.argmax(axis=0), range(12)], 1, atol=2e-6
        )
    else:
        np.testing.assert_array_equal(step, np.where(g > 0, upper, lower))


@pytest.mark.parametrize("sum_is_fixed", [True, False])
def test_solve__zero_gradient_is_no_step(sum_is_fixed):
    g, h, lower, upper = random_problems(8, 12, sum_is_fixed=sum_is_fixed)
    for hessian in (h, np.zeros_like(h)):
        step = solve((np.zeros_like(g), hessian, lower, upper), sum_is_fixed)
        np.testing.assert_array_equal(step, 0)


def test_solve__equal_gradients_are_no_step_on_the_simplex():
    g, h, lower, upper = random_problems(3, 12, sum_is_fixed=True)
    problems = (np.full_like(g, 7.0), h, lower, upper)
    np.testing.assert_allclose(solve(problems, True), 0, atol=2e-6)


def test_solve__bounds_are_reached_exactly():
    problems = random_problems(8, 12, sum_is_fixed=True, seed=3)
    at = -problems[2]
    moved = at + solve(problems, sum_is_fixed=True)
    assert ((moved == 0) & (at > 0)).any()
    assert not ((moved > 0) & (moved < 1e-7)).any()


def test_solve__leaves_no_trace_of_what_is_given_up():
    # Those who keep one population reach its upper and the others' lower bound at once.
    rng = np.random.default_rng(4)
    at = rng.dirichlet(np.full(3, 0.5), 500).T.astype(np.float32)
    at[1] = 0
    at /= at.sum(axis=0)
    g = np.array([[-1e4], [-1e4], [1e4]], np.float32) * np.ones_like(at)
    h = np.eye(3, dtype=np.float32)[:, :, None] * np.ones(500, np.float32)
    moved = at + solve((g, h, -at, 1 - at), sum_is_fixed=True)
    np.testing.assert_array_equal(moved[:2], 0)


def test_solve__a_variable_at_its_bound_comes_back_inside():
    g = np.array([[5.0], [1.0], [-6.0]])
    h = np.eye(3)[:, :, None] * 20.0
    at = np.array([[0.0], [0.5], [0.5]])
    step = solve((g, h, -at, 1 - at), sum_is_fixed=True)
    np.testing.assert_allclose(step[:, 0], [0.25, 0.05, -0.3], atol=1e-6)


def test_solve__answers_do_not_depend_on_the_neighbours():
    n_problems = 2 * quadratic.CHUNK.cpu + 7
    problems = random_problems(3, n_problems, sum_is_fixed=True, seed=5)
    whole = solve(problems, sum_is_fixed=True)
    part = solve([array[..., -12:] for array in problems], sum_is_fixed=True)
    np.testing.assert_array_equal(whole[:, -12:], part)


@pytest.mark.parametrize("n_problems", [0, 300])
def test_solve__all_at_once_as_on_a_gpu(n_problems, monkeypatch):
    problems = random_problems(3, 300, sum_is_fixed=True, seed=5)
    problems = [array[..., :n_problems] for array in problems]
    expected = solve(problems, sum_is_fixed=True)
    monkeypatch.setattr(quadratic, "CHUNK", ChunkSize(cpu=max(n_problems, 1), gpu=1))
    jax.clear_caches()
    found = solve(problems, sum_is_fixed=True)
    jax.clear_caches()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("k", SIZES)
def test_symmetric_from_pairs__restores_matrices(k):
    matrices = np.random.default_rng(0).normal(size=(k, k, 2)).astype(np.float32)
    matrices += matrices.transpose(1, 0, 2)
    pairs = jnp.asarray(matrices[quadratic.pair_indices(k)])
    assert pairs.shape == (k * (k + 1) // 2, 2)
    np.testing.assert_array_equal(quadratic.symmetric_from_pairs(pairs, k), matrices)
