"""What a result depends on, and how each store says it."""

from typing import Any

from pipeline import provenance
from pipeline.config import RunConfig
from pipeline.labels import Labels
from pipeline.location import locate


def provenance_inputs(
    fingerprint: str, config: RunConfig, labels: Labels | None = None
) -> dict[str, Any]:
    """What a result depends on: cohort, configuration, software and labels."""
    inputs = {
        "cohort": fingerprint,
        "configuration": config.as_json(),
        "versions": provenance.package_versions(),
    }
    files = {path: provenance.file_digest(path) for path in config.qc.files}
    if files:
        inputs["files"] = files
    return inputs if labels is None else inputs | {"labels": labels.fingerprint}


def describe(source: str, config: RunConfig, inputs: dict[str, Any]) -> dict[str, Any]:
    """Provenance that every store carries.

    No time of day: the same inputs give the same bytes.
    """
    return {
        "source": locate(source).name,
        "config": config.as_json(),
        "stamp": provenance.digest(inputs),
        "cohort_fingerprint": inputs["cohort"],
        "provenance": {"versions": inputs["versions"]},
        **({"labels_fingerprint": inputs["labels"]} if "labels" in inputs else {}),
    }
