import dataclasses
from typing import Any

import numpy as np
import pytest

from pipeline import truth
from pipeline.errors import InputError
from tests.helpers import hudson_fst


def test_simulate_truth__has_the_requested_divergence():
    cohort = truth.simulate_truth(10, 50_000, 2, fst=0.1, seed=1)
    np.testing.assert_allclose(cohort.ancestry.sum(axis=1), 1)
    assert cohort.frequencies.min() >= truth.FREQUENCY_CLIP
    assert cohort.frequencies.max() <= 1 - truth.FREQUENCY_CLIP
    assert hudson_fst(*cohort.frequencies) == pytest.approx(0.1, abs=0.005)


def test_simulate_truth__positions_fit_32_bits_at_any_size():
    cohort = truth.simulate_truth(1, 5_000_000, 1, seed=1)
    assert cohort.position.min() > 0
    assert (np.diff(cohort.position)[np.diff(cohort.contig) == 0] > 0).all()


def test_simulated_cohort__is_frozen():
    cohort = truth.simulate_truth(2, 3, 2, seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cohort.ancestry = np.zeros((2, 2))  # type: ignore[misc]


def test_simulate_truth__depends_on_the_seed_alone():
    first, again, other = (truth.simulate_truth(3, 50, 2, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.ancestry, again.ancestry)
    np.testing.assert_array_equal(first.frequencies, again.frequencies)
    assert (first.frequencies != other.frequencies).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples is 0; it must be at least 1"),
        ({"n_variants": -1}, "n_variants is -1; it must be at least 1"),
        ({"n_populations": 0}, "n_populations is 0; it must be at least 1"),
        ({"fst": 1.0}, "fst is 1.0; it must be between 0 and 1"),
        ({"dirichlet": 0.0}, "dirichlet is 0.0; it must be positive"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
)
def test_simulate_truth__refuses_parameters_out_of_range(change, message):
    options: dict[str, Any] = {"n_samples": 3, "n_variants": 5, "n_populations": 2}
    with pytest.raises(InputError, match=message):
        truth.simulate_truth(**{**options, "seed": 1, **change})
