"""The manifests of deploy/kubernetes as kustomize builds them, checked offline."""

import copy
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import distributed.cli.dask_scheduler
import distributed.cli.dask_worker
import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline import cli, cluster
from pipeline.config import load_config
from tests import kubernetes_schemas

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGES = {"cpu": f"streamixture:{VERSION}", "gpu": f"streamixture:{VERSION}-cuda"}
KINDS = {"job": "Job", "daskjob": "DaskJob", "reprocess": "CronJob"}
GPU = "nvidia.com/gpu"

Manifest = Mapping[str, Any]


def build(path: Path) -> list[dict[str, Any]]:
    """What kustomize makes of an overlay."""
    command = [str(KUBECTL), "kustomize", str(path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@pytest.fixture(
    scope="module",
    params=[(device, kind) for device in IMAGES for kind in KINDS],
    ids="-".join,
)
def overlay(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def built(overlay: tuple[str, str]) -> list[dict[str, Any]]:
    return build(FOLDER / "overlays" / Path(*overlay))


def _pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every specification of pods in an object, however deep."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for child in value.values():
            yield from _pod_specs(child)
    elif isinstance(value, list):
        for child in value:
            yield from _pod_specs(child)


def containers(built: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every container of what was built."""
    return [c for pod in _pod_specs(built) for c in pod["containers"]]


def test_overlays__are_all_tested():
    found = (FOLDER / "overlays").rglob("kustomization.yaml")
    names = {path.parent.relative_to(FOLDER / "overlays").parts for path in found}
    assert names == {(device, kind) for device in IMAGES for kind in KINDS}


@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_overlay__is_valid(built: list[dict[str, Any]], version: str):
    for manifest in built:
        kubernetes_schemas.check(manifest, version)
    for number, spec in enumerate(_pod_specs(built)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}}
        kubernetes_schemas.check({**pod, "spec": spec}, version)


def test_overlay__has_what_it_is_named_for(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    kinds = [manifest["kind"] for manifest in built]
    assert kinds.count(KINDS[overlay[1]]) == 1
    common = {"ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy"}
    assert set(kinds) == {KINDS[overlay[1]], *common}


def test_overlay__runs_the_image_that_the_dockerfile_builds(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    assert {c["image"] for c in containers(built)} == {IMAGES[overlay[0]]}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"-t {IMAGES[overlay[0]]} " in dockerfile


def test_overlay__on_cpus_says_how_many_workers_a_pod_starts(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    # A container sees all cores of its node; the pods of a DaskJob are the workers.
    alone = [c for c in containers(built) if c["args"][0] == "streamixture"]
    said = ["--workers" in container["args"] for container in alone]
    assert said == [overlay[0] == "cpu" and overlay[1] != "daskjob"]


def test_overlay__gives_gpus_to_the_workers_alone(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    given = {c["name"]: c["resources"]["limits"].get(GPU) for c in containers(built)}
    expected = dict.fromkeys(given)
    if overlay[0] == "gpu":
        expected["worker" if overlay[1] == "daskjob" else "streamixture"] = "1"
    assert given == expected
    for pod in _pod_specs(built):
        wants = any(GPU in c["resources"]["limits"] for c in pod["containers"])
        assert wants == any(t["key"] == GPU for t in pod.get("tolerations", []))


def test_overlay__runs_without_root_and_writes_where_it_may(
    built: list[dict[str, Any]],
):
    for pod in _pod_specs(built):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        scratch = {v["name"] for v in pod["volumes"] if "emptyDir" in v}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            mounted = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
            assert {mounted["/tmp"], mounted["/cache"]} <= scratch


def test_overlay__names_what_it_has(built: list[dict[str, Any]]):
    names = {(m["kind"], m["metadata"]["name"]) for m in built}
    for pod in _pod_specs(built):
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in names
        mounts = [m["name"] for c in pod["containers"] for m in c["volumeMounts"]]
        assert set(mounts) == set(volumes)


def test_overlay__is_reached_by_its_own_pods(built: list[dict[str, Any]]):
    (policy,) = (m for m in built if m["kind"] == "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for manifest in built:
        labels = manifest["metadata"]["labels"]
        assert chosen.items() <= labels.items(), manifest["kind"]
        # The operator hands the labels of a DaskJob on to its pods.
        for template in _templates(manifest):
            assert chosen.items() <= template["metadata"]["labels"].items()


def _templates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for name, child in value.items():
            if name == "template":
                yield child
            yield from _templates(child)


def test_overlay__configurations_are_read_by_the_program(
    built: list[dict[str, Any]], tmp_path: Path
):
    texts = {
        name: text
        for manifest in built
        if manifest["kind"] == "ConfigMap"
        for name, text in manifest["data"].items()
    }
    assert list(texts) == ["run.toml"]
    path = tmp_path / "run.toml"
    path.write_text(texts["run.toml"])
    load_config(path)


DASK: dict[str, click.Command] = {
    "scheduler": distributed.cli.dask_scheduler.main,
    "worker": distributed.cli.dask_worker.main,
}


def test_overlay__commands_are_those_of_the_programs(built: list[dict[str, Any]]):
    for container in containers(built):
        program, name, *arguments = container["args"]
        commands = {"streamixture": cli.main.commands, "dask": DASK}[program]
        if name == "reprocess" and name not in commands:
            pytest.skip("`streamixture reprocess` is not there yet")
        with commands[name].make_context(name, arguments):
            pass


def test_overlay__starts_workers_as_local_ones_start(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    workers = [c for c in containers(built) if c["args"][:2] == ["dask", "worker"]]
    assert len(workers) == (overlay[1] == "daskjob")
    for worker in workers:
        given = {entry["name"]: entry["value"] for entry in worker["env"]}
        assert given == cluster.startup_environment()
        assert "1" == worker["args"][worker["args"].index("--nthreads") + 1]


def test_overlay__waits_for_the_workers_that_it_asks_for(
    overlay: tuple[str, str], built: list[dict[str, Any]]
):
    for job in (m for m in built if m["kind"] == "DaskJob"):
        (runner,) = job["spec"]["job"]["spec"]["containers"]
        waits = runner["args"][runner["args"].index("--min-workers") + 1]
        assert int(waits) == job["spec"]["cluster"]["spec"]["worker"]["replicas"]


def _daskjob() -> dict[str, Any]:
    built = build(FOLDER / "overlays" / "gpu" / "daskjob")
    return next(m for m in built if m["kind"] == "DaskJob")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "cluster", "spec", "worker", "replica"), 3),
        (("spec", "cluster", "spec", "worker", "replicas"), "two"),
        (("spec", "job", "spec", "containers"), None),
    ],
)
def test_check__refuses_what_the_operator_would(path: tuple[str, ...], value: Any):
    job = copy.deepcopy(_daskjob())
    kubernetes_schemas.check(job, kubernetes_schemas.VERSIONS[0])
    target = job
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        kubernetes_schemas.check(job, kubernetes_schemas.VERSIONS[0])


def test_check__refuses_unknown_kinds_and_fields():
    version = kubernetes_schemas.VERSIONS[0]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    containers = [{"name": "a", "image": "a", "colour": "red"}]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_schemas.check({**pod, "spec": {"containers": containers}}, version)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_schemas.check({**pod, "kind": "Pid"}, version)
    with pytest.raises(KeyError):
        kubernetes_schemas.check(
            {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJub"}, version
        )
