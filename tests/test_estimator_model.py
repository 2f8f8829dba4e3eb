"""The estimator's public contract, sentence by sentence, on tiny arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from estimator import config as config_lib
from estimator import model, types

N_SNPS = 11
K = 3
KEY_KINDS = [jax.random.key, jax.random.PRNGKey]


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    # Compiling takes nearly all of these tests' time, running next to none.
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _strict_jax():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def small_config(**changes):
    values = {"n_snps": N_SNPS, "n_populations": K, "hidden_dims": (6, 5)}
    return config_lib.AncestryEstimatorConfig(**{**values, **changes})


def small_estimator(seed=0, **changes):
    config = small_config(**changes)
    return model.DifferentiableAncestryEstimator(config, rngs=nnx.Rngs(seed))


def random_genotypes(n_people=4, missing_rate=0.0, seed=0):
    rng = np.random.default_rng(seed)
    genotypes = rng.integers(0, 3, size=(n_people, N_SNPS), dtype=np.int8)
    genotypes[rng.uniform(size=genotypes.shape) < missing_rate] = types.MISSING
    return genotypes


def ancestry_of(estimator, genotypes, random_params=None):
    data = {"genotypes": genotypes}
    return estimator.apply(data, {}, None, random_params)[0]["ancestry_proportions"]


def frequencies_of(estimator):
    return np.asarray(estimator.population_frequencies[...])


def parameters_of(module):
    return jax.tree.leaves(nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def assert_trees_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def gradients_of(loss, *arguments, argnums=0):
    return nnx.jit(nnx.grad(loss, argnums=argnums))(*arguments)


def first_proportions(estimator, genotypes):
    return ancestry_of(estimator, genotypes)[:, 0].sum()


def rng_state_of(module):
    state = nnx.to_pure_dict(nnx.state(module, nnx.RngCount))
    return [int(count) for count in jax.tree.leaves(state)]


# Configuration


def test_config__defaults_are_the_documented_ones():
    assert dataclasses.asdict(config_lib.AncestryEstimatorConfig()) == {
        "temperature": 1.0,
        "learnable_temperature": False,
        "n_snps": 10000,
        "n_populations": 5,
        "hidden_dims": (128, 64),
        "dropout_rate": 0.1,
    }


def test_config__is_frozen_and_hashable():
    config = small_config(hidden_dims=[6, 5])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_snps = 3
    assert hash(config) == hash(small_config())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 0.0, r"positive number in \[1e-06, 1e\+06\], got 0.0"),
        ("temperature", -1.0, "temperature must be .* got -1.0"),
        ("temperature", float("nan"), "temperature must be .* got nan"),
        ("temperature", float("inf"), "temperature must be .* got inf"),
        ("temperature", "1", "temperature must be .* got '1'"),
        ("learnable_temperature", 1, "must be True or False, got 1"),
        ("n_snps", 0, "n_snps must be an integer of at least 1, got 0"),
        ("n_snps", 10.0, "n_snps must be an integer of at least 1, got 10.0"),
        ("n_populations", -2, "n_populations must be .* at least 1, got -2"),
        ("n_populations", True, "n_populations must be .* at least 1, got True"),
        ("hidden_dims", (4, 0), r"hidden_dims\[1\] must be .* at least 1, got 0"),
        ("hidden_dims", 4, "hidden_dims must be a sequence .* got 4"),
        ("hidden_dims", "64", "hidden_dims must be a sequence .* got '64'"),
        ("dropout_rate", 1.0, r"dropout_rate must be a number in \[0, 1\), got 1.0"),
        ("dropout_rate", -0.1, r"dropout_rate must be .* got -0.1"),
    ],
)
def test_config__refuses_values_out_of_range(field, value, message):
    with pytest.raises(ValueError, match=message):
        small_config(**{field: value})


# Construction


def test_create__matches_the_class_and_its_defaults():
    made = model.create_ancestry_estimator(N_SNPS, K, (6, 5))
    assert made.config == small_config()
    assert_trees_equal(parameters_of(made), parameters_of(small_estimator(seed=42)))


def test_create__refuses_a_bad_value():
    with pytest.raises(ValueError, match="n_snps must be .* got 0"):
        model.create_ancestry_estimator(0, K)


def test_create__same_seed_same_parameters_other_seed_others():
    make = model.create_ancestry_estimator
    first = parameters_of(make(N_SNPS, K, (6,), seed=1))
    assert_trees_equal(first, parameters_of(make(N_SNPS, K, (6,), seed=1)))
    other = parameters_of(make(N_SNPS, K, (6,), seed=2))
    assert not np.array_equal(first[-1], other[-1])


@pytest.mark.parametrize("x64", [False, True])
def test_estimator__float32_whatever_the_default_precision(x64):
    with jax.enable_x64(x64):
        estimator = small_estimator(learnable_temperature=True)
        result = estimator.apply({"genotypes": random_genotypes()}, {}, None)[0]
        dtypes = {leaf.dtype for leaf in parameters_of(estimator)}
        dtypes |= {estimator.population_frequencies[...].dtype}
        dtypes |= {value.dtype for name, value in result.items() if name != "genotypes"}
        assert dtypes == {jnp.dtype(jnp.float32)}
        # float64 values given by the caller must not break strict promotion.
        ancestry = estimator.compute_ancestry(np.ones((2, 5)))
        assert estimator.decode(np.ones((2, K)) / K).dtype == ancestry.dtype
        values = random_genotypes().astype(np.float64)
        assert ancestry_of(estimator, values).dtype == jnp.float32


# Population allele frequencies


def test_frequencies__real_frequencies_of_the_documented_shape():
    frequencies = frequencies_of(small_estimator())
    assert frequencies.shape == (K, N_SNPS)
    assert ((frequencies > 0) & (frequencies < 1)).all()
    assert frequencies.std() > 0.05


@pytest.mark.parametrize("logit", [-1e4, -30.0, 30.0, 1e4])
def test_frequencies__stay_inside_whatever_is_trained(logit):
    estimator = small_estimator()
    estimator.frequency_logits[...] = jnp.full((K, N_SNPS), logit, jnp.float32)
    frequencies = frequencies_of(estimator)
    assert ((frequencies > 0) & (frequencies < 1)).all()
    decoded = np.asarray(estimator.decode(np.full((4, K), 1 / K, np.float32)))
    assert ((decoded >= 0) & (decoded <= 2)).all()


def test_frequencies__logits_round_trip():
    frequencies = np.array([[0.0, 1e-6, 1e-5, 0.3, 0.5, 0.999, 1.0]], np.float32)
    logits = model.frequencies_to_logits(frequencies)
    assert np.isfinite(logits).all()
    back = model.logits_to_frequencies(logits)
    inside = np.clip(
        frequencies, config_lib.MIN_FREQUENCY, 1 - config_lib.MIN_FREQUENCY
    )
    np.testing.assert_allclose(back, inside, atol=3e-7)


def test_frequencies__are_trained_through_the_reconstruction():
    estimator = small_estimator()
    genotypes = jnp.asarray(random_genotypes(n_people=1), jnp.float32)

    @nnx.jit
    def step(estimator, optimizer):
        def loss(estimator):
            data = estimator.apply({"genotypes": genotypes}, {}, None)[0]
            return jnp.mean((data["reconstructed"] - genotypes) ** 2)

        value, gradients = nnx.value_and_grad(loss)(estimator)
        # Adam's bias correction raises a float to an integer power.
        with jax.numpy_dtype_promotion("standard"):
            optimizer.update(estimator, gradients)
        return value

    optimizer = nnx.Optimizer(estimator, optax.adam(0.1), wrt=nnx.Param)
    before = frequencies_of(estimator)
    losses = [float(step(estimator, optimizer)) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    assert not np.allclose(before, frequencies_of(estimator))


# Temperature


def test_temperature__is_trained_only_when_learnable():
    fixed, learnable = small_estimator(), small_estimator(learnable_temperature=True)
    assert not isinstance(fixed._temperature, nnx.Param)
    assert isinstance(fixed._temperature, nnx.Variable)
    assert isinstance(learnable._temperature, nnx.Param)
    assert "_temperature" not in nnx.state(fixed, nnx.Param)
    assert "_temperature" in nnx.state(learnable, nnx.Param)
    assert len(parameters_of(learnable)) == len(parameters_of(fixed)) + 1


@pytest.mark.parametrize("learnable", [False, True])
def test_temperature__live_value_divides_the_logits(learnable):
    estimator = small_estimator(temperature=0.5, learnable_temperature=learnable)
    latent = np.ones((4, 5), np.float32)
    logits = np.asarray(estimator.ancestry_head(latent))
    for temperature in (0.5, 2.0):
        estimator._temperature[...] = jnp.float32(temperature)
        weights = np.exp(logits / temperature)
        expected = weights / weights.sum(axis=-1, keepdims=True)
        actual = estimator.compute_ancestry(latent)
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert small_estimator(temperature=0.5)._temperature[...] == 0.5


def test_temperature__gets_a_gradient_when_learnable():
    estimator = small_estimator(learnable_temperature=True)
    gradients = gradients_of(first_proportions, estimator, random_genotypes())
    gradient = gradients["_temperature"][...]
    assert np.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_temperature__trained_past_zero_keeps_the_order_of_populations(value):
    estimator = small_estimator(learnable_temperature=True)
    genotypes = random_genotypes()
    winners = np.asarray(ancestry_of(estimator, genotypes)).argmax(axis=-1)
    estimator._temperature[...] = jnp.float32(value)
    ancestry = np.asarray(ancestry_of(estimator, genotypes))
    np.testing.assert_allclose(ancestry.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(ancestry.argmax(axis=-1), winners)
    gradients = gradients_of(first_proportions, estimator, genotypes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


# Methods


def test_encode__last_hidden_layer():
    estimator = small_estimator()
    latent = estimator.encode(random_genotypes())
    assert latent.shape == (4, 5)
    assert isinstance(estimator.backbone, model.MLP)
    standardised = model.standardise(random_genotypes(), estimator.centre[...])
    np.testing.assert_array_equal(latent, estimator.backbone(standardised))


def test_encode__genotypes_themselves_without_hidden_layers():
    estimator = small_estimator(hidden_dims=())
    assert estimator.backbone is None
    genotypes = random_genotypes()
    np.testing.assert_array_equal(estimator.encode(genotypes), genotypes)
    centre = np.linspace(0.1, 0.9, N_SNPS, dtype=np.float32)
    estimator.centre[...] = jnp.asarray(centre)
    genotypes[0, 3] = types.MISSING
    expected = genotypes.astype(np.float32)
    expected[0, 3] = 2 * centre[3]
    np.testing.assert_allclose(estimator.encode(genotypes), expected)


@pytest.mark.parametrize(
    ("hidden_dims", "n_populations"), [((), 3), ((6, 5), 1), ((6, 5), 25)]
)
def test_compute_ancestry__rows_lie_on_the_simplex(hidden_dims, n_populations):
    estimator = small_estimator(hidden_dims=hidden_dims, n_populations=n_populations)
    ancestry = np.asarray(ancestry_of(estimator, random_genotypes(missing_rate=0.2)))
    assert ancestry.shape == (4, n_populations)
    assert (ancestry >= 0).all()
    np.testing.assert_allclose(ancestry.sum(axis=-1), 1, atol=5e-7)


def test_decode__expected_counts():
    estimator = small_estimator()
    Q = np.random.default_rng(0).dirichlet(np.ones(K), size=4).astype(np.float32)
    decoded = np.asarray(estimator.decode(Q))
    expected = 2 * Q @ frequencies_of(estimator)
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)
    assert ((decoded >= 0) & (decoded <= 2)).all()


def test_apply__adds_results_and_passes_the_rest_through():
    estimator = small_estimator()
    genotypes, state, metadata = random_genotypes(), {"step": 3}, {"cohort": "a"}
    data = {"genotypes": genotypes, "sample_id": np.arange(4)}
    result, state_out, metadata_out = estimator.apply(data, state, metadata, None, {})
    assert set(result) == {*data, "ancestry_proportions", "reconstructed", "latent"}
    assert set(data) == {"genotypes", "sample_id"}
    assert result["genotypes"] is genotypes
    assert state_out is state
    assert metadata_out is metadata
    latent = estimator.encode(genotypes)
    ancestry = estimator.compute_ancestry(latent)
    np.testing.assert_array_equal(result["latent"], latent)
    np.testing.assert_array_equal(result["ancestry_proportions"], ancestry)
    np.testing.assert_array_equal(result["reconstructed"], estimator.decode(ancestry))


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
def test_apply__one_record_is_a_row_of_the_batch(hidden_dims):
    estimator = small_estimator(hidden_dims=hidden_dims)
    genotypes = random_genotypes(missing_rate=0.2)
    batch = estimator.apply({"genotypes": genotypes}, {}, None)[0]
    for index, record in enumerate(genotypes):
        single = estimator.apply({"genotypes": record}, {}, None)[0]
        for name in ("ancestry_proportions", "reconstructed", "latent"):
            np.testing.assert_allclose(single[name], batch[name][index], atol=1e-6)


def test_apply__no_people():
    assert ancestry_of(small_estimator(), random_genotypes(0)).shape == (0, K)


def test_apply__missing_key():
    with pytest.raises(KeyError, match=r"key 'genotypes', got \['dosage'\]"):
        small_estimator().apply({"dosage": random_genotypes()}, {}, None)


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("encode", (4, 7), r"genotypes must have 11 columns .*got shape \(4, 7\)"),
        ("encode", (), r"genotypes must have 11 columns .*got shape \(\)"),
        ("compute_ancestry", (4, 7), r"latent must have 5 columns .*shape \(4, 7\)"),
        ("decode", (4, 7), r"ancestry must have 3 columns .*got shape \(4, 7\)"),
    ],
)
def test_estimator__wrong_width(method, shape, message):
    with pytest.raises(ValueError, match=message):
        getattr(small_estimator(), method)(np.zeros(shape, np.float32))


def test_feature_encoder__wrong_width():
    encoder = model.FeatureEncoder(4, small_config(), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"features must have 4 columns .*\(2, 5\)"):
        encoder(np.zeros((2, 5), np.float32))


# Missing genotypes


def float_codes(genotypes, code):
    return np.where(genotypes < 0, code, genotypes).astype(np.float32)


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
def test_missing__every_code_is_the_same_answer(hidden_dims):
    estimator = small_estimator(hidden_dims=hidden_dims)
    genotypes = random_genotypes(missing_rate=0.3)
    assert (genotypes < 0).any()
    expected = ancestry_of(estimator, genotypes)
    others = [genotypes.astype(dtype) for dtype in (np.int16, np.int32, np.float16)]
    others += [np.where(genotypes < 0, np.int8(-2), genotypes)]
    others += [float_codes(genotypes, code) for code in (-1.0, np.nan)]
    for other in others:
        np.testing.assert_array_equal(ancestry_of(estimator, other), expected)


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
@pytest.mark.parametrize("code", [-1, np.nan])
def test_missing__everything_missing_is_finite(hidden_dims, code):
    estimator = small_estimator(hidden_dims=hidden_dims)
    record = np.full(N_SNPS, code, np.float32)
    ancestry = np.asarray(ancestry_of(estimator, record))
    assert np.isfinite(ancestry).all()
    np.testing.assert_allclose(ancestry.sum(), 1, atol=1e-6)


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
@pytest.mark.parametrize("code", [-1, np.nan])
def test_missing__gradients_are_finite(hidden_dims, code):
    estimator = small_estimator(hidden_dims=hidden_dims)
    genotypes = float_codes(random_genotypes(missing_rate=0.3), code)
    genotypes[0] = code

    def loss(estimator, genotypes):
        data = estimator.apply({"genotypes": genotypes}, {}, None)[0]
        return jnp.sum(data["reconstructed"]) + jnp.sum(data["latent"])

    genotypes = jnp.asarray(genotypes)
    gradients = gradients_of(loss, estimator, genotypes, argnums=(0, 1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    by_genotype = np.asarray(gradients[1])
    missing = ~(genotypes >= 0)
    assert (by_genotype[missing] == 0).all()
    assert (by_genotype[~missing] != 0).all()


def test_standardise__by_hand():
    centre = np.array([0.5, 0.25, 0.1], np.float32)
    genotypes = np.array([[0, 1, 2], [2, -1, -1], [-1, -1, -1]], np.int8)
    expected = np.array([[-0.5, 0.25, 0.9], [1.5, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(model.standardise(genotypes, centre), expected)


def test_centre__is_not_trained():
    estimator = small_estimator()
    assert isinstance(estimator.centre, model.Centre)
    np.testing.assert_array_equal(estimator.centre[...], np.full(N_SNPS, 0.5))
    assert "centre" not in nnx.state(estimator, nnx.Param)


# Dropout


def test_dropout__off_until_train_and_after_eval():
    estimator = small_estimator(dropout_rate=0.5)
    genotypes = random_genotypes()
    fresh = ancestry_of(estimator, genotypes)
    np.testing.assert_array_equal(fresh, ancestry_of(estimator, genotypes))
    keyed = ancestry_of(estimator, genotypes, jax.random.key(0))
    np.testing.assert_array_equal(fresh, keyed)
    estimator.train()
    assert not np.array_equal(fresh, ancestry_of(estimator, genotypes))
    estimator.eval()
    np.testing.assert_array_equal(fresh, ancestry_of(estimator, genotypes))


def test_dropout__without_a_key_advances_the_modules_streams():
    genotypes = random_genotypes()
    estimator, twin = (small_estimator(dropout_rate=0.5) for _ in range(2))
    estimator.train()
    twin.train()
    counts = rng_state_of(estimator)
    first, second = (ancestry_of(estimator, genotypes) for _ in range(2))
    assert rng_state_of(estimator) != counts
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, ancestry_of(twin, genotypes))
    # The rows of a batch are dropped independently.
    same = np.repeat(genotypes[:1], 8, axis=0)
    assert len(np.unique(ancestry_of(estimator, same), axis=0)) > 1


def test_dropout__without_a_key_under_jit_and_grad():
    genotypes = random_genotypes()
    estimator = small_estimator(dropout_rate=0.5)
    estimator.train()
    compiled = nnx.jit(ancestry_of)
    first, second = (compiled(estimator, genotypes) for _ in range(2))
    assert not np.array_equal(first, second)
    gradients = gradients_of(first_proportions, estimator, genotypes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("make_key", KEY_KINDS)
def test_dropout__with_a_key_is_pure(make_key):
    genotypes = random_genotypes()
    estimator = small_estimator(dropout_rate=0.5)
    estimator.train()
    before = rng_state_of(estimator)
    first, again, other = (
        ancestry_of(estimator, genotypes, make_key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert rng_state_of(estimator) == before


@pytest.mark.parametrize("make_key", KEY_KINDS)
def test_dropout__vmap_over_records_and_keys(make_key):
    genotypes = random_genotypes()
    keys = jax.random.split(make_key(0), len(genotypes))
    estimator = small_estimator(dropout_rate=0.5)
    estimator.train()
    mapped = jax.vmap(lambda record, key: ancestry_of(estimator, record, key))
    expected = [
        ancestry_of(estimator, record, keys[index])
        for index, record in enumerate(genotypes)
    ]
    for function in (mapped, jax.jit(mapped)):
        np.testing.assert_allclose(
            function(genotypes, keys), np.stack(expected), atol=1e-6
        )


def test_dropout__layers_draw_different_masks():
    layers = model.MLP(6, (6, 6), 0.5, rngs=nnx.Rngs(0))
    layers.train()
    for layer in layers.layers:
        layer.kernel[...] = jnp.eye(6, dtype=jnp.float32)
    kept_once = layers.dropouts[0](
        jnp.ones((200, 6), jnp.float32), rngs=jax.random.key(3)
    )
    kept_both = layers(jnp.full((200, 6), 9.0, jnp.float32), key=jax.random.key(3))
    # A shared mask would keep half of the units, independent masks a quarter.
    assert np.mean(np.asarray(kept_once) > 0) == pytest.approx(0.5, abs=0.06)
    assert np.mean(np.asarray(kept_both) > 0) == pytest.approx(0.25, abs=0.06)


def test_dropout__rate_zero_changes_nothing_in_training():
    estimator = small_estimator(dropout_rate=0.0)
    fresh = ancestry_of(estimator, random_genotypes())
    estimator.train()
    np.testing.assert_array_equal(fresh, ancestry_of(estimator, random_genotypes()))


# Transformations


def test_transforms__jit_vmap_and_merge_give_the_same_answer():
    estimator = small_estimator()
    genotypes = random_genotypes(missing_rate=0.2)
    expected = ancestry_of(estimator, genotypes)
    graph, state = nnx.split(estimator)
    answers = [
        nnx.jit(ancestry_of)(estimator, genotypes),
        jax.jit(lambda batch: ancestry_of(estimator, batch))(genotypes),
        jax.vmap(lambda record: ancestry_of(estimator, record))(genotypes),
        jax.jit(lambda s, batch: ancestry_of(nnx.merge(graph, s), batch))(
            state, genotypes
        ),
        jax.vmap(lambda s, r: ancestry_of(nnx.merge(graph, s), r), in_axes=(None, 0))(
            state, genotypes
        ),
        nnx.vmap(lambda e, r: ancestry_of(e, r), in_axes=(None, 0))(
            estimator, genotypes
        ),
    ]
    for answer in answers:
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    merged = nnx.merge(graph, state)
    np.testing.assert_array_equal(
        merged.population_frequencies[...], estimator.population_frequencies[...]
    )


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
def test_gradients__reach_every_encoder_weight_from_a_loss_on_q(hidden_dims):
    estimator = small_estimator(hidden_dims=hidden_dims, learnable_temperature=True)
    genotypes = random_genotypes(n_people=12, missing_rate=0.2)

    def loss(estimator):
        return -jnp.log(ancestry_of(estimator, genotypes)[:, 0]).sum()

    gradients = nnx.to_pure_dict(gradients_of(loss, estimator))
    assert not np.asarray(gradients.pop("frequency_logits")).any()
    assert gradients
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


@pytest.mark.parametrize("hidden_dims", [(), (6, 5)])
def test_gradients__agree_with_finite_differences(hidden_dims):
    estimator = small_estimator(hidden_dims=hidden_dims, learnable_temperature=True)
    genotypes = random_genotypes(missing_rate=0.2)
    rng = np.random.default_rng(1)
    target = rng.dirichlet(np.ones(K), 4).astype(np.float32)
    graph, state, *rest = nnx.split(estimator, nnx.Param, ...)

    @jax.jit
    def loss(state):
        data = {"genotypes": genotypes}
        result = nnx.merge(graph, state, *rest).apply(data, {}, None)[0]
        entropy = -jnp.sum(target * jnp.log(result["ancestry_proportions"]))
        return entropy + jnp.mean(result["reconstructed"] ** 2)

    # Every block of weights is moved by itself, so that none hides in a sum.
    leaves, structure = jax.tree.flatten(state)
    gradients, step = jax.tree.leaves(jax.jit(jax.grad(loss))(state)), 1e-2
    for index, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        direction = rng.normal(size=leaf.shape).astype(np.float32)
        direction /= np.float32(np.sqrt(np.sum(direction**2)))
        losses = []
        for change in (step * direction, -step * direction):
            moved = [*leaves[:index], np.asarray(leaf) + change, *leaves[index + 1 :]]
            losses.append(float(loss(jax.tree.unflatten(structure, moved))))
        numeric = (losses[0] - losses[1]) / (2 * step)
        analytic = np.sum(np.asarray(gradient) * direction)
        np.testing.assert_allclose(analytic, numeric, rtol=1e-2, atol=1e-3)


# Folding a projector


def make_parts(hidden_dims, n_features=4, **changes):
    rng = np.random.default_rng(7)
    config = small_config(hidden_dims=hidden_dims, **changes)
    parts = {
        "config": config,
        "projector": rng.normal(size=(N_SNPS, n_features)).astype(np.float32),
        "centre": rng.uniform(size=N_SNPS).astype(np.float32),
        "encoder": model.FeatureEncoder(n_features, config, rngs=nnx.Rngs(5)),
        "frequencies": rng.uniform(0.01, 0.99, size=(K, N_SNPS)).astype(np.float32),
    }
    parts["encoder"].ancestry_head.bias[...] = jnp.asarray(
        [0.3, -0.2, 0.1], jnp.float32
    )
    return parts


@pytest.mark.parametrize("hidden_dims", [(6,), (6, 5)])
@pytest.mark.parametrize("learnable", [False, True])
def test_assemble__equals_the_encoder_on_projected_genotypes(hidden_dims, learnable):
    parts = make_parts(hidden_dims, learnable_temperature=learnable)
    encoder = parts["encoder"]
    encoder.backbone.layers[0].bias[...] = jnp.linspace(-1, 1, 6, dtype=jnp.float32)
    encoder._temperature[...] = jnp.float32(0.7)
    estimator = model.assemble_estimator(**parts)
    genotypes = random_genotypes(n_people=20, missing_rate=0.2)
    features = model.standardise(genotypes, parts["centre"]) @ parts["projector"]
    np.testing.assert_allclose(
        ancestry_of(estimator, genotypes), encoder(features), atol=1e-5
    )
    np.testing.assert_allclose(
        estimator.population_frequencies[...], parts["frequencies"], atol=1e-6
    )
    np.testing.assert_array_equal(estimator.centre[...], parts["centre"])
    assert estimator._temperature[...] == jnp.float32(0.7)


def test_assemble__without_hidden_layers_folds_into_the_head():
    parts = make_parts(())
    estimator = model.assemble_estimator(**parts)
    genotypes = random_genotypes(n_people=20)
    features = model.standardise(genotypes, parts["centre"]) @ parts["projector"]
    expected = parts["encoder"](features)
    np.testing.assert_allclose(ancestry_of(estimator, genotypes), expected, atol=1e-5)
    # A missing genotype deviates by nothing from its expected count.
    deviations = genotypes / np.float32(2) - parts["centre"][None]
    deviations[genotypes == 0] = 0
    genotypes[genotypes == 0] = types.MISSING
    expected = parts["encoder"](deviations @ parts["projector"])
    np.testing.assert_allclose(ancestry_of(estimator, genotypes), expected, atol=1e-5)


def test_assemble__copies_and_starts_in_evaluation_mode():
    parts = make_parts((6,))
    parts["encoder"].train()
    estimator = model.assemble_estimator(**parts)
    before = ancestry_of(estimator, random_genotypes())
    parts["encoder"].ancestry_head.kernel[...] = jnp.zeros((6, K), jnp.float32)
    np.testing.assert_array_equal(before, ancestry_of(estimator, random_genotypes()))


def test_feature_encoder__trains_and_drops_out_like_the_estimator():
    parts = make_parts((6,))
    encoder, features = parts["encoder"], jnp.ones((4, 4), jnp.float32)
    gradients = gradients_of(lambda e: e(features)[:, 0].sum(), encoder)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))
    fresh = encoder(features)
    encoder.train()
    first, second = (encoder(features, key=jax.random.key(0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(fresh, first)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("projector", np.ones((N_SNPS, 5)), r"projector must have shape \(11, 4\)"),
        ("centre", np.ones(3), r"centre must have shape \(11,\), got \(3,\)"),
        ("centre", np.full(N_SNPS, 1.5), r"centre must lie in \[0, 1\], got .* 1.5"),
        ("frequencies", np.ones((2, 11)), r"frequencies must have shape \(3, 11\)"),
        ("frequencies", np.full((K, N_SNPS), np.nan), "frequencies must lie in"),
        ("config", small_config(hidden_dims=(7,)), r"hidden_dims \(7,\), got \(6,\)"),
        (
            "config",
            small_config(hidden_dims=(6,), n_populations=4),
            "encoder must have n_populations 4, got 3",
        ),
    ],
)
def test_assemble__refuses_parts_that_do_not_fit(name, value, message):
    with pytest.raises(ValueError, match=message):
        model.assemble_estimator(**{**make_parts((6,)), name: value})
