"""`method = "neural"` beside maximum likelihood on one simulated cohort.

    python -m tests.benchmarks.neural [--samples 20000] [--variants 8000] [-k 8]

The neural run keeps a tenth of the people out. Maximum likelihood is fitted to the
others alone and projects the same tenth, so that both see the same data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from estimator.metrics import rmse
from pipeline.simulate import simulate
from pipeline.store import Store
from tests import helpers

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")
SETTINGS = "[neural]\nheld_out = 0.1\n"
N_WORKERS = "2"

Mask = npt.NDArray[np.bool_]


def write_subset(source: Path, target: Path, people: Mask) -> Path:
    """Copy some of the people of a cohort to a cohort of their own."""
    keys: dict[str, Any] = {
        name: helpers.read_array(source, name)
        for name in (
            "contig_id",
            "variant_contig",
            "variant_position",
            "variant_allele",
            "variant_id",
        )
    }
    calls = helpers.read_array(source, "call_genotype")[:, people]
    helpers.write_cohort(target, calls, chunks=(1_000, 1_000), **keys)
    return target


def streamixture(*arguments: str | Path) -> None:
    """Run a command to its end."""
    subprocess.run([STREAMIXTURE, *map(str, arguments)], check=True)


def judge(name: str, store: Path, truth: npt.NDArray[np.float64], people: Mask) -> None:
    """Print the fit of some people of an ancestry store."""
    found = Store.open(store, "ancestry")
    log_likelihood = found.read("sample_log_likelihood")[people].sum()
    n_called = found.read("sample_n_called")[people].sum()
    ancestry = found.read("sample_ancestry_proportion")[people]
    error = rmse(ancestry, truth)
    print(f"| {name} | {log_likelihood / n_called:.8f} | {error:.5f} |", flush=True)


def compare(folder: Path, cohort: Path, k: str) -> None:
    """Run both methods and print their figures."""
    settings = folder / "neural.toml"
    settings.write_text(SETTINGS)
    common = ("--workers", N_WORKERS)
    options = ("-k", k, "--no-qc", *common)
    neural, best = folder / "neural", folder / "likelihood"
    method = ("--method", "neural", "--config", settings)
    streamixture("run", cohort, "--output", neural, *options, *method)
    inside = Store.open(neural / "ancestry.zarr", "ancestry").read("sample_in_fit")
    parts = {
        "training": write_subset(cohort, folder / "training.vcz", inside),
        "held out": write_subset(cohort, folder / "held-out.vcz", ~inside),
    }
    streamixture("run", parts["training"], "--output", best, *options)
    projected = folder / "projected.zarr"
    model = best / "model.zarr"
    streamixture("apply", model, parts["held out"], "--output", projected, *common)
    truth = helpers.read_array(cohort, "simulated_ancestry_proportion")
    stores = {"training": best / "ancestry.zarr", "held out": projected}
    print("| method, people | log-likelihood per genotype | RMSE of Q to the truth |")
    print("|---|---|---|")
    for name, people in (("training", inside), ("held out", ~inside)):
        expected, everybody = truth[people], np.ones(people.sum(), bool)
        judge(f"likelihood, {name}", stores[name], expected, everybody)
        judge(f"neural, {name}", neural / "ancestry.zarr", expected, people)
    report = json.loads((neural / "run.json").read_text())
    print(json.dumps(report["evaluation"], indent=2))
    for output in (neural, best):
        stages = json.loads((output / "run.json").read_text())["stages"]
        print(output.name, {s["name"]: s["cpu_seconds"] for s in stages})


def main() -> None:
    """Simulate a cohort and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--variants", type=int, default=8_000)
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "cohort.vcz"
        simulate(
            cohort,
            n_samples=arguments.samples,
            n_variants=arguments.variants,
            n_populations=arguments.k,
            missing_rate=0.01,
            seed=arguments.seed,
        )
        compare(Path(folder), cohort, str(arguments.k))


if __name__ == "__main__":
    main()
