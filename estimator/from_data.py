"""An estimator that starts from data: spectral Q and P, and an encoder that knows them.

Reads genotypes in memory and returns a `DifferentiableAncestryEstimator`. From random
weights training collapses to a few populations; from here it goes on.
"""

import numpy as np
import numpy.typing as npt

from estimator import encoder, training
from estimator.config import AncestryEstimatorConfig
from estimator.model import DifferentiableAncestryEstimator, assemble_estimator
from estimator.packing import pack_genotypes
from estimator.spectral import spectral_start
from estimator.tiling import tile_shape

# People whose features are computed at once, in float32.
_PEOPLE_AT_ONCE = 256


def estimator_from_data(
    genotypes: npt.ArrayLike,
    n_populations: int,
    *,
    hidden_dims: tuple[int, ...] = (128, 64),
    dropout_rate: float = 0.0,
    seed: int = 42,
) -> DifferentiableAncestryEstimator:
    """Start an estimator from genotypes that fit into memory.

    Q and P are those of a spectral start; the encoder is distilled from them and folded
    into the estimator (`assemble_estimator`).

    Parameters
    ----------
    genotypes
        Alternate-allele counts 0, 1 or 2, missing negative or NaN; shape (people,
        variants).
    n_populations
        K, at most the number of people and of variants.
    hidden_dims, dropout_rate
        Of the estimator.
    seed
        Of everything random.

    Returns
    -------
    An estimator in evaluation mode.
    """
    given = np.asarray(genotypes)
    counts = np.where(given >= 0, given, -1).astype(np.int8)
    n_called = np.maximum((counts >= 0).sum(axis=0), 1)
    frequency = np.clip(counts, 0, None).sum(axis=0) / (2.0 * n_called)
    start = spectral_start(
        pack_genotypes(counts), frequency, n_populations, seed=seed, tile=tile_shape()
    )
    config = AncestryEstimatorConfig(
        n_snps=counts.shape[1],
        n_populations=n_populations,
        hidden_dims=hidden_dims,
        dropout_rate=dropout_rate,
    )
    factor, centre = training.projector(start.ancestry, start.frequencies)
    rows = range(0, len(counts), _PEOPLE_AT_ONCE)
    features = [
        np.asarray(encoder.standardise(counts[i : i + _PEOPLE_AT_ONCE], centre))
        @ factor.T
        for i in rows
    ]
    weights = training.distill(
        config, np.concatenate(features), start.ancestry, seed=seed
    )
    layers = training.build_encoder(config, weights)
    return assemble_estimator(
        config, factor.T, centre, layers, start.frequencies, seed=seed
    )
