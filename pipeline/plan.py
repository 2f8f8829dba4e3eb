"""How a cohort is cut up: pure integer arithmetic, no input or output.

Rows are people in the order of the cohort, columns variants in the order of the
prepared store. Cuts depend on the data and the configuration alone, never on the
number of workers, so that every sum is made in the same order everywhere.
"""

from dataclasses import dataclass

from estimator.packing import packed_width

# A prepared chunk: small enough to read few people, long enough to compress well. Its
# width is in elements of four variants.
MAX_CHUNK_PEOPLE = 64
MIN_CHUNK_PEOPLE = 32
CHUNK_WIDTH = 25_000
# A block is what one task decodes: at most this many packed bytes.
MAX_BLOCK_BYTES = 256 * 2**20
# Shards of a cohort too small to need several still feed several workers.
MIN_SHARDS = 4
# A core computes on whole tiles of people. What else a shard costs is adding its sums:
# about as much as these people.
TILE_PEOPLE = 128
_SUM_PEOPLE = 24


@dataclass(frozen=True, order=True)
class Rows:
    """A run of people, ``start`` inclusive to ``stop`` exclusive."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """The same run, to index an array with."""
        return slice(self.start, self.stop)


def split_rows(n_people: int, size: int) -> list[Rows]:
    """Cut people into runs of ``size``; the last may be shorter.

    >>> split_rows(5, 2)
    [Rows(start=0, stop=2), Rows(start=2, stop=4), Rows(start=4, stop=5)]
    """
    return [Rows(i, min(i + size, n_people)) for i in range(0, n_people, size)]


def chunk_people(sample_chunk: int) -> int:
    """People in a chunk of the prepared store.

    A divisor of the cohort's own sample chunk where one of fitting size exists, so
    that decoding one of the cohort's chunks fills whole chunks here.

    >>> chunk_people(1_000), chunk_people(10_000), chunk_people(997)
    (50, 50, 64)
    """
    for size in range(MAX_CHUNK_PEOPLE, MIN_CHUNK_PEOPLE - 1, -1):
        if sample_chunk % size == 0:
            return size
    return MAX_CHUNK_PEOPLE


def plan_blocks(
    n_people: int, n_variants: int, sample_chunk: int, itemsize: int = 1
) -> list[Rows]:
    """Blocks of people that one task decodes, each a whole number of chunks.

    A block is one sample chunk of the cohort, cut down where that would take more
    memory than `MAX_BLOCK_BYTES` packed, in elements of ``itemsize`` bytes.
    """
    unit = chunk_people(sample_chunk)
    row_bytes = max(packed_width(n_variants), 1) * itemsize
    fitting = min(sample_chunk, MAX_BLOCK_BYTES // row_bytes)
    return split_rows(n_people, max(fitting // unit, 1) * unit)


def plan_shards(
    n_people: int,
    n_variants: int,
    unit: int,
    *,
    max_people: int,
    max_bytes: int,
    itemsize: int = 1,
) -> list[Rows]:
    """Shards of people for the rounds of the fit.

    Parameters
    ----------
    n_people, n_variants
        Size of the prepared store.
    unit
        People in one of its chunks; shards are whole numbers of chunks.
    max_people, max_bytes
        Most people, and most packed bytes, that a shard holds (one chunk at least).
    itemsize
        Bytes of a packed element of four variants.

    Returns
    -------
    Shards that take least to compute, which fill whole tiles well.

    >>> [len(rows) for rows in plan_shards(1000, 400, 50, max_people=2048,
    ...                                    max_bytes=2**20)]
    [250, 250, 250, 250]
    """
    row_bytes = max(packed_width(n_variants), 1) * itemsize
    most = max(min(max_people, max_bytes // row_bytes) // unit, 1)
    n_chunks = -(-n_people // unit)
    most = min(most, -(-n_chunks // MIN_SHARDS))

    def computed(chunks: int) -> int:
        """People that are computed on, where two workers share the shards."""
        pairs_of_shards = -(-n_people // (2 * chunks * unit))
        n_tiles = -(-chunks * unit // TILE_PEOPLE)
        return 2 * pairs_of_shards * (n_tiles * TILE_PEOPLE + _SUM_PEOPLE)

    best = min(range(most, 0, -1), key=computed)
    return split_rows(n_people, best * unit)


def evenly_spaced(n: int, most: int) -> slice:
    """Index at most ``most`` of ``n`` items, evenly spaced from the first.

    >>> list(range(10))[evenly_spaced(10, 4)]
    [0, 3, 6, 9]
    """
    return slice(0, n, max(-(-n // most), 1))
