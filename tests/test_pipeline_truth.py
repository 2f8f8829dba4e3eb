import dataclasses

import numpy as np
import pytest

from pipeline import truth
from tests.helpers import hudson_fst


def test_simulate_truth__has_the_requested_divergence():
    truth = simulate.simulate_truth(10, 50_000, 2, fst=0.1, seed=1)
    np.testing.assert_allclose(truth.ancestry.sum(axis=1), 1)
    assert truth.frequencies.min() >= simulate.FREQUENCY_CLIP
    assert truth.frequencies.max() <= 1 - simulate.FREQUENCY_CLIP
    assert hudson_fst(*truth.frequencies) == pytest.approx(0.1, abs=0.005)


def test_simulate_truth__positions_fit_32_bits_at_any_size():
    truth = simulate.simulate_truth(1, 5_000_000, 1, seed=1)
    assert truth.position.min() > 0
    assert (np.diff(truth.position)[np.diff(truth.contig) == 0] > 0).all()


def test_simulated_cohort__is_frozen():
    truth = simulate.simulate_truth(2, 3, 2, seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        truth.ancestry = np.zeros((2, 2))  # type: ignore[misc]
