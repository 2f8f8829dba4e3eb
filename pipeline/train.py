"""Train the encoder: distil it from the fitted Q, then stream minibatches of people.

Each minibatch is cut into slices whose gradients are computed side by side on the
workers and added in order; one task applies the optimizer. The cut depends on the
configuration alone, so one worker and several give the same weights. The weights and
the optimizer's memory are a file in the working directory, first as distilled and then
every so often, from which an interrupted training goes on.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.config import AncestryEstimatorConfig
from pipeline import checkpoint, minibatch, plan, projector, stream
from pipeline.config import TrainConfig
from pipeline.fit import FitResult
from pipeline.location import Location
from pipeline.minibatch import FittedModel, Slice
from pipeline.prepared import Prepared
from pipeline.progress import track
from pipeline.tasks import Cluster, Future

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

    @property
    def is_trained(self) -> bool:
        """False where the linear answer stands for it."""
        return training.LINEAR not in self.weights


def without_training(
    mean: npt.NDArray[np.float64], frequencies: npt.NDArray[np.float32]
) -> Encoder:
    """What projections start from in a model without an encoder.

    Parameters
    ----------
    mean
        Mean Q of the people of the fit.
    frequencies
        P.
    """
    k, n_variants = frequencies.shape
    config = AncestryEstimatorConfig(
        n_snps=n_variants, n_populations=k, hidden_dims=(), dropout_rate=0.0
    )
    return Encoder(config, *training.linear_start(mean, frequencies))


class _Schedule(NamedTuple):
    """Learning rate of the first step, and the number of steps to its end."""

    learning_rate: float
    n_steps: int


class _Progress(NamedTuple):
    """Optimizer steps taken, and what came of them."""

    n_taken: int
    state: training.TrainingState


def train(
    prepared: Prepared,
    fitted: FitResult,
    config: TrainConfig,
    cluster: Cluster,
    folder: Location,
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
        Where files for the workers go. A training found there is continued.
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
    first_layer = training.projector(*fitted.point)
    model = FittedModel(folder, stamp, encoder_config)
    model.save(fitted.point, first_layer)
    steps = _plan_steps(prepared, config, seed)
    schedule = _Schedule(config.learning_rate, max(len(steps), 1))
    file = checkpoint.StateFile(folder / "training.npz")
    n_padded = _blocks_per_slice(prepared, config) * prepared.unit
    structure = _structure(encoder_config, schedule)
    progress = file.load(structure)
    if progress is None:
        with track("distilling the encoder"):
            weights = distil_encoder(prepared, model, cluster, seed)
            blank = jax.tree.map(_zeros, structure.state.weights)
            rehearsal = [
                cluster.rehearse(
                    minibatch.slice_gradient, part, None, model, n_padded, blank
                )
                for step in steps[:1]
                for part in step[:1]
            ]
            # There is time for what comes after the training, too.
            group = (projector.group_size(prepared), prepared.itemsize)
            rehearsal.append(cluster.rehearse(projector.rehearse, model, blank, *group))
            state = cluster.result(cluster.submit(_start, weights, schedule))
            del rehearsal
        progress = _Progress(0, state)
        file.save(progress)
    state = _train_steps(model, steps, n_padded, schedule, cluster, progress, file)
    return Encoder(encoder_config, state.weights, first_layer)


def _structure(config: AncestryEstimatorConfig, schedule: _Schedule) -> _Progress:
    """Progress of a training without its values."""
    weights = jax.eval_shape(partial(training.initial_weights, config, seed=0))
    start = partial(training.start_training, **schedule._asdict())
    return _Progress(0, jax.eval_shape(start, weights))


def _zeros(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.zeros(like.shape, like.dtype)


def distil_encoder(
    prepared: Prepared, model: FittedModel, cluster: Cluster, seed: int
) -> Future:
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
    return cluster.submit(_distil_features, model, features, seed)


def _distil_features(
    model: FittedModel, parts: list[minibatch.Features], seed: int
) -> training.Weights:
    features = np.concatenate([part.features for part in parts])
    ancestry = np.concatenate([part.ancestry for part in parts])
    weights = training.distill(model.config, features, ancestry, seed=seed)
    return jax.tree.map(np.asarray, weights)


def _start(weights: training.Weights, schedule: _Schedule) -> training.TrainingState:
    state = training.start_training(weights, **schedule._asdict())
    return jax.tree.map(np.asarray, state)


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
    schedule: _Schedule,
    cluster: Cluster,
    progress: _Progress,
    file: checkpoint.StateFile,
) -> training.TrainingState:
    """Take the optimizer steps that are left, one for every minibatch."""
    first, state = int(progress.n_taken), progress.state
    with track("training the encoder", len(steps) - first) as shown:
        for number, step in enumerate(steps[first:], start=first + 1):
            following = steps[number] if number < len(steps) else []
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
            state = cluster.result(cluster.submit(_update, state, gradients, schedule))
            file.save_if_due(_Progress(number, state))
            shown.advance()
    return state


def _update(
    state: training.TrainingState,
    gradients: list[training.MinibatchGradient],
    schedule: _Schedule,
) -> training.TrainingState:
    """Add the slices' gradients in order and take one optimizer step."""
    total = gradients[0]
    for gradient in gradients[1:]:
        total = jax.tree.map(np.add, total, gradient)
    updated = training.update(state, total, **schedule._asdict())
    return jax.tree.map(np.asarray, updated)
