"""What a result depends on, and how each store says it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline import provenance
from pipeline.config import ApplyConfig, RunConfig
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


def provenance_of_projection(
    fingerprint: str, model: Mapping[str, Any], config: ApplyConfig
) -> dict[str, Any]:
    """What a projection depends on: cohort, model, how it is applied, software."""
    return {
        "cohort": fingerprint,
        "configuration": projection_config(model, config),
        "versions": provenance.package_versions(),
        "model": model["stamp"],
    }


def projection_config(model: Mapping[str, Any], config: ApplyConfig) -> dict[str, Any]:
    """Configuration of a projection: the model's, and how it was applied.

    Parameters
    ----------
    model
        Attributes of the model's store.
    config
        How it is applied.
    """
    return {**model.get("config", {}), "apply": dataclasses.asdict(config)}


def describe(source: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Provenance that every store carries.

    No time of day: the same inputs give the same bytes.
    """
    return {
        "source": locate(source).name,
        "config": inputs["configuration"],
        "stamp": provenance.digest(inputs),
        "cohort_fingerprint": inputs["cohort"],
        "provenance": {"versions": inputs["versions"]},
        **({"labels_fingerprint": inputs["labels"]} if "labels" in inputs else {}),
    }
