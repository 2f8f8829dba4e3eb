"""The neural ancestry estimator: genotypes to Q by an encoder, Q to genotypes by P.

Reads arrays and returns arrays. Parameters are float32 whatever JAX's default
precision, and missing genotypes contribute nothing to any answer or gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from estimator import config as config_lib
from estimator import encoder as parts
from estimator import types
from estimator.encoder import MLP, Centre, FeatureEncoder, standardise

AncestryEstimatorConfig = config_lib.AncestryEstimatorConfig

__all__ = [
    "MLP",
    "Centre",
    "DifferentiableAncestryEstimator",
    "FeatureEncoder",
    "assemble_estimator",
    "create_ancestry_estimator",
    "frequencies_to_logits",
    "logits_to_frequencies",
    "standardise",
]


@jax.jit
def frequencies_to_logits(
    frequencies: Float[types.AnyArray, "populations variants"],
) -> Float[Array, "populations variants"]:
    """Return the unbounded numbers that ``logits_to_frequencies`` maps back.

    Frequencies closer to 0 or 1 than ``config.MIN_FREQUENCY`` come back moved to it,
    with finite logits.
    """
    values = jnp.asarray(frequencies, jnp.float32)
    margin = config_lib.MIN_FREQUENCY
    fraction = (values - margin) / (1 - 2 * margin)
    # float32 holds nothing between 1 - 6e-8 and 1, where the logit is infinite.
    fraction = jnp.clip(fraction, 1e-7, 1 - 1e-7)
    return jnp.log(fraction) - jnp.log1p(-fraction)


@jax.jit
def logits_to_frequencies(
    logits: Float[types.AnyArray, "populations variants"],
) -> types.Frequencies:
    """Return allele frequencies strictly inside (0, 1) for any finite logits."""
    margin = config_lib.MIN_FREQUENCY
    return margin + (1 - 2 * margin) * jax.nn.sigmoid(logits)


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise ValueError unless an array has exactly the expected shape."""
    if shape != expected:
        raise ValueError(f"{name} must have shape {expected}, got {shape}")


