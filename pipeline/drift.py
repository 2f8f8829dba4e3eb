"""Drift: whether a model still fits the people who are projected on it.

Compares those who came after the fit with those of the fit, by two figures of each
person: how likely their genotypes are, for their ancestry, and whether their residuals
correlate with others' (`fit_check`). Arrays in, figures out.

What likelihood to expect of a person depends on their ancestry, because populations
differ in how variable they are: a regression over the people of the fit on products of
their shares tells it. P was fitted to them and not to newcomers, whose likelihood is
lower by one nat a parameter, K / n a genotype (Akaike 1974).
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.reprocess_config import DriftConfig

# Standard deviations below what is expected from which genotypes are unlikely.
UNLIKELY = 4.0
# People for each coefficient of the regression.
_PEOPLE_PER_COEFFICIENT = 4
# What makes the median absolute deviation a standard deviation.
_NORMAL = 1.4826
# Of the likelihoods: where they spread by less, what is left of them is rounding.
_LEAST_SPREAD = 1e-6
# Fewer than so many people who are not described are not taken for a population.
_MIN_FLAGGED = 5

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class People:
    """What is known of some people once they are projected.

    Attributes
    ----------
    ancestry
        Q.
    log_likelihood, n_called
        Of their called genotypes; the number of these.
    correlation
        Residual correlation; NaN where it was not computed.
    poorly_described
        Whether it is above the threshold.
    """

    ancestry: npt.NDArray[np.float32]
    log_likelihood: Doubles
    n_called: npt.NDArray[np.int64]
    correlation: npt.NDArray[np.float32]
    poorly_described: npt.NDArray[np.bool_]

    def called(self) -> "People":
        """Those who have called genotypes."""
        return self.subset(self.n_called > 0)

    def subset(self, people: npt.NDArray[Any]) -> "People":
        """Some of the people, by mask or position."""
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return People(*(values[people] for values in fields))

    def __len__(self) -> int:
        return len(self.n_called)


@dataclass(frozen=True)
class Drift:
    """Figures of newcomers and of the training cohort.

    Attributes
    ----------
    n_training, n_newcomers
        People with called genotypes.
    training_log_likelihood, newcomers_log_likelihood
        Mean per called genotype.
    expected_log_likelihood
        The mean to expect of newcomers with this ancestry.
    training_unlikely, newcomers_unlikely
        Share of people whose genotypes are unlikely for their ancestry; None where the
        people of the fit all have the same likelihood.
    training_correlation, newcomers_correlation
        Mean residual correlation; None where too few were compared to tell.
    training_poorly_described, newcomers_poorly_described
        Share of people whom the populations do not describe; None likewise.
    fit_changed
        Share of the people of the fit that left the cohort or changed since.
    """

    n_training: int
    n_newcomers: int
    training_log_likelihood: float | None
    newcomers_log_likelihood: float | None
    expected_log_likelihood: float | None
    training_unlikely: float | None
    newcomers_unlikely: float | None
    training_correlation: float | None
    newcomers_correlation: float | None
    training_poorly_described: float | None
    newcomers_poorly_described: float | None
    fit_changed: float

    def as_json(self) -> dict[str, Any]:
        """The figures, rounded."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(self).items()
        }


