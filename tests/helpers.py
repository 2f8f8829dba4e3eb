"""Builders of small VCF Zarr stores.

Every store has these arrays (V variants, S people, A allele slots, C contigs), in zarr
format 2, with `_ARRAY_DIMENSIONS` and consolidated metadata:

=================  =========  ==================================================
array              shape      dtype and content
=================  =========  ==================================================
call_genotype      (V, S, 2)  int8; 0 reference, 1 alternate, -1 missing
call_dosage        (V, S)     left out unless given, float; NaN missing
sample_id          (S,)       object (variable-length UTF-8); s0, s1, ...
contig_id          (C,)       object; "1" unless given
variant_contig     (V,)       int8; index into contig_id, 0 unless given
variant_position   (V,)       int32; 1000, 2000, ... unless given
variant_allele     (V, A)     object; A, C unless given; "" for an unused slot
variant_id         (V,)       object; rs0, rs1, ...
=================  =========  ==================================================
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numcodecs
import numpy as np
import zarr

from pipeline.cohort import Cohort, open_cohort
from pipeline.config import QCConfig
from pipeline.location import Location
from pipeline.prepare import prepare
from pipeline.prepared import Prepared, open_prepared
from pipeline.provenance import ProcessUsage
from pipeline.tasks import Cluster
from pipeline.workers import WorkerReport

DIMS = {
    "call_genotype": ["variants", "samples", "ploidy"],
    "call_dosage": ["variants", "samples"],
    "sample_id": ["samples"],
    "contig_id": ["contigs"],
    "variant_contig": ["variants"],
    "variant_position": ["variants"],
    "variant_allele": ["variants", "alleles"],
    "variant_id": ["variants"],
}


def random_genotypes(
    n_variants: int, n_samples: int, *, missing: float = 0.05, seed: int = 0
) -> np.ndarray:
    """Calls, variants x samples x 2, at frequencies uniform in (0, 1)."""
    rng = np.random.default_rng(seed)
    frequency = rng.random((n_variants, 1, 1))
    calls = (rng.random((n_variants, n_samples, 2)) < frequency).astype(np.int8)
    calls[rng.random((n_variants, n_samples)) < missing] = -1
    return calls


def linked_genotypes(
    n_variants: int, n_samples: int, *, copied: float = 0.6, seed: int = 0
) -> np.ndarray:
    """Calls in which two of three variants partly copy the variant before them."""
    calls = random_genotypes(n_variants, n_samples, seed=seed)
    rng = np.random.default_rng(seed + 1)
    for variant in range(1, n_variants):
        if variant % 3:
            people = rng.random(n_samples) < copied
            calls[variant, people] = calls[variant - 1, people]
    return calls


def cohort_arrays(
    genotypes: np.ndarray, **changes: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Arrays of the table above; `changes` replaces some, None leaves one out."""
    n_variants, n_samples = genotypes.shape[:2]
    arrays: dict[str, np.ndarray | None] = {
        "call_genotype": genotypes,
        "sample_id": np.array([f"s{i}" for i in range(n_samples)], dtype=object),
        "contig_id": np.array(["1"], dtype=object),
        "variant_contig": np.zeros(n_variants, dtype=np.int8),
        "variant_position": 1000 * np.arange(1, n_variants + 1, dtype=np.int32),
        "variant_allele": np.array([["A", "C"]] * n_variants, dtype=object).reshape(
            n_variants, 2
        ),
        "variant_id": np.array([f"rs{i}" for i in range(n_variants)], dtype=object),
    }
    arrays.update(changes)
    return {name: array for name, array in arrays.items() if array is not None}


