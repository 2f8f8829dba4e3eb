"""Steps of the joint training on the workers, and the versioned files they share.

Every step reads `state-STEP.npz` and writes the next: encoder, optimizer and P, which
no task graph carries. What crosses the network are gradients, K floats a variant. The
fixed first layer is made anew from P once an epoch, `layer-EPOCH.npz`.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from estimator import joint, training
from estimator.config import AncestryEstimatorConfig
from estimator.counting import count_called
from estimator.projection import project_ancestry
from estimator.tiling import tile_shape
from pipeline import checkpoint, stream
from pipeline.location import Location, replacing
from pipeline.minibatch import DeviceModel, Slice, lay_out_model, pad_people
from pipeline.sum_tree import add_up

FloatArray = npt.NDArray[np.float32]

# Newton steps in which Q with P fixed reaches its maximum in nearly every person.
EVALUATION_STEPS = 3

_FILE = re.compile(r"(state|layer)-(\d+)\.npz")


@dataclass(frozen=True)
class JointFiles:
    """Where workers find the state of a training.

    Attributes
    ----------
    folder
        Directory of the files.
    stamp
        Fingerprint of the run, so that files made anew are read anew.
    config
        The encoder's layers.
    schedule
        Step sizes.
    """

    folder: Location
    stamp: str
    config: AncestryEstimatorConfig
    schedule: joint.JointSchedule

    def _state(self, step: int) -> Location:
        return self.folder / f"state-{step:07d}.npz"

    def _layer(self, epoch: int) -> Location:
        return self.folder / f"layer-{epoch:04d}.npz"

    def save_state(self, step: int, state: joint.JointState) -> None:
        """Write the state before a step."""
        leaves = jax.tree.leaves_with_path(state)
        named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        _save(self._state(step), named)

    def load_state(self, step: int) -> joint.JointState:
        """Read the state before a step."""
        with self._state(step).open("rb") as file:
            named = np.load(file, allow_pickle=False)
            return jax.tree.map_with_path(
                lambda path, _: named[jax.tree_util.keystr(path)],
                _structure(self.config, self.schedule),
            )

    def save_layer(self, epoch: int, projector: training.Projector) -> None:
        """Write an epoch's fixed first layer."""
        _save(self._layer(epoch), projector._asdict())

    def load_layer(self, epoch: int) -> training.Projector:
        """Read an epoch's fixed first layer."""
        with self._layer(epoch).open("rb") as file:
            return training.Projector(**np.load(file, allow_pickle=False))

    def keep(self, steps: set[int], epoch: int) -> None:
        """Delete the states of other steps and the layers of earlier epochs."""
        for path in self.folder.iterdir():
            named = _FILE.fullmatch(path.name)
            if named is None:
                continue
            kind, number = named[1], int(named[2])
            if number not in steps if kind == "state" else number < epoch:
                path.unlink()


@functools.cache
def _structure(
    config: AncestryEstimatorConfig, schedule: joint.JointSchedule
) -> joint.JointState:
    """A state without values; to trace it takes half as long as a step."""

    def start() -> joint.JointState:
        weights = training.initial_weights(config, seed=0)
        k, n_variants = config.n_populations, config.n_snps
        frequencies = jnp.zeros((k, n_variants), jnp.float32)
        moment = jnp.zeros((k, k), jnp.float32)
        return joint.start_joint(weights, frequencies, moment, schedule=schedule)

    return jax.eval_shape(start)


