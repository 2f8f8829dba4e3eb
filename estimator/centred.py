"""Products of centred genotypes with thin matrices, tile by tile.

The centred genotype of a person and a variant is g/n - f where n alleles were
observed, g of them alternate and f being the frequency of the alternate allele among
everyone, and zero where missing. A single allele has the same weight as two, so that
the expectation is QP - f whatever a person's ploidy. The spectral start and the
encoder's features are both built from these products.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from estimator.calls import allele_share, is_missing, unpack_codes
from estimator.likelihood import Packed
from estimator.packing import VARIANTS_PER_BYTE
from estimator.tiling import TileShape, slice_tile

# Per-variant values as `tile_variants` lays them out: one row, or several.
FrequencyRow = Float32[Array, "tiles 4 1 width"]
VariantTiles = Float32[Array, "tiles 4 rows width"]

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _centred(codes: Array, frequency: Float32[Array, "1 width"]) -> Array:
    deviation = allele_share(codes) - frequency
    return jnp.where(is_missing(codes), jnp.float32(0), deviation)


@partial(jax.jit, static_argnames=("tile",))
def centred_times(
    packed: Packed, frequency: FrequencyRow, factor: VariantTiles, *, tile: TileShape
) -> Float32[Array, "people rows"]:
    """X F' for centred genotypes X (people, variants) and F (rows, variants)."""
    n_rows = factor.shape[2]

    def people_tile(row: Array) -> Float32[Array, "people rows"]:
        def variant_tile(column: Array, sums: Array) -> Array:
            block = slice_tile(packed, row, column, tile)
            for position in range(VARIANTS_PER_BYTE):
                codes = unpack_codes(block, position)
                x = _centred(codes, frequency[column, position])
                sums = sums + _product(x, factor[column, position].T)
            return sums

        start = jnp.zeros((tile.people, n_rows), jnp.float32)
        return jax.lax.fori_loop(0, factor.shape[0], variant_tile, start)

    tiles = jax.lax.map(people_tile, jnp.arange(packed.shape[0] // tile.people))
    return tiles.reshape(packed.shape[0], n_rows)


@partial(jax.jit, static_argnames=("tile",))
def centred_transposed_times(
    packed: Packed,
    frequency: FrequencyRow,
    factor: Float32[Array, "people rows"],
    *,
    tile: TileShape,
) -> VariantTiles:
    """F' X for centred genotypes X (people, variants) and F (people, rows)."""
    n_rows = factor.shape[1]

    def variant_tile(column: Array) -> Array:
        def people_tile(row: Array, sums: Array) -> Array:
            block = slice_tile(packed, row, column, tile)
            f = jax.lax.dynamic_slice_in_dim(factor, row * tile.people, tile.people)
            products = []
            for position in range(VARIANTS_PER_BYTE):
                codes = unpack_codes(block, position)
                products.append(
                    _product(f.T, _centred(codes, frequency[column, position]))
                )
            return sums + jnp.stack(products)

        start = jnp.zeros((VARIANTS_PER_BYTE, n_rows, tile.width), jnp.float32)
        n_tiles = packed.shape[0] // tile.people
        return jax.lax.fori_loop(0, n_tiles, people_tile, start)

    return jax.lax.map(variant_tile, jnp.arange(frequency.shape[0]))
