"""A finished prepared store, as everything that reads it sees it.

Apart from how such a store is made, because workers import this: what makes it needs
sgkit, which costs each process more memory than a shard.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline import plan
from pipeline.errors import InputError
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.store import Store

KIND = "prepared"
# A store beside the one that is prepared (`candidates`), until that is finished.
CANDIDATES = "candidates.zarr"


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
    held_out
        Chunks of people kept out of the fit to judge it by.
    itemsize
        Bytes of a packed element of four variants, which tells the encoding.
    fixed
        Population that has all of each person's ancestry, -1 where that is to be
        estimated; None where nobody is labelled.
    population_names
        Names of the populations; empty where nobody is labelled.
    """

    path: Location
    source: str
    n_samples: int
    n_variants: int
    unit: int
    sample_chunk: int
    in_fit: npt.NDArray[np.bool_]
    held_out: tuple[Rows, ...] = ()
    itemsize: int = 1
    fixed: npt.NDArray[np.int16] | None = None
    population_names: tuple[str, ...] = ()

    @property
    def blocks_in_fit(self) -> list[Rows]:
        """Chunks with anybody who informs the fit."""
        blocks = plan.split_rows(self.n_samples, self.unit)
        return [rows for rows in blocks if self.in_fit[rows.slice].any()]

    def held_out_in(self, rows: Rows) -> tuple[Rows, ...]:
        """Chunks held out among some rows, which are whole chunks."""
        return tuple(
            block
            for block in self.held_out
            if rows.start <= block.start and block.stop <= rows.stop
        )

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
        itemsize=store.dtype("call_genotype_packed").itemsize,
    )


def hold_out(prepared: Prepared, fraction: float) -> Prepared:
    """Keep evenly spaced chunks of people out of the fit, to judge it by.

    Parameters
    ----------
    prepared
        The store; it is not changed.
    fraction
        Share of the chunks, in [0, 0.5]. A cohort of too few chunks keeps them all.
    """
    if not fraction:
        return prepared
    stride = round(1 / fraction)
    blocks = plan.split_rows(prepared.n_samples, prepared.unit)
    chosen = tuple(blocks[stride // 2 :: stride])
    in_fit = prepared.in_fit.copy()
    for rows in chosen:
        in_fit[rows.slice] = False
    return dataclasses.replace(prepared, in_fit=in_fit, held_out=chosen)
