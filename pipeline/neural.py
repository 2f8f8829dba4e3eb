"""`fit.method = "neural"`: train the encoder and P together on streamed minibatches.

From the starting values of the fit and an encoder distilled from them. Each minibatch
is cut into slices whose gradients are computed side by side on the workers, each adding
up its own, and added in a fixed tree; one task takes the step. The cut depends on the
data and the configuration alone, so one worker and several give the same parameters.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from estimator import training
from estimator.acceleration import Point
from estimator.config import AncestryEstimatorConfig
from estimator.joint import JointSchedule, add_gradients
from pipeline import joint, minibatch, provenance, stream, train
from pipeline.config import NEURAL, NeuralConfig, RunConfig
from pipeline.fit import FitResult
from pipeline.joint import Evaluated, JointFiles, Version
from pipeline.location import Location
from pipeline.minibatch import FittedModel, Slice
from pipeline.prepared import Prepared
from pipeline.progress import track
from pipeline.start import passes_of_start, starting_point
from pipeline.sum_tree import subtrees_of_workers
from pipeline.tasks import Cluster
from pipeline.train import Encoder

_TRAINING = "training.json"
# Reads of the data besides the starting values and the epochs: the distillation's
# sample and the evaluation.
_OTHER_PASSES = 2
# Chunks of people that one task evaluates.
EVALUATION_BLOCKS = 16


@dataclass(frozen=True)
class NeuralResult:
    """What joint training leaves.

    Attributes
    ----------
    fitted
        The encoder's Q of the people in the training, and P.
    encoder
        The encoder.
    evaluation
        For "training" and "held_out" people: their number, `observed_genotypes`, the
        `log_likelihood` at the encoder's Q, and the `refined_log_likelihood` at the
        best Q for the same P. None where nobody was held out.
    """

    fitted: FitResult
    encoder: Encoder
    evaluation: dict[str, dict[str, float] | None]


@dataclass(frozen=True)
class NeuralFit:
    """A joint training to be done.

    Attributes
    ----------
    prepared
        The genotypes, of which the people in the fit are trained on.
    config
        The run's configuration.
    cluster
        Workers; their number does not change the result.
    folder
        Where files for the workers, and to resume from, go.
    stamp
        Fingerprint of the run.
    """

    prepared: Prepared
    config: RunConfig
    cluster: Cluster
    folder: Location
    stamp: str

    def start(self) -> None:
        """Compute the state before the first step, unless an earlier run did.

        Raises
        ------
        InputError
            If there are fewer than two people, or one variant, for each population.
        """
        if (self.folder / _TRAINING).exists():
            return
        seed = self.config.seed
        point = starting_point(
            self.prepared,
            self.config.fit,
            self.cluster,
            self.folder,
            seed=seed,
            stamp=self.stamp,
        )
        files = self._files()
        fitted = FittedModel(self.folder, self.stamp, files.config)
        fitted.save(point, training.projector(*point))
        with track("distilling the encoder"):
            weights = train.distil_encoder(self.prepared, fitted, self.cluster, seed)
        moment = point.ancestry.T @ point.ancestry / len(point.ancestry)
        frequencies = fitted.frequencies_path
        start = (joint.start, files, weights, frequencies, moment)
        self.cluster.result(self.cluster.submit(*start))
        mean = point.ancestry.mean(axis=0, dtype=np.float64)
        spread = point.ancestry.std(axis=0, dtype=np.float64)
        moments = {"mean": mean.tolist(), "spread": spread.tolist()}
        state = {"epochs": 0, "trace": [], **moments}
        provenance.write_json(self.folder / _TRAINING, state)

    def train(self) -> NeuralResult:
        """Train from the last epoch that was finished, and evaluate."""
        path = self.folder / _TRAINING
        state = json.loads(path.read_text())
        neural, files = self.config.neural, self._files()
        with track("training encoder and frequencies", neural.epochs) as progress:
            for _ in range(state["epochs"]):
                progress.advance()
            for epoch in range(state["epochs"], neural.epochs):
                self._renew_layer(files, epoch, state)
                log_likelihood = self._train_epoch(files, epoch)
                trace = [*state["trace"], log_likelihood]
                state = {**state, "epochs": epoch + 1, "trace": trace}
                provenance.write_json(path, state)
                progress.advance(
                    note=f"log-likelihood {log_likelihood:.2f}",
                    log_likelihood=log_likelihood,
                )
        self._renew_layer(files, neural.epochs, state)
        return self._evaluate(files, state["trace"])

    def _files(self) -> JointFiles:
        train_config, neural = self.config.train, self.config.neural
        layers = AncestryEstimatorConfig(
            n_snps=self.prepared.n_variants,
            n_populations=self.config.fit.n_populations,
            hidden_dims=train_config.hidden_dims,
            dropout_rate=0.0,
        )
        n_steps = len(self._plan_epoch(0))
        schedule = JointSchedule(
            neural.learning_rate,
            neural.frequency_rate / n_steps,
            n_steps * neural.epochs,
        )
        return JointFiles(self.folder / "joint", self.stamp, layers, schedule)

    def _plan_epoch(self, epoch: int) -> list[list[Slice]]:
        """Slices of every minibatch of an epoch; as many minibatches in each."""
        plan = stream.minibatch_plan(
            self.prepared.blocks_in_fit,
            self.config.neural.n_slices,
            _blocks_per_slice(self.config.neural, self.prepared.unit),
            (self.config.seed, epoch),
        )
        cut = minibatch.cut_slice
        return [[cut(self.prepared, chosen) for chosen in step] for step in plan]

    def _renew_layer(
        self, files: JointFiles, epoch: int, state: dict[str, Any]
    ) -> None:
        version = Version(files, epoch * len(self._plan_epoch(0)), epoch)
        mean, spread = np.array(state["mean"]), np.array(state["spread"])
        renewed = self.cluster.submit(joint.renew_layer, version, mean, spread)
        self.cluster.result(renewed)

    def _train_epoch(self, files: JointFiles, epoch: int) -> float:
        """Log-likelihood of the people as they streamed past."""
        steps = self._plan_epoch(epoch)
        first = epoch * len(steps)
        log_likelihood = 0.0
        for index, step in enumerate(steps):
            following = steps[index + 1] if index + 1 < len(steps) else []
            version = Version(files, first + index, epoch)
            log_likelihood += self._take_step(version, step, following)
            files.keep({first, version.step, version.step + 1}, epoch)
        return log_likelihood

    def _take_step(
        self, version: Version, step: list[Slice], following: list[Slice]
    ) -> float:
        n_padded = (
            _blocks_per_slice(self.config.neural, self.prepared.unit)
            * self.prepared.unit
        )
        gradients = {
            run: self.cluster.submit(
                joint.run_gradient,
                run,
                step[run.start : run.stop],
                upcoming,
                version,
                n_padded,
                worker=worker,
            )
            for run, upcoming, worker in self._place(step, following)
        }
        total = self.cluster.add(add_gradients, gradients)
        # A worker holds each gradient of P for as long as anybody refers to it.
        gradients.clear()
        return self.cluster.result(self.cluster.submit(joint.take_step, version, total))

    def _place(
        self, step: list[Slice], following: list[Slice]
    ) -> Iterator[tuple[range, Slice | None, str | None]]:
        """Runs of slices to be added up, what is read after each, and its worker."""
        workers = self.cluster.spread(len(step))
        for worker, runs in subtrees_of_workers(workers, len(step)):
            first = runs[0].start
            upcoming = [step[run.start] for run in runs[1:]]
            # Then the worker begins with the next step.
            last = following[first] if first < len(following) else None
            for run, slice_after in zip(runs, [*upcoming, last], strict=True):
                yield run, slice_after, worker

    def _evaluate(self, files: JointFiles, trace: list[float]) -> NeuralResult:
        epochs = self.config.neural.epochs
        version = Version(files, epochs * len(self._plan_epoch(0)), epochs)
        inside = self._evaluate_people(version, self.prepared)
        outside = None
        if self.prepared.held_out:
            mask = np.zeros(self.prepared.n_samples, bool)
            for rows in self.prepared.held_out:
                mask[rows.slice] = True
            others = dataclasses.replace(self.prepared, in_fit=mask)
            outside = _figures(self._evaluate_people(version, others))
        state = files.load_state(version.step)
        ancestry = np.concatenate([part.ancestry for part in inside])
        training_figures = _figures(inside)
        fitted = FitResult(
            point=Point(ancestry, np.asarray(state.frequencies)),
            log_likelihood=training_figures["log_likelihood"],
            trace=trace,
            converged=True,
            data_passes=passes_of_start(self.config.fit) + epochs + _OTHER_PASSES,
            method=NEURAL,
        )
        encoder = Encoder(files.config, state.encoder.weights, files.load_layer(epochs))
        evaluation = {"training": training_figures, "held_out": outside}
        return NeuralResult(fitted, encoder, evaluation)

    def _evaluate_people(self, version: Version, people: Prepared) -> list[Evaluated]:
        blocks = people.blocks_in_fit
        parts = [
            minibatch.cut_slice(people, blocks[i : i + EVALUATION_BLOCKS])
            for i in range(0, len(blocks), EVALUATION_BLOCKS)
        ]
        workers = self.cluster.spread(len(parts))
        futures = [
            self.cluster.submit(joint.evaluate, part, version, worker=worker)
            for part, worker in zip(parts, workers, strict=True)
        ]
        return [self.cluster.result(future) for future in futures]


def _blocks_per_slice(config: NeuralConfig, unit: int) -> int:
    return max(config.batch_size // config.n_slices // unit, 1)


def _figures(parts: list[Evaluated]) -> dict[str, float]:
    return {
        "n_samples": sum(len(part.ancestry) for part in parts),
        "observed_genotypes": sum(part.n_called for part in parts),
        "log_likelihood": sum(part.log_likelihood for part in parts),
        "refined_log_likelihood": sum(part.refined_log_likelihood for part in parts),
    }
