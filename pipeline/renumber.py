"""Put a new fit's populations in the order of an earlier one's.

So columns keep their meaning, though the order within a fit is chance. Reads the Q that
two fits give to the people whom both have, and a new fit's model store, which it writes
again in the order found.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.metrics import match_components
from estimator.uncertainty import PopulationError
from pipeline import schema
from pipeline.bundle import Model, load_model, write_model
from pipeline.location import Location
from pipeline.store import Store
from pipeline.train import Encoder

FloatArray = npt.NDArray[np.float32]
Order = npt.NDArray[np.intp]

# Attributes that `write_model` sets by itself.
_OWN = (
    *("kind", "schema_version", "complete"),
    *("n_populations", "hidden_dims", "has_encoder"),
)
_HEAD = "ancestry_head"


def find_order(
    ancestry: FloatArray,
    ids: npt.NDArray[np.str_],
    earlier_ancestry: FloatArray,
    earlier_ids: npt.NDArray[np.str_],
) -> Order:
    """Find the order of a fit's populations that keeps the columns of an earlier one.

    Parameters
    ----------
    ancestry, ids
        The new Q, and whose it is.
    earlier_ancestry, earlier_ids
        The earlier one.

    Returns
    -------
    For each column, the population of the new fit that belongs there. Populations
    that the earlier fit did not have come last; where there are fewer than before,
    those that are left close up.

    >>> q = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    >>> ids = np.array(["a", "b", "c"])
    >>> find_order(q, ids, q[:2, [1, 0]], ids[:2]).tolist()
    [1, 0, 2]
    """
    n_new, n_earlier = ancestry.shape[1], earlier_ancestry.shape[1]
    _, rows, earlier_rows = np.intersect1d(ids, earlier_ids, return_indices=True)
    both = (
        _padded(ancestry[rows], n_earlier),
        _padded(earlier_ancestry[earlier_rows], n_new),
    )
    known = ~np.isnan(both[0]).any(axis=1) & ~np.isnan(both[1]).any(axis=1)
    if not known.any():
        return np.arange(n_new)
    order = match_components(both[0][known], both[1][known])
    return order[order < n_new]


def _padded(ancestry: FloatArray, width: int) -> FloatArray:
    filling = max(width - ancestry.shape[1], 0)
    return np.pad(ancestry, ((0, 0), (0, filling)))


def renumber_model(path: Location, target: Location, order: Order) -> None:
    """Write a model store with its populations in another order.

    Parameters
    ----------
    path
        The model, which is not changed.
    target
        Where the store is built.
    order
        Population of the model for each column.
    """
    store, model = Store.open(path, "model"), load_model(path)
    attrs = {k: v for k, v in store.attrs.items() if k not in _OWN}
    keys = {name: store.read(name) for name in schema.VARIANT_KEYS}
    weights: dict[Any, Any] = dict(model.encoder.weights)
    # The features in front are mixed by the first layer, so only the last one has an
    # order of populations.
    name = _HEAD if model.encoder.is_trained else training.LINEAR
    weights[name] = {
        name: np.ascontiguousarray(values[..., order])
        for name, values in weights[name].items()
    }
    projector = model.encoder.projector
    if not model.encoder.is_trained:
        # Without layers the features are those of the populations themselves.
        factor = np.ascontiguousarray(projector.factor[order])
        projector = projector._replace(factor=factor)
    encoder = Encoder(model.encoder.config, weights, projector)
    frequencies = np.ascontiguousarray(model.frequencies[order])
    error = model.error
    if error is not None:
        pairs = np.ix_(order, order)
        error = PopulationError(
            error.noise[pairs],
            error.basis[np.ix_(order, order, order)],
            error.bias[pairs],
        )
    renumbered = Model(frequencies, encoder, error, model.fitted_people)
    write_model(target, keys, renumbered, attrs)