def measure_drift(training: People, newcomers: People, n_in_fit: int) -> Drift:
    """Compare newcomers with the people of the fit.

    Parameters
    ----------
    training
        People of the fit who are still there as they were.
    newcomers
        People projected since, and those who changed.
    n_in_fit
        People that P was estimated from.
    """
    fit_changed = 1 - len(training) / max(n_in_fit, 1)
    training, newcomers = training.called(), newcomers.called()
    names = [field.name for field in dataclasses.fields(Drift)]
    figures: dict[str, Any] = dict.fromkeys(names)
    figures |= {"n_training": len(training), "n_newcomers": len(newcomers)}
    figures["fit_changed"] = fit_changed
    if len(training) and len(newcomers):
        expected = _expect(training, newcomers, n_in_fit)
        figures |= {
            "training_log_likelihood": _per_genotype(training).mean(),
            "newcomers_log_likelihood": _per_genotype(newcomers).mean(),
            "expected_log_likelihood": expected.newcomers.mean(),
        }
        if expected.known:
            figures |= {
                "training_unlikely": (expected.training_z < -UNLIKELY).mean(),
                "newcomers_unlikely": (expected.newcomers_z < -UNLIKELY).mean(),
            }
    for name, people in (("training", training), ("newcomers", newcomers)):
        known = ~np.isnan(people.correlation)
        if known.any():
            figures[f"{name}_correlation"] = people.correlation[known].mean()
            figures[f"{name}_poorly_described"] = people.poorly_described[known].mean()
    for name, value in figures.items():
        if isinstance(value, np.floating):
            figures[name] = float(value)
    return Drift(**figures)


class _Expected(NamedTuple):
    newcomers: Doubles
    known: bool
    newcomers_z: Doubles
    training_z: Doubles


def _per_genotype(people: People) -> Doubles:
    return people.log_likelihood / people.n_called


def _expect(training: People, newcomers: People, n_in_fit: int) -> _Expected:
    """What to expect of newcomers' likelihood per genotype, and how far off it is."""
    k = training.ancestry.shape[1]
    n_products = k * (k + 1) // 2
    if len(training) >= _PEOPLE_PER_COEFFICIENT * n_products:
        features = _products
    elif len(training) >= _PEOPLE_PER_COEFFICIENT * k:
        features = _shares
    else:
        features = _constant
    weight = np.sqrt(training.n_called.astype(np.float64))
    observed = _per_genotype(training)
    design = features(training.ancestry)
    coefficients, *_ = np.linalg.lstsq(
        design * weight[:, None], observed * weight, rcond=None
    )
    residual = (observed - design @ coefficients) * weight
    spread = _NORMAL * float(np.median(np.abs(residual - np.median(residual))))
    # People of one likelihood, as copies of each other, leave nothing to compare with.
    known = spread > _LEAST_SPREAD * float(np.median(np.abs(observed * weight)))
    expected = features(newcomers.ancestry) @ coefficients - k / max(n_in_fit, 1)
    off = (_per_genotype(newcomers) - expected) * np.sqrt(newcomers.n_called)
    scale = spread if known else np.nan
    return _Expected(expected, known, off / scale, residual / scale)


def _products(ancestry: npt.NDArray[np.float32]) -> Doubles:
    """Products of two shares: of a quadratic form, because shares add up to 1."""
    q = ancestry.astype(np.float64)
    first, second = np.triu_indices(q.shape[1])
    return q[:, first] * q[:, second]


def _shares(ancestry: npt.NDArray[np.float32]) -> Doubles:
    return ancestry.astype(np.float64)


def _constant(ancestry: npt.NDArray[np.float32]) -> Doubles:
    return np.ones((len(ancestry), 1))


def reasons_to_refit(drift: Drift, config: DriftConfig) -> list[str]:
    """Why the model should be fitted again, in words; empty if it need not be."""
    reasons = []
    if drift.fit_changed > config.max_fit_changed:
        reasons.append(
            f"{drift.fit_changed:.0%} of the people of the fit left or changed"
        )
    if drift.n_newcomers < config.min_people:
        return reasons
    for name, most, what in (
        ("unlikely", config.max_unlikely, "have unlikely genotypes"),
        (
            "poorly_described",
            config.max_poorly_described,
            "are not described by the populations",
        ),
    ):
        share = getattr(drift, f"newcomers_{name}")
        usual = getattr(drift, f"training_{name}") or 0.0
        if share is None or share * drift.n_newcomers < _MIN_FLAGGED:
            continue
        if share - usual > most:
            reasons.append(f"{share:.0%} of {drift.n_newcomers} newcomers {what}")
    return reasons
