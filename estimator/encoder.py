"""The encoder's parts: standardised genotypes, hidden layers and softmax head.

Reads arrays and returns arrays. The estimator and the encoder of precomputed
features are both made of these parts, so that one can be folded into the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from estimator import config as config_lib
from estimator import types

AncestryEstimatorConfig = config_lib.AncestryEstimatorConfig

# Default precision on recent GPUs rounds the factors of a float32 product to
# ten bits of mantissa: too coarse for a first layer that sums over every variant.
PRECISION = jax.lax.Precision.HIGHEST


class Centre(nnx.Variable):
    """Expected allele frequency of each variant: data of the encoder, not trained."""


@jax.jit
def observed_counts(
    genotypes: types.Genotypes,
) -> tuple[Float[Array, "*batch variants"], Bool[Array, "*batch variants"]]:
    """Return counts as float32 with 0 where missing, and where they are observed.

    Missing values are replaced before any arithmetic, because a NaN that is masked
    only afterwards can still reach a gradient, as zero times NaN.
    """
    genotypes = jnp.asarray(genotypes)
    # A comparison with NaN is false, so this finds both codes of a missing call.
    observed = genotypes >= 0
    counts = jnp.where(observed, genotypes, jnp.zeros_like(genotypes))
    return counts.astype(jnp.float32), observed


@jax.jit
def standardise(genotypes: types.Genotypes, centre: types.Centre) -> types.Standardised:
    """Centre genotypes on their expected frequency, in units of allele frequency.

    An observed count g becomes g / 2 - centre and a missing one 0. A record is
    then scaled by the number of variants over the number observed, so that its
    sums over variants have the size they would have with nothing missing. A
    record with everything missing is all zeros.

    Parameters
    ----------
    genotypes
        Alternate-allele counts 0, 1 or 2; missing is negative or NaN.
    centre
        Expected alternate-allele frequency, in [0, 1].

    Returns
    -------
    float32, of the shape of the genotypes.

    Examples
    --------
    >>> import numpy as np
    >>> centre = np.array([0.5, 0.25], np.float32)
    >>> standardise(np.array([[2, 1], [2, -1]], np.int8), centre).tolist()
    [[0.5, 0.25], [1.0, 0.0]]
    """
    counts, observed = observed_counts(genotypes)
    means = jnp.broadcast_to(jnp.asarray(centre, jnp.float32), counts.shape)
    deviations = jnp.where(observed, counts / 2 - means, jnp.zeros_like(counts))
    n_observed = jnp.sum(observed, axis=-1, keepdims=True, dtype=jnp.float32)
    return deviations * (counts.shape[-1] / jnp.maximum(n_observed, 1))


class MLP(nnx.Module):
    """Hidden layers: linear, GELU and dropout, once for each width.

    GELU rather than ReLU, because these layers are narrow and a ReLU unit that
    falls silent is lost for good, and because Q then varies smoothly with the
    genotypes. Dropout is off until ``train()``.

    Parameters
    ----------
    in_features
        Length of an input record.
    hidden_dims
        Width of each layer, in order.
    dropout_rate
        Probability that a unit is dropped in training mode.
    rngs
        Streams for the initial weights (``params``) and for dropout (``dropout``).
    """

    def __init__(
        self,
        in_features: int,
        hidden_dims: tuple[int, ...],
        dropout_rate: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        widths = (in_features, *hidden_dims)
        self.layers = nnx.List(
            [_linear(*pair, rngs) for pair in zip(widths[:-1], widths[1:], strict=True)]
        )
        self.dropouts = nnx.List(
            [
                nnx.Dropout(dropout_rate, deterministic=True, rngs=rngs)
                for _ in hidden_dims
            ]
        )

    def __call__(
        self, features: types.Standardised, *, key: types.Key | None = None
    ) -> types.Latent:
        """Return the last layer's activations.

        In training mode dropout draws from ``key``, if there is one, and leaves
        the module as it was; otherwise it advances the module's own streams.
        """
        for index, (layer, dropout) in enumerate(
            zip(self.layers, self.dropouts, strict=True)
        ):
            features = _activation(layer(features))
            if dropout.deterministic or key is None:
                features = dropout(features)
            else:
                features = dropout(features, rngs=jax.random.fold_in(key, index))
        return features


@jax.jit
def _activation(values: types.Latent) -> types.Latent:
    """Return GELU of each value, in one pass over memory."""
    return jax.nn.gelu(values)


def _linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Return an affine layer with float32 parameters and full float32 products."""
    return nnx.Linear(in_features, out_features, precision=PRECISION, rngs=rngs)


