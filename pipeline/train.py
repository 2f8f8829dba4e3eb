"""Train the encoder: distil it from the fitted Q, then stream minibatches of people.

Each minibatch is cut into slices whose gradients are computed side by side on the
workers and added in order; one task applies the optimizer. The cut depends on the
configuration alone, so one worker and several give the same weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.config import AncestryEstimatorConfig
from estimator.likelihood import pad_ancestry, pad_shard, tile_shape, tile_variants
from estimator.packing import ALL_MISSING_BYTE, count_called
from pipeline import checkpoint, plan, stream
from pipeline.cluster import Cluster
from pipeline.config import TrainConfig
from pipeline.fit import FitResult
from pipeline.plan import Rows
from pipeline.prepare import Prepared
from pipeline.progress import track

FloatArray = npt.NDArray[np.float32]

MAX_DISTILLATION_PEOPLE = 65_536
_POINT = "fitted"


@dataclass(frozen=True)
class Encoder:
    """A trained encoder, with all that turns packed genotypes into its features.

    Attributes
    ----------
    config
        Its layers.
    weights
        Their values.
    projector
        The fixed first layer.
    """

    config: AncestryEstimatorConfig
    weights: training.Weights
    projector: training.Projector


@dataclass(frozen=True)
class _Model:
    """Where workers find the fitted model, and the encoder's first layer."""

    folder: Path
    config: AncestryEstimatorConfig
    projector_file: Path

    def projector(self) -> training.Projector:
        return training.Projector(**np.load(self.projector_file, allow_pickle=False))


@dataclass(frozen=True)
class _SliceTask:
    prepared: Prepared
    model: _Model
    blocks: list[Rows]
    upcoming: list[Rows]
    n_padded: int


def train(
    prepared: Prepared,
    fitted: FitResult,
    config: TrainConfig,
    cluster: Cluster,
    folder: Path,
    *,
    seed: int,
) -> Encoder:
    """Train an encoder for a fitted model.

    Parameters
    ----------
    prepared
        The genotypes that the model was fitted to.
    fitted
        The fitted Q and P.
    config
        Layers, epochs, size of a minibatch.
    cluster
        Workers; their number does not change the result.
    folder
        Where files for the workers go.
    seed
        Of the weights and the shuffles.
    """
    encoder_config = AncestryEstimatorConfig(
        n_snps=prepared.n_variants,
        n_populations=fitted.point.ancestry.shape[1],
        hidden_dims=config.hidden_dims,
        dropout_rate=0.0,
    )
    checkpoint.save_point(folder, _POINT, fitted.point)
    projector = training.projector(*fitted.point)
    model = _Model(folder, encoder_config, folder / "projector.npz")
    np.savez(model.projector_file, **projector._asdict())
    blocks = [
        rows
        for rows in plan.split_rows(prepared.n_samples, prepared.unit)
        if prepared.in_fit[rows.slice].any()
    ]
    with track("distilling the encoder"):
        weights = _distil(prepared, model, blocks, cluster, seed)
    weights = _train_epochs(prepared, model, blocks, config, cluster, weights, seed)
    return Encoder(encoder_config, weights, projector)


