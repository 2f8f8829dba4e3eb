"""Estimate the ancestry of a Dataset: a scratch store, a run, its results in memory.

Writes the calls to a VCF Zarr store once, because rounds stream them from there on
every worker, and deletes it. Invariant: row i of the results is person i, and variant
j is variant j, of the Dataset.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline import cluster, datasets, publication, run, schema, vcf_zarr
from pipeline.config import RunConfig, load_config, replace_values
from pipeline.location import Location, locate
from pipeline.prepared import open_store
from pipeline.store import Store

_FREQUENCY = "variant_population_frequency"
# What people have of a run. How many of their genotypes were used would hide sgkit's
# own variable of that name.
_SAMPLE_VALUES = {
    **{
        name: schema.ANCESTRY[name]
        for name in (
            "sample_ancestry_proportion",
            "sample_log_likelihood",
            "sample_in_fit",
        )
    },
    "population_id": schema.POPULATION_ID,
    "sample_ancestry_proportion_se": schema.STANDARD_ERROR,
    **schema.FIT_CHECK,
}


def configure(
    config: RunConfig | Path | str | None,
    *,
    n_populations: int | None,
    quality_control: bool,
    seed: int | None,
) -> RunConfig:
    """A configuration, or a file's, with the arguments' values in their place."""
    if config is None or isinstance(config, RunConfig):
        settings = config or RunConfig()
    else:
        settings = load_config(Path(config))
    if n_populations is not None:
        settings = replace_values(settings, "fit", n_populations=n_populations)
    if not quality_control:
        settings = replace_values(settings, "qc", enabled=False)
    return settings if seed is None else replace_values(settings, "", seed=seed)


def estimate(
    cohort: xr.Dataset,
    config: RunConfig,
    *,
    output: Path | str | None,
    overwrite: bool,
    scratch: Path | str | None,
) -> xr.Dataset:
    """Run on a Dataset, and read what came of it.

    Parameters
    ----------
    cohort
        As `datasets.select_cohort` returns it.
    config
        Everything that the results depend on.
    output, overwrite
        Where the results are kept, if anywhere, and whether to replace others.
    scratch
        Directory for the copy of the calls.
    """
    with (
        tempfile.TemporaryDirectory(prefix="streamixture-", dir=scratch) as folder,
        cluster.current_cluster() as workers,
    ):
        copy = Path(folder) / "dataset.vcz"
        vcf_zarr.copy_dataset(copy, cohort)
        results = Path(folder) / "results" if output is None else locate(output)
        ready = contextlib.nullcontext(workers)
        run.run(str(copy), results, config, ready, overwrite=overwrite)
        return xr.Dataset(dict(_results(results, cohort.sizes["variants"])))


def _results(output: Location, n_variants: int) -> Iterator[tuple[str, xr.Variable]]:
    found = Store.open(publication.resolve(output / "ancestry.zarr"), "ancestry")
    for name, spec in _SAMPLE_VALUES.items():
        if name in found:
            yield name, datasets.described(spec, found.read(name))
    prepared = open_store(publication.resolve(output / "prepared.zarr"))
    fitted = found.read(_FREQUENCY)
    frequencies = np.full((n_variants, fitted.shape[1]), np.nan, fitted.dtype)
    frequencies[prepared.read("variant_index")] = fitted
    yield _FREQUENCY, datasets.described(schema.ANCESTRY[_FREQUENCY], frequencies)
