"""Configuration of the ancestry estimator, checked when it is made.

Reads and writes nothing. An ``AncestryEstimatorConfig`` that exists is valid,
never changes, and can be hashed, so it may be a static argument of a compiled
function.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterable

MIN_FREQUENCY = 167 * 2.0**-24
"""Distance that fitted allele frequencies keep from 0 and 1: just under 1e-5.

ADMIXTURE and its successors use 1e-5, so likelihoods compare with theirs; a narrower
margin gains likelihood where a variant is monomorphic in a population, and overfits it.
A multiple of 2^-24, so that 1 - p is exact in float32 at the bound, where populations
sit in large numbers.
"""

MIN_TEMPERATURE = 1e-6
"""Lowest softmax temperature: below it, float32 quotients soon overflow."""

MAX_TEMPERATURE = 1e6
"""Highest softmax temperature: above it, every answer is uniform in float32."""


@dataclasses.dataclass(frozen=True)
class AncestryEstimatorConfig:
    """Size and behaviour of a ``DifferentiableAncestryEstimator``.

    Parameters
    ----------
    temperature
        Divisor of the softmax logits, in [1e-6, 1e6]. Lower is closer to one
        population a person, higher closer to uniform. The initial value where
        it is learnable.
    learnable_temperature
        Whether the temperature is trained with the weights.
    n_snps
        Number of variants of a record, at least 1.
    n_populations
        Number of ancestral populations (K), at least 1.
    hidden_dims
        Width of each hidden layer, in order, each at least 1. With none, the
        head reads the genotypes themselves. Any sequence; stored as a tuple.
    dropout_rate
        Probability in [0, 1) that a hidden unit is dropped while training.

    Raises
    ------
    ValueError
        If a value lies outside its range; the message has both.

    Examples
    --------
    >>> AncestryEstimatorConfig(n_snps=100, hidden_dims=[8, 4]).hidden_dims
    (8, 4)
    >>> AncestryEstimatorConfig(n_populations=0)
    Traceback (most recent call last):
    ...
    ValueError: n_populations must be an integer of at least 1, got 0
    """

    temperature: float = 1.0
    learnable_temperature: bool = False
    n_snps: int = 10000
    n_populations: int = 5
    hidden_dims: tuple[int, ...] = (128, 64)
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        """Check every field, and turn ``hidden_dims`` into a tuple."""
        _check_temperature(self.temperature)
        if not isinstance(self.learnable_temperature, bool):
            raise ValueError(
                "learnable_temperature must be True or False, got "
                f"{self.learnable_temperature!r}"
            )
        _check_count("n_snps", self.n_snps)
        _check_count("n_populations", self.n_populations)
        object.__setattr__(self, "hidden_dims", _checked_widths(self.hidden_dims))
        _check_dropout_rate(self.dropout_rate)


def _is_real(value: object) -> bool:
    """Whether a value is a finite real number; a boolean is not."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def _check_temperature(value: float) -> None:
    """Raise ValueError unless the temperature is positive and usable."""
    if not _is_real(value) or not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        raise ValueError(
            f"temperature must be a positive number in [{MIN_TEMPERATURE:g}, "
            f"{MAX_TEMPERATURE:g}], got {value!r}"
        )


def _check_dropout_rate(value: float) -> None:
    """Raise ValueError unless the rate is a probability below 1."""
    if not _is_real(value) or not 0 <= value < 1:
        raise ValueError(f"dropout_rate must be a number in [0, 1), got {value!r}")


def _check_count(name: str, value: int) -> None:
    """Raise ValueError unless a count is an integer of at least 1."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _checked_widths(hidden_dims: Iterable[int]) -> tuple[int, ...]:
    """Return the hidden layers' widths as a tuple, each checked."""
    if isinstance(hidden_dims, str) or not isinstance(hidden_dims, Iterable):
        raise ValueError(
            "hidden_dims must be a sequence of integers of at least 1, got "
            f"{hidden_dims!r}"
        )
    widths = tuple(hidden_dims)
    for index, width in enumerate(widths):
        _check_count(f"hidden_dims[{index}]", width)
    return widths
