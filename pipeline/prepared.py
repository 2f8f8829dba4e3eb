"""A finished prepared store, as everything that reads it sees it.

Apart from how such a store is made, because workers import this: what makes it needs
sgkit, which costs each process more memory than a shard.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.store import Store

KIND = "prepared"


@dataclass(frozen=True)
class Prepared:
    """What the driver knows of a prepared store; workers read the genotypes.

    Attributes
    ----------
    path
        The store.
    source
        Name of the cohort it was made from.
    n_samples, n_variants
        Its size.
    unit
        People in a chunk.
    sample_chunk
        People in a chunk of the cohort that it was made from.
    in_fit
        Who informs the fit.
    """

    path: Location
    source: str
    n_samples: int
    n_variants: int
    unit: int
    sample_chunk: int
    in_fit: npt.NDArray[np.bool_]

    @property
    def n_in_fit(self) -> int:
        """Number of people who inform the fit."""
        return int(np.count_nonzero(self.in_fit))


def open_store(path: Location, *, writable: bool = False) -> Store:
    """Open a prepared store's arrays, finished or not.

    Raises
    ------
    InputError
        If it is missing or of another kind.
    """
    return Store.open(path, KIND, writable=writable)


def open_prepared(path: Location) -> Prepared:
    """Open a finished prepared store.

    Raises
    ------
    InputError
        If it is missing, of another kind or unfinished.
    """
    store = open_store(path)
    if not store.attrs.get("complete"):
        raise InputError(f"{path} is unfinished; run `streamixture prepare` again")
    store.check_whole()
    return Prepared(
        path=path,
        source=store.attrs["source"],
        n_samples=store.shape("sample_id")[0],
        n_variants=store.attrs["n_variants"],
        unit=store.chunks("call_genotype_packed")[0],
        sample_chunk=store.attrs["sample_chunk"],
        in_fit=store.read("sample_in_fit"),
    )
