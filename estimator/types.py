"""Array types shared by the estimator, with shapes in symbols.

``variants`` counts single-nucleotide variants (M), ``populations`` ancestral
populations (K), and ``*batch`` any leading axes: none for one person, one for
a batch of people.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, Num, PRNGKeyArray

MISSING = -1
"""Code of a missing genotype in integer arrays, as in sgkit and VCF Zarr."""

AnyArray: TypeAlias = Array | np.ndarray
"""An array on the device or on the host; methods take both and return the first."""

Genotypes: TypeAlias = Num[AnyArray, "*batch variants"]
"""Alternate-allele counts 0, 1 or 2; missing is ``MISSING`` (any negative) or NaN."""

Centre: TypeAlias = Float[AnyArray, " variants"]
"""Expected alternate-allele frequency of each variant, in [0, 1]."""

Standardised: TypeAlias = Float[Array, "*batch variants"]
"""Centred genotypes in frequency units, zero where missing."""

Latent: TypeAlias = Float[Array, "*batch features"]
"""What the encoder's last layer reads."""

Proportions: TypeAlias = Float[Array, "*batch populations"]
"""Ancestry proportions Q: non-negative, summing to 1 over the last axis."""

Frequencies: TypeAlias = Float[Array, "populations variants"]
"""Population allele frequencies P, in (0, 1)."""

Key: TypeAlias = PRNGKeyArray
"""One JAX PRNG key, typed (``jax.random.key``) or legacy (``uint32[2]``)."""
