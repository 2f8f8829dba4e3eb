"""What is done with each block of a Dataset to project its people on a model.

Runs inside dask tasks, on workers of any kind or in the threads of a notebook. Reads
arrays, never stores; writes nothing. Invariant: a person's Q depends on that person's
calls and the model, whatever the chunks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import numpy.typing as npt

from estimator.absent_alleles import find_absent
from estimator.packing import (
    CALLS,
    DOSAGES,
    GENOTYPES,
    Codes,
    PackedArray,
    decode_alleles,
    pack_codes,
    packed_width,
)
from estimator.tiling import tile_shape
from pipeline import call_codes
from pipeline.bundle import Model
from pipeline.decode import Columns
from pipeline.errors import InputError
from pipeline.genotype_digests import were_fitted
from pipeline.minibatch import DeviceModel, lay_out_model, pad_people
from pipeline.projector import Projected, project
from pipeline.standard_errors import ErrorPlan, group_errors

# People whom one task projects.
GROUP_PEOPLE = 512


@dataclass(frozen=True)
class Block:
    """Where a block of calls lies in its Dataset.

    Attributes
    ----------
    name
        Of the variable, for errors.
    variant, sample
        Position of its first variant and first person.
    """

    name: str
    variant: int
    sample: int


class HasModel(Protocol):
    """A model with whatever else the driver knows of it."""

    @property
    def model(self) -> Model:
        """The model."""


class Piece(NamedTuple):
    """Calls of a block at those of the model's variants that it has."""

    variants: npt.NDArray[np.intp]  # positions in the model
    codes: Codes  # variants x people


def take_piece(calls: npt.NDArray[Any], block: Block, columns: Columns) -> Piece:
    """Calls of a block at a model's variants, counting the model's alleles.

    Parameters
    ----------
    calls
        Alleles, (variants, people, 1 or 2), or dosages, (variants, people).
    block
        Where they lie.
    columns
        Row of each of the model's variants in the Dataset.

    Raises
    ------
    InputError
        If a call has a third allele, or a dosage is none of two alleles.
    """
    here = _inside(columns.index, block.variant, len(calls))
    rows = columns.index[here]
    slots = None if columns.slots is None else columns.slots[here]
    codes = _codes(calls, block, rows, slots)
    swapped = columns.swapped[here]
    codes[swapped] = call_codes.swap_alleles(codes[swapped])
    return Piece(here, codes)


def count_alleles(
    calls: npt.NDArray[Any], block: Block, columns: Columns
) -> npt.NDArray[np.float64]:
    """Alternate and observed alleles at some rows of a Dataset; 0 where not here.

    Returns
    -------
    Shape (2, rows), as the Dataset writes its alleles.
    """
    counts = np.zeros((2, len(columns)))
    here = _inside(columns.index, block.variant, len(calls))
    slots = None if columns.slots is None else columns.slots[here]
    codes = _codes(calls, block, columns.index[here], slots)
    wide = CALLS if codes.dtype == CALLS.code_dtype else DOSAGES
    alternate, observed = decode_alleles(codes, wide)
    counts[:, here] = alternate.sum(axis=1), observed.sum(axis=1)
    return counts


def _inside(rows: npt.NDArray[np.int64], start: int, n: int) -> npt.NDArray[np.intp]:
    return np.flatnonzero((rows >= start) & (rows < start + n))


def _codes(
    calls: npt.NDArray[Any],
    block: Block,
    rows: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int8] | None,
) -> Codes:
    chosen = calls[rows - block.variant]
    if slots is not None:
        chosen = call_codes.without_placeholders(chosen, slots)
    codes = call_codes.codes_of(chosen)
    invalid = call_codes.find_invalid(codes)
    if invalid.size:
        raise InputError(
            f"{block.name} at variant {rows[invalid[0]]}, sample "
            f"{block.sample + invalid[1]} is no call of two alleles; a biallelic "
            "variant has alleles 0 and 1, and a dosage is in [0, 2]"
        )
    return codes


