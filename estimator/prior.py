"""An encoder for allele frequencies that are known, without people to train it on.

People are simulated from the model itself, their ancestry from a Dirichlet prior and
their genotypes from P, and the encoder is distilled from both.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.config import AncestryEstimatorConfig

N_PEOPLE = 8_192
# Concentration of the prior: between a population each and every mixture alike.
CONCENTRATION = 0.5
_VARIANTS_AT_ONCE = 1_024


class Distilled(NamedTuple):
    """An encoder's weights and the fixed first layer in front of them."""

    weights: training.Weights
    projector: training.Projector


def distil_from_prior(
    config: AncestryEstimatorConfig,
    frequencies: npt.NDArray[np.float32],
    *,
    seed: int,
) -> Distilled:
    """Train an encoder for given frequencies.

    Parameters
    ----------
    config
        Its layers.
    frequencies
        P inside (0, 1), shape (populations, variants).
    seed
        Of the people and the weights.
    """
    generator = np.random.default_rng(seed)
    prior = np.full(len(frequencies), CONCENTRATION)
    ancestry = generator.dirichlet(prior, N_PEOPLE).astype(np.float32)
    projector = training.projector(ancestry, frequencies)
    features = np.zeros_like(ancestry)
    for start in range(0, frequencies.shape[1], _VARIANTS_AT_ONCE):
        part = slice(start, start + _VARIANTS_AT_ONCE)
        expected = ancestry @ frequencies[:, part]
        centred = -np.broadcast_to(projector.centre[part], expected.shape)
        for _ in range(2):
            drawn = generator.random(expected.shape, np.float32) < expected
            centred = centred + np.float32(0.5) * drawn
        features += centred @ projector.factor[:, part].T
    weights = training.distill(config, features, ancestry, seed=seed)
    return Distilled(jax.tree.map(np.asarray, weights), projector)
