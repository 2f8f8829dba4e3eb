"""Q of people on a worker's device: the encoder's answer, and Newton steps from it.

Arrays in, arrays out; runs inside the workers, and in the threads of a notebook.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.config import AncestryEstimatorConfig
from estimator.counting import count_called
from estimator.packing import PackedArray, all_missing, packed_width
from estimator.projection import Projection, project_ancestry
from estimator.relaxation import fix_ancestry
from estimator.tiling import pad_shard
from pipeline import plan
from pipeline.minibatch import DeviceModel, FittedModel
from pipeline.prepared import Prepared

# A group of people is what one task projects.
GROUP_PEOPLE = 256


class Projected(NamedTuple):
    """People on the device, padded: what they have, and their Q."""

    genotypes: jax.Array
    n_called: npt.NDArray[np.int64]
    encoded: jax.Array
    projection: Projection


def group_size(prepared: Prepared) -> int:
    """People in a group: at least four groups over a small cohort."""
    quarter = -(-prepared.n_samples // plan.MIN_SHARDS)
    return min(GROUP_PEOPLE, -(-quarter // prepared.unit) * prepared.unit)


def project(
    model: DeviceModel,
    config: AncestryEstimatorConfig,
    weights: training.Weights,
    padded: PackedArray,
    *,
    refine: int,
    fixed: npt.NDArray[np.int16] | None = None,
) -> Projected:
    """Find the Q of people who are padded to whole tiles.

    Parameters
    ----------
    model
        P and the encoder's first layer.
    config, weights
        The rest of the encoder.
    padded
        Packed genotypes.
    refine
        Most Newton steps after the encoder.
    fixed
        Population of each of the people whose ancestry is given, -1 of the others.
    """
    genotypes, n_called = jax.device_put(padded), count_called(padded)
    features = model.features(genotypes, jax.device_put(n_called.astype(np.float32)))
    encoded = training.encode(config, weights, features)
    p, tile = model.frequencies, model.tile
    found = project_ancestry(genotypes, encoded, p, refine=refine, tile=tile)
    if fixed is not None:
        given = fix_ancestry(found.ancestry, fixed)
        found = project_ancestry(genotypes, given, p, refine=0, tile=tile)
    return Projected(genotypes, n_called, encoded, found)


def rehearse(
    model: FittedModel, weights: training.Weights, n_people: int, itemsize: int
) -> None:
    """Compile what `project` does for a group, with an encoder that is still trained.

    Parameters
    ----------
    model
        The fitted model.
    weights
        Of the encoder's shapes.
    n_people, itemsize
        People in a group, and bytes of a packed element.
    """
    device, dtype = model.on_device(), np.dtype(f"u{itemsize}")
    shape = (n_people, packed_width(device.n_variants))
    padded = pad_shard(np.full(shape, all_missing(dtype), dtype), device.tile)
    jax.block_until_ready(project(device, model.config, weights, padded, refine=1))
