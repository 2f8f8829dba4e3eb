"""The joint training's gradient against dense float64 numpy, and what a step does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from estimator import joint, training
from estimator.config import AncestryEstimatorConfig
from estimator.counting import count_called
from estimator.likelihood import (
    ancestry_statistics,
    frequency_statistics,
    likelihood_slopes,
)
from estimator.packing import pack_genotypes
from estimator.tiling import TileShape, pad_shard, tile_variants
from tests import oracle

N, M, K = 60, 90, 3
TILE = TileShape(people=16, width=8)
CONFIG = AncestryEstimatorConfig(
    n_snps=M, n_populations=K, hidden_dims=(6,), dropout_rate=0.0
)
SCHEDULE = joint.JointSchedule(learning_rate=1e-2, frequency_rate=0.5, n_steps=40)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.full(K, 0.5), N).astype(np.float32)
    p = rng.uniform(0.1, 0.9, (K, M)).astype(np.float32)
    genotypes = rng.binomial(2, q @ p).astype(np.int8)
    genotypes[rng.random((N, M)) < 0.1] = -1
    genotypes[7] = -1
    packed = pad_shard(pack_genotypes(genotypes), TILE)
    features = rng.standard_normal((len(packed), K)).astype(np.float32)
    weights = training.initial_weights(CONFIG, seed=1)
    return q, p, genotypes, packed, features, weights


def tiles(values):
    return tile_variants(jnp.asarray(values), TILE.width)


def gradient_at(case, *, features=None, weights=None, p=None):
    _, p_true, _, packed, x, w = case
    return joint.joint_gradient(
        w if weights is None else weights,
        jnp.asarray(packed),
        jnp.asarray(count_called(packed).astype(np.float32)),
        jnp.asarray(x if features is None else features),
        tiles(p_true if p is None else p),
        CONFIG,
        TILE,
    )


def dense_loss(case, weights):
    """Minus the log-likelihood per call, summed over people, in float64."""
    _, p, genotypes, _, features, _ = case
    q = np.asarray(training.encode(CONFIG, weights, features), np.float64)[:N]
    total = 0.0
    for i in range(N):
        called = genotypes[i : i + 1]
        n_called = np.count_nonzero(called >= 0)
        if n_called:
            total -= oracle.log_likelihood(called, q[i : i + 1], p) / n_called
    return total


def test_likelihood_slopes__are_those_of_the_statistics(case):
    q, p, _, packed, _, _ = case
    padded = np.full((len(packed), K), 1 / K, np.float32)
    padded[:N] = q
    arguments = (jnp.asarray(packed), jnp.asarray(padded), tiles(p))
    slopes = likelihood_slopes(*arguments, tile=TILE)
    ancestry = ancestry_statistics(*arguments, tile=TILE)
    frequencies = frequency_statistics(*arguments, tile=TILE)
    np.testing.assert_allclose(slopes.ancestry, ancestry.gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        slopes.frequencies, frequencies.gradient, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(slopes.log_likelihood, ancestry.log_likelihood)


def test_joint_gradient__of_weights_is_that_of_the_dense_loss(case):
    weights = case[-1]
    found = gradient_at(case)
    np.testing.assert_allclose(found.encoder.loss, dense_loss(case, weights), rtol=1e-5)
    assert found.encoder.n_people == N - 1
    rng = np.random.default_rng(5)
    direction = jax.tree.map(
        lambda w: rng.standard_normal(w.shape).astype(np.float32), weights
    )
    step = 1e-2
    ahead, behind = (
        dense_loss(case, jax.tree.map(lambda w, v, s=s: w + s * v, weights, direction))
        for s in (np.float32(step), np.float32(-step))
    )
    along = sum(
        float(np.sum(np.asarray(g, np.float64) * v))
        for g, v in zip(
            jax.tree.leaves(found.encoder.weights),
            jax.tree.leaves(direction),
            strict=True,
        )
    )
    assert along == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)


def test_joint_gradient__of_frequencies_is_that_of_the_log_likelihood(case):
    _, p, genotypes, _, features, weights = case
    q = np.asarray(training.encode(CONFIG, weights, features), np.float64)[:N]
    mixed = q @ p.astype(np.float64)
    called = genotypes >= 0
    counts = np.where(called, genotypes, 0)
    slope = counts / mixed - np.where(called, 2 - genotypes, 0) / (1 - mixed)
    found = gradient_at(case)
    np.testing.assert_allclose(found.frequencies, q.T @ slope, rtol=1e-4, atol=1e-3)
    assert found.n_called == np.count_nonzero(called)
    expected = oracle.log_likelihood(genotypes, q, p.astype(np.float64))
    assert found.log_likelihood == pytest.approx(expected, rel=1e-7)


def test_joint_gradient__of_slices_adds_up(case):
    _, p, _, packed, features, weights = case
    called = count_called(packed).astype(np.float32)
    parts = [
        jax.tree.map(
            np.asarray,
            joint.joint_gradient(
                weights,
                jnp.asarray(packed[rows]),
                jnp.asarray(called[rows]),
                jnp.asarray(features[rows]),
                tiles(p),
                CONFIG,
                TILE,
            ),
        )
        for rows in (slice(0, 32), slice(32, 64))
    ]
    total = joint.add_gradients(*parts)
    whole = gradient_at(case)
    for part, all_of_it in zip(
        jax.tree.leaves(total), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(part, all_of_it, rtol=1e-4, atol=1e-4)


@pytest.mark.optax
def test_joint_update__steps_raise_the_likelihood_and_keep_the_bounds(case):
    weights = case[-1]
    state = joint.start_joint(
        weights,
        jnp.full((K, M), 0.5, jnp.float32),
        jnp.eye(K, dtype=jnp.float32) / K,
        schedule=SCHEDULE,
    )
    values = []
    for step in range(SCHEDULE.n_steps):
        gradient = gradient_at(case, weights=state.encoder.weights, p=state.frequencies)
        values.append(float(gradient.log_likelihood))
        state = joint.joint_update(
            state, gradient, jnp.asarray(step, jnp.int32), schedule=SCHEDULE
        )
    assert values[-1] > values[0] + 400
    assert float(state.frequencies.min()) >= 2**-20
    assert float(state.frequencies.max()) <= 1 - 2**-20


@pytest.mark.optax
def test_joint_update__natural_step_is_newtons_where_everybody_is_alike(case):
    # With K = 1 the natural gradient at f is a Newton step: to the pooled frequency.
    genotypes = case[2]
    p = np.full((1, M), 0.5, np.float32)
    complete = np.where(genotypes < 0, 1, genotypes).astype(np.int8)
    packed = jnp.asarray(pad_shard(pack_genotypes(complete), TILE))
    called = jnp.asarray(count_called(np.asarray(packed)).astype(np.float32))
    config = AncestryEstimatorConfig(
        n_snps=M, n_populations=1, hidden_dims=(), dropout_rate=0.0
    )
    weights = training.initial_weights(config, seed=0)
    features = jnp.zeros((len(packed), 1), jnp.float32)
    gradient = joint.joint_gradient(
        weights, packed, called, features, tiles(p), config, TILE
    )
    schedule = joint.JointSchedule(1e-3, 1.0, 10)
    start = joint.start_joint(
        weights, jnp.asarray(p), jnp.ones((1, 1), jnp.float32), schedule=schedule
    )
    stepped = joint.joint_update(
        start, gradient, jnp.asarray(0, jnp.int32), schedule=schedule
    )
    pooled = complete.mean(axis=0) / 2
    np.testing.assert_allclose(stepped.frequencies[0], pooled, atol=1e-3)
