"""Whether the process that a container runs is well: exit status 0, or 1.

A Dask scheduler or worker is asked by HTTP. Anything else is well while it runs, and
tells by its own exit status when it is not.
"""

import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

SCHEDULER_PORT = 8787
_TIMEOUT_SECONDS = 10


def health_url(words: Sequence[str]) -> str | None:
    """Where the process of a command line says how it is; None if nowhere.

    Parameters
    ----------
    words
        The command line. A worker is asked only on the port that it was given, because
        by default it takes any.

    >>> health_url(["dask", "worker", "--dashboard-address", ":8788"])
    'http://127.0.0.1:8788/health'
    >>> health_url(["streamixture", "run", "cohort.vcz"])
    """
    names = [Path(word).name for word in words]
    if "dask" not in names or not {"scheduler", "worker"} & set(words):
        return None
    port = SCHEDULER_PORT if "scheduler" in words else None
    for option, value in zip(words, words[1:], strict=False):
        if option == "--dashboard-address":
            port = int(value.rpartition(":")[2])
    return f"http://127.0.0.1:{port}/health" if port else None


def main(process: str = "1") -> int:
    """Ask a process of this container, by default its first."""
    line = Path(f"/proc/{process}/cmdline").read_bytes().decode()
    words = line.rstrip("\0").split("\0")
    url = health_url(words)
    if url is None:
        return 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
