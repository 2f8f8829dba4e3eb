"""What a result was made from and with, and what each stage cost."""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import resource
import time
from dataclasses import dataclass
from typing import Any

from pipeline.location import Location, bytes_received, replacing

PACKAGES = (
    "streamixture",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "dask",
    "distributed",
    "xarray",
    "sgkit",
    "zarr",
    "numcodecs",
    "numpy",
)


def package_versions() -> dict[str, str]:
    """Version of Python and of every package that a result depends on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def processor_digest() -> str:
    """Short digest of the processor's model and instructions."""
    described = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        described += sorted(
            {line for line in lines if line.startswith(("model name", "flags"))}
        )
    return digest(described)[:12]


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, in hexadecimal.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str) -> str | None:
    """SHA-256 of a file that the settings name; None where there is none to read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class ProcessUsage:
    """What one process has used so far."""

    cpu_seconds: float
    peak_rss_bytes: int
    bytes_read: int


def process_usage() -> ProcessUsage:
    """CPU time, peak resident memory and bytes read by the calling process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessUsage(
        usage.ru_utime + usage.ru_stime,
        _peak_rss_bytes(usage.ru_maxrss),
        # The system counts what is read of files, and not what comes from sockets.
        _bytes_read() + bytes_received(),
    )


def _peak_rss_bytes(fallback_kilobytes: int) -> int:
    # A child inherits its parent's maximum in ru_maxrss; VmHWM starts afresh.
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return fallback_kilobytes * 1024


def _bytes_read() -> int:
    with contextlib.suppress(OSError), open("/proc/self/io") as lines:
        for line in lines:
            if line.startswith("rchar"):
                return int(line.split()[1])
    return 0


def write_json(path: Location, value: Any) -> None:
    """Write a JSON file that is either whole or absent."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start
