"""How genotypes and frequencies are cut up for a device: tiles, padding and chunks.

Genotypes arrive packed, four variants to an element. Instead of interleaving the four,
frequencies are laid out to match: `tile_variants` puts the variants of a tile that
share a position side by side.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float32, UInt

from estimator.packing import VARIANTS_PER_BYTE, PackedArray, all_missing


def _is_cpu(platform: str | None) -> bool:
    """Whether a kind of device, by default the one that jax uses, is a core."""
    return (platform or jax.default_backend()) == "cpu"


class TileShape(NamedTuple):
    """How much of the data one step of a kernel works on.

    Attributes
    ----------
    people
        People per tile; shards are padded to a multiple of it.
    width
        Elements of packed genotypes per tile: four times as many variants.
    """

    people: int
    width: int

    @property
    def variants(self) -> int:
        """Variants per tile."""
        return self.width * VARIANTS_PER_BYTE


# A CPU tile keeps its float32 temporaries in the second-level cache; a GPU tile is
# large enough to fill the device.
_TILES = {
    "cpu": TileShape(people=128, width=128),
    "gpu": TileShape(people=1024, width=8192),
}


def tile_shape(platform: str | None = None) -> TileShape:
    """Tile sizes for a kind of device, by default the one that jax uses."""
    return _TILES["cpu" if _is_cpu(platform) else "gpu"]


class ChunkSize(NamedTuple):
    """How many small problems are solved together.

    Attributes
    ----------
    cpu
        On a core: what they take stays in cache, and a chunk is finished as soon as its
        own hardest problem is.
    gpu
        At most, on a GPU: it takes as long for few as for many, and one chunk waits for
        the other.
    """

    cpu: int
    gpu: int

    def of(self, n_problems: int, platform: str | None = None) -> int:
        """Problems in a chunk of so many.

        >>> size = ChunkSize(cpu=128, gpu=65_536)
        >>> size.of(5_000, "cpu"), size.of(5_000, "gpu"), size.of(10**6, "gpu")
        (128, 5000, 65536)
        """
        if _is_cpu(platform):
            return self.cpu
        return min(max(n_problems, 1), self.gpu)


def tile_variants(
    values: Float32[Array | np.ndarray, "rows variants"],
    width: int,
    fill: float = 0.5,
) -> Float32[Array, "tiles 4 rows width"]:
    """Lay out per-variant rows tile by tile, then by position within an element.

    On the host, where nothing has to be compiled for every new shape.
    """
    rows, n_variants = values.shape
    padding = -n_variants % (width * VARIANTS_PER_BYTE)
    if padding:
        values = np.pad(values, ((0, 0), (0, padding)), constant_values=fill)
    tiles = np.asarray(values).reshape(rows, -1, width, VARIANTS_PER_BYTE)
    return jax.device_put(np.ascontiguousarray(tiles.transpose(1, 3, 0, 2)))


def untile_variants(
    tiles: Float32[Array | np.ndarray, "tiles 4 rows width"], n_variants: int
) -> Float32[Array | np.ndarray, "rows variants"]:
    """Undo `tile_variants`, on the host for an array of numpy's."""
    rows = tiles.shape[2]
    return tiles.transpose(2, 0, 3, 1).reshape(rows, -1)[:, :n_variants]


def slice_tile(
    packed: UInt[Array, "people elements"], row: Array, column: Array, tile: TileShape
) -> UInt[Array, "tile_people width"]:
    """Packed genotypes of one tile, counted in tiles."""
    return jax.lax.dynamic_slice(
        packed, (row * tile.people, column * tile.width), (tile.people, tile.width)
    )


def padded_shape(shape: tuple[int, int], tile: TileShape) -> tuple[int, int]:
    """People and elements of the whole tiles that hold a shard.

    >>> padded_shape((130, 256), TileShape(128, 256))
    (256, 256)
    """
    return (
        -(-shape[0] // tile.people) * tile.people,
        -(-shape[1] // tile.width) * tile.width,
    )


def pad_shard(packed: PackedArray, tile: TileShape) -> PackedArray:
    """Fill a shard up with missing to a whole number of tiles in both directions."""
    whole = padded_shape(packed.shape, tile)
    padding = [(0, to - size) for to, size in zip(whole, packed.shape, strict=True)]
    return np.pad(packed, padding, constant_values=all_missing(packed.dtype))


def pad_ancestry(ancestry: np.ndarray, n_people: int) -> np.ndarray:
    """Q with rows of 1/K added for the people that `pad_shard` added."""
    padding = [(0, n_people - len(ancestry)), (0, 0)]
    uniform = 1 / ancestry.shape[1]
    return np.pad(ancestry.astype(np.float32), padding, constant_values=uniform)
