"""Packed calls inside the compiled kernels: codes, allele counts and likelihoods.

What a code means depends on the encoding, and the dtype of the packed array, which
its codes keep, says which it is (`estimator.packing`). So each function here chooses
while it is traced, and a kernel made of them takes every encoding.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Float64, UInt

from estimator.packing import (
    CALLS,
    DOSAGE_UNITS,
    DOSAGES,
    GENOTYPES,
    SINGLE_CALL,
    SINGLE_DOSAGE,
    encoding_of,
)

PackedTile = UInt[Array, "people width"]
Codes = UInt[Array, "people width"]
Values = Float32[Array, "people width"]


class Counts(NamedTuple):
    """Alternate and reference alleles observed, both zero where missing."""

    alternate: Values
    reference: Values


def unpack_codes(packed_tile: PackedTile, position: int) -> Codes:
    """Codes of the variants at one of the four positions within their elements."""
    encoding = encoding_of(packed_tile.dtype)
    shift, mask = (
        jnp.asarray(value, packed_tile.dtype)
        for value in (encoding.bits * position, encoding.missing)
    )
    return (packed_tile >> shift) & mask


def is_missing(codes: Codes) -> Bool[Array, "people width"]:
    """Where nothing was called."""
    return codes == jnp.asarray(encoding_of(codes.dtype).missing, codes.dtype)


def count_alleles(codes: Codes) -> Counts:
    """Alternate alleles g and reference alleles n - g of each call."""
    encoding = encoding_of(codes.dtype)
    if encoding is DOSAGES:
        return _count_fractions(codes)
    called = ~is_missing(codes)
    zero = jnp.asarray(0, codes.dtype)
    observed = jnp.asarray(2, codes.dtype)
    count = codes
    if encoding is CALLS:
        single = codes >= jnp.asarray(SINGLE_CALL, codes.dtype)
        count = codes & jnp.asarray(3, codes.dtype)
        observed = jnp.where(single, jnp.asarray(1, codes.dtype), observed)
    alternate = jnp.where(called, count, zero)
    reference = jnp.where(called, observed - count, zero)
    return Counts(alternate.astype(jnp.float32), reference.astype(jnp.float32))


class _Fractions(NamedTuple):
    units: Values
    single: Bool[Array, "people width"]


def _fractions(codes: Codes) -> _Fractions:
    """Alternate alleles of dosages in units of 2**-14, exact in float32."""
    # Whole numbers of 64 bits are slow to convert on most devices.
    narrow = codes.astype(jnp.int32)
    single = narrow >= SINGLE_DOSAGE
    units = jnp.where(single, narrow - SINGLE_DOSAGE, narrow)
    return _Fractions(units.astype(jnp.float32), single)


def _count_fractions(codes: Codes) -> Counts:
    units, single = _fractions(codes)
    called = ~is_missing(codes)
    zero = jnp.float32(0)
    alternate = units * jnp.float32(1 / DOSAGE_UNITS)
    observed = jnp.where(single, jnp.float32(1), jnp.float32(2))
    return Counts(
        jnp.where(called, alternate, zero),
        jnp.where(called, observed - alternate, zero),
    )


def allele_share(codes: Codes) -> Values:
    """Share of the observed alleles that are alternate, g / n; any where missing."""
    encoding = encoding_of(codes.dtype)
    if encoding is GENOTYPES:
        return codes.astype(jnp.float32) * 0.5
    if encoding is DOSAGES:
        count, single = _fractions(codes)
        unit = 1 / DOSAGE_UNITS
    else:
        single = codes >= jnp.asarray(SINGLE_CALL, codes.dtype)
        count = (codes & jnp.asarray(3, codes.dtype)).astype(jnp.float32)
        unit = 1.0
    return count * jnp.where(single, jnp.float32(unit), jnp.float32(unit / 2))


def evidence(codes: Codes, p: Values) -> Float[Array, "people width"]:
    """What `sum_of_logs` makes the log-likelihood of: of each call, given p.

    The probability without the binomial coefficient, float32, and 1 if missing; of
    dosages, whose powers of p are fractional, its logarithm in float64, 0 if missing.
    """
    encoding = encoding_of(codes.dtype)
    if encoding is DOSAGES:
        return _log_likelihood(codes, p)
    two = jnp.asarray(2, codes.dtype)
    missing = is_missing(codes)
    if encoding is GENOTYPES:
        first = jnp.where(codes == jnp.asarray(0, codes.dtype), 1.0 - p, p)
        second = jnp.where(codes == two, p, 1.0 - p)
    else:
        count = codes & jnp.asarray(3, codes.dtype)
        single = codes >= jnp.asarray(SINGLE_CALL, codes.dtype)
        first = jnp.where(count == jnp.asarray(0, codes.dtype), 1.0 - p, p)
        second = jnp.where(count == two, p, 1.0 - p)
        second = jnp.where(single, jnp.float32(1), second)
    return jnp.where(missing, jnp.float32(1), first * second)


def _log_likelihood(codes: Codes, p: Values) -> Float64[Array, "people width"]:
    counts = _count_fractions(codes)
    frequency = p.astype(jnp.float64)
    alternate = counts.alternate.astype(jnp.float64) * jnp.log(frequency)
    reference = counts.reference.astype(jnp.float64) * jnp.log1p(-frequency)
    return alternate + reference


def sum_of_logs(
    parts: list[Float[Array, "people width"]],
) -> Float64[Array, " people"]:
    """Log-likelihood of each person from the `evidence` of the four positions.

    A float32 logarithm is off by 3e-9 on average, more than the gain that ends a
    fit. One float64 logarithm of a product of eight probabilities, each at least
    2**-40, is exact and costs less than eight of float32.
    """
    first, second, third, fourth = parts
    if first.dtype == jnp.float64:
        return jnp.sum((first + second) + (third + fourth), axis=1)
    # Two at a time stay above the least normal float32, eight that of float64.
    product = (first * second).astype(jnp.float64) * (third * fourth).astype(
        jnp.float64
    )
    half = product.shape[1] // 2
    return jnp.sum(jnp.log(product[:, :half] * product[:, half:]), axis=1)
