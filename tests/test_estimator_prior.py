"""An encoder from P alone, on people that it never saw."""

import jax.numpy as jnp
import numpy as np
import pytest

from estimator import training
from estimator.config import AncestryEstimatorConfig
from estimator.counting import count_called
from estimator.metrics import rmse
from estimator.packing import pack_genotypes
from estimator.prior import distil_from_prior
from estimator.tiling import TileShape, pad_shard, tile_variants
from tests import oracle

K = 3


@pytest.mark.optax
def test_distil_from_prior__knows_people_drawn_from_p():
    truth = oracle.simulate(200, 2_000, K, seed=1, missing_rate=0.05)
    p = truth.frequencies.astype(np.float32)
    config = AncestryEstimatorConfig(
        n_snps=2_000, n_populations=K, hidden_dims=(16,), dropout_rate=0.0
    )
    weights, projector = distil_from_prior(config, p, seed=1)
    tile = TileShape(64, 128)
    padded = pad_shard(pack_genotypes(truth.genotypes), tile)
    features = training.encoder_features(
        jnp.asarray(padded),
        jnp.asarray(count_called(padded).astype(np.float32)),
        2_000,
        tile_variants(jnp.asarray(projector.centre[None]), tile.width, fill=0.0),
        tile_variants(jnp.asarray(projector.factor), tile.width, fill=0.0),
        tile=tile,
    )
    encoded = np.asarray(training.encode(config, weights, features))[:200]
    assert rmse(encoded, truth.ancestry, match=False) < 0.04
    again = distil_from_prior(config, p, seed=1)
    np.testing.assert_array_equal(again.projector.factor, projector.factor)
