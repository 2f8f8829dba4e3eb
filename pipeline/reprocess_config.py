"""The configuration of scheduled reprocessing: one TOML file for a cohort that grows.

What a run takes by `--config` is its table [run]; the rest says where cohort and
results are, and when and how the model is fitted again.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import provenance, source_files, toml_file
from pipeline.config import RunConfig
from pipeline.errors import require

AUTO, REPORT, NEVER = "auto", "report", "never"
REFITS = (AUTO, REPORT, NEVER)

FILES, CONTENTS = "files", "contents"
COMPARISONS = (FILES, CONTENTS)


@dataclass(frozen=True)
class DriftConfig:
    """When a model no longer fits the people that are projected on it.

    Attributes
    ----------
    min_people
        Newcomers below whose number nothing is said.
    max_unlikely
        Largest share of newcomers, beyond that of the training cohort, whose genotypes
        are less likely than those of the training cohort with the same ancestry.
    max_poorly_described
        Largest share, beyond that of the training cohort, whose residuals correlate.
    max_fit_changed
        Largest share of the people of the fit that left the cohort since or have
        other genotypes.
    max_populations
        Where the fit check still finds more than `max_poorly_described` after a refit,
        another with one population more is made, up to this K; 0 keeps K.
    """

    min_people: int = 32
    max_unlikely: float = 0.05
    max_poorly_described: float = 0.05
    max_fit_changed: float = 0.1
    max_populations: int = 0

    def __post_init__(self) -> None:
        require(
            self.min_people > 0,
            f"drift.min_people is {self.min_people}; it must be positive",
        )
        for name in ("max_unlikely", "max_poorly_described", "max_fit_changed"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"drift.{name} is {value}; it must be in [0, 1]")
        require(
            self.max_populations >= 0,
            f"drift.max_populations is {self.max_populations}; it must be >= 0",
        )


@dataclass(frozen=True)
class ReprocessConfig:
    """What to keep up to date, where, and how.

    Attributes
    ----------
    cohort
        A VCF Zarr store, or what `run` imports.
    output
        Directory or URL for the versions of the results.
    refit
        "auto" fits the model again when that is due, "report" says that it is due,
        "never" keeps the first model.
    keep_versions
        Versions to keep, the current one among them.
    compare
        How a change of the cohort is noticed: "files" by size and time of its files
        (or an object store's tags), "contents" by reading them.
    drift
        When a refit is due.
    run
        Settings of quality control, fit and projection.
    """

    cohort: str = ""
    output: str = ""
    refit: str = REPORT
    keep_versions: int = 5
    compare: str = FILES
    drift: DriftConfig = field(default_factory=DriftConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name in ("cohort", "output"):
            require(bool(getattr(self, name)), f"{name} is not set; say where it is")
        for name, known in (("refit", REFITS), ("compare", COMPARISONS)):
            value = getattr(self, name)
            require(
                value in known,
                f"{name} is {value!r}; it must be one of {', '.join(known)}",
            )
        require(
            self.keep_versions > 0,
            f"keep_versions is {self.keep_versions}; it must be positive",
        )
        require(
            self.drift.max_populations == 0
            or self.drift.max_populations >= self.run.fit.n_populations,
            f"drift.max_populations is {self.drift.max_populations}, below "
            f"run.fit.n_populations, {self.run.fit.n_populations}; raise it, or 0 "
            "keeps K",
        )

    @property
    def fit_settings(self) -> str:
        """Digest of all settings that a fitted model depends on."""
        settings: dict[str, Any] = self.run.as_json()
        del settings["apply"]
        if settings["train"]["encoder"]:
            # As digests were made before there was a choice.
            del settings["train"]["encoder"]
        files = {path: provenance.file_digest(path) for path in self.run.qc.files}
        return provenance.digest([settings, files])

    @property
    def apply_settings(self) -> str:
        """Digest of the settings that a projection depends on."""
        return provenance.digest(dataclasses.asdict(self.run.apply))


def load_reprocess_config(path: Path) -> ReprocessConfig:
    """Read the file.

    Raises
    ------
    InputError
        If it is missing, is not TOML, or has an unknown key or a bad value.
    """
    config = toml_file.read(ReprocessConfig, path, "the path")
    return dataclasses.replace(config, cohort=source_files.complete(config.cohort))
