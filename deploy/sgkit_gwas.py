"""A GWAS with ancestry as covariates, from a cohort in VCF Zarr to two figures.

    streamixture simulate cohort.vcz --samples 1000 --variants 10000 -k 3
    python deploy/sgkit_gwas.py cohort.vcz --output gwas -k 3

Estimates everybody's ancestry, plots it, and tests every variant for association with
a trait, without and with the ancestry proportions as covariates. The trait is
`sample_trait` where the cohort has it. A simulated cohort has none and is given one
that depends on where people's ancestors lived and on no variant, so that every
association which is found is a false one.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import sgkit
import xarray as xr

from pipeline import estimate_ancestry

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402

# Median of the chi-squared distribution with one degree of freedom.
CHI2_MEDIAN = 0.4549364
TRUTH = "simulated_ancestry_proportion"


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", help="a VCF Zarr store")
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("-k", type=int, default=3, help="number of populations")
    parser.add_argument("--config", help="TOML file, as for `streamixture run`")
    options = parser.parse_args()

    ds = sgkit.load_dataset(options.cohort)
    # On the current Dask client if there is one, else on this machine's cores or GPUs.
    results = options.output / "ancestry"
    ds = estimate_ancestry(ds, options.k, config=options.config, output=results)
    plot_ancestry(ds, options.output / "ancestry.png")

    ds["call_dosage"] = alternate_alleles(ds)
    if "sample_trait" not in ds:
        ds["sample_trait"] = stratified_trait(ds)
    # Shares add up to 1: the last would say nothing that the intercept does not.
    shares = ds["sample_ancestry_proportion"][:, :-1].rename(populations="covariates")
    ds["sample_ancestry_covariate"] = shares

    chi2 = {
        "without ancestry": associate(ds, []),
        "with ancestry": associate(ds, ["sample_ancestry_covariate"]),
    }
    plot_quantiles(chi2, options.output / "quantiles.png")
    inflation = {name: genomic_inflation(values) for name, values in chi2.items()}
    (options.output / "inflation.json").write_text(json.dumps(inflation, indent=2))
    for name, value in inflation.items():
        print(f"genomic inflation {name}: {value:.3f}")


def alternate_alleles(ds: xr.Dataset) -> xr.DataArray:
    """Alternate alleles of every call; of missing ones, the variant's mean."""
    alleles = ds["call_genotype"]
    counts = alleles.sum("ploidy").where((alleles >= 0).all("ploidy"))
    return counts.fillna(counts.mean("samples"))


def stratified_trait(ds: xr.Dataset) -> xr.DataArray:
    """A trait of which half the variance is where people's ancestors lived."""
    if TRUTH not in ds:
        raise SystemExit("the cohort has no sample_trait (samples); add one to it")
    ancestry = ds[TRUTH].values
    place = ancestry @ np.arange(ancestry.shape[1])
    chance = np.random.default_rng(42).normal(size=len(place))
    values = (place - place.mean()) / place.std() + chance
    return xr.DataArray(values, dims="samples")


def associate(ds: xr.Dataset, covariates: list[str]) -> np.ndarray:
    """Chi-squared statistic of each variant's association with the trait."""
    tested = sgkit.gwas_linear_regression(
        ds,
        dosage="call_dosage",
        covariates=covariates,
        traits=["sample_trait"],
        add_intercept=True,
        merge=False,
    )
    statistic = tested["variant_linreg_t_value"].values[:, 0] ** 2
    return statistic[np.isfinite(statistic)]


def genomic_inflation(chi2: np.ndarray) -> float:
    """Median statistic over its expectation without any association (lambda GC)."""
    return float(np.median(chi2) / CHI2_MEDIAN)


def plot_ancestry(ds: xr.Dataset, path: Path) -> None:
    """Bars of everybody's ancestry, sorted by the largest share."""
    shares = ds["sample_ancestry_proportion"].values
    order = np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    figure, axes = pyplot.subplots(figsize=(8, 2), layout="constrained")
    people = np.arange(len(shares))
    axes.stackplot(people, shares[order].T, step="mid")
    axes.set(xlabel="people", ylabel="ancestry", xlim=people[[0, -1]], ylim=(0, 1))
    figure.savefig(path, dpi=150)


def plot_quantiles(chi2: dict[str, np.ndarray], path: Path) -> None:
    """Quantiles of the statistics against those expected without association."""
    normal = np.random.default_rng(0).normal(size=1_000_000)
    figure, axes = pyplot.subplots(figsize=(4, 4), layout="constrained")
    for name, values in chi2.items():
        ranks = (np.arange(len(values)) + 0.5) / len(values)
        axes.plot(np.quantile(normal**2, ranks), np.sort(values), ".", label=name)
    axes.axline((0, 0), slope=1, color="grey")
    axes.set(xlabel="expected chi-squared", ylabel="observed")
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
