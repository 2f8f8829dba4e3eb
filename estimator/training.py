"""Amortised training: an encoder that gives Q for anyone in one forward pass.

The first layer is the weighted least-squares projector of the fitted model,
A = D P' (P D P')^-1 with D = 1 / (f (1 - f)), which recovers q - mean(q) from the
centred genotypes of a person. It is fixed, so training sees K features of a person,
not M genotypes, and cannot overfit M weights; `model.assemble_estimator` folds it
into the first kernel afterwards.

Weights are first distilled from the fitted Q on the features alone, then trained on
streamed minibatches whose loss adds the binomial likelihood of the genotypes given
the encoder's Q to the cross-entropy to the fitted Q.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx
from jaxtyping import Array, Float32

from estimator.centred import centred_times
from estimator.config import AncestryEstimatorConfig
from estimator.likelihood import Ancestry, FrequencyTiles, Packed, ancestry_statistics
from estimator.model import FeatureEncoder
from estimator.tiling import TileShape

# A dictionary of float32 arrays, nested as the encoder's layers are.
Weights = dict[str, Any]

DISTILLATION_STEPS = 2_000
DISTILLATION_BATCH = 512
# Keeps the logarithm of an encoder's proportion finite.
SMALLEST_PROPORTION = 1e-9
# The likelihood's part in the minibatch loss, per called genotype.
LIKELIHOOD_WEIGHT = 10.0


class Projector(NamedTuple):
    """The fixed first layer.

    Attributes
    ----------
    factor
        A', one row a population, scaled to features of unit variance;
        shape (populations, variants), float32.
    centre
        Expected frequency of each variant's alternate allele, float32.
    """

    factor: npt.NDArray[np.float32]
    centre: npt.NDArray[np.float32]


def projector(
    ancestry: npt.NDArray[np.float32], frequencies: npt.NDArray[np.float32]
) -> Projector:
    """Least-squares projector of a fitted model.

    Parameters
    ----------
    ancestry
        Fitted Q, shape (people, populations).
    frequencies
        Fitted P, shape (populations, variants), inside (0, 1).
    """
    q = ancestry.astype(np.float64)
    return projector_of_moments(q.mean(axis=0), q.std(axis=0), frequencies)


def projector_of_moments(
    mean: npt.NDArray[np.float64],
    spread: npt.NDArray[np.float64],
    frequencies: npt.NDArray[np.float32],
) -> Projector:
    """Least-squares projector from the mean and standard deviation of Q over people.

    With both kept and P moved along a mixture of populations, the features mix the
    same way: an encoder goes on from where it was.
    """
    p = frequencies.astype(np.float64)
    centre = mean @ p
    weighted = p / (centre * (1 - centre))
    gram = weighted @ p.T
    # Populations that coincide make the Gram matrix singular.
    ridge = 1e-9 * np.trace(gram) * np.eye(len(gram))
    scale = np.maximum(spread, 1e-3)[:, None]
    factor = np.linalg.solve(gram + ridge, weighted) / scale
    return Projector(factor.astype(np.float32), centre.astype(np.float32))


@partial(jax.jit, static_argnames=("n_variants", "tile"))
def encoder_features(
    packed: Packed,
    n_called: Float32[Array, " people"],
    n_variants: int,
    centre: Float32[Array, "tiles 4 1 width"],
    factor: Float32[Array, "tiles 4 features width"],
    *,
    tile: TileShape,
) -> Float32[Array, "people features"]:
    """Features of packed genotypes, equal to ``standardise(genotypes) @ A``.

    ``n_called`` counts each person's called genotypes; ``centre`` and ``factor``
    are the projector's, from `tile_variants` with zeros as filling.
    """
    products = centred_times(packed, centre, factor, tile=tile)
    return products * (n_variants / jnp.maximum(n_called, 1.0))[:, None]


def _split(config: AncestryEstimatorConfig, seed: int) -> tuple[Any, ...]:
    encoder = FeatureEncoder(config.n_populations, config, rngs=nnx.Rngs(seed))
    return nnx.split(encoder, nnx.Param, ...)


def initial_weights(config: AncestryEstimatorConfig, *, seed: int) -> Weights:
    """Random weights of a fresh encoder of K features.

    Biases are zero and kernels normal, with the inverse of the number of inputs as
    variance. Drawn by numpy: jax would first compile the drawing for a second.
    """
    rng = np.random.default_rng(seed)

    def draw(blank: jax.ShapeDtypeStruct) -> npt.NDArray[np.float32]:
        if len(blank.shape) < 2:
            return np.zeros(blank.shape, np.float32)
        kernel = rng.standard_normal(blank.shape, np.float32)
        return kernel * np.float32(blank.shape[0] ** -0.5)

    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(_split(config, 0)[1]))
    weights: Weights = jax.tree.map(draw, shapes)
    if config.learnable_temperature:
        weights["_temperature"] = np.full((), config.temperature, np.float32)
    return weights


def build_encoder(config: AncestryEstimatorConfig, weights: Weights) -> FeatureEncoder:
    """Return an encoder with these weights, in evaluation mode."""
    graph, parameters, rest = _split(config, 0)
    nnx.replace_by_pure_dict(parameters, jax.tree.map(jnp.asarray, weights))
    return nnx.merge(graph, parameters, rest)


# What stands for the layers of a model that has no encoder.
LINEAR = "linear"
# Least share of the linear answer: a start at a bound would first have to leave it.
_LINEAR_FLOOR = 1e-3


class LinearStart(NamedTuple):
    """A projector whose features are Q but for its mean, and that mean as weights."""

    weights: Weights
    projector: Projector


def linear_start(
    mean: npt.NDArray[np.float64], frequencies: npt.NDArray[np.float32]
) -> LinearStart:
    """What a model without an encoder starts projections from.

    Parameters
    ----------
    mean
        Mean Q of the people of the fit, positive.
    frequencies
        P inside (0, 1), shape (populations, variants).
    """
    projector = projector_of_moments(mean, np.ones(len(mean)), frequencies)
    return LinearStart({LINEAR: {"mean": mean.astype(np.float32)}}, projector)


@partial(jax.jit, static_argnames=("config",))
def encode(
    config: AncestryEstimatorConfig,
    weights: Weights,
    features: Float32[Array, "people features"],
) -> Ancestry:
    """Q of people from their features, by an encoder with these weights.

    Without an encoder it is the weighted least-squares answer, moved into the simplex.
    """
    if LINEAR in weights:
        inside = jnp.maximum(features + weights[LINEAR]["mean"], _LINEAR_FLOOR)
        return inside / inside.sum(axis=1, keepdims=True)
    return build_encoder(config, weights)(features)


def _cross_entropy(proportions: Ancestry, target: Ancestry) -> Array:
    return -jnp.mean(
        jnp.sum(target * jnp.log(proportions + SMALLEST_PROPORTION), axis=-1)
    )


@partial(jax.jit, static_argnames=("config", "n_steps"))
def _distill(
    weights: Weights,
    features: Float32[Array, "people features"],
    ancestry: Ancestry,
    key: Array,
    config: AncestryEstimatorConfig,
    n_steps: int,
) -> Weights:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, n_steps // 20, n_steps)
    optimizer = optax.adam(schedule)

    def loss(weights: Weights, rows: Array) -> Array:
        return _cross_entropy(
            build_encoder(config, weights)(features[rows]), ancestry[rows]
        )

    def step(index: Array, state: tuple[Weights, Any]) -> tuple[Weights, Any]:
        weights, optimizer_state = state
        rows = jax.random.randint(
            jax.random.fold_in(key, index), (DISTILLATION_BATCH,), 0, len(features)
        )
        gradients = jax.grad(loss)(weights, rows)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return optax.apply_updates(weights, updates), optimizer_state

    state = (weights, optimizer.init(weights))
    return jax.lax.fori_loop(0, n_steps, step, state)[0]


def distill(
    config: AncestryEstimatorConfig,
    features: npt.NDArray[np.float32],
    ancestry: npt.NDArray[np.float32],
    *,
    seed: int,
) -> Weights:
    """Weights fitted to known Q on features alone: where streaming starts from."""
    return _distill(
        initial_weights(config, seed=seed),
        jnp.asarray(features),
        jnp.asarray(ancestry),
        jax.random.key(seed),
        config,
        DISTILLATION_STEPS,
    )


class MinibatchGradient(NamedTuple):
    """Summed over the people of one minibatch slice, to be added over slices."""

    weights: Weights
    loss: Array
    n_people: Array


class Minibatch(NamedTuple):
    """One slice of a minibatch: genotypes, features and fitted Q of its people."""

    packed: Packed
    n_called: Float32[Array, " people"]
    features: Float32[Array, "people features"]
    ancestry: Ancestry


@partial(jax.jit, static_argnames=("config", "tile"))
def minibatch_gradient(
    weights: Weights,
    batch: Minibatch,
    frequencies: FrequencyTiles,
    config: AncestryEstimatorConfig,
    tile: TileShape,
) -> MinibatchGradient:
    """Gradient of the minibatch loss in the weights.

    The genotypes enter through the gradient of their likelihood in Q, which the
    tiled kernel gives, so that no matrix of people by variants is built. People
    with no called genotype, and the padding, count for nothing.
    """
    informative = (batch.n_called > 0).astype(jnp.float32)

    def loss(weights: Weights) -> tuple[Array, Array]:
        q = build_encoder(config, weights)(batch.features)
        statistics = ancestry_statistics(
            batch.packed, jax.lax.stop_gradient(q), frequencies, tile=tile
        )
        scale = LIKELIHOOD_WEIGHT / jnp.maximum(batch.n_called, 1.0)
        slope = jax.lax.stop_gradient(statistics.gradient * scale[:, None])
        logs = jnp.log(q + SMALLEST_PROPORTION)
        distance = -jnp.sum(batch.ancestry * logs, axis=-1)
        # Its gradient is that of the loss; its value differs by a constant.
        surrogate = jnp.sum(informative * (distance - jnp.sum(slope * q, axis=-1)))
        likelihood = statistics.log_likelihood.astype(jnp.float32)
        value = jnp.sum(informative * (distance - scale * likelihood))
        return surrogate, value

    gradient, value = jax.grad(loss, has_aux=True)(weights)
    return MinibatchGradient(gradient, value, jnp.sum(informative))


class TrainingState(NamedTuple):
    """Weights and the optimizer's memory of their gradients."""

    weights: Weights
    optimizer: Any


def _optimizer(learning_rate: float, n_steps: int) -> optax.GradientTransformation:
    """Adam with cosine decay to zero over ``n_steps``."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, n_steps))


@partial(jax.jit, static_argnames=("learning_rate", "n_steps"))
def start_training(
    weights: Weights, *, learning_rate: float, n_steps: int
) -> TrainingState:
    """State before the first of ``n_steps`` optimizer steps."""
    return TrainingState(weights, _optimizer(learning_rate, n_steps).init(weights))


@partial(jax.jit, static_argnames=("learning_rate", "n_steps"))
def update(
    state: TrainingState,
    gradient: MinibatchGradient,
    *,
    learning_rate: float,
    n_steps: int,
) -> TrainingState:
    """One optimizer step with the mean gradient over the minibatch's people."""
    optimizer = _optimizer(learning_rate, n_steps)
    share = 1 / jnp.maximum(gradient.n_people, 1.0)
    mean = jax.tree.map(lambda total: total * share, gradient.weights)
    updates, memory = optimizer.update(mean, state.optimizer, state.weights)
    return TrainingState(optax.apply_updates(state.weights, updates), memory)
