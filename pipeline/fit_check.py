"""Fit check: who is not described by the populations, and how populations differ in it.

Everybody's residuals are compared with those of the references, some hundred people of
the cohort (`references`), at some thousand variants, in `apply`, while a group's
genotypes are in memory: what it costs a person does not grow with the cohort, nor with
the variants. Who are most like a person is told by half of the variants, and how their
residuals correlate with the person's by the other half (`estimator.residuals`): by
chance alone that is 0, with a standard error that each person's own correlations give.

The mean over all people of a population, the obvious thing to compare with, would find
little: where P is at the maximum of the likelihood, the residuals of a population's
people, weighted by their share in it, nearly cancel.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from estimator import residuals
from estimator.packing import VARIANTS_PER_BYTE, PackedArray, packed_width
from estimator.residuals import HALVES, Panel, References
from estimator.tiling import TileShape
from pipeline.config import MIN_CHECK_PEOPLE, ApplyConfig
from pipeline.kinship import DUPLICATE
from pipeline.location import Location
from pipeline.pair_means import mean_over_pairs
from pipeline.plan import Rows
from pipeline.prepared import Prepared, open_store
from pipeline.references import (
    FloatArray,
    Integers,
    ReferenceFile,
    ReferencePlan,
    compare,
    half_tile,
    lay_out,
    load_references,
)
from pipeline.schema import REFERENCES
from pipeline.store import Store

# Variants of the comparison: a pair's correlation then has a standard deviation of .01.
MAX_VARIANTS = 16_384
# With fewer, chance is larger than what is looked for.
MIN_VARIANTS = 512
# People that the references are chosen from, for each of them.
CANDIDATES = 4
# Calls that a worker may keep of people projected before the references are there.
EARLY_BYTES = 16 * 2**20
# Standard errors above 0 that a flagged person has to be: by chance, one in 2,000 is,
# and one in 300 where there are only 64 references.
STANDARD_ERRORS = 3.5
# Stretches of variants that belong to one half and the other in turn.
_STRETCHES = 64
# Share of the most calls that a reference has to have.
_MIN_CALLED = 0.5
NO_PAIRS: Integers = np.empty((0, 2), np.int64)


@dataclass(frozen=True)
class GroupCheck:
    """How the people of a group are checked.

    Attributes
    ----------
    path
        The file of the references.
    stamp
        Fingerprint of the run, so that a file made anew is read anew.
    threshold
        Residual correlation from which a person is flagged.
    """

    path: Location
    stamp: str
    threshold: float


class Checked(NamedTuple):
    """What the check found of some people."""

    correlation: FloatArray
    standard_error: FloatArray
    poorly_described: npt.NDArray[np.bool_]


def plan_check(config: ApplyConfig, prepared: Prepared) -> ReferencePlan | None:
    """Plan the check of a prepared store; None where it is off, or too little to tell.

    Parameters
    ----------
    config
        Number of references.
    prepared
        The people. References are in the fit, where anybody is.
    """
    if not may_check(config, prepared.n_samples, prepared.n_variants):
        return None
    store = open_store(prepared.path)
    return plan_references(
        config,
        store.read("sample_n_called"),
        prepared.in_fit,
        prepared.n_variants,
        _read_copies(store),
    )


def may_check(config: ApplyConfig, n_people: int, n_variants: int) -> bool:
    """Whether there is a check, and enough people and variants to tell."""
    enough = n_people >= MIN_CHECK_PEOPLE and n_variants >= MIN_VARIANTS
    return config.fit_check_people > 0 and enough


def plan_references(
    config: ApplyConfig,
    n_called: Integers,
    in_fit: npt.NDArray[np.bool_],
    n_variants: int,
    copies: Integers = NO_PAIRS,
) -> ReferencePlan | None:
    """Plan the references; None where too few people have calls enough.

    Parameters
    ----------
    config
        Number of references.
    n_called
        Called genotypes of each person.
    in_fit
        Who P was estimated from; where it is nobody, references are of everybody.
    n_variants
        Variants of the model.
    copies
        Pairs of copies of a person: one of them at most is a reference, because the
        others would be taken for people of a population that the model lacks.
    """
    counted = in_fit if in_fit.any() else ~in_fit
    counted = counted & (n_called > _MIN_CALLED * n_called.max())
    counted[copies[counted[copies[:, 0]], 1]] = False
    people = np.flatnonzero(counted)
    if len(people) < MIN_CHECK_PEOPLE:
        return None
    n_candidates = CANDIDATES * config.fit_check_people
    return ReferencePlan(
        config.fit_check_people,
        choose_elements(packed_width(n_variants)),
        people[_evenly_spaced(len(people), n_candidates)],
        int(np.count_nonzero(in_fit)),
    )


def _read_copies(store: Store) -> Integers:
    if "relatives_kinship" not in store:
        return NO_PAIRS
    pairs: Integers = store.read("relatives_sample")
    return pairs[store.read("relatives_kinship") >= DUPLICATE]


def choose_elements(n_elements: int) -> Integers:
    """Evenly spaced elements, in stretches that go to one half and the other in turn.

    >>> choose_elements(256)[:, :5].tolist()
    [[0, 1, 2, 3, 8], [4, 5, 6, 7, 12]]
    """
    chosen = _evenly_spaced(n_elements, MAX_VARIANTS // VARIANTS_PER_BYTE)
    half = np.arange(len(chosen)) * _STRETCHES // len(chosen) % HALVES
    length = min(np.bincount(half, minlength=HALVES))
    return np.stack([chosen[half == i][:length] for i in range(HALVES)])


def _evenly_spaced(n: int, most: int) -> Integers:
    """As many of n places as are asked for, where a whole stride would leave fewer."""
    n_chosen = min(n, most)
    return np.arange(n_chosen) * n // n_chosen


class DeviceReferences(NamedTuple):
    """The references on this process's device."""

    people: Integers
    references: References
    panel: Panel
    tile: TileShape


