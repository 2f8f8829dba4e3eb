"""Scheduled reprocessing: bring results up to date with a cohort, as far as needed.

`due` tells, without reading a genotype, whether anything changed; `update` projects
who is new or changed; a fit is made where there is none yet, or where one is due.
What comes of it is a version of its own (`versions`), published in one step. A run
that was killed is gone on with by the next one, unless the cohort changed since.
"""

import contextlib
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import (
    due,
    genotype_digests,
    lock,
    provenance,
    publication,
    run,
    sources,
    versions,
)
from pipeline.cohort import Cohort
from pipeline.config import IID, RunConfig, SourceConfig, replace_values
from pipeline.drift import reasons_to_refit
from pipeline.due import Outlook
from pipeline.errors import BusyError
from pipeline.location import Location, delete_tree, locate
from pipeline.new_version import write_fitted
from pipeline.prepared import open_prepared
from pipeline.quantities import count_things
from pipeline.renumber import find_order, renumber_model
from pipeline.report import write_report
from pipeline.reprocess_config import AUTO, CONTENTS, NEVER, ReprocessConfig
from pipeline.source_state import observe
from pipeline.store import Store
from pipeline.tasks import Cluster
from pipeline.update import Earlier, Update, Work, update
from pipeline.versions import ANCESTRY, MODEL, REPORT

logger = logging.getLogger(__name__)

_WORK = ".work"


def reprocess(
    config: ReprocessConfig,
    cluster: AbstractContextManager[Cluster],
    *,
    force: bool = False,
) -> str:
    """Bring the results up to date with the cohort.

    Parameters
    ----------
    config
        Cohort, output and settings.
    cluster
        Workers, started when there is something for them to do.
    force
        Read everybody's genotypes again, though no file changed.

    Returns
    -------
    What was done, in one line.

    Raises
    ------
    InputError
        If the cohort or the settings will not do.
    BusyError
        If another run is at work, or the cohort was written meanwhile.
    """
    output = locate(config.output)
    output.mkdir(parents=True, exist_ok=True)
    with (
        lock.hold(output / versions.LOCK, output) as check,
        contextlib.ExitStack() as stack,
    ):
        versions.mend(output)
        outlook = due.look(config)
        if outlook.is_idle and not force:
            return outlook.describe()
        logger.info("%s", outlook.describe())
        work = _open_work(output, config, outlook)
        job = _Job(
            config, outlook, output, work, _Workers(cluster, stack), check, force
        )
        done = job.run()
        delete_tree(output / _WORK)
        return done


def _open_work(output: Location, config: ReprocessConfig, outlook: Outlook) -> Location:
    """Folder of unfinished work on the same inputs; that on others goes."""
    inputs = {
        "source": outlook.source.as_json(),
        "shown": outlook.shown,
        "settings": [config.fit_settings, config.apply_settings],
    }
    folder = output / _WORK / provenance.digest(inputs)[:16]
    if (output / _WORK).is_dir():
        for item in (output / _WORK).iterdir():
            if item != folder:
                delete_tree(item)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Workers:
    """The cluster, started when it is first asked for."""

    def __init__(
        self, cluster: AbstractContextManager[Cluster], stack: contextlib.ExitStack
    ) -> None:
        self._cluster = cluster
        self._stack = stack
        self._started: Cluster | None = None

    def start(self) -> Cluster:
        if self._started is None:
            self._started = self._stack.enter_context(self._cluster)
        return self._started


@dataclass(frozen=True)
class _Fit:
    """A fit's results, and how many populations it found."""

    folder: Location
    ancestry: Store
    n_populations: int


