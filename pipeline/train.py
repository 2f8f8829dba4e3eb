"""Train the encoder: distil it from the fitted Q, then stream minibatches of people.

Each minibatch is cut into slices whose gradients are computed side by side on the
workers and added in order; one task applies the optimizer. The cut depends on the
configuration alone, so one worker and several give the same weights.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from estimator import training
from estimator.config import AncestryEstimatorConfig
from pipeline import minibatch, plan, stream
from pipeline.cluster import Cluster
from pipeline.config import TrainConfig
from pipeline.fit import FitResult
from pipeline.minibatch import FittedModel, Slice
from pipeline.prepare import Prepared
from pipeline.progress import track

MAX_DISTILLATION_PEOPLE = 65_536
# Chunks of people whose features one task computes.
_FEATURE_BLOCKS = 16


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


def train(
    prepared: Prepared,
    fitted: FitResult,
    config: TrainConfig,
    cluster: Cluster,
    folder: Path,
    *,
    seed: int,
    stamp: str,
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
    stamp
        Fingerprint of the run.
    """
    encoder_config = AncestryEstimatorConfig(
        n_snps=prepared.n_variants,
        n_populations=fitted.point.ancestry.shape[1],
        hidden_dims=config.hidden_dims,
        dropout_rate=0.0,
    )
    projector = training.projector(*fitted.point)
    model = FittedModel(folder, stamp, encoder_config)
    model.save(fitted.point, projector)
    with track("distilling the encoder"):
        weights = distil_encoder(prepared, model, cluster, seed)
    steps = _plan_steps(prepared, config, seed)
    if steps:
        n_padded = _blocks_per_slice(prepared, config) * prepared.unit
        rate = config.learning_rate
        weights = _train_steps(model, steps, n_padded, rate, cluster, weights)
    return Encoder(encoder_config, weights, projector)


def distil_encoder(
    prepared: Prepared, model: FittedModel, cluster: Cluster, seed: int
) -> training.Weights:
    """Weights fitted to a model's Q on the features of a sample of its people."""
    blocks = prepared.blocks_in_fit
    n_blocks = max(MAX_DISTILLATION_PEOPLE // prepared.unit, 1)
    chosen = blocks[plan.evenly_spaced(len(blocks), n_blocks)]
    slices = [
        minibatch.cut_slice(prepared, chosen[i : i + _FEATURE_BLOCKS])
        for i in range(0, len(chosen), _FEATURE_BLOCKS)
    ]
    features = [
        cluster.submit(minibatch.read_features, part, model, worker=worker)
        for part, worker in zip(slices, cluster.spread(len(slices)), strict=True)
    ]
    return cluster.submit(_distil_features, model, features, seed).result()


def _distil_features(
    model: FittedModel, parts: list[minibatch.Features], seed: int
) -> training.Weights:
    features = np.concatenate([part.features for part in parts])
    ancestry = np.concatenate([part.ancestry for part in parts])
    weights = training.distill(model.config, features, ancestry, seed=seed)
    return jax.tree.map(np.asarray, weights)


def _blocks_per_slice(prepared: Prepared, config: TrainConfig) -> int:
    return max(config.batch_size // config.n_slices // prepared.unit, 1)


def _plan_steps(
    prepared: Prepared, config: TrainConfig, seed: int
) -> list[list[Slice]]:
    """Slices of every minibatch of every epoch."""
    return [
        [minibatch.cut_slice(prepared, chosen) for chosen in step]
        for epoch in range(config.epochs)
        for step in stream.minibatch_plan(
            prepared.blocks_in_fit,
            config.n_slices,
            _blocks_per_slice(prepared, config),
            (seed, epoch),
        )
    ]


def _train_steps(
    model: FittedModel,
    steps: list[list[Slice]],
    n_padded: int,
    learning_rate: float,
    cluster: Cluster,
    weights: training.Weights,
) -> training.Weights:
    """Take one optimizer step for every minibatch."""
    state = training.TrainingState(weights, None)
    with track("training the encoder", len(steps)) as progress:
        for step, following in zip(steps, [*steps[1:], []], strict=True):
            upcoming = [*following, *[None] * len(step)]
            gradients = [
                cluster.submit(
                    minibatch.slice_gradient,
                    part,
                    ahead,
                    model,
                    n_padded,
                    state.weights,
                    worker=worker,
                )
                for part, ahead, worker in zip(
                    step, upcoming, cluster.spread(len(step)), strict=False
                )
            ]
            state = cluster.submit(
                _update, state, gradients, learning_rate, len(steps)
            ).result()
            progress.advance()
    return state.weights


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