class DifferentiableAncestryEstimator(nnx.Module):
    """Autoencoder of the ADMIXTURE model, differentiable throughout.

    The encoder maps genotypes to ancestry proportions Q by a temperature-scaled
    softmax; the decoder is the model itself, expected count = 2 Q P. A fresh
    estimator has random weights and frequencies and dropout switched off:
    ``assemble_estimator`` starts one from data, ``train()`` and ``eval()``
    switch dropout. All methods take one record or a batch.

    Parameters
    ----------
    config
        Sizes and behaviour.
    rngs
        Streams for the initial weights (``params``) and for dropout (``dropout``).

    Attributes
    ----------
    config
        As given.
    backbone
        Hidden layers, acting on standardised genotypes; None without any.
    ancestry_head
        Linear layer from the latent representation to K logits.
    centre
        Expected allele frequencies used to standardise; one half until set.
    frequency_logits
        What is trained underneath ``population_frequencies``.

    References
    ----------
    Alexander, Novembre and Lange (2009), Genome Research 19:1655-1664.
    Dominguez Mantes et al. (2023), Neural ADMIXTURE for rapid genomic clustering,
    Nature Computational Science 3:621-629.
    """

    def __init__(self, config: AncestryEstimatorConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.backbone = parts.hidden_layers(config.n_snps, config, rngs)
        self.ancestry_head = parts.ancestry_head(config.n_snps, config, rngs)
        self._temperature = parts.temperature_variable(config)
        self.centre = Centre(jnp.full((config.n_snps,), 0.5, jnp.float32))
        shape = (config.n_populations, config.n_snps)
        self.frequency_logits = nnx.Param(
            jax.random.normal(rngs.params(), shape, jnp.float32)
        )

    @property
    def population_frequencies(self) -> types.Frequencies:
        """Allele frequencies P of the populations, each in (0, 1).

        Computed from ``frequency_logits``, so that gradients flow through and
        any step of an optimiser leaves them valid.
        """
        return logits_to_frequencies(self.frequency_logits[...])

    def encode(
        self, genotypes: types.Genotypes, *, key: types.Key | None = None
    ) -> types.Latent:
        """Return the latent representation that ``ancestry_head`` reads.

        Parameters
        ----------
        genotypes
            Alternate-allele counts 0, 1 or 2; missing is negative or NaN.
        key
            Source of dropout in training mode; without it the estimator's own
            streams are used and advanced.

        Returns
        -------
        The last hidden layer's activations. Without hidden layers the genotypes
        themselves in float32, a missing one being its expected count.

        Raises
        ------
        ValueError
            If a record does not have ``config.n_snps`` genotypes.
        """
        parts.check_width("genotypes", np.shape(genotypes), self.config.n_snps)
        if self.backbone is not None:
            return self.backbone(standardise(genotypes, self.centre[...]), key=key)
        counts, observed = parts.observed_counts(genotypes)
        expected = jnp.broadcast_to(2 * self.centre[...], counts.shape)
        return jnp.where(observed, counts, expected)

    def compute_ancestry(
        self, latent: Float[types.AnyArray, "*batch features"]
    ) -> types.Proportions:
        """Return ancestry proportions for a latent representation.

        Raises
        ------
        ValueError
            If a record is not as wide as the head's input.
        """
        return parts.proportions(self.ancestry_head, self._temperature, latent)

    def decode(
        self, ancestry: Float[types.AnyArray, "*batch populations"]
    ) -> Float[Array, "*batch variants"]:
        """Return expected alternate-allele counts 2 Q P, in [0, 2].

        Raises
        ------
        ValueError
            If a record does not have ``config.n_populations`` proportions.
        """
        parts.check_width("ancestry", np.shape(ancestry), self.config.n_populations)
        ancestry = jnp.asarray(ancestry, jnp.float32)
        frequencies = self.population_frequencies
        return 2 * jnp.matmul(ancestry, frequencies, precision=parts.PRECISION)

    def apply(
        self,
        data: dict[str, Any],
        state: dict[str, Any],
        metadata: dict[str, Any] | None,
        random_params: types.Key | None = None,
        stats: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
        """Estimate ancestry and reconstruct the genotypes.

        Parameters
        ----------
        data
            ``"genotypes"``: alternate-allele counts 0, 1 or 2, missing negative
            or NaN, for one record or a batch. Other entries are passed through.
        state, metadata
            Passed through.
        random_params
            PRNG key of this call's dropout. With it, a call in training mode has
            no side effect, so ``jax.vmap`` over records and keys works. Without
            it, the estimator's own streams advance. Not read in evaluation mode.
        stats
            Accepted for the operator interface; not used.

        Returns
        -------
        ``data`` with ``"ancestry_proportions"`` (Q), ``"reconstructed"`` (expected
        counts) and ``"latent"`` added, then ``state`` and ``metadata``.

        Raises
        ------
        KeyError
            If ``data`` has no ``"genotypes"``.
        ValueError
            If a record does not have ``config.n_snps`` genotypes.
        """
        if "genotypes" not in data:
            raise KeyError(f"data must have the key 'genotypes', got {list(data)}")
        latent = self.encode(data["genotypes"], key=random_params)
        ancestry = self.compute_ancestry(latent)
        results = {
            "ancestry_proportions": ancestry,
            "reconstructed": self.decode(ancestry),
            "latent": latent,
        }
        return {**data, **results}, state, metadata


def create_ancestry_estimator(
    n_snps: int,
    n_populations: int,
    hidden_dims: tuple[int, ...] = (128, 64),
    temperature: float = 1.0,
    dropout_rate: float = 0.1,
    seed: int = 42,
) -> DifferentiableAncestryEstimator:
    """Make an estimator with a fixed temperature from its sizes and a seed.

    The parameters are those of ``AncestryEstimatorConfig``; the same seed gives
    the same weights and the same sequence of dropout masks.

    Raises
    ------
    ValueError
        If a value lies outside its range.
    """
    config = AncestryEstimatorConfig(
        n_snps=n_snps,
        n_populations=n_populations,
        hidden_dims=hidden_dims,
        temperature=temperature,
        dropout_rate=dropout_rate,
    )
    return DifferentiableAncestryEstimator(config, rngs=nnx.Rngs(seed))


def assemble_estimator(
    config: AncestryEstimatorConfig,
    projector: Float[types.AnyArray, "variants features"],
    centre: types.Centre,
    encoder: FeatureEncoder,
    frequencies: Float[types.AnyArray, "populations variants"],
    *,
    seed: int = 0,
) -> DifferentiableAncestryEstimator:
    """Fold a projector and an encoder of its features into one estimator.

    With hidden layers, the estimator's Q for any genotypes is the encoder's for
    ``standardise(genotypes, centre) @ projector``, up to rounding. Without them
    the head reads counts rather than standardised genotypes; the two then agree
    for records with nothing missing, and a missing genotype counts as expected.

    Parameters
    ----------
    config
        Configuration of the estimator, equal to the encoder's in what they share.
    projector
        Fixed linear map from standardised genotypes to the encoder's features.
    centre
        Expected allele frequencies, in [0, 1].
    encoder
        Trained on those features. It is copied, not shared.
    frequencies
        Allele frequencies P, in [0, 1]; kept ``config.MIN_FREQUENCY`` inside.
    seed
        Seed of the estimator's own dropout streams.

    Returns
    -------
    An estimator in evaluation mode.

    Raises
    ------
    ValueError
        If a shape disagrees with the configuration, the two configurations
        disagree, or a frequency lies outside [0, 1].
    """
    _check_parts(config, projector, centre, encoder, frequencies)
    estimator = DifferentiableAncestryEstimator(config, rngs=nnx.Rngs(seed))
    estimator.centre[...] = jnp.asarray(centre, jnp.float32)
    estimator.frequency_logits[...] = frequencies_to_logits(frequencies)
    estimator._temperature[...] = encoder._temperature[...]
    targets, sources = _affine_layers(estimator), _affine_layers(encoder)
    # Later layers are copied; the first is replaced by its fold just below.
    for target, source in zip(targets[1:], sources[1:], strict=True):
        nnx.update(target, nnx.state(source))
    kernel, bias = _folded(estimator, projector, sources[0])
    nnx.update(targets[0], {"kernel": kernel, "bias": bias})
    return estimator


def _folded(
    estimator: DifferentiableAncestryEstimator,
    projector: Float[types.AnyArray, "variants features"],
    layer: nnx.Linear,
) -> tuple[Float[Array, "variants width"], Float[Array, " width"]]:
    """Return the kernel and bias of a projector followed by an affine layer."""
    weights = jnp.asarray(projector, jnp.float32)
    kernel = jnp.matmul(weights, layer.kernel[...], precision=parts.PRECISION)
    assert layer.bias is not None
    if estimator.backbone is not None:
        return kernel, layer.bias[...]
    # (g / 2 - centre) @ kernel, written for the counts g that this head reads.
    offset = jnp.matmul(estimator.centre[...], kernel, precision=parts.PRECISION)
    return kernel / 2, layer.bias[...] - offset


def _affine_layers(
    module: FeatureEncoder | DifferentiableAncestryEstimator,
) -> list[nnx.Linear]:
    """Return every affine layer from the input to the logits, in order."""
    hidden = [] if module.backbone is None else list(module.backbone.layers)
    return [*hidden, module.ancestry_head]


def _check_parts(
    config: AncestryEstimatorConfig,
    projector: Float[types.AnyArray, "variants features"],
    centre: types.Centre,
    encoder: FeatureEncoder,
    frequencies: Float[types.AnyArray, "populations variants"],
) -> None:
    """Raise ValueError unless the parts of an estimator fit together."""
    for field in ("hidden_dims", "n_populations", "learnable_temperature"):
        expected, actual = getattr(config, field), getattr(encoder.config, field)
        if expected != actual:
            raise ValueError(f"encoder must have {field} {expected}, got {actual}")
    shape = (config.n_snps, encoder.in_features)
    _check_shape("projector", np.shape(projector), shape)
    _check_shape("centre", np.shape(centre), (config.n_snps,))
    shape = (config.n_populations, config.n_snps)
    _check_shape("frequencies", np.shape(frequencies), shape)
    for name, values in (("centre", centre), ("frequencies", frequencies)):
        values = np.asarray(values)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} must lie in [0, 1], got values from "
                f"{values.min()} to {values.max()}"
            )
