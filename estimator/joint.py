"""Joint minibatch training of the encoder and of P: the whole autoencoder.

The loss is the negative binomial log-likelihood of the streamed genotypes at the
encoder's Q and at P. The encoder's weights follow Adam on the loss per called
genotype. P follows its natural gradient: with f the pooled frequencies, the expected
negative Hessian of a person's log-likelihood in a column of P is close to
2 E[qq'] / (f (1 - f)), so that

    step of P_j  =  rate * f_j (1 - f_j) / 2 * E[qq']^-1 * mean gradient of P_j

moves every variant and every mixture of populations equally fast, at the price of one
K x K matrix. The noise of the minibatches stays in P as if it were estimated from
people / rate of them; a P that is noisy looks more divergent than it is and draws Q
inwards, which is why the rate is to be no more than a minibatch's share of the cohort.

References
----------
Amari (1998), Neural Computation 10:251-276. Natural gradient.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float32, Float64

from estimator import training
from estimator.config import MIN_FREQUENCY, AncestryEstimatorConfig
from estimator.likelihood import Ancestry, FrequencyTiles, Packed, likelihood_slopes
from estimator.tiling import TileShape, untile_variants

# Keeps E[qq'] invertible where a population is empty or two coincide.
RIDGE = 1e-3
# Weight of a minibatch in the running mean of qq'.
MOMENT_RATE = 0.05

Moment = Float32[Array, "k k"]


class JointState(NamedTuple):
    """Everything that training goes on from.

    Attributes
    ----------
    encoder
        Weights, and Adam's memory of their gradients.
    frequencies
        P, inside (0, 1).
    moment
        Running mean of qq' over people.
    """

    encoder: training.TrainingState
    frequencies: Float32[Array, "k variants"]
    moment: Moment


class JointGradient(NamedTuple):
    """Sums over the people of one slice of a minibatch, to be added over slices.

    Attributes
    ----------
    encoder
        Gradient of the loss per called genotype in the weights.
    frequencies
        Gradient of the log-likelihood in P.
    moment
        Sum of qq'.
    log_likelihood
        In nats.
    n_called
        Called genotypes.
    """

    encoder: training.MinibatchGradient
    frequencies: Float32[Array, "k variants"]
    moment: Moment
    log_likelihood: Float64[Array, ""]
    n_called: Float64[Array, ""]


class JointSchedule(NamedTuple):
    """Step sizes, both with cosine decay to zero over ``n_steps``.

    Attributes
    ----------
    learning_rate
        Adam's, for the weights.
    frequency_rate
        Of P's natural gradient, in (0, 1]; 1 goes all the way to the minibatch.
    n_steps
        Steps until both are zero.
    """

    learning_rate: float
    frequency_rate: float
    n_steps: int


@partial(jax.jit, static_argnames=("schedule",))
def start_joint(
    weights: training.Weights,
    frequencies: Float32[Array, "k variants"],
    moment: Moment,
    *,
    schedule: JointSchedule,
) -> JointState:
    """State before the first step."""
    encoder = training.start_training(
        weights, learning_rate=schedule.learning_rate, n_steps=schedule.n_steps
    )
    return JointState(encoder, _bounded(frequencies), moment)


@partial(jax.jit, static_argnames=("config", "tile"))
def joint_gradient(
    weights: training.Weights,
    packed: Packed,
    n_called: Float32[Array, " people"],
    features: Ancestry,
    frequencies: FrequencyTiles,
    config: AncestryEstimatorConfig,
    tile: TileShape,
) -> JointGradient:
    """Gradient of the loss in the weights and in P, from one read of the genotypes.

    Parameters
    ----------
    weights
        The encoder's.
    packed, n_called, features
        People, padded to whole tiles; those without calls count for nothing.
    frequencies
        P from `tile_variants`.
    config
        The encoder's layers.
    tile
        The tile that the arguments were padded and laid out for.
    """
    q, pull_back = jax.vjp(
        lambda weights: training.build_encoder(config, weights)(features), weights
    )
    slopes = likelihood_slopes(packed, q, frequencies, tile=tile)
    informative = (n_called > 0).astype(jnp.float32)
    per_call = informative / jnp.maximum(n_called, 1.0)
    (gradient,) = pull_back(-slopes.ancestry * per_call[:, None])
    log_likelihood = jnp.sum(slopes.log_likelihood)
    loss = -jnp.sum(slopes.log_likelihood.astype(jnp.float32) * per_call)
    return JointGradient(
        training.MinibatchGradient(gradient, loss, jnp.sum(informative)),
        jnp.asarray(untile_variants(slopes.frequencies, config.n_snps)),
        jnp.matmul(
            (q * informative[:, None]).T, q, precision=jax.lax.Precision.HIGHEST
        ),
        log_likelihood,
        jnp.sum(n_called.astype(jnp.float64)),
    )


def add_gradients(left: JointGradient, right: JointGradient) -> JointGradient:
    """Sum of two slices' gradients, on the host."""
    return jax.tree.map(np.add, left, right)


@partial(jax.jit, static_argnames=("schedule",))
def joint_update(
    state: JointState, gradient: JointGradient, step: Array, *, schedule: JointSchedule
) -> JointState:
    """One step with the gradient of a whole minibatch; ``step`` counts from 0."""
    encoder = training.update(
        state.encoder,
        gradient.encoder,
        learning_rate=schedule.learning_rate,
        n_steps=schedule.n_steps,
    )
    k, n_variants = state.frequencies.shape
    n_people = jnp.maximum(gradient.encoder.n_people, 1.0)
    moment = (1 - MOMENT_RATE) * state.moment + MOMENT_RATE * (
        gradient.moment / n_people
    )
    # The mean of Q, and with it the pooled frequencies, are in the moment's sums.
    pooled = _bounded(jnp.sum(moment, axis=0) @ state.frequencies)
    # People called at a variant, on average over variants.
    n_observed = jnp.maximum(gradient.n_called / n_variants, 1.0).astype(jnp.float32)
    ridge = RIDGE * jnp.trace(moment) / k * jnp.eye(k, dtype=jnp.float32)
    natural = jnp.linalg.solve(moment + ridge, gradient.frequencies / n_observed)
    rate = optax.cosine_decay_schedule(schedule.frequency_rate, schedule.n_steps)(step)
    moved = state.frequencies + rate * natural * (pooled * (1 - pooled) / 2)[None]
    return JointState(encoder, _bounded(moved.astype(jnp.float32)), moment)


def _bounded(frequencies: Array) -> Array:
    return jnp.clip(frequencies, MIN_FREQUENCY, 1.0 - MIN_FREQUENCY)
