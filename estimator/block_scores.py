"""Scores of blocks of variants, for the jackknife of `uncertainty`.

Blocks begin anywhere, and genotypes are read in tiles: each block is cut into pieces of
one width, which compiled code takes one after the other.

References
----------
Jaeckel (1972), Bell Laboratories memorandum 72-1215. Infinitesimal jackknife.
Kunsch (1989), Annals of Statistics 17:1217-1241. Blocks of dependent observations.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float32, Int

from estimator.calls import unpack_codes
from estimator.likelihood import (
    Ancestry,
    FrequencyTiles,
    Packed,
    pair_products,
    tile_derivatives,
)
from estimator.packing import VARIANTS_PER_BYTE, packed_width
from estimator.quadratic import pair_indices
from estimator.tiling import TileShape

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class BlockPieces(NamedTuple):
    """Blocks of variants, cut into pieces that the kernel takes one at a time.

    Attributes
    ----------
    byte
        First byte read of each piece.
    start, stop
        First variant of the piece, and the one after its last.
    share
        Share of the block in all variants, at the last piece of each block; 0 at the
        others.
    """

    byte: Int[Array | np.ndarray, " pieces"]
    start: Int[Array | np.ndarray, " pieces"]
    stop: Int[Array | np.ndarray, " pieces"]
    share: Float32[Array | np.ndarray, " pieces"]


class BlockScores(NamedTuple):
    """What the standard errors of each person are computed from.

    Attributes
    ----------
    hessian
        Negative Hessian of the log-likelihood in Q, as in `AncestryStatistics`.
    score
        Gradient of the log-likelihood in Q.
    scatter
        Sum over blocks of the products of centred scores, in the order of the Hessian.
    """

    hessian: Float32[Array, "people pairs"]
    score: Ancestry
    scatter: Float32[Array, "people pairs"]


def cut_blocks(
    bounds: npt.NDArray[np.int64], tile: TileShape
) -> tuple[BlockPieces, int]:
    """Cut blocks of variants into pieces of one width.

    Parameters
    ----------
    bounds
        First variant of each block, rising from 0, and the number of variants.
    tile
        The tile that the genotypes are padded to.

    Returns
    -------
    The pieces in order, and their width in bytes.

    >>> pieces, width = cut_blocks(np.array([0, 6, 9]), TileShape(128, 256))
    >>> pieces.byte.tolist(), pieces.start.tolist(), pieces.stop.tolist(), width
    ([0, 1], [0, 6], [6, 9], 2)
    """
    n_variants = int(bounds[-1])
    first = bounds[:-1] // VARIANTS_PER_BYTE
    last = -(-bounds[1:] // VARIANTS_PER_BYTE)
    width = min(int((last - first).max()), tile.width)
    n_bytes = -(-packed_width(n_variants) // tile.width) * tile.width
    pieces = []
    for begin, end, block in zip(first, last, range(len(first)), strict=True):
        for byte in range(begin, end, width):
            whole = byte + width >= end
            share = (bounds[block + 1] - bounds[block]) / n_variants if whole else 0
            pieces.append(
                (
                    # A slice that ran over the end would be moved without a word.
                    min(byte, n_bytes - width),
                    max(int(bounds[block]), byte * VARIANTS_PER_BYTE),
                    min(int(bounds[block + 1]), (byte + width) * VARIANTS_PER_BYTE),
                    share,
                )
            )
    columns = zip(*pieces, strict=True)
    kinds = (np.int64, np.int64, np.int64, np.float32)
    arrays = [np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
    return BlockPieces(*arrays), width


@partial(jax.jit, static_argnames=("tile", "width"))
def block_scores(
    packed: Packed,
    ancestry: Ancestry,
    frequencies: FrequencyTiles,
    pieces: BlockPieces,
    *,
    tile: TileShape,
    width: int,
) -> BlockScores:
    """Hessian of each person's log-likelihood, and scatter of the blocks' scores.

    Parameters
    ----------
    packed, ancestry, frequencies, tile
        As in `ancestry_statistics`.
    pieces, width
        From `cut_blocks`.
    """
    n_people, k = ancestry.shape
    n_tiles, _, _, tile_width = frequencies.shape
    n_pairs = k * (k + 1) // 2
    # Blocks begin anywhere, and P has to be read from there.
    rows = frequencies.transpose(1, 2, 0, 3).reshape(
        VARIANTS_PER_BYTE, k, n_tiles * tile_width
    )
    offsets = jnp.arange(width) * VARIANTS_PER_BYTE

    def people_tile(row: Array) -> BlockScores:
        q = jax.lax.dynamic_slice_in_dim(ancestry, row * tile.people, tile.people)

        def add_piece(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            hessian, scatter, score, total, weighted = sums
            byte = pieces.byte[index]
            block = jax.lax.dynamic_slice(
                packed, (row * tile.people, byte), (tile.people, width)
            )
            p_block = jax.lax.dynamic_slice_in_dim(rows, byte, width, axis=2)
            for position in range(VARIANTS_PER_BYTE):
                p_tile = p_block[position]
                variant = byte * VARIANTS_PER_BYTE + offsets + position
                inside = (variant >= pieces.start[index]) & (
                    variant < pieces.stop[index]
                )
                p_inside = jnp.where(inside[None], p_tile, jnp.float32(0))
                first, second = tile_derivatives(
                    unpack_codes(block, position), q, p_tile
                )
                score = score + _product(first, p_inside.T)
                hessian = hessian + _product(second, pair_products(p_inside).T)
            share = pieces.share[index]
            done = share > 0
            finished = jnp.where(done, score, jnp.float32(0))
            return (
                hessian,
                scatter + pair_products(finished.T).T,
                jnp.where(done, jnp.float32(0), score),
                total + finished,
                weighted + share * finished,
            )

        pairs = jnp.zeros((tile.people, n_pairs), jnp.float32)
        vector = jnp.zeros((tile.people, k), jnp.float32)
        start = (pairs, pairs, vector, vector, vector)
        hessian, scatter, _, total, weighted = jax.lax.fori_loop(
            0, pieces.byte.shape[0], add_piece, start
        )
        first, second = pair_indices(k)
        crossed = total[:, first] * weighted[:, second]
        crossed = crossed + weighted[:, first] * total[:, second]
        squares = jnp.sum(pieces.share**2) * pair_products(total.T).T
        n_blocks = jnp.sum(pieces.share > 0).astype(jnp.float32)
        correction = n_blocks / jnp.maximum(n_blocks - 1.0, 1.0)
        centred = correction * (scatter - crossed + squares)
        return BlockScores(hessian, total, centred)

    tiles = jax.lax.map(people_tile, jnp.arange(n_people // tile.people))
    return BlockScores(
        tiles.hessian.reshape(n_people, n_pairs),
        tiles.score.reshape(n_people, k),
        tiles.scatter.reshape(n_people, n_pairs),
    )