def hidden_layers(
    in_features: int, config: AncestryEstimatorConfig, rngs: nnx.Rngs
) -> MLP | None:
    """Return the configured hidden layers, or None where there are none."""
    if not config.hidden_dims:
        return None
    return MLP(in_features, config.hidden_dims, config.dropout_rate, rngs=rngs)


def ancestry_head(
    in_features: int, config: AncestryEstimatorConfig, rngs: nnx.Rngs
) -> nnx.Linear:
    """Return the last layer, from the hidden layers (or the input) to K logits."""
    width = config.hidden_dims[-1] if config.hidden_dims else in_features
    return _linear(width, config.n_populations, rngs)


def temperature_variable(config: AncestryEstimatorConfig) -> nnx.Variable[Array]:
    """Return the softmax temperature, a Param only where it is to be trained."""
    kind = nnx.Param if config.learnable_temperature else nnx.Variable
    return kind(jnp.asarray(config.temperature, jnp.float32))


def proportions(
    head: nnx.Linear,
    temperature: nnx.Variable[Array],
    latent: Float[types.AnyArray, "*batch features"],
) -> types.Proportions:
    """Return softmax(head(latent) / temperature)."""
    check_width("latent", np.shape(latent), head.in_features)
    logits = head(jnp.asarray(latent, jnp.float32))
    return _tempered_softmax(logits, temperature[...])


@jax.jit
def _tempered_softmax(
    logits: types.Latent, temperature: Float[Array, ""]
) -> types.Proportions:
    """Return softmax(logits / temperature).

    The temperature is trained as it is, so a long step may carry it past zero:
    it then acts as the least temperature allowed instead of reversing the order
    of the populations.
    """
    divisor = jnp.maximum(temperature, config_lib.MIN_TEMPERATURE)
    return jax.nn.softmax(logits / divisor, axis=-1)


def check_width(name: str, shape: tuple[int, ...], expected: int) -> None:
    """Raise ValueError unless the last axis has the expected length."""
    if not shape or shape[-1] != expected:
        raise ValueError(
            f"{name} must have {expected} columns (the length of the last axis), "
            f"got shape {shape}"
        )


class FeatureEncoder(nnx.Module):
    """The estimator's hidden layers and head, on features computed beforehand.

    With features = standardise(genotypes) @ A for a fixed projector A, training
    this is training an estimator whose first kernel is A times a small matrix:
    the cost is that of the features, and so is the number of weights to overfit.
    ``assemble_estimator`` makes that estimator.

    Parameters
    ----------
    in_features
        Number of features of a record.
    config
        Hidden layers, number of populations, dropout and temperature.
    rngs
        Streams for the initial weights (``params``) and for dropout (``dropout``).
    """

    def __init__(
        self, in_features: int, config: AncestryEstimatorConfig, *, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.in_features = in_features
        self.backbone = hidden_layers(in_features, config, rngs)
        self.ancestry_head = ancestry_head(in_features, config, rngs)
        self._temperature = temperature_variable(config)

    def __call__(
        self,
        features: Float[types.AnyArray, "*batch features"],
        *,
        key: types.Key | None = None,
    ) -> types.Proportions:
        """Return ancestry proportions for one record of features or a batch.

        Raises
        ------
        ValueError
            If a record does not have ``in_features`` values.
        """
        check_width("features", np.shape(features), self.in_features)
        latent = jnp.asarray(features, jnp.float32)
        if self.backbone is not None:
            latent = self.backbone(latent, key=key)
        return proportions(self.ancestry_head, self._temperature, latent)
