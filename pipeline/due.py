"""What a reprocessing would have to do, told without reading a genotype.

Compares the cohort's files and the settings with those that the last run dealt with.
Writes nothing and starts nothing: where nothing changed, this is all that happens.
"""

from dataclasses import dataclass

from pipeline import versions
from pipeline.location import locate
from pipeline.reprocess_config import AUTO, CONTENTS, NEVER, ReprocessConfig
from pipeline.source_state import SourceState, observe
from pipeline.versions import Record

SETTINGS_CHANGED = "settings of the fit changed"


@dataclass(frozen=True)
class Outlook:
    """How things stand before anything is done.

    Attributes
    ----------
    source
        The cohort's files.
    known
        The files as they were when the current version's people had these genotypes.
    shown
        Number of the current version; None before the first.
    record
        What that version was made of.
    changes
        What changed since the last run, in words; empty if nothing did.
    refit_reasons
        Why the model has to be fitted again whoever the people are, and will be.
    refit_due
        Why a refit is due, whether or not it will be made.
    """

    source: SourceState
    known: SourceState
    shown: int | None
    record: Record
    changes: tuple[str, ...]
    refit_reasons: tuple[str, ...]
    refit_due: tuple[str, ...]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes and not self.refit_reasons

    def describe(self) -> str:
        """The state in one line."""
        if self.shown is None:
            return "there is no version yet; the model will be fitted"
        due = "; a refit is due: " + ", ".join(self.refit_due) if self.refit_due else ""
        if self.is_idle:
            return f"nothing changed; version {self.shown} is current{due}"
        return f"version {self.shown} is current; " + ", ".join(
            (*self.changes, *(f"refit because {why}" for why in self.refit_reasons))
        )


def look(config: ReprocessConfig) -> Outlook:
    """Compare the cohort and the settings with those of the last run.

    Raises
    ------
    InputError
        If the cohort is not there.
    """
    output = locate(config.output)
    source = observe(config.cohort, contents=config.compare == CONTENTS)
    shown = versions.current(output)
    if shown is None:
        return Outlook(source, source, None, {}, ("there is no version yet",), (), ())
    record = versions.read_record(output, shown)
    seen = versions.read_seen(output) or {}
    changes = []
    if seen.get("source") != source.as_json():
        changes.append("the cohort's files changed")
    if seen.get("apply_settings") != config.apply_settings:
        changes.append("settings of the projection changed")
    # A version that was rolled back to has an older model, and on purpose.
    due = list(seen.get("refit_due", []))
    if seen.get("fit_settings") != config.fit_settings:
        due.append(SETTINGS_CHANGED)
    if config.refit == NEVER:
        due = []
    reasons = tuple(due) if config.refit == AUTO else ()
    # What was seen since may have been of a later version, before a roll-back.
    known = seen if seen.get("version") == shown else record
    return Outlook(
        source,
        SourceState.from_json(known["source"]),
        shown,
        record,
        tuple(changes),
        reasons,
        tuple(due),
    )
