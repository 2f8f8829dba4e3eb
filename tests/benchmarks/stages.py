"""What each stage costs a genotype, and how that changes with the number of people.

    python -m tests.benchmarks.stages [--people 10000,80000] [--variants 20000]

Two workers, `run --no-qc` on a simulated cohort (K = 8), then `apply` of its model
with nothing but encoder and refinement. The table goes to tests/benchmarks/STAGES.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.simulate import simulate

STREAMIXTURE = str(Path(sys.executable).parent / "streamixture")
RESULTS = Path(__file__).parent / "STAGES.md"
K = 8
# Standard errors and the check of the fit are passes of their own.
PLAIN = '[apply]\nstandard_errors = "none"\nfit_check_people = 0\n'


def _stages(folder: Path, n_samples: int, n_variants: int) -> list[dict[str, Any]]:
    """Simulate a cohort, run on it, and return the stages of run.json."""
    cohort, output = folder / "cohort.vcz", folder / "out"
    sizes = {"n_samples": n_samples, "n_variants": n_variants, "n_populations": K}
    simulate(cohort, **sizes, seed=11, overwrite=True)  # type: ignore[arg-type]
    config = folder / "run.toml"
    config.write_text(PLAIN)
    command: list[str | Path] = [STREAMIXTURE, "run", cohort, "--output", output]
    command += ["-k", str(K), "--no-qc", "--workers", "2", "--overwrite"]
    with (folder / "run.log").open("w") as log:
        run = [*command, "--config", config]
        subprocess.run(run, check=True, stdout=log, stderr=log)
    summary = json.loads((output / "run.json").read_text())
    passes = summary["data_passes"]
    return [{**stage, "passes": passes} for stage in summary["stages"]]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", default="10000,80000")
    parser.add_argument("--variants", type=int, default=20_000)
    arguments = parser.parse_args()
    sizes = f"{arguments.variants:,} variants, K = {K}, two workers"
    lines = [
        f"# What the stages cost, {sizes}",
        "",
        "CPU time. A further genotype is one more than the smaller cohort has: what",
        "does not grow with the data is not in its cost.",
        "",
        "| people | stage | wall s | CPU s | ns a genotype | a further one | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    before: dict[str, tuple[float, int]] = {}
    for n_samples in map(int, arguments.people.split(",")):
        with tempfile.TemporaryDirectory(prefix="streamixture-bench-") as folder:
            # The first compiles for these shapes.
            for _ in range(2):
                stages = _stages(Path(folder), n_samples, arguments.variants)
        n_genotypes = n_samples * arguments.variants
        for stage in stages:
            name, cpu = stage["name"], stage["cpu_seconds"]
            further = ""
            if name in before:
                earlier, n_fewer = before[name]
                further = f"{(cpu - earlier) / (n_genotypes - n_fewer) * 1e9:.2f}"
            before[name] = cpu, n_genotypes
            passes = stage["passes"] if name == "fit" else ""
            lines.append(
                f"| {n_samples:,} | {name} | {stage['wall_seconds']:.1f} | {cpu:.1f} | "
                f"{cpu / n_genotypes * 1e9:.2f} | {further} | {passes} |"
            )
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
