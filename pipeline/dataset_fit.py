"""Estimate the ancestry of a Dataset: a scratch store, a run, its results in memory.

Writes the calls to a VCF Zarr store once, because rounds stream them from there on
every worker, and deletes it. Invariant: row i of the results is person i, and variant
j is variant j, of the Dataset.
"""

import contextlib
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline import (
    cluster,
    datasets,
    publication,
    run,
    schema,
    stopping,
    vcf_zarr,
    workspace,
)
from pipeline.config import RunConfig, load_config, replace_values
from pipeline.errors import InputError
from pipeline.location import Location, locate
from pipeline.prepared import open_store
from pipeline.python_words import python_words
from pipeline.store import Store
from pipeline.tasks import Cluster

_COPY = "dataset.vcz"
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


# Figures of a run that its Dataset has as attributes, by their names in run.json.
_FIGURES = (
    "log_likelihood",
    "observed_genotypes",
    "n_populations",
    "converged",
    "data_passes",
    "method",
)


def configure(
    config: RunConfig | Path | str | None,
    *,
    n_populations: int | None,
    quality_control: bool,
    seed: int | None,
    encoder: bool = True,
) -> RunConfig:
    """A configuration, or a file's, with the arguments' values in their place.

    Raises
    ------
    InputError
        If a value will not do.
    """
    with python_words():
        if config is None or isinstance(config, RunConfig):
            settings = config or RunConfig()
        else:
            settings = load_config(Path(config))
        if n_populations is not None:
            k = _whole_number("n_populations", n_populations)
            settings = replace_values(settings, "fit", n_populations=k)
        if not quality_control:
            settings = replace_values(settings, "qc", enabled=False)
        if not encoder:
            settings = replace_values(settings, "train", encoder=False)
        if seed is not None:
            settings = replace_values(settings, "", seed=_whole_number("seed", seed))
        return settings


def _whole_number(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {value!r}; it must be a whole number") from None


def estimate(
    cohort: xr.Dataset,
    config: RunConfig,
    *,
    name: str,
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
    name
        What the results call the cohort.
    output, overwrite
        Where the results are kept, if anywhere, and whether to replace others.
    scratch
        Directory for the copy of the calls.

    Raises
    ------
    InputError
        If the Dataset, the configuration or a place will not do: before workers are
        started, unless quality control finds it.
    """
    kept = None if output is None else locate(output)
    _check(cohort, config, kept, overwrite=overwrite, scratch=scratch)
    with (
        stopping.scratch_folder(scratch) as folder,
        contextlib.ExitStack() as stack,
        python_words({f"{folder}/{_COPY}": datasets.NAME, _COPY: datasets.NAME}),
    ):
        ready: contextlib.AbstractContextManager[Cluster] = cluster.current_cluster()
        if cluster.has_client():
            # Workers that will not do are refused before there is a copy to lose.
            ready = contextlib.nullcontext(stack.enter_context(ready))
        copy = Path(folder) / _COPY
        vcf_zarr.copy_dataset(copy, cohort)
        results = Path(folder) / "results" if kept is None else kept
        run.run(str(copy), results, config, ready, overwrite=overwrite, name=name)
        return _read_results(results, cohort.sizes["variants"])


def _check(
    cohort: xr.Dataset,
    config: RunConfig,
    output: Location | None,
    *,
    overwrite: bool,
    scratch: Path | str | None,
) -> None:
    """Refuse what cannot end well, before anything is copied or started."""
    k = config.fit.n_populations
    for dim, what in (("samples", "people"), ("variants", "variants")):
        if k > cohort.sizes[dim]:
            raise InputError(
                f"{datasets.NAME} has {cohort.sizes[dim]} {what}, and {k} populations "
                "need at least as many; lower n_populations"
            )
    if scratch is not None and not Path(scratch).is_dir():
        raise InputError(f"scratch: folder {scratch} does not exist; make it first")
    if output is not None:
        with python_words():
            workspace.plan_workspace(output, resume=False, overwrite=overwrite)


def _read_results(results: Location, n_variants: int) -> xr.Dataset:
    found = Store.open(publication.resolve(results / "ancestry.zarr"), "ancestry")
    # A joint training ends after its epochs, and is neither converged nor not.
    known = {name: found.attrs.get(name) for name in _FIGURES}
    attrs = {name: value for name, value in known.items() if value is not None}
    prepared = open_store(publication.resolve(results / "prepared.zarr"))
    return xr.Dataset(dict(_results(found, prepared, n_variants)), attrs=attrs)


def _results(
    found: Store, prepared: Store, n_variants: int
) -> Iterator[tuple[str, xr.Variable]]:
    for name, spec in _SAMPLE_VALUES.items():
        if name in found:
            yield name, datasets.described(spec, found.read(name))
    fitted = found.read(_FREQUENCY)
    frequencies = np.full((n_variants, fitted.shape[1]), np.nan, fitted.dtype)
    frequencies[prepared.read("variant_index")] = fitted
    yield _FREQUENCY, datasets.described(schema.ANCESTRY[_FREQUENCY], frequencies)
