"""Moments of normal deviates that a bound cuts off, and errors that cover a bias.

Elementwise on arrays of any shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

# A normal deviate is within so much of zero so often.
_NORMAL, _COVERED = 1.959964, 0.95
_NEWTON_STEPS = 4
# A bias of so many deviations is on one side of nearly every estimate.
_ONE_SIDED = 8.0
# So many deviations below zero, moments of what is above are taken from the tail's.
_FAR_BELOW = -4.0
_TINY = float(np.finfo(np.float32).tiny)


def covering_variance(
    variance: Float32[Array, "*entries"], bias: Float32[Array, "*entries"]
) -> Float32[Array, "*entries"]:
    """Square of the error that covers a bias: of e in estimate +- 1.96 e.

    The mean square would cover more than 95 in 100 where there is much of it, because a
    bias goes one way.
    """
    deviation = jnp.sqrt(jnp.maximum(variance, _TINY))
    whole = jnp.abs(bias) / deviation
    # From here on one side holds what there is to hold.
    ratio = jnp.minimum(whole, _ONE_SIDED)
    # From above, where Newton's method does not overshoot.
    reach = jnp.minimum(_NORMAL * jnp.sqrt(1.0 + ratio**2), _NORMAL + ratio)
    for _ in range(_NEWTON_STEPS):
        covered = jax.scipy.special.ndtr(reach - ratio)
        covered = covered - jax.scipy.special.ndtr(-reach - ratio)
        density = _density(reach - ratio) + _density(reach + ratio)
        reach = reach - (covered - _COVERED) / density
    reach = reach + (whole - ratio)
    return jnp.where(bias == 0, variance, (deviation * reach / _NORMAL) ** 2)


def _density(z: Array) -> Array:
    return jnp.exp(-0.5 * z * z) * jnp.float32((2 * np.pi) ** -0.5)


def bounded_square(
    mean: Float32[Array, "*entries"], variance: Float32[Array, "*entries"]
) -> Float32[Array, "*entries"]:
    """Mean square of max(0, x) for normal x."""
    deviation = jnp.sqrt(jnp.maximum(variance, _TINY))
    z = mean / deviation
    below = jax.scipy.special.ndtr(z)
    density = _density(z)
    return variance * jnp.maximum((1.0 + z * z) * below + z * density, 0.0)


def moments_above_zero(
    mean: Float32[Array, "*entries"], variance: Float32[Array, "*entries"]
) -> tuple[Float32[Array, "*entries"], Float32[Array, "*entries"]]:
    """Mean and variance of normal x among those above zero."""
    deviation = jnp.sqrt(jnp.maximum(variance, _TINY))
    z = mean / deviation
    near = jnp.maximum(z, _FAR_BELOW)
    hazard = _density(near) / jax.scipy.special.ndtr(near)
    left = jnp.maximum(1.0 - hazard * (near + hazard), 0.0)
    # Far below, where rounding leaves nothing of these differences, it is nearly an
    # exponential; 1.8 makes the two meet.
    tail = -z / (z * z + 1.8)
    far = z < _FAR_BELOW
    average = jnp.where(far, tail, near + hazard)
    return deviation * average, variance * jnp.where(far, tail**2, left)


def square_at_zero(
    mean: Float32[Array, "*entries"], variance: Float32[Array, "*entries"]
) -> Float32[Array, "*entries"]:
    """Square of the error of what is estimated at zero, and would be at a mean below.

    So that 1.96 errors reach as far as an interval about that mean does, which holds
    what is true as often wherever it is; and no less than the mean square of max(0, x).
    """
    deviation = jnp.sqrt(jnp.maximum(variance, _TINY))
    reach = jnp.maximum(deviation + mean / _NORMAL, 0.0)
    return jnp.maximum(reach**2, bounded_square(mean, variance))