def on_device(file: ReferenceFile) -> DeviceReferences:
    """Put the references on the device."""
    tile = half_tile(file.elements)
    panel = lay_out(file.frequencies, file.residuals, tile)
    return DeviceReferences(file.people, file.references, panel, tile)


# The references that this worker compared people with last.
_loaded: dict[GroupCheck, DeviceReferences] = {}


def _load(check: GroupCheck) -> DeviceReferences:
    if check not in _loaded:
        _loaded.clear()
        # What is on the device is not kept here as well.
        _loaded[check] = on_device(load_references(check.path))
    return _loaded[check]


def check_group(
    check: GroupCheck,
    calls: PackedArray,
    ancestry: FloatArray,
    rows: Rows,
    in_fit: npt.NDArray[np.bool_],
) -> Checked:
    """Check the people of a group.

    Parameters
    ----------
    check
        Where the references are.
    calls
        Genotypes of the people at the elements of one half (`choose_elements`), then of
        the other.
    ancestry
        Their Q.
    rows
        Their positions.
    in_fit
        Who of them P was estimated from.
    """
    return check_people(_load(check), check.threshold, calls, ancestry, rows, in_fit)


def check_people(
    loaded: DeviceReferences,
    threshold: float,
    calls: PackedArray,
    ancestry: FloatArray,
    rows: Rows,
    in_fit: npt.NDArray[np.bool_],
) -> Checked:
    """Compare people with the references, as `check_group`."""
    people, references, panel, tile = loaded
    sums = compare(panel, calls, ancestry, tile)
    halves = residuals.correlate(sums, ancestry, in_fit, references).halves
    positions = np.arange(rows.start, rows.stop)
    place = np.searchsorted(people, positions)
    place = np.minimum(place, len(people) - 1)
    own = np.where(people[place] == positions, place, -1)
    found = residuals.check_fit(halves, own)
    least = np.maximum(threshold, STANDARD_ERRORS * found.standard_error)
    return Checked(*found, found.correlation > least)


def reference_arrays(path: Location) -> dict[str, npt.NDArray[Any]]:
    """Who the references are and how they correlate, as `schema.REFERENCES`."""
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        people, correlation, ancestry = (
            file[name] for name in ("people", "correlation", "ancestry")
        )
    k = ancestry.shape[1]
    means = mean_over_pairs(correlation, ancestry.argmax(axis=1), k)
    arrays = (people, correlation, means.astype(np.float32))
    return dict(zip(REFERENCES, arrays, strict=True))


def say_poorly_described(n_flagged: int, n_people: int) -> str:
    """The line that warns of people whom the populations do not describe.

    >>> say_poorly_described(1, 60).partition(";")[0]
    '1 of 60 people is not described by the populations'
    """
    verb = "is" if n_flagged == 1 else "are"
    return (
        f"{n_flagged} of {n_people} people {verb} not described by the populations; "
        "sample_poorly_described says who"
    )


def say_uncalled(n_uncalled: int, n_people: int) -> str:
    """The line that warns of people without any called genotype.

    >>> say_uncalled(1, 60).partition(";")[0]
    '1 of 60 people has no called genotype'
    """
    verb = "has" if n_uncalled == 1 else "have"
    return (
        f"{n_uncalled} of {n_people} people {verb} no called genotype; their ancestry "
        "is NaN"
    )


def summarise(store: Store, config: ApplyConfig) -> dict[str, Any] | None:
    """Figures of the check for an ancestry store's attributes; None without one."""
    if "sample_poorly_described" not in store:
        return None
    matrix = store.read("population_residual_correlation").astype(np.float64)
    known = [[None if np.isnan(x) else round(x, 6) for x in row] for row in matrix]
    return {
        "n_references": store.shape("reference_sample")[0],
        "threshold": config.fit_check_threshold,
        "standard_errors": STANDARD_ERRORS,
        "n_poorly_described": int(store.read("sample_poorly_described").sum()),
        "population_residual_correlation": known,
    }