def write_cohort(
    store: Any,
    genotypes: np.ndarray,
    *,
    chunks: tuple[int, int] = (7, 5),
    dims: dict[str, list[str]] | None = None,
    attributes: dict[str, Any] | None = None,
    fill_value: int | None = None,
    compressor: Any = None,
    consolidated: bool = True,
    **changes: np.ndarray | None,
) -> str:
    """Write a VCF Zarr store to a path or mapping; return the path as text."""
    store = str(store) if isinstance(store, Path) else store
    group = zarr.open_group(store, mode="w")
    group.attrs.update(attributes or {})
    for name, values in cohort_arrays(genotypes, **changes).items():
        array_chunks: Any = True
        if name in ("call_genotype", "call_dosage") and values.size:
            array_chunks = (*chunks, *values.shape[2:])
        array = group.create_dataset(
            name,
            data=values,
            chunks=array_chunks,
            fill_value=fill_value if values.dtype.kind in "iuf" else None,
            compressor=compressor or numcodecs.Zstd(1),
            object_codec=numcodecs.VLenUTF8() if values.dtype == object else None,
        )
        array.attrs["_ARRAY_DIMENSIONS"] = {**DIMS, **(dims or {})}[name]
    if consolidated:
        zarr.consolidate_metadata(store)
    return str(store)


def write_dosages(store: Any, dosages: np.ndarray, **options: Any) -> str:
    """Write a VCF Zarr store of dosages, without genotypes; return the path as text."""
    blank = np.zeros((*dosages.shape, 2), np.int8)
    arrays: dict[str, Any] = {"call_genotype": None, "call_dosage": dosages}
    return write_cohort(store, blank, **arrays, **options)


def local(path: Location) -> Path:
    """A path that must be one of this machine."""
    assert isinstance(path, Path)
    return path


def text(values: Sequence[str] | Sequence[Sequence[str]]) -> np.ndarray:
    """Variable-length strings, as bio2zarr writes them."""
    return np.array(values, dtype=object)


def forbid_dask(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Stand in for a dask scheduler where nothing may be computed."""
    raise AssertionError("dask was asked to compute")


def hudson_fst(first: np.ndarray, second: np.ndarray) -> float:
    """Fst of two populations whose frequencies at each variant are known exactly."""
    within = first * (1 - first) + second * (1 - second)
    between = first * (1 - second) + second * (1 - first)
    return float(1 - within.sum() / between.sum())


class Task:
    """A function called, once, when its result is first asked for."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        self._call: Callable[[], Any] = lambda: function(*map(_results, args))
        self._results: list[Any] = []

    def result(self) -> Any:
        if not self._results:
            self._results.append(self._call())
        return self._results[0]


def _results(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_results(each) for each in argument]
    return argument.result() if isinstance(argument, Task) else argument


class SerialCluster(Cluster):
    """Runs every task in this process, when its result is asked for."""

    def __init__(self) -> None:
        pass

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        worker: str | None = None,
        priority: int = 0,
    ) -> Any:
        return Task(function, args)

    def result(self, future: Any) -> Any:
        return future.result()

    def results(self, futures: Sequence[Any]) -> list[Any]:
        return [future.result() for future in futures]

    def run_all(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[Any]:
        return map(function, tasks)

    def completed(self, futures: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        return ((future, future.result()) for future in futures)

    @property
    def workers(self) -> list[str]:
        return ["this process"]

    def spread(self, n_tasks: int) -> list[str | None]:
        return [None] * n_tasks

    def usage(self) -> dict[str, ProcessUsage]:
        return {"this process": ProcessUsage(0.0, 0, 0)}

    def reports(self) -> list[WorkerReport]:
        return []


def small_cohort(folder: Path, genotypes: np.ndarray, **changes: Any) -> Cohort:
    """Write a VCF Zarr store into a folder, and open it."""
    return open_cohort(write_cohort(folder / "cohort.vcz", genotypes, **changes))


def small_prepared(folder: Path, genotypes: np.ndarray, **changes: Any) -> Prepared:
    """Prepare everything that a small cohort has, in this process."""
    cohort = small_cohort(folder, genotypes, **changes)
    path = folder / "prepared.zarr"
    prepare(cohort, path, QCConfig(enabled=False), SerialCluster(), {"stamp": "x"})
    return open_prepared(path)


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a store, whole."""
    return zarr.open_group(str(path), mode="r")[name][...]
