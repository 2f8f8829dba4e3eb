"""Whether a model counts the allele that it says, told by a cohort's frequencies.

A cohort's frequencies rise with those of a model, whoever its people are; where the
model counts the other allele they fall. Pure functions of arrays.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import strands

# Variants below which frequencies tell nothing.
MIN_VARIANTS = 100
# A correlation is clear above this, and above as many of its standard errors as no
# chance brings.
_MIN_CORRELATION = 0.2
_MIN_DEVIATIONS = 5.0

Floats = npt.NDArray[np.floating]


class Correlation(NamedTuple):
    """How a cohort's frequencies go with those of a model.

    Attributes
    ----------
    along
        Correlation with the mixture of populations that is most like the cohort.
    against
        The same if the model counts the other allele.
    n_variants
        Variants that they are of.
    """

    along: float
    against: float
    n_variants: int

    @property
    def runs_against(self) -> bool:
        """Whether the model counts the other allele, beyond chance."""
        if self.n_variants < MIN_VARIANTS:
            return False
        least = max(_MIN_CORRELATION, _MIN_DEVIATIONS / np.sqrt(self.n_variants))
        return self.against - max(self.along, 0) > least


def correlate(
    n_alternate: Floats, n_alleles: Floats, frequencies: Floats
) -> Correlation:
    """Correlate a cohort's frequencies with a model's, both ways round.

    Populations that are each other turned round, as those of markers that were chosen
    to tell two apart, go with a cohort both ways, and tell nothing.

    Parameters
    ----------
    n_alternate, n_alleles
        Counts of the model's alternate alleles, and of all, at each variant.
    frequencies
        P inside (0, 1), shape (populations, variants).
    """
    called = n_alleles > 0
    p = frequencies[:, called].astype(np.float64)
    observed = np.divide(n_alternate[called], n_alleles[called], dtype=np.float64)
    if not observed.size:
        return Correlation(0.0, 0.0, 0)
    along, against = (
        _correlation(each, strands.mean_ancestry(each, p) @ p)
        for each in (observed, np.subtract(1, observed))
    )
    return Correlation(along, against, len(observed))


def _correlation(x: Floats, y: Floats) -> float:
    """Correlation of two arrays; 0 where either does not vary."""
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip(x @ y / scale, -1, 1)) if scale > 0 else 0.0
