"""Slices of minibatches on the workers: people of some chunks, ready for the encoder.

Runs inside the workers. The fitted model is read from files once a worker and kept on
its device; genotypes are read from the prepared store as they are needed.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.acceleration import Point
from estimator.config import AncestryEstimatorConfig
from estimator.counting import count_called
from estimator.likelihood import FrequencyTiles
from estimator.packing import PackedArray, all_missing
from estimator.tiling import (
    TileShape,
    pad_ancestry,
    pad_shard,
    tile_shape,
    tile_variants,
)
from pipeline import checkpoint, stream
from pipeline.location import Location, replacing
from pipeline.plan import Rows
from pipeline.prepared import Prepared

FloatArray = npt.NDArray[np.float32]

_POINT = "fitted"


@dataclass(frozen=True)
class FittedModel:
    """Where workers find a fitted model and the encoder's fixed first layer.

    Attributes
    ----------
    folder
        Directory of the files.
    stamp
        Fingerprint of the run, so that files made anew are read anew.
    config
        The encoder's layers.
    """

    folder: Location
    stamp: str
    config: AncestryEstimatorConfig

    @property
    def _projector_file(self) -> Location:
        return self.folder / "projector.npz"

    def save(self, point: Point, projector: training.Projector) -> None:
        """Write the files."""
        checkpoint.save_point(self.folder, _POINT, point)
        with replacing(self._projector_file) as file:
            np.savez(file, **projector._asdict())

    @property
    def frequencies_path(self) -> Location:
        """File of P."""
        return checkpoint.frequencies_path(self.folder, _POINT)

    def ancestry(self, rows: npt.NDArray[np.intp]) -> FloatArray:
        """Fitted Q of some of the people in the fit."""
        path = checkpoint.ancestry_path(self.folder, _POINT)
        return checkpoint.load_rows(path, rows)

    def on_device(self) -> "DeviceModel":
        """P and the first layer on this worker's device, read at most once."""
        if self not in _loaded:
            tile = tile_shape()
            frequencies = checkpoint.load_array(self.frequencies_path)
            with self._projector_file.open("rb") as file:
                projector = training.Projector(**np.load(file))
            _loaded.clear()
            stream.release_shards()
            _loaded[self] = lay_out_model(frequencies, projector, tile)
        return _loaded[self]


class DeviceModel(NamedTuple):
    """A model laid out for the kernels of a worker's device."""

    frequencies: FrequencyTiles
    centre: jax.Array
    factor: jax.Array
    n_variants: int
    tile: TileShape

    def features(self, packed: jax.Array, n_called: jax.Array) -> jax.Array:
        """Features of packed people for the encoder."""
        return training.encoder_features(
            packed, n_called, self.n_variants, self.centre, self.factor, tile=self.tile
        )


# The model that this worker process used last.
_loaded: dict[FittedModel, DeviceModel] = {}


def lay_out_model(
    frequencies: FloatArray, projector: training.Projector, tile: TileShape
) -> DeviceModel:
    """Put a model on the device in the layout of its kernels."""
    return DeviceModel(
        tile_variants(frequencies, tile.width),
        tile_variants(projector.centre[None], tile.width, fill=0.0),
        tile_variants(projector.factor, tile.width, fill=0.0),
        frequencies.shape[1],
        tile,
    )


@dataclass(frozen=True, eq=False)
class Slice:
    """People of some chunks of a prepared store.

    Attributes
    ----------
    path
        The store.
    blocks
        The chunks.
    in_fit
        Which of the chunks' people inform the fit; the others are left out.
    fit_rows
        Position of those people in the fitted Q.
    """

    path: Location
    blocks: tuple[Rows, ...]
    in_fit: npt.NDArray[np.bool_]
    fit_rows: npt.NDArray[np.intp]


def cut_slice(prepared: Prepared, blocks: list[Rows]) -> Slice:
    """Describe the people of some chunks, for a worker to read."""
    rows = np.concatenate([np.arange(block.start, block.stop) for block in blocks])
    in_fit = prepared.in_fit[rows]
    position = np.cumsum(prepared.in_fit) - 1
    return Slice(prepared.path, tuple(blocks), in_fit, position[rows[in_fit]])


def read_slice(
    part: Slice, upcoming: Slice | None, model: FittedModel, n_padded: int
) -> training.Minibatch:
    """Read a slice with its features and fitted Q.

    Parameters
    ----------
    part
        The people.
    upcoming
        The slice that this worker will probably read next, started on meanwhile.
    model
        The fitted model.
    n_padded
        People to fill up to with missing, so that every slice has one shape.
    """
    ahead = () if upcoming is None else upcoming.blocks
    packed = _reader.read(part.path, part.blocks, ahead)[part.in_fit]
    device = model.on_device()
    padded = pad_people(packed, n_padded, device.tile)
    n_called = count_called(padded).astype(np.float32)
    genotypes = jax.device_put(padded)
    called = jax.device_put(n_called)
    return training.Minibatch(
        genotypes,
        called,
        device.features(genotypes, called),
        jax.device_put(pad_ancestry(model.ancestry(part.fit_rows), len(padded))),
    )


def pad_people(packed: PackedArray, n_padded: int, tile: TileShape) -> PackedArray:
    """Fill people up with missing to ``n_padded``, and both axes to whole tiles."""
    short = max(n_padded - len(packed), 0)
    padding = ((0, short), (0, 0))
    filled = np.pad(packed, padding, constant_values=all_missing(packed.dtype))
    return pad_shard(filled, tile)


# One reader a worker process: it holds the chunks that were read ahead.
_reader = stream.BlockReader()


class Features(NamedTuple):
    """What distillation learns from: features and fitted Q of people with calls."""

    features: FloatArray
    ancestry: FloatArray


def read_features(part: Slice, model: FittedModel) -> Features:
    """Features and fitted Q of the people of a slice."""
    batch = read_slice(part, None, model, 0)
    called = np.asarray(batch.n_called) > 0
    return Features(
        np.asarray(batch.features)[called], np.asarray(batch.ancestry)[called]
    )


def slice_gradient(
    part: Slice,
    upcoming: Slice | None,
    model: FittedModel,
    n_padded: int,
    weights: training.Weights,
) -> training.MinibatchGradient:
    """Gradient of one slice of a minibatch, on the host."""
    batch = read_slice(part, upcoming, model, n_padded)
    device = model.on_device()
    gradient = training.minibatch_gradient(
        weights, batch, device.frequencies, model.config, device.tile
    )
    return jax.tree.map(np.asarray, gradient)
