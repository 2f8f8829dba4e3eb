"""`model.zarr`: all that is needed to project anyone, anywhere, later.

P with the keys of its variants, the encoder's layers and the fixed projection in front
of them, the configuration, the trace of the fit and its provenance.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator import training
from estimator.config import AncestryEstimatorConfig
from estimator.model import DifferentiableAncestryEstimator, assemble_estimator
from estimator.training import Projector, Weights
from estimator.uncertainty import PopulationError
from pipeline import genome_build, schema
from pipeline.config import NEURAL, ApplyConfig
from pipeline.errors import InputError
from pipeline.fit import FitResult
from pipeline.location import Location
from pipeline.prepared import Prepared, open_store
from pipeline.store import Store, write_all
from pipeline.train import Encoder

KIND = "model"
_WEIGHT = "encoder_weight."
_FITTED_PEOPLE = "fitted_sample_digest"


@dataclass(frozen=True)
class Model:
    """A fitted model in memory.

    Attributes
    ----------
    frequencies
        P, shape (populations, variants), float32.
    encoder
        The trained encoder, or what projections start from without one.
    error
        Of the populations; None where the fit told none.
    fitted_people
        Digests of the genotypes of those whom P was estimated from, rising; None where
        they are not known.
    """

    frequencies: npt.NDArray[np.float32]
    encoder: Encoder
    error: PopulationError | None = None
    fitted_people: npt.NDArray[np.uint64] | None = None


def save_model(
    path: Location,
    prepared: Prepared,
    fitted: FitResult,
    encoder: Encoder,
    attrs: dict[str, Any],
    error: PopulationError | None = None,
    fitted_people: npt.NDArray[np.uint64] | None = None,
) -> None:
    """Write a model store, with the error of its populations where it is known."""
    source = open_store(prepared.path)
    keys = {name: source.read(name) for name in schema.VARIANT_KEYS}
    write_model(
        path,
        keys,
        Model(fitted.point.frequencies, encoder, error, fitted_people),
        {
            "log_likelihood_trace": fitted.trace,
            "log_likelihood_refused": fitted.refused or [False] * len(fitted.trace),
            # A joint training ends after its epochs, and shows nothing of the kind.
            "converged": None if fitted.method == NEURAL else fitted.converged,
            "data_passes": fitted.data_passes,
            "method": fitted.method,
            "qc_steps": source.attrs["qc_steps"],
            "relatives": source.attrs.get("relatives"),
            "genome_build": source.attrs.get("genome_build", genome_build.UNKNOWN),
            **attrs,
        },
        prepared.population_names,
    )


def write_model(
    path: Location,
    keys: Mapping[str, npt.NDArray[Any]],
    model: Model,
    attrs: dict[str, Any],
    population_names: tuple[str, ...] = (),
) -> None:
    """Write a model store from its parts.

    Parameters
    ----------
    path
        Where it is built.
    keys
        Contig, position, alleles and id of each variant, as `schema.VARIANT_KEYS`.
    model
        P and the encoder.
    attrs
        Where they come from, `method`, `genome_build` and provenance among it.
    population_names
        Of the K populations; empty where they have none.
    """
    projector = model.encoder.projector
    store = Store.create(path, KIND)
    write_all(
        store,
        schema.MODEL,
        {
            **keys,
            "variant_population_frequency": model.frequencies.T,
            "variant_encoder_centre": projector.centre,
            "variant_encoder_projection": projector.factor.T,
        },
    )
    if population_names:
        names = np.array(population_names)
        store.write("population_id", schema.POPULATION_ID, names)
    if model.error is not None:
        parts = zip(_ERROR, model.error, strict=True)
        error = {name: np.asarray(part) for name, part in parts}
        write_all(store, schema.POPULATION_ERROR, error)
    if model.fitted_people is not None:
        store.write(_FITTED_PEOPLE, schema.FITTED_PEOPLE, model.fitted_people)
    if not model.encoder.is_trained:
        mean = model.encoder.weights[training.LINEAR]["mean"]
        store.write(_MEAN, schema.ANCESTRY_MEAN, mean)
    layers = model.encoder.weights if model.encoder.is_trained else {}
    for name, values in _flatten(layers):
        dims = tuple(f"{name}.{axis}" for axis in range(values.ndim))
        spec = schema.ArraySpec(dims, "float32", "Weights of one encoder layer.")
        store.write(_WEIGHT + name, spec, values)
    store.set_attrs(
        n_populations=model.frequencies.shape[0],
        hidden_dims=list(model.encoder.config.hidden_dims),
        has_encoder=model.encoder.is_trained,
        **attrs,
    )
    store.finish()


def newton_steps(where: str, attrs: Mapping[str, Any], config: ApplyConfig) -> int:
    """Newton steps from the start of a projection on a model.

    Parameters
    ----------
    where
        The model, for the error.
    attrs
        Attributes of its store.
    config
        How it is applied.

    Raises
    ------
    InputError
        If it has no encoder, and the encoder's answer alone is asked for.
    """
    steps = config.newton_steps(attrs["method"])
    # Models were made without the attribute, and all of them had an encoder.
    if not steps and not attrs.get("has_encoder", True):
        raise InputError(
            f"apply.refine is 0, which is the encoder's answer alone, and {where} has "
            "no encoder; leave apply.refine out, or fit a model with one"
        )
    return steps


def load_model(path: Location) -> Model:
    """Read a model store.

    Raises
    ------
    InputError
        If it is missing, of another kind or unfinished.
    """
    store = Store.open(path, KIND)
    if not store.attrs.get("complete"):
        raise InputError(f"{path} is unfinished; run `streamixture fit` again")
    store.check_whole()
    arrays = {name: store.read(name) for name in store.names() if _is_part(name)}
    return model_of(arrays, store.attrs)


def estimator_of(path: Location) -> DifferentiableAncestryEstimator:
    """The estimator that a model store holds, in one piece.

    Raises
    ------
    InputError
        If the model cannot be read, or has no encoder.
    """
    model = load_model(path)
    encoder = model.encoder
    if not encoder.is_trained:
        raise InputError(f"{path} has no encoder; fit a model with one")
    layers = training.build_encoder(encoder.config, encoder.weights)
    factor, centre = encoder.projector
    parts = (factor.T, centre, layers, model.frequencies)
    return assemble_estimator(encoder.config, *parts)


_FREQUENCY = "variant_population_frequency"
_MEAN = "population_ancestry_mean"
_PROJECTOR = ("variant_encoder_projection", "variant_encoder_centre")
# In the order of `PopulationError`.
_ERROR = tuple(schema.POPULATION_ERROR)


def _is_part(name: str) -> bool:
    known = (_FREQUENCY, *_PROJECTOR, *_ERROR, _FITTED_PEOPLE, _MEAN)
    return name in known or name.startswith(_WEIGHT)


def parts_of_model(names: Iterable[Any]) -> list[str]:
    """Which arrays of a model store make a `Model`.

    Raises
    ------
    InputError
        If P or the encoder's first layer is not among them.
    """
    parts = [str(name) for name in names if _is_part(str(name))]
    missing = [name for name in (_FREQUENCY, *_PROJECTOR) if name not in parts]
    if missing:
        raise InputError(
            f"the model has no {', '.join(missing)}; give a model.zarr, or a Dataset "
            "opened from one"
        )
    return parts


def model_of(arrays: Mapping[str, npt.NDArray[Any]], attrs: Mapping[str, Any]) -> Model:
    """A model from the arrays and attributes of its store."""
    frequencies = np.ascontiguousarray(arrays[_FREQUENCY].T)
    config = AncestryEstimatorConfig(
        n_snps=frequencies.shape[1],
        n_populations=frequencies.shape[0],
        hidden_dims=tuple(attrs["hidden_dims"]),
        dropout_rate=0.0,
    )
    factor, centre = (arrays[name] for name in _PROJECTOR)
    projector = Projector(np.ascontiguousarray(factor.T), centre)
    weights = _unflatten(
        {
            name.removeprefix(_WEIGHT): values
            for name, values in arrays.items()
            if name.startswith(_WEIGHT)
        }
    )
    if _MEAN in arrays:
        weights = {training.LINEAR: {"mean": arrays[_MEAN]}}
    error = None
    noise, basis, bias = (arrays.get(name) for name in _ERROR)
    if noise is not None and basis is not None:
        # Models were made without the bias apart.
        error = PopulationError(
            noise, basis, np.zeros_like(noise) if bias is None else bias
        )
    encoder = Encoder(config, weights, projector)
    return Model(frequencies, encoder, error, arrays.get(_FITTED_PEOPLE))


def _flatten(
    weights: Mapping[Any, Any], prefix: str = ""
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for key, value in weights.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", np.asarray(value)


def _unflatten(named: Mapping[str, npt.NDArray[np.float32]]) -> Weights:
    weights: dict[Any, Any] = {}
    for name, values in named.items():
        *parents, last = (int(k) if k.isdigit() else k for k in name.split("."))
        level = weights
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = values
    return weights
