"""Some people of a prepared store as a store of their own, to be projected.

Apart from `some_people`, because workers import this, and do without sgkit.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from estimator.counting import count_called
from pipeline import plan, schema
from pipeline.location import Location
from pipeline.plan import Rows
from pipeline.prepared import KIND, Prepared, open_prepared, open_store
from pipeline.store import Store, is_complete, write_all
from pipeline.stream import read_people
from pipeline.tasks import Cluster

Integers = npt.NDArray[np.int64]
_PACKED, _N_CALLED = "call_genotype_packed", "sample_n_called"
# Rows that one task copies, in chunks of the store.
_CHUNKS = 16


class _Part(NamedTuple):
    block: int
    rows: Rows
    people: Integers


def select_people(
    prepared: Prepared, people: Integers, path: Location, cluster: Cluster
) -> Prepared:
    """Copy some people of a prepared store to one of their own.

    Parameters
    ----------
    prepared
        The store.
    people
        Their rows, rising.
    path
        Where the new store is built, in place of one that is unfinished.
    cluster
        Workers.
    """
    if is_complete(path, KIND):
        return open_prepared(path)
    source = open_store(prepared.path)
    store = Store.create(path, KIND)
    for names, rows in (
        ((*schema.VARIANT_KEYS, "variant_index"), slice(None)),
        (("sample_id", "sample_in_fit"), people),
    ):
        values = {name: source.read(name)[rows] for name in names}
        write_all(store, schema.PREPARED, values)
    shape = (len(people), source.shape(_PACKED)[1])
    spec = schema.packed_calls(source.dtype(_PACKED).name)
    store.lay_out(_PACKED, spec, shape, source.chunks(_PACKED))
    n_called = schema.PREPARED[_N_CALLED]
    store.lay_out(_N_CALLED, n_called, shape[:1], (prepared.unit,))
    kept = ("source", "sample_chunk", "n_variants")
    store.set_attrs(**{name: source.attrs[name] for name in kept})
    parts = [
        _Part(block, rows, people[rows.slice])
        for block, rows in enumerate(
            plan.split_rows(len(people), prepared.unit * _CHUNKS)
        )
    ]
    store.track_blocks(len(parts))
    for block in cluster.run_all(partial(_copy_rows, prepared.path, path), parts):
        store.mark_done(block)
    store.finish()
    return open_prepared(path)


def _copy_rows(source: Location, target: Location, part: _Part) -> int:
    packed = read_people(open_store(source), part.people)
    store = open_store(target, writable=True)
    store.write_rows(_PACKED, part.rows, packed)
    store.write_rows(_N_CALLED, part.rows, count_called(packed))
    return part.block
