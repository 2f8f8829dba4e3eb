"""The container image: linted by hadolint, and really built; `make image-test`.

Built without an engine, by Debian's buildah on a base of Debian's debootstrap, both as
root. All layers lie in a temporary folder and are deleted with it.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
IMAGE = f"streamixture:{VERSION}"
# Debian's release with Python 3.11, which constraints.txt was made on.
RELEASE = "bookworm"
USER = "10001"
PROGRAMS = ("buildah", "debootstrap")
# What of pip's configuration on this machine a build elsewhere can use.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")


def _healthcheck() -> ModuleType:
    path = ROOT / "deploy" / "healthcheck.py"
    spec = importlib.util.spec_from_file_location("healthcheck", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("dask scheduler", "http://127.0.0.1:8787/health"),
        ("python /x/bin/dask scheduler --dashboard-address :9", "http://127.0.0.1:9/h"),
        ("dask worker --dashboard-address :8788", "http://127.0.0.1:8788/health"),
        ("tini -- dask worker --dashboard-address 127.0.0.1:7", "http://127.0.0.1:7/h"),
        ("dask worker", None),
        ("streamixture run scheduler --output worker", None),
    ],
)
def test_health_url__is_where_dask_says_how_it_is(line: str, url: str | None):
    found = _healthcheck().health_url(line.split())
    assert (found is None) == (url is None)
    assert url is None or found.startswith(url)


def test_dockerfile__passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    subprocess.run([hadolint, DOCKERFILE], check=True, timeout=60)


def test_dockerfile__copies_what_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.partition('/')[0]}" in ignored


def test_dockerfile__pins_what_cuda_adds():
    pinned = (ROOT / "deploy" / "constraints-cuda.txt").read_text().splitlines()
    versions = dict(line.split("==") for line in pinned if "==" in line)
    common = (ROOT / "constraints.txt").read_text().splitlines()
    jax = next(line for line in common if line.startswith("jax==")).partition("==")[2]
    assert versions["jax-cuda12-plugin"] == versions["jax-cuda12-pjrt"] == jax


class Builder:
    """Buildah with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._common = ["--root", str(folder / "store"), "--runroot", str(folder / "r")]

    def __call__(self, command: str, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["buildah", *self._common, command, *arguments],
            env={**os.environ, "STORAGE_DRIVER": "vfs"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not (check and done.returncode), done.stdout[-4_000:]
        return done.stdout.strip()

    def run(self, container: str, *command: str, check: bool = True) -> str:
        return self(
            *("run", "--isolation", "chroot", container, "--", *command), check=check
        )


def _pip_configuration() -> str:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    settings = dict(line.split("=", 1) for line in listed.splitlines())
    lines = ["[global]", "cert = /run/secrets/ca.pem"]
    for name in PIP_SETTINGS:
        value = settings.get(f":env:.{name}", settings.get(f"global.{name}", ""))
        if value and "file:" not in value:
            lines.append(f"{name} = {value.strip(chr(39))}")
    return "\n".join(lines) + "\n"


def _certificates() -> str:
    chosen = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return chosen or "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)} missing; run `make image-test`")
    folder = tmp_path_factory.mktemp("image")
    yield Builder(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def base(buildah: Builder) -> str:
    """An image of Debian and its Python."""
    root = buildah.folder / "debian"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, RELEASE, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root))
    buildah("commit", "--quiet", container, "base")
    buildah("rm", container)
    shutil.rmtree(root)
    return "localhost/base"


@pytest.fixture(scope="module")
def container(buildah: Builder, base: str) -> str:
    """A container of the image."""
    configuration = buildah.folder / "pip.conf"
    configuration.write_text(_pip_configuration())
    buildah(
        *("build", "--isolation", "chroot", "--network", "host", "--format", "docker"),
        *("--build-arg", f"BASE={base}", "--secret", f"id=pip,src={configuration}"),
        *("--secret", f"id=ca,src={_certificates()}"),
        *("--file", str(DOCKERFILE), "--tag", IMAGE, str(ROOT)),
    )
    return buildah("from", "--name", "tested", f"localhost/{IMAGE}")


@pytest.mark.image
@pytest.mark.timeout(3_000)
class TestBuilt:
    """Of the image as built."""

    def test_version(self, buildah: Builder, container: str):
        said = buildah.run(container, "streamixture", "--version")
        assert said == f"streamixture, version {VERSION}"

    def test_user__is_not_root_and_owns_no_program(
        self, buildah: Builder, container: str
    ):
        assert buildah.run(container, "id", "-u") == USER
        assert "Permission denied" in buildah.run(
            container, "touch", "/opt/streamixture/x", check=False
        )

    def test_build__leaves_no_configuration_of_pip(
        self, buildah: Builder, container: str
    ):
        for path in ("/etc/pip.conf", "/run/secrets/ca.pem"):
            assert not buildah.run(container, "cat", path, check=False).startswith("[")

    def test_versions__are_those_of_constraints(self, buildah: Builder, container: str):
        lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
        pinned = {line.replace("_", "-") for line in lines if "==" in line}
        names = {line.partition("==")[0] for line in pinned}
        frozen = buildah.run(container, "pip", "freeze").lower().splitlines()
        found = {line.replace("_", "-") for line in frozen if "==" in line}
        ours = {line for line in found if line.partition("==")[0] in names}
        assert len(ours) > 50
        assert ours <= pinned

    def test_variant__another_is_refused(self, buildah: Builder, base: str):
        said = buildah(
            *("build", "--isolation", "chroot", "--build-arg", f"BASE={base}"),
            *("--build-arg", "VARIANT=tpu", "--file", str(DOCKERFILE), str(ROOT)),
            check=False,
        )
        assert "VARIANT is tpu; it must be cpu or cuda" in said

    def test_demo__runs_and_writes_nowhere_else(self, buildah: Builder, container: str):
        demo = ("streamixture", "demo", "--output", "/tmp/demo", "--workers", "2")
        assert "2504 people" in buildah.run(container, *demo)
        # So it does with a root file system that is read-only.
        places = ("/tmp", "/cache", "/proc", "/sys", "/dev")
        skipped = " -o ".join(f"-path {place}" for place in places)
        find = f"find / '(' {skipped} ')' -prune -o -user {USER} -type f -print"
        found = buildah.run(container, "sh", "-c", f"{find} 2> /dev/null; true")
        assert found == ""

    def test_healthcheck__asks_a_scheduler(self, buildah: Builder, container: str):
        assert "healthcheck.py" in buildah("inspect", container)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{unused.getsockname()[1]}"
        script = (
            f"dask scheduler --host 127.0.0.1 --port 0 --dashboard-address {address} "
            "> /tmp/log 2>&1 & "
            "check() { python /opt/streamixture/healthcheck.py $!; }; "
            "for _ in $(seq 60); do check 2> /tmp/error && break; sleep 1; done; "
            "check && kill -STOP $! && ! check && echo told; kill -KILL $!"
        )
        assert buildah.run(container, "sh", "-c", script).endswith("told")
