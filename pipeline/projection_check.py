"""The fit check of a Dataset's people, in dask tasks: who the populations miss.

What `apply` does with a store, with the same results: the references are chosen from
everybody once all are projected, and everybody is compared with them. Of a person it
takes some thousand calls, four kilobytes, which are kept until there are references.
Runs inside dask tasks; reads arrays, writes nothing, and warns.
"""

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from estimator.packing import (
    VARIANTS_PER_BYTE,
    PackedArray,
    encode_alleles,
    encoding_of,
    pack_codes,
    unpack_alleles,
)
from pipeline import cluster, fit_check
from pipeline.config import ApplyConfig
from pipeline.fit_check import DeviceReferences
from pipeline.plan import Rows
from pipeline.projection_tasks import GROUP_PEOPLE, Group, HasModel
from pipeline.references import (
    Candidates,
    ReferenceFile,
    ReferencePlan,
    make_references,
)

Doubles = npt.NDArray[np.float64]


class Summary(NamedTuple):
    """How many people were looked at, and how many of them are worth a warning."""

    n_people: int
    n_uncalled: int
    n_flagged: int


def plan_references(
    n_called: list[npt.NDArray[np.int64]], given: HasModel, config: ApplyConfig
) -> ReferencePlan | None:
    """Plan the references, from the called genotypes of the people of all groups."""
    whole = np.concatenate(n_called)
    nobody = np.zeros(len(whole), bool)
    n_variants = given.model.frequencies.shape[1]
    return fit_check.plan_references(config, whole, nobody, n_variants)


def take_candidates(
    group: Group, first: int, plan: ReferencePlan | None
) -> Candidates | None:
    """Those of a group, the first of whom has a position, who may be references."""
    if plan is None:
        return None
    people = plan.candidates - first
    rows = people[(people >= 0) & (people < len(group.calls))]
    return Candidates(group.calls[rows], group.ancestry[rows])


def choose_references(
    plan: ReferencePlan | None, parts: list[Candidates | None], given: HasModel
) -> ReferenceFile | None:
    """Choose the references from the candidates of all groups."""
    if plan is None:
        return None
    there = [part for part in parts if part is not None and len(part.packed)]
    widest = max(
        (part.packed.dtype for part in there), key=lambda dtype: dtype.itemsize
    )
    same = [part._replace(packed=_widen(part.packed, widest)) for part in there]
    with jax.enable_x64(True):
        return make_references(plan, given.model.frequencies, same, GROUP_PEOPLE)


def _widen(packed: PackedArray, dtype: np.dtype[np.unsignedinteger]) -> PackedArray:
    """The same calls in a wider encoding; a group has the narrowest that holds it."""
    if packed.dtype == dtype:
        return packed
    n_variants = packed.shape[1] * VARIANTS_PER_BYTE
    encoding = encoding_of(dtype)
    codes = encode_alleles(unpack_alleles(packed, n_variants), encoding)
    return pack_codes(codes, encoding)


def check_people(
    group: Group,
    first: int,
    references: ReferenceFile | None,
    token: str,
    threshold: float,
) -> Doubles:
    """Compare the people of a group with the references.

    Parameters
    ----------
    group
        The people.
    first
        Position of the first of them.
    references
        Whom with; None where too few people have calls enough.
    token
        Tells the references from others.
    threshold
        Residual correlation from which a person is flagged.

    Returns
    -------
    Shape (people, 3): correlation, its standard error, and 1 for those who are flagged.
    """
    n_people = len(group.ancestry)
    if references is None:
        return np.column_stack([np.full((n_people, 2), np.nan), np.zeros(n_people)])
    rows, nobody = Rows(first, first + n_people), np.zeros(n_people, bool)
    with jax.enable_x64(True):
        loaded = _load(references, token)
        found = fit_check.check_people(
            loaded, threshold, group.calls, group.ancestry, rows, nobody
        )
    return np.column_stack([np.asarray(each, np.float64) for each in found])


def warn(n_called: list[npt.NDArray[np.int64]], checked: list[Doubles]) -> Summary:
    """Warn of people whom the populations do not describe, or who have no calls."""
    called = np.concatenate(n_called)
    n_uncalled = int(np.count_nonzero(called == 0))
    n_flagged = int(sum(each[:, 2].sum() for each in checked))
    if n_uncalled:
        cluster.warn(fit_check.say_uncalled(n_uncalled, len(called)))
    if n_flagged:
        cluster.warn(fit_check.say_poorly_described(n_flagged, len(called)))
    return Summary(len(called), n_uncalled, n_flagged)


def once_warned(checked: Doubles, _summary: Summary) -> Doubles:
    """What the check found, which nobody has before the warning."""
    return checked


# The references that this process compared people with last, by their token.
_loaded: dict[str, DeviceReferences] = {}


def _load(references: ReferenceFile, token: str) -> DeviceReferences:
    loaded = _loaded.get(token)
    if loaded is None:
        loaded = fit_check.on_device(references)
        # Several threads may do this at once, each for itself.
        _loaded.clear()
        _loaded[token] = loaded
    return loaded