def _save(path: Location, arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez(file, **arrays)


@dataclass(frozen=True)
class Version:
    """Which state and which first layer a task works with.

    Attributes
    ----------
    files
        Where they are.
    step
        Steps taken before.
    epoch
        Whose first layer is used.
    """

    files: JointFiles
    step: int
    epoch: int


class _Loaded(NamedTuple):
    weights: training.Weights
    device: DeviceModel


# What this worker process used last; a step's slices on one worker share it.
_loaded: dict[Version, _Loaded] = {}
# The state that this worker process wrote last: it need not read that.
_written: dict[tuple[JointFiles, int], joint.JointState] = {}
# One reader a worker process: it holds the chunks that were read ahead.
_reader = stream.BlockReader()


def _state(version: Version) -> joint.JointState:
    written = _written.get((version.files, version.step))
    return version.files.load_state(version.step) if written is None else written


def _load(version: Version) -> _Loaded:
    if version not in _loaded:
        state = _state(version)
        layer = version.files.load_layer(version.epoch)
        _loaded.clear()
        stream.release_shards()
        device = lay_out_model(np.asarray(state.frequencies), layer, tile_shape())
        _loaded[version] = _Loaded(state.encoder.weights, device)
    return _loaded[version]


class _People(NamedTuple):
    packed: jax.Array
    n_called: jax.Array
    features: jax.Array


def _read(
    part: Slice, upcoming: Slice | None, device: DeviceModel, n_padded: int
) -> _People:
    ahead = () if upcoming is None else upcoming.blocks
    packed = _reader.read(part.path, part.blocks, ahead)[part.in_fit]
    padded = pad_people(packed, n_padded, device.tile)
    genotypes = jax.device_put(padded)
    n_called = jax.device_put(count_called(padded).astype(np.float32))
    return _People(genotypes, n_called, device.features(genotypes, n_called))


def start(
    files: JointFiles,
    weights: training.Weights,
    frequencies: Location,
    moment: FloatArray,
) -> None:
    """Write the state before the first step."""
    p = checkpoint.load_array(frequencies)
    files.save_state(0, joint.start_joint(weights, p, moment, schedule=files.schedule))


def renew_layer(
    version: Version, mean: npt.NDArray[np.float64], spread: npt.NDArray[np.float64]
) -> None:
    """Make an epoch's first layer from P as it is, and Q's moments at the start."""
    frequencies = np.asarray(_state(version).frequencies)
    layer = training.projector_of_moments(mean, spread, frequencies)
    version.files.save_layer(version.epoch, layer)


def run_gradient(
    run: range,
    parts: list[Slice],
    upcoming: Slice | None,
    version: Version,
    n_padded: int,
) -> joint.JointGradient:
    """Gradient of neighbouring slices of a minibatch, on the host.

    Parameters
    ----------
    run
        Which slices these are: a subtree of the minibatch's sum.
    parts
        The slices.
    upcoming
        The slice that this worker will probably read next.
    version
        What the gradient is taken at.
    n_padded
        People to fill up to with missing, so that every slice has one shape.
    """
    weights, device = _load(version)
    to_read = zip(parts, [*parts[1:], upcoming], strict=True)

    def gradient_of(leaves: range) -> joint.JointGradient | None:
        if len(leaves) > 1:
            return None
        people = _read(*next(to_read), device, n_padded)
        gradient = joint.joint_gradient(
            weights, *people, device.frequencies, version.files.config, device.tile
        )
        return jax.tree.map(np.asarray, gradient)

    return add_up(run, gradient_of, joint.add_gradients)


def take_step(version: Version, gradient: joint.JointGradient) -> float:
    """Write the next state; the log-likelihood of the minibatch before the step."""
    files, following = version.files, version.step + 1
    updated = joint.joint_update(
        _state(version), gradient, np.int32(version.step), schedule=files.schedule
    )
    state = jax.tree.map(np.asarray, updated)
    files.save_state(following, state)
    _written.clear()
    _written[files, following] = state
    return float(gradient.log_likelihood)


class Evaluated(NamedTuple):
    """People at the encoder's Q, and at the Q of highest likelihood with P fixed.

    Attributes
    ----------
    ancestry
        The encoder's Q.
    log_likelihood, refined_log_likelihood
        Summed over the people, in nats.
    n_called
        Their called genotypes.
    """

    ancestry: FloatArray
    log_likelihood: float
    refined_log_likelihood: float
    n_called: int


def evaluate(part: Slice, version: Version) -> Evaluated:
    """Judge the trained model on the people of a slice."""
    weights, device = _load(version)
    people = _read(part, None, device, 0)
    encoded = training.encode(version.files.config, weights, people.features)
    plain, refined = (
        project_ancestry(
            people.packed, encoded, device.frequencies, refine=steps, tile=device.tile
        )
        for steps in (0, EVALUATION_STEPS)
    )
    n_people = np.count_nonzero(part.in_fit)
    return Evaluated(
        np.asarray(encoded)[:n_people],
        float(plain.log_likelihood.sum()),
        float(refined.log_likelihood.sum()),
        int(people.n_called.sum(dtype=np.int64)),
    )