class _Job:
    """One reprocessing, from the outlook to the published version."""

    def __init__(
        self,
        config: ReprocessConfig,
        outlook: Outlook,
        output: Location,
        work: Location,
        workers: _Workers,
        check: lock.Check,
        force: bool,
    ) -> None:
        self.config, self.outlook = config, outlook
        self.output, self.work = output, work
        self.workers, self.check, self.force = workers, check, force
        self.number = versions.next_number(output)
        self.watch = provenance.Stopwatch()

    @property
    def version(self) -> Location:
        """Folder of the new version."""
        return versions.version_path(self.output, self.number)

    @property
    def source(self) -> tuple[str, Location, SourceConfig]:
        """The cohort, where it may be imported to, and how."""
        return self.config.cohort, self.work, self.config.run.source

    def run(self) -> str:
        """Do what is to be done, and say what it was."""
        if self.outlook.shown is None:
            cohort = sources.open_to_fit(*self.source)
            return self.publish_fit(cohort, None, ["there was no version"], None)
        cohort = sources.open_source(*self.source)
        earlier = self.open_earlier(self.outlook.shown)
        if self.outlook.refit_reasons:
            reasons = list(self.outlook.refit_reasons)
            return self.publish_fit(cohort, earlier, reasons, None)
        done = update(
            earlier, self.plan_work(cohort), self.version / ANCESTRY, self.number
        )
        if done.drift is None:
            return self.conclude()
        reasons = reasons_to_refit(done.drift, self.config.drift)
        if self.config.refit == NEVER:
            reasons = []
        if reasons and self.config.refit == AUTO:
            return self.publish_fit(cohort, earlier, reasons, done)
        return self.publish_update(cohort, earlier, done, reasons)

    def open_earlier(self, shown: int) -> Earlier:
        folder, record = versions.version_path(self.output, shown), self.outlook.record
        return Earlier(
            Store.open(folder / ANCESTRY, "ancestry"),
            Store.open(folder / MODEL, "model"),
            record["model_version"],
            record["n_samples_in_fit"],
        )

    def plan_work(self, cohort: Cohort) -> Work:
        record, config = self.outlook.record, self.config
        settings_changed = record["apply_settings"] != config.apply_settings
        unchanged = self.outlook.source.same_columns(self.outlook.known)
        return Work(
            cohort,
            config.run,
            self.work,
            [] if self.force else unchanged,
            settings_changed,
            self.workers.start(),
        )

    def conclude(self) -> str:
        """Remember that the files changed, and nobody's genotypes."""
        delete_tree(self.version)
        self.check_source()
        seen = versions.seen_with(self.outlook.record)
        source = self.outlook.source.as_json()
        versions.write_seen(self.output, {**seen, "source": source})
        return f"nobody's genotypes changed; version {self.outlook.shown} is current"

    def check_source(self) -> None:
        contents = self.config.compare == CONTENTS
        if observe(self.config.cohort, contents=contents) != self.outlook.source:
            raise BusyError(
                f"{self.config.cohort} was written while it was read; run again when "
                "it is at rest"
            )

    def publish_update(
        self, cohort: Cohort, earlier: Earlier, done: Update, reasons: list[str]
    ) -> str:
        """Publish a version of the same model."""
        shown, before = self.outlook.shown, self.outlook.record
        assert shown is not None, "there is an earlier version"
        versions.carry_over(self.output, shown, self.number, MODEL)
        kept = ("model_version", "n_populations", "n_samples_in_fit", "fit_settings")
        people = done.as_json(cohort.n_samples)
        assert done.drift is not None, "a version was written"
        self.publish(
            {
                "cause": "update",
                "people": people,
                "drift": done.drift.as_json(),
                "refit_due": reasons,
                **{name: before[name] for name in kept},
            }
        )
        line = (
            f"published version {self.number}: "
            f"{count_things(people['new'], 'new person', 'new people')}, "
            f"{people['changed']} changed, {people['removed']} left"
        )
        return f"{line}; a refit is due: {', '.join(reasons)}" if reasons else line

    def publish_fit(
        self,
        cohort: Cohort,
        earlier: Earlier | None,
        reasons: list[str],
        done: Update | None,
    ) -> str:
        """Fit, put the populations in their old columns, and publish."""
        logger.info("fitting the model: %s", ", ".join(reasons))
        drifted = earlier is not None and reasons != [due.SETTINGS_CHANGED]
        fit = self.fit(cohort, grow=drifted)
        n_populations = fit.n_populations
        order = np.arange(n_populations)
        if earlier is not None:
            name = "sample_ancestry_proportion"
            order = find_order(
                fit.ancestry.read(name),
                fit.ancestry.read("sample_id"),
                earlier.ancestry.read(name),
                earlier.ancestry.read("sample_id"),
            )
        prepared = open_prepared(publication.resolve(fit.folder / "prepared.zarr"))
        digests = genotype_digests.digest_people(prepared, self.workers.start())
        path = self.version / ANCESTRY
        write_fitted(fit.ancestry, path, digests, order, self.number)
        fitted = publication.resolve(fit.folder / MODEL)
        renumber_model(fitted, self.version / MODEL, order)
        people = (
            {"total": cohort.n_samples}
            if done is None
            else done.as_json(cohort.n_samples)
        )
        self.publish(
            {
                "cause": "fit",
                "people": people,
                "drift": done and done.drift and done.drift.as_json(),
                "refit_reasons": reasons,
                "refit_due": [],
                "model_version": self.number,
                "n_populations": n_populations,
                "population_order": order.tolist(),
                "n_samples_in_fit": int(prepared.n_in_fit),
                "fit_settings": self.config.fit_settings,
            }
        )
        return (
            f"published version {self.number}: a new fit of "
            f"{count_things(prepared.n_in_fit, 'person', 'people')} "
            f"with K = {n_populations} ({', '.join(reasons)})"
        )

    def fit(self, cohort: Cohort, *, grow: bool) -> _Fit:
        """Fit with K populations, and more where drift says and settings allow it."""
        k = self.config.run.fit.n_populations
        record = self.outlook.record
        if record.get("fit_settings") == self.config.fit_settings:
            k = record["n_populations"]
        while True:
            fit = self.fit_once(cohort, k)
            if not (grow and k < self.config.drift.max_populations):
                return fit
            check = fit.ancestry.attrs["fit_check"] or {"n_poorly_described": 0}
            share = check["n_poorly_described"] / cohort.n_samples
            if share <= self.config.drift.max_poorly_described:
                return fit
            logger.info("K = %d does not describe %.0f%% of people", k, 100 * share)
            k += 1

    def fit_once(self, cohort: Cohort, k: int) -> _Fit:
        folder = self.work / f"fit-{k}"
        settings: RunConfig = replace_values(self.config.run, "fit", n_populations=k)
        # What was imported has its ids.
        settings = replace_values(settings, "source", sample_id=IID)
        workers = contextlib.nullcontext(self.workers.start())
        run.run(cohort.url, folder, settings, workers, resume=True)
        path = publication.resolve(folder / ANCESTRY)
        return _Fit(folder, Store.open(path, "ancestry"), k)

    def publish(self, described: dict[str, Any]) -> None:
        """Finish the new version's folder, show it, and write down what was done."""
        write_report(self.version / ANCESTRY, self.version / REPORT)
        record = {
            "version": self.number,
            "previous": self.outlook.shown,
            "created": versions.now(),
            "changes": list(self.outlook.changes),
            **described,
            "apply_settings": self.config.apply_settings,
            "source": self.outlook.source.as_json(),
            "seconds": round(self.watch.seconds, 1),
            "package_versions": provenance.package_versions(),
        }
        self.check_source()
        provenance.write_json(self.version / versions.RECORD, record)
        versions.publish(self.output, self.number, self.check)
        versions.write_seen(self.output, versions.seen_with(record))
        # What the journal does not have yet, `mend` writes down.
        versions.append_journal(self.output, versions.journal_entry(record))
        versions.retain(self.output, self.config.keep_versions)
