"""Amortised training: the projector, its features, and gradients of the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from estimator import counting, encoder, model, packing, tiling, training
from estimator.config import AncestryEstimatorConfig
from tests import oracle

TILE = tiling.TileShape(people=32, width=64)
N_PEOPLE, N_VARIANTS, K = 90, 700, 3
NO_CALLS = 4


@functools.cache
def cohort():
    data = oracle.simulate(N_PEOPLE, N_VARIANTS, K, seed=12, missing_rate=0.1)
    data.genotypes[NO_CALLS] = -1
    return oracle.Cohort(
        data.genotypes,
        data.ancestry.astype(np.float32),
        data.frequencies.astype(np.float32),
    )


def config(**changes):
    sizes = {"n_snps": N_VARIANTS, "n_populations": K, "hidden_dims": (6, 5)}
    return AncestryEstimatorConfig(**{**sizes, **changes})


def fitted_projector():
    return training.projector(cohort().ancestry, cohort().frequencies)


def tiled(rows, fill=0.0):
    return tiling.tile_variants(jnp.asarray(rows), TILE.width, fill=fill)


@functools.cache
def minibatch():
    """Return the whole cohort as one slice, padding included."""
    packed = tiling.pad_shard(packing.pack_genotypes(cohort().genotypes), TILE)
    n_called = jnp.asarray(counting.count_called(packed), jnp.float32)
    fixed = fitted_projector()
    features = training.encoder_features(
        jnp.asarray(packed),
        n_called,
        N_VARIANTS,
        tiled(fixed.centre[None]),
        tiled(fixed.factor),
        tile=TILE,
    )
    ancestry = jnp.asarray(tiling.pad_ancestry(cohort().ancestry, len(packed)))
    return training.Minibatch(jnp.asarray(packed), n_called, features, ancestry)


def gradient(weights):
    return training.minibatch_gradient(
        weights, minibatch(), tiled(cohort().frequencies, 0.5), config(), TILE
    )


def dense_loss(weights):
    """Return the summed loss of everyone with a call, as its definition reads."""
    batch = minibatch()
    called = (cohort().genotypes >= 0).sum(axis=1).astype(np.float32)
    rows = np.flatnonzero(called)
    alternate, reference = oracle.counts(cohort().genotypes[rows])
    q = training.build_encoder(config(), weights)(batch.features[rows])
    p = jnp.clip(jnp.matmul(q, jnp.asarray(cohort().frequencies)), 1e-6, 1 - 1e-6)
    logs = jnp.asarray(alternate, jnp.float32) * jnp.log(p)
    logs += jnp.asarray(reference, jnp.float32) * jnp.log1p(-p)
    fit = jnp.sum(logs, axis=1) / jnp.asarray(called[rows])
    target = jnp.asarray(cohort().ancestry[rows])
    floor = training.SMALLEST_PROPORTION
    distance = -jnp.sum(target * jnp.log(q + floor), axis=1)
    return jnp.sum(distance - training.LIKELIHOOD_WEIGHT * fit)


def assert_trees_equal(left, right):
    """Compare two trees of arrays bit for bit."""
    leaves = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    for one, other in leaves:
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


# The fixed first layer


def test_projector__recovers_ancestry_without_noise():
    fixed = fitted_projector()
    q = cohort().ancestry.astype(np.float64)
    expected = q @ cohort().frequencies
    np.testing.assert_allclose(fixed.centre, expected.mean(axis=0), atol=1e-6)
    features = (expected - fixed.centre) @ fixed.factor.T
    spread = q.std(axis=0)
    np.testing.assert_allclose(features, (q - q.mean(axis=0)) / spread, atol=1e-4)


def test_projector__populations_that_coincide_give_finite_factors():
    frequencies = np.repeat(cohort().frequencies[:1], K, axis=0)
    fixed = training.projector(cohort().ancestry, frequencies)
    assert np.isfinite(fixed.factor).all()
    absent = np.tile(np.array([1, 0, 0], np.float32), (N_PEOPLE, 1))
    fixed = training.projector(absent, cohort().frequencies)
    assert np.isfinite(fixed.factor).all()


def test_encoder_features__are_standardised_genotypes_times_the_factor():
    fixed = fitted_projector()
    standardised = model.standardise(cohort().genotypes, fixed.centre)
    expected = np.asarray(standardised, np.float64) @ fixed.factor.T
    np.testing.assert_allclose(
        minibatch().features[:N_PEOPLE], expected, atol=2e-5 * np.abs(expected).max()
    )
    np.testing.assert_array_equal(minibatch().features[NO_CALLS], 0)
    np.testing.assert_array_equal(minibatch().features[N_PEOPLE:], 0)


# Initial weights


@pytest.mark.parametrize("learnable", [False, True])
def test_initial_weights__are_those_of_a_fresh_encoder(learnable):
    chosen = config(
        hidden_dims=(64, 32), temperature=2.0, learnable_temperature=learnable
    )
    weights = training.initial_weights(chosen, seed=1)
    fresh = encoder.FeatureEncoder(chosen.n_populations, chosen, rngs=nnx.Rngs(1))
    expected = nnx.to_pure_dict(nnx.state(fresh, nnx.Param))
    names = [
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(weights)
    ]
    assert names == [
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(expected)
    ]
    for one, other in zip(
        jax.tree.leaves(weights), jax.tree.leaves(expected), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one.std(), other.std(), rtol=0.25)
    assert weights.get("_temperature", 2.0) == 2.0
    again = training.initial_weights(chosen, seed=1)
    jax.tree.map(np.testing.assert_array_equal, weights, again)


# The minibatch loss


def test_minibatch_gradient__equals_that_of_the_dense_loss():
    weights = training.initial_weights(config(), seed=3)
    actual = gradient(weights)
    value, expected = jax.jit(jax.value_and_grad(dense_loss))(weights)
    assert float(actual.n_people) == N_PEOPLE - 1
    np.testing.assert_allclose(actual.loss, value, rtol=1e-5)
    leaves = zip(
        jax.tree.leaves(actual.weights), jax.tree.leaves(expected), strict=True
    )
    for one, other in leaves:
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, atol=1e-4 * scale)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1


def test_minibatch_gradient__matches_finite_differences():
    weights = training.initial_weights(config(), seed=3)
    rng = np.random.default_rng(0)
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), weights
    )

    def loss_at(share):
        share = jnp.float32(share)
        moved = jax.tree.map(lambda w, d: w + share * d, weights, direction)
        return float(gradient(moved).loss)

    products = jax.tree.map(
        lambda g, d: float(jnp.sum(g * d)), gradient(weights).weights, direction
    )
    slope = (loss_at(2e-3) - loss_at(-2e-3)) / 4e-3
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-2)


@pytest.mark.optax
def test_update__lowers_the_loss_step_by_step():
    schedule = {"learning_rate": 1e-2, "n_steps": 40}
    state = training.start_training(
        training.initial_weights(config(), seed=3), **schedule
    )
    losses = []
    for _ in range(40):
        batch_gradient = gradient(state.weights)
        losses.append(float(batch_gradient.loss))
        state = training.update(state, batch_gradient, **schedule)
    assert losses[-1] < losses[0] - 0.2 * N_PEOPLE
    # The learning rate has decayed to zero: nothing moves any more.
    again = training.update(state, gradient(state.weights), **schedule)
    assert_trees_equal(again.weights, state.weights)


@pytest.mark.optax
def test_update__takes_the_mean_over_people():
    schedule = {"learning_rate": 0.5, "n_steps": 10}
    weights = training.initial_weights(config(), seed=3)
    state = training.start_training(weights, **schedule)
    summed = gradient(weights)
    doubled = training.MinibatchGradient(
        jax.tree.map(lambda total: total * 2, summed.weights),
        summed.loss * 2,
        summed.n_people * 2,
    )
    once = training.update(state, summed, **schedule)
    twice = training.update(state, doubled, **schedule)
    # The optimizer's memory shows the mean's size, which Adam's step does not.
    assert_trees_equal(once.optimizer, twice.optimizer)
    nobody = jax.tree.map(jnp.zeros_like, summed)
    assert_trees_equal(training.update(state, nobody, **schedule).weights, weights)


# Distillation


@pytest.fixture(scope="module")
def distilled():
    features = np.asarray(minibatch().features[:N_PEOPLE])
    return training.distill(config(), features, cohort().ancestry, seed=0)


def encoder_error(weights):
    q = training.encode(config(), weights, minibatch().features[:N_PEOPLE])
    rows = np.arange(N_PEOPLE) != NO_CALLS
    return float(np.sqrt(np.mean((np.asarray(q) - cohort().ancestry)[rows] ** 2)))


def test_distill__learns_the_ancestry(distilled):
    assert encoder_error(training.initial_weights(config(), seed=0)) > 0.2
    assert encoder_error(distilled) < 0.06


@pytest.mark.optax
def test_distill__same_seed_same_bytes(distilled):
    features = np.asarray(minibatch().features[:N_PEOPLE])
    again = training.distill(config(), features, cohort().ancestry, seed=0)
    assert_trees_equal(again, distilled)


def test_assemble__gives_the_ancestry_of_the_encoder(distilled):
    fixed = fitted_projector()
    encoder = training.build_encoder(config(), distilled)
    estimator = model.assemble_estimator(
        config(), fixed.factor.T, fixed.centre, encoder, cohort().frequencies
    )
    data, _, _ = estimator.apply({"genotypes": cohort().genotypes}, {}, None)
    np.testing.assert_allclose(
        data["ancestry_proportions"],
        training.encode(config(), distilled, minibatch().features[:N_PEOPLE]),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        estimator.population_frequencies[...], cohort().frequencies, atol=1e-5
    )


def test_weights__round_trip_through_numpy():
    weights = training.initial_weights(config(), seed=7)
    stored = jax.tree.map(np.asarray, weights)
    features = minibatch().features
    np.testing.assert_array_equal(
        training.encode(config(), stored, features),
        training.encode(config(), weights, features),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype(np.float32)}
