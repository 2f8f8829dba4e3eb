"""Bring an earlier version up to date with a cohort in which people came or changed.

Reads the blocks of people whose files changed, projects those whose genotypes did on
the model that is there, and writes the new version's ancestry store beside the earlier
ones. Then says how the newcomers compare with the people of the fit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import genotype_digests, overlap, provenance
from pipeline.apply import apply_model
from pipeline.cohort import Cohort
from pipeline.config import TRUSTED, RunConfig, replace_values
from pipeline.drift import Drift, People, measure_drift
from pipeline.genotype_digests import Difference
from pipeline.lineage import projection_config
from pipeline.location import Location
from pipeline.match import match_variants
from pipeline.new_version import Projected, write_grown
from pipeline.prepared import Prepared
from pipeline.selection import select_people
from pipeline.some_people import plan_scan, scan_people, scanned_people
from pipeline.store import Store, is_complete
from pipeline.tasks import Cluster

# The fit check tells nothing of a few people: earlier newcomers are looked at again
# beside them, until there are so many.
COMPANIONS = 256

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Earlier:
    """An earlier version.

    Attributes
    ----------
    ancestry, model
        Its stores.
    model_version
        Version in which the model was fitted.
    n_in_fit
        People that it was fitted to.
    """

    ancestry: Store
    model: Store
    model_version: int
    n_in_fit: int

    @property
    def newcomers(self) -> Mask:
        """Who came, or changed, after the fit."""
        return self.ancestry.read("sample_version") > self.model_version


@dataclass(frozen=True)
class Work:
    """What an update works with.

    Attributes
    ----------
    cohort
        The cohort.
    config
        Settings of the projection.
    folder
        For unfinished stores; what is there is continued.
    unchanged
        Whether the files of each chunk of people are as they were; empty where
        nothing is known of that.
    project_all
        Whether everybody is projected again.
    cluster
        Workers.
    """

    cohort: Cohort
    config: RunConfig
    folder: Location
    unchanged: list[bool]
    project_all: bool
    cluster: Cluster


@dataclass(frozen=True)
class Update:
    """What an update found and did.

    Attributes
    ----------
    difference
        How the cohort differs from the earlier version.
    n_projected
        People projected for their own sake.
    n_scanned
        People whose genotypes were read.
    drift
        Figures; None where no new version was written.
    """

    difference: Difference
    n_projected: int
    n_scanned: int
    drift: Drift | None

    def as_json(self, n_people: int) -> dict[str, int]:
        """The numbers of people, for records."""
        return {
            "total": n_people,
            "new": len(self.difference.new),
            "changed": len(self.difference.changed),
            "removed": self.difference.n_removed,
            "projected": self.n_projected,
            "read": self.n_scanned,
        }


def update(earlier: Earlier, work: Work, path: Location, number: int) -> Update:
    """Write the ancestry store of a new version, if anything differs.

    Parameters
    ----------
    earlier
        The version before.
    work
        What to work with.
    path
        Where the store is built.
    number
        The new version.

    Raises
    ------
    InputError
        If the cohort has too few of the model's variants, or is on another build.
    """
    ids = work.cohort.sample_ids
    earlier_ids = earlier.ancestry.read("sample_id")
    place = genotype_digests.find_rows(earlier_ids, ids)
    companions = _companions(earlier, place, work)
    scan = _scan(earlier, work, earlier_ids, companions)
    difference = genotype_digests.compare_people(
        ids,
        earlier_ids,
        earlier.ancestry.read("sample_genotype_digest"),
        scan.people,
        scan.digests,
    )
    affected = np.arange(len(ids)) if work.project_all else difference.affected
    people = _labels(work.cohort) | {"sample_id": ids}
    moved = not np.array_equal(difference.earlier, np.arange(len(earlier_ids)))
    if not (len(affected) or moved or _labels_differ(people, earlier.ancestry)):
        return Update(difference, 0, len(scan.people), None)
    projected = _project(earlier, work, scan, affected, companions)
    attrs = _attrs(earlier, work.config)
    write_grown(earlier.ancestry, path, people, difference, projected, attrs, number)
    drift = _measure(earlier, Store.open(path, "ancestry"), projected, companions, scan)
    return Update(difference, len(affected), len(scan.people), drift)


@dataclass(frozen=True, eq=False)
class _Scan:
    """People whose genotypes were read: positions in the cohort, store, digests."""

    people: Integers
    prepared: Prepared | None
    digests: genotype_digests.Digests


def _companions(earlier: Earlier, place: Integers, work: Work) -> Integers:
    """Positions in the cohort of the last newcomers of earlier versions."""
    if not work.config.apply.fit_check_people or work.project_all:
        return np.empty(0, np.int64)
    there = place[earlier.newcomers & (place >= 0)]
    return np.sort(there)[-COMPANIONS:]


def _scan(
    earlier: Earlier, work: Work, earlier_ids: npt.NDArray[np.str_], extra: Integers
) -> _Scan:
    chunks = _chunks_to_read(work, earlier_ids)
    if any(chunks):
        for chunk in np.unique(extra // work.cohort.sample_chunk):
            chunks[chunk] = True
    n_variants = earlier.model.shape("variant_position")[0]
    blocks = plan_scan(work.cohort, n_variants, chunks)
    people = scanned_people(blocks)
    if not len(people):
        none = np.empty((0, genotype_digests.N_WORDS), np.uint64)
        return _Scan(people, None, none)
    overlap.check_build(earlier.model, work.cohort)
    match = match_variants(earlier.model, work.cohort)
    overlap.check_overlap(match, earlier.model, work.cohort, work.config.apply)
    # It is the cohort that the model was fitted to, as it is now.
    trusting = replace_values(work.config, "apply", strand=TRUSTED).apply
    read = np.zeros(work.cohort.n_samples, bool)
    read[people] = True
    match = overlap.settle_strands(match, earlier.model, work.cohort, trusting, read)
    prepared = scan_people(
        work.cohort,
        blocks,
        match.columns,
        earlier.model,
        work.folder / "scan.zarr",
        _in_fit(earlier, work),
        work.cluster,
    )
    return _Scan(
        people, prepared, genotype_digests.digest_people(prepared, work.cluster)
    )


def _in_fit(earlier: Earlier, work: Work) -> Mask:
    """Who informed the fit, where everybody is projected again."""
    in_fit = np.zeros(work.cohort.n_samples, bool)
    if work.project_all:
        ids = earlier.ancestry.read("sample_id")
        rows = genotype_digests.find_rows(work.cohort.sample_ids, ids)
        in_fit = earlier.ancestry.read("sample_in_fit")[rows] & (rows >= 0)
    return in_fit


def _chunks_to_read(work: Work, earlier_ids: npt.NDArray[np.str_]) -> list[bool]:
    """Whether each chunk of people may have genotypes that are not known."""
    size, ids = work.cohort.sample_chunk, work.cohort.sample_ids
    n_chunks = -(-len(ids) // size)
    if work.project_all or len(work.unchanged) != n_chunks:
        return [True] * n_chunks
    pieces = [slice(i * size, (i + 1) * size) for i in range(n_chunks)]
    return [
        not (same and np.array_equal(ids[piece], earlier_ids[piece]))
        for same, piece in zip(work.unchanged, pieces, strict=True)
    ]


def _labels(cohort: Cohort) -> dict[str, npt.NDArray[np.str_]]:
    if "sample_population" not in cohort.dataset:
        return {}
    labels = cohort.dataset["sample_population"].values.astype(str)
    return {"sample_population": labels}


def _labels_differ(people: dict[str, npt.NDArray[np.str_]], ancestry: Store) -> bool:
    name = "sample_population"
    if (name in people) != (name in ancestry):
        return True
    return name in people and not np.array_equal(people[name], ancestry.read(name))


def _project(
    earlier: Earlier,
    work: Work,
    scan: _Scan,
    affected: Integers,
    companions: Integers,
) -> Projected:
    """Project the people who are affected, and with few of them their companions."""
    if not len(affected):
        return Projected(None, affected, affected, scan.digests[:0])
    assert scan.prepared is not None, "who is affected was read"
    chosen = affected
    if len(affected) < COMPANIONS:
        chosen = np.union1d(affected, companions)
    rows = np.searchsorted(scan.people, chosen)
    prepared = scan.prepared
    if len(chosen) < len(scan.people):
        path = work.folder / "people.zarr"
        prepared = select_people(prepared, rows, path, work.cluster)
    path = work.folder / "projected.zarr"
    if not is_complete(path, "ancestry"):
        attrs = _attrs(earlier, work.config)
        attrs["stamp"] = provenance.digest([earlier.ancestry.attrs["stamp"], "update"])
        apply_model(
            earlier.model.path, prepared, path, work.config.apply, work.cluster, attrs
        )
    return Projected(
        Store.open(path, "ancestry"),
        np.searchsorted(chosen, affected),
        affected,
        scan.digests[np.searchsorted(scan.people, affected)],
    )


def _attrs(earlier: Earlier, config: RunConfig) -> dict[str, Any]:
    return {
        "config": projection_config(earlier.model.attrs, config.apply),
        "provenance": {"versions": provenance.package_versions()},
        "model_stamp": earlier.model.attrs["stamp"],
    }


def people_of(store: Store) -> People:
    """The figures of everybody in an ancestry store that tell of drift."""
    n_people = store.shape("sample_n_called")[0]
    checked = "sample_residual_correlation" in store
    return People(
        store.read("sample_ancestry_proportion"),
        store.read("sample_log_likelihood"),
        store.read("sample_n_called"),
        store.read("sample_residual_correlation")
        if checked
        else np.full(n_people, np.nan, np.float32),
        store.read("sample_poorly_described") if checked else np.zeros(n_people, bool),
    )


def _measure(
    earlier: Earlier,
    grown: Store,
    projected: Projected,
    companions: Integers,
    scan: _Scan,
) -> Drift:
    people = people_of(grown)
    if projected.store is not None and "sample_poorly_described" in projected.store:
        found = people_of(projected.store)
        _look_again(people, found, projected, companions, grown)
    is_new = grown.read("sample_version") > earlier.model_version
    training = people.subset(grown.read("sample_in_fit") & ~is_new)
    return measure_drift(training, people.subset(is_new), earlier.n_in_fit)


def _look_again(
    people: People,
    found: People,
    projected: Projected,
    companions: Integers,
    grown: Store,
) -> None:
    """Take what the fit check now says of earlier newcomers, beside the last ones."""
    assert projected.store is not None, "somebody was projected"
    ids = grown.read("sample_id")[companions]
    rows = genotype_digests.find_rows(ids, projected.store.read("sample_id"))
    there = rows >= 0
    people.correlation[companions[there]] = found.correlation[rows[there]]
    people.poorly_described[companions[there]] = found.poorly_described[rows[there]]