class Group(NamedTuple):
    """What is found of a group of people.

    Attributes
    ----------
    ancestry
        Q, of people without calls too.
    log_likelihood, n_called
        Of each person.
    errors
        Standard errors of Q; no columns where they are not asked for.
    calls
        What the fit check takes; no columns where it is not asked for.
    """

    ancestry: npt.NDArray[np.float32]
    log_likelihood: npt.NDArray[np.float64]
    n_called: npt.NDArray[np.int64]
    errors: npt.NDArray[np.float32]
    calls: PackedArray


def project_people(
    pieces: list[Piece],
    n_people: int,
    given: HasModel,
    token: str,
    refine: int,
    *,
    errors: ErrorPlan | None = None,
    checked: npt.NDArray[np.int64] | None = None,
) -> Group:
    """Q and log-likelihood of a group of people.

    Parameters
    ----------
    pieces
        Their calls, each of the model's variants in one piece or in none.
    n_people
        How many they are, at most `GROUP_PEOPLE`.
    given
        The model.
    token
        Tells the model from others.
    refine
        Newton steps after the encoder.
    errors
        How standard errors are computed; None for none.
    checked
        Packed elements that the fit check compares; None for none.
    """
    model = given.model
    packed = _pack(pieces, n_people, model.frequencies.shape[1])
    # A thread of a notebook has its own defaults: the likelihood is summed in float64,
    # and packed dosages are 64 bits wide.
    with jax.enable_x64(True):
        device = _load(model, token)
        padded = pad_people(packed, GROUP_PEOPLE, device.tile)
        encoder = model.encoder
        projected = project(
            device, encoder.config, encoder.weights, padded, refine=refine
        )
        ancestry, log_likelihood = projected.projection
        n_called = projected.n_called[:n_people]
        found = np.empty((n_people, 0), np.float32)
        if errors is not None:
            found = _errors(errors, projected, packed, model, device)
        return Group(
            np.array(ancestry)[:n_people],
            np.array(log_likelihood, np.float64)[:n_people],
            n_called,
            found,
            packed[:, :0] if checked is None else packed[:, checked.ravel()],
        )


def _errors(
    plan: ErrorPlan,
    projected: Projected,
    packed: PackedArray,
    model: Model,
    device: DeviceModel,
) -> npt.NDArray[np.float32]:
    """Standard errors of a group, NaN for people without calls."""
    n_people = len(packed)
    n_called = projected.n_called[:n_people]
    in_fit = np.zeros(n_people, bool)
    if model.fitted_people is not None:
        in_fit = were_fitted(packed, model.fitted_people)
    found = group_errors(
        plan,
        projected.genotypes,
        projected.projection.ancestry,
        n_called,
        in_fit,
        device,
        model.error,
        find_absent(model.frequencies),
    )[:n_people]
    return found


def columns_of(group: Group, _after: Any = None) -> npt.NDArray[np.float64]:
    """Q and log-likelihood as columns: NaN and 0 for a person without calls.

    Parameters
    ----------
    group
        The people.
    _after
        What is done before anybody has them: whom to warn of is known then.
    """
    result = np.column_stack([group.ancestry, group.log_likelihood])
    result[group.n_called == 0] = [*[np.nan] * group.ancestry.shape[1], 0.0]
    return result


def _pack(pieces: list[Piece], n_people: int, n_variants: int) -> PackedArray:
    """Packed calls of some people, in the narrowest encoding that holds them."""
    blank = pieces[0].codes[:0]
    missing = call_codes.missing_code(blank)
    codes = np.full((packed_width(n_variants) * 4, n_people), missing, blank.dtype)
    for piece in pieces:
        codes[piece.variants] = piece.codes
    encoding = GENOTYPES
    while True:
        try:
            return pack_codes(call_codes.narrow(codes, encoding).T, encoding)
        except call_codes.NeedsWiderError as error:
            encoding = error.encoding


# The model that this process used last, by its token.
_loaded: dict[str, DeviceModel] = {}


def _load(model: Model, token: str) -> DeviceModel:
    device = _loaded.get(token)
    if device is None:
        device = lay_out_model(model.frequencies, model.encoder.projector, tile_shape())
        # Several threads may do this at once, each for itself.
        _loaded.clear()
        _loaded[token] = device
    return device