def _distil(
    prepared: Prepared,
    model: _Model,
    blocks: list[Rows],
    cluster: Cluster,
    seed: int,
) -> training.Weights:
    n_blocks = max(MAX_DISTILLATION_PEOPLE // prepared.unit, 1)
    chosen = blocks[plan.evenly_spaced(len(blocks), n_blocks)]
    groups = [chosen[i : i + 16] for i in range(0, len(chosen), 16)]
    workers = cluster.spread(len(groups))
    features = [
        cluster.submit(_features, prepared, model, group, worker=worker)
        for group, worker in zip(groups, workers, strict=True)
    ]
    return cluster.submit(_distil_features, model, features, seed).result()


def _train_epochs(
    prepared: Prepared,
    model: _Model,
    blocks: list[Rows],
    config: TrainConfig,
    cluster: Cluster,
    weights: training.Weights,
    seed: int,
) -> training.Weights:
    blocks_per_slice = max(config.batch_size // config.n_slices // prepared.unit, 1)
    steps = [
        step
        for epoch in range(config.epochs)
        for step in stream.minibatch_plan(
            blocks, config.n_slices, blocks_per_slice, (seed, epoch)
        )
    ]
    if not steps:
        return weights
    n_padded = blocks_per_slice * prepared.unit
    state = training.TrainingState(weights, None)
    with track("training the encoder", len(steps)) as progress:
        for step, upcoming in zip(steps, [*steps[1:], []], strict=True):
            workers = cluster.spread(len(step))
            gradients = [
                cluster.submit(
                    _slice_gradient,
                    _SliceTask(
                        prepared,
                        model,
                        chosen,
                        upcoming[i] if i < len(upcoming) else [],
                        n_padded,
                    ),
                    state.weights,
                    worker=worker,
                )
                for i, (chosen, worker) in enumerate(zip(step, workers, strict=True))
            ]
            state = cluster.submit(
                _update, state, gradients, config.learning_rate, len(steps)
            ).result()
            progress.advance()
    return state.weights


def _fit_rows(prepared: Prepared, blocks: list[Rows]) -> npt.NDArray[np.intp]:
    """Position in the fitted Q of everybody in some chunks who is in the fit."""
    position = np.cumsum(prepared.in_fit) - 1
    rows = np.concatenate([np.arange(r.start, r.stop) for r in blocks])
    return position[rows[prepared.in_fit[rows]]]


def _in_fit(prepared: Prepared, blocks: list[Rows]) -> npt.NDArray[np.bool_]:
    return np.concatenate([prepared.in_fit[rows.slice] for rows in blocks])


def _packed_features(
    packed: npt.NDArray[np.uint8], n_called: FloatArray, model: _Model
) -> jax.Array:
    tile = tile_shape()
    projector = model.projector()
    centre, factor = (
        tile_variants(jnp.asarray(np.atleast_2d(values)), tile.width, fill=0.0)
        for values in (projector.centre, projector.factor)
    )
    return training.encoder_features(
        jnp.asarray(packed),
        jnp.asarray(n_called),
        model.config.n_snps,
        centre,
        factor,
        tile=tile,
    )


def _load_slice(
    prepared: Prepared,
    model: _Model,
    blocks: list[Rows],
    upcoming: list[Rows],
    n_padded: int,
) -> training.Minibatch:
    """People of some chunks with their features and fitted Q, padded."""
    packed = _reader.read(prepared.path, blocks, upcoming)
    packed = packed[_in_fit(prepared, blocks)]
    tile = tile_shape()
    padded = pad_shard(packed, tile)
    short = -(-n_padded // tile.people) * tile.people - len(padded)
    padded = np.pad(
        padded, ((0, max(short, 0)), (0, 0)), constant_values=ALL_MISSING_BYTE
    )
    n_called = np.zeros(len(padded), np.float32)
    n_called[: len(packed)] = count_called(packed)
    fitted = np.load(checkpoint.ancestry_path(model.folder, _POINT), mmap_mode="r")
    ancestry = pad_ancestry(fitted[_fit_rows(prepared, blocks)], len(padded))
    return training.Minibatch(
        jnp.asarray(padded),
        jnp.asarray(n_called),
        _packed_features(padded, n_called, model),
        jnp.asarray(ancestry),
    )


# One reader a worker process: it holds the chunks that were read ahead.
_reader = stream.BlockReader()


class _Features(NamedTuple):
    features: FloatArray
    ancestry: FloatArray


def _features(prepared: Prepared, model: _Model, blocks: list[Rows]) -> _Features:
    batch = _load_slice(prepared, model, blocks, [], 0)
    called = np.asarray(batch.n_called) > 0
    return _Features(
        np.asarray(batch.features)[called], np.asarray(batch.ancestry)[called]
    )


def _distil_features(
    model: _Model, parts: list[_Features], seed: int
) -> training.Weights:
    features = np.concatenate([part.features for part in parts])
    ancestry = np.concatenate([part.ancestry for part in parts])
    weights = training.distill(model.config, features, ancestry, seed=seed)
    return jax.tree.map(np.asarray, weights)


def _slice_gradient(
    task: _SliceTask, weights: training.Weights
) -> training.MinibatchGradient:
    batch = _load_slice(
        task.prepared, task.model, task.blocks, task.upcoming, task.n_padded
    )
    frequencies = np.load(checkpoint.frequencies_path(task.model.folder, _POINT))
    tile = tile_shape()
    tiles = tile_variants(jnp.asarray(frequencies), tile.width)
    gradient = training.minibatch_gradient(
        weights, batch, tiles, task.model.config, tile
    )
    return jax.tree.map(np.asarray, gradient)


def _update(
    state: training.TrainingState,
    gradients: list[training.MinibatchGradient],
    learning_rate: float,
    n_steps: int,
) -> training.TrainingState:
    """Add the slices' gradients in order and take one optimizer step."""
    schedule = {"learning_rate": learning_rate, "n_steps": n_steps}
    if state.optimizer is None:
        state = training.start_training(state.weights, **schedule)
    total = gradients[0]
    for gradient in gradients[1:]:
        total = jax.tree.map(np.add, total, gradient)
    return jax.tree.map(np.asarray, training.update(state, total, **schedule))
