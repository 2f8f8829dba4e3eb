"""Streamixture beside itself: more workers, more people, little memory.

    python -m tests.benchmarks.scaling [--repeats 1] [--tables workers,people,memory]

Workers: the wall time of the fit and of applying with one worker and with two, in
turn. People: peak memory of worker and driver as the cohort grows fourfold, streamed.
Memory: peaks beside the plan's, with workers of 700 MiB. The tables go to
tests/benchmarks/SCALING.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.simulate import simulate

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")
RESULTS = Path(__file__).parent / "SCALING.md"
K = 8
MIB = 2**20
WORKER_MEMORY = "700MiB"
FEW_ROUNDS = "[fit]\nmax_rounds = 3\n[train]\nepochs = 1\n"
STREAMED = "[fit]\nmax_rounds = 3\ncache_bytes = 0\n[train]\nepochs = 1\n"

Summary = dict[str, Any]
Table = Callable[[Path, int], Iterator[str]]


def _simulate(folder: Path, n_samples: int, n_variants: int) -> Path:
    cohort = folder / f"{n_samples}x{n_variants}.vcz"
    sizes = {"n_samples": n_samples, "n_variants": n_variants, "n_populations": K}
    simulate(cohort, **sizes, seed=11)  # type: ignore[arg-type]
    return cohort


def _run(cohort: Path, workers: int, settings: str = "", *options: str) -> Summary:
    """Run the command on a cohort, and return run.json."""
    config, output = cohort.with_suffix(".toml"), cohort.with_suffix(".out")
    config.write_text(settings)
    command: list[str | Path] = [
        STREAMIXTURE,
        "run",
        cohort,
        "--output",
        output,
        "-k",
        str(K),
    ]
    command += ["--no-qc", "--overwrite", "--config", config]
    command += ["--workers", str(workers), *options]
    with cohort.with_suffix(".log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return dict(json.loads((output / "run.json").read_text()))


def _wall(summary: Summary, stage: str) -> float:
    walls = {each["name"]: each["wall_seconds"] for each in summary["stages"]}
    return float(walls[stage])


def _peaks(summary: Summary) -> tuple[float, float]:
    """Largest resident memory of a worker and of the driver, in MiB."""
    peaks = [stage["peak_rss_bytes"] for stage in summary["stages"]]
    worker, driver = (max(p[who] for p in peaks) for who in ("worker", "driver"))
    return worker / MIB, driver / MIB


def workers_table(folder: Path, repeats: int) -> Iterator[str]:
    """Wall time with one worker and with two."""
    cohort = _simulate(folder, 5_000, 50_000)
    yield "| 5,000 x 50,000, K = 8 | 1 worker, s | 2 workers, s | times faster |"
    yield "|---|---|---|---|"
    runs: dict[int, list[Summary]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, summaries in runs.items():
            summaries.append(_run(cohort, workers))
    for stage in ("fit", "apply"):
        one, two = (
            statistics.median(_wall(summary, stage) for summary in summaries)
            for summaries in runs.values()
        )
        yield f"| {stage} | {one:.1f} | {two:.1f} | {one / two:.2f} |"


def people_table(folder: Path, _repeats: int) -> Iterator[str]:
    """Peak memory as the cohort grows in people."""
    yield "| people x 20,000 variants, streamed | worker, MiB | driver, MiB |"
    yield "|---|---|---|"
    for n_samples in (5_000, 20_000):
        cohort = _simulate(folder, n_samples, 20_000)
        worker, driver = _peaks(_run(cohort, 2, STREAMED))
        yield f"| {n_samples:,} | {worker:.0f} | {driver:.0f} |"


def memory_table(folder: Path, _repeats: int) -> Iterator[str]:
    """Peak memory beside the plan's."""
    yield f"| workers of {WORKER_MEMORY} | planned, MiB | measured, MiB |"
    yield "|---|---|---|"
    cohort = _simulate(folder, 40_000, 100_000)
    summary = _run(cohort, 2, FEW_ROUNDS, "--worker-memory", WORKER_MEMORY)
    planned = summary["plan"]
    worker, driver = _peaks(summary)
    stages = max(planned["stage_bytes"].values()) / MIB
    yield f"| 40,000 x 100,000, worker | {stages:.0f} | {worker:.0f} |"
    yield f"| driver | {planned['driver_bytes'] / MIB:.0f} | {driver:.0f} |"


TABLES: dict[str, Table] = {
    "workers": workers_table,
    "people": people_table,
    "memory": memory_table,
}


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    lines = ["# Workers, people, memory", ""]
    for name in arguments.tables.split(","):
        with tempfile.TemporaryDirectory(prefix="streamixture-bench-") as folder:
            for line in TABLES[name](Path(folder), arguments.repeats):
                lines.append(line)
                print(line, flush=True)
        lines.append("")
    RESULTS.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
