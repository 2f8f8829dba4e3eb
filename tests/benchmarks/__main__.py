"""Streamixture beside its peers on the same genotypes, as one table.

    python -m tests.benchmarks [--cohorts demo,1000x10000-k5] [--repeats 1]
        [--peers fastmixture2]

Each cohort is prepared once; the tools then run in turn, with two workers against
two threads. Log-likelihoods are recomputed in float64 from the Q and P that each
wrote. The table goes to tests/benchmarks/RESULTS.md.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from estimator.metrics import rmse
from pipeline.demo import write_demo_cohort
from pipeline.simulate import simulate
from pipeline.store import Store
from tests.benchmarks import peers
from tests.benchmarks.measure import Cost, measure

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")
RESULTS = Path(__file__).parent / "RESULTS.md"
PEER_SEEDS = (1, 2, 3)
N_THREADS = 2

Command = list[str | Path]


@dataclass(frozen=True)
class CohortSpec:
    """A cohort to measure on; without sizes, the 1000 Genomes people of the demo."""

    name: str
    k: int
    n_samples: int = 0
    n_variants: int = 0


COHORTS = {
    spec.name: spec
    for spec in (
        CohortSpec("demo", 5),
        CohortSpec("1000x10000-k5", 5, 1_000, 10_000),
        CohortSpec("1000x10000-k8", 8, 1_000, 10_000),
        CohortSpec("5000x50000-k5", 5, 5_000, 50_000),
        CohortSpec("5000x50000-k8", 8, 5_000, 50_000),
        CohortSpec("40000x8192-k8", 8, 40_000, 8_192),
        CohortSpec("10000x100000-k12", 12, 10_000, 100_000),
    )
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    cohort: str
    tool: str
    cost: Cost
    passes: int | None
    log_likelihood: float
    rmse: float | None

    def markdown(self) -> str:
        """The row in Markdown."""
        cells = (
            self.cohort,
            self.tool,
            f"{self.cost.wall_seconds:.1f}",
            f"{self.cost.cpu_seconds:.1f}",
            f"{self.cost.peak_bytes / 2**20:.0f}",
            "" if self.passes is None else str(self.passes),
            f"{self.log_likelihood:.10f}",
            "" if self.rmse is None else f"{self.rmse:.5f}",
        )
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| cohort | tool | wall s | CPU s | peak MiB | passes | "
    "log-likelihood per genotype | RMSE of Q to the truth |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _prepare(spec: CohortSpec, folder: Path) -> npt.NDArray[np.float64] | None:
    """Make and prepare a cohort; return the true Q where it is known."""
    cohort = folder / "cohort.vcz"
    quality = []
    if spec.n_samples:
        simulate(
            cohort,
            n_samples=spec.n_samples,
            n_variants=spec.n_variants,
            n_populations=spec.k,
            seed=11,
        )
        quality = ["--no-qc"]
    else:
        write_demo_cohort(cohort)
    command: Command = [
        STREAMIXTURE,
        "prepare",
        cohort,
        "--output",
        folder / "prepared.zarr",
    ]
    measure([*command, *quality], folder / "prepare.log")
    if not spec.n_samples:
        return None
    return peers.read_array(cohort, "simulated_ancestry_proportion")


def _run_streamixture(
    spec: CohortSpec,
    folder: Path,
    genotypes: npt.NDArray[np.int8],
    truth: npt.NDArray[np.float64] | None,
) -> Row:
    """Fit from the prepared genotypes, encoder included."""
    model = folder / "model.zarr"
    command: Command = [
        STREAMIXTURE,
        "fit",
        folder / "prepared.zarr",
        "--output",
        model,
    ]
    options = ["-k", str(spec.k), "--workers", str(N_THREADS), "--overwrite"]
    cost = measure([*command, *options], folder / "fit.log")
    ancestry = folder / "ancestry.zarr"
    command = [STREAMIXTURE, "apply", model, folder / "cohort.vcz"]
    measure([*command, "--output", ancestry, "--overwrite"], folder / "apply.log")
    estimate = peers.read_streamixture(ancestry)
    return Row(
        spec.name,
        f"streamixture {importlib.metadata.version('streamixture')} (fit)",
        cost,
        Store.open(model, "model").attrs["data_passes"],
        peers.log_likelihood_per_genotype(genotypes, estimate),
        None if truth is None else rmse(estimate.ancestry, truth),
    )


def _run_peer(
    peer: peers.Peer,
    executable: Path,
    spec: CohortSpec,
    folder: Path,
    seed: int,
    genotypes: npt.NDArray[np.int8],
    truth: npt.NDArray[np.float64] | None,
) -> Row:
    command, results = peer.command(executable, folder, spec.k, seed, N_THREADS)
    cost = measure(command, folder / "peer.log")
    estimate = peers.read_admixture(results)
    return Row(
        spec.name,
        f"{peer.label} (seed {seed})",
        cost,
        None,
        peers.log_likelihood_per_genotype(genotypes, estimate),
        None if truth is None else rmse(estimate.ancestry, truth),
    )


def _rows(
    spec: CohortSpec, folder: Path, repeats: int, beside: list[peers.Peer]
) -> Iterator[Row]:
    truth = _prepare(spec, folder)
    genotypes = peers.read_genotypes(folder / "prepared.zarr")
    installed = [(peer, peers.install(peer.requirement)) for peer in beside]
    if any(executable for _, executable in installed):
        peers.write_plink(genotypes, folder / "plink")
    for repeat in range(repeats):
        yield _run_streamixture(spec, folder, genotypes, truth)
        seed = PEER_SEEDS[repeat % len(PEER_SEEDS)]
        for peer, executable in installed:
            if executable is not None:
                yield _run_peer(peer, executable, spec, folder, seed, genotypes, truth)


def _comparison(rows: list[Row], peer: peers.Peer) -> str:
    """Ratios of medians, and the likelihoods' difference, for one cohort."""
    ours = [row for row in rows if row.tool.startswith("streamixture")]
    theirs = [row for row in rows if row.tool.startswith(peer.label)]
    if not theirs:
        return f"{rows[0].cohort}: {peer.label} was not to be had."
    gap = min(r.log_likelihood for r in ours) - max(r.log_likelihood for r in theirs)
    ratios = (
        statistics.median(getattr(r.cost, figure) for r in ours)
        / statistics.median(getattr(r.cost, figure) for r in theirs)
        for figure in ("wall_seconds", "cpu_seconds", "peak_bytes")
    )
    wall, cpu, memory = ratios
    return (
        f"{rows[0].cohort}: wall {wall:.2f}, CPU {cpu:.2f}, memory {memory:.2f} times "
        f"{peer.label}'s; log-likelihood per genotype {gap:+.2e} beside its best."
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", default=",".join(COHORTS))
    parser.add_argument("--repeats", type=int, default=len(PEER_SEEDS))
    parser.add_argument("--peers", default=",".join(p.label for p in peers.PEERS))
    arguments = parser.parse_args()
    wanted = [name.split()[0] for name in arguments.peers.split(",")]
    beside = [peer for peer in peers.PEERS if peer.label.split()[0] in wanted]
    lines, notes = [HEADER], []
    for name in arguments.cohorts.split(","):
        with tempfile.TemporaryDirectory(prefix="streamixture-bench-") as folder:
            rows = []
            found = _rows(COHORTS[name], Path(folder), arguments.repeats, beside)
            for row in found:
                rows.append(row)
                lines.append(row.markdown())
                print(row.markdown(), flush=True)
            for peer in beside:
                notes.append(_comparison(rows, peer))
                print(notes[-1], flush=True)
    machine = json.dumps(
        {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": N_THREADS,
            "jax": importlib.metadata.version("jax"),
        }
    )
    text = "\n".join([*lines, "", *(f"- {note}" for note in notes), "", machine, ""])
    RESULTS.write_text(f"# Measured side by side\n\n{text}")


if __name__ == "__main__":
    main()
