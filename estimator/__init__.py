"""The ADMIXTURE model: arrays in, arrays out.

Nothing here touches a disk or a cluster. Names are imported when first used, so that
a process that needs only the arithmetic of the driver never loads jax.
"""

import importlib
from typing import Any

_HOMES = {
    "AncestryEstimatorConfig": "estimator.config",
    "DifferentiableAncestryEstimator": "estimator.model",
    "create_ancestry_estimator": "estimator.model",
    "assemble_estimator": "estimator.model",
    "estimator_from_data": "estimator.from_data",
    "FeatureEncoder": "estimator.model",
    "standardise": "estimator.model",
    "MISSING": "estimator.types",
    "match_components": "estimator.metrics",
    "rmse": "estimator.metrics",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'estimator' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
