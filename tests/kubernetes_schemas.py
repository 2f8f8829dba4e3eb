"""Objects against the schemas of Kubernetes and of the Dask operator, offline.

The operator's are in the wheel of dask-kubernetes, which `make venv` unpacks apart from
the rest. As a server would with strict validation, unknown fields and unknown kinds are
refused.
"""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

# What the tests are written for; the manifests use nothing that is younger than 1.31,
# in which podFailurePolicy became stable.
VERSIONS = ("1.31.0", "1.37.0")
_OPERATOR = Path(sys.prefix) / "dask-kubernetes" / "dask_kubernetes" / "operator"
_GROUP = "kubernetes.dask.org/"


def check(manifest: Mapping[str, Any], version: str) -> None:
    """Raise an error, of one of the validators, for an object that will not do."""
    if manifest["apiVersion"].startswith(_GROUP):
        name = (manifest["apiVersion"], manifest["kind"])
        operator_schemas()[name].validate(manifest)
    else:
        kubernetes_validate.validate(dict(manifest), version, strict=True)


@functools.cache
def operator_schemas() -> dict[tuple[str, str], Any]:
    """Validators of the operator's kinds, by version and kind."""
    found = {}
    paths = _OPERATOR.rglob("crds/*.yaml")
    for definition in (d for p in paths for d in yaml.safe_load_all(p.read_text())):
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _closed(version["schema"]["openAPIV3Schema"])
            known = {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
            schema["properties"] = {**schema["properties"], **known}
            name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[name] = jsonschema.Draft202012Validator(schema)
    assert found, f"{_OPERATOR} has no definitions; run `make venv`"
    return found


def _closed(schema: Any) -> Any:
    """A schema of OpenAPI as one of JSON Schema that takes no unknown fields."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if "properties" in schema:
        named = schema["properties"].items()
        closed["properties"] = {name: _closed(value) for name, value in named}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in closed:
            closed[key] = _closed(closed[key])
    if closed.pop("x-kubernetes-int-or-string", False):
        closed["type"] = ["integer", "string"]
        closed.pop("anyOf", None)
    if closed.pop("nullable", False) and isinstance(closed.get("type"), str):
        closed["type"] = [closed["type"], "null"]
    return closed
