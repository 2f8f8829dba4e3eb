"""Newcomers from the populations of a simulated store."""

from pathlib import Path

import click.testing
import numpy as np
import pytest

from pipeline import cli, simulate
from pipeline.cohort import open_cohort
from pipeline.errors import InputError
from tests import helpers

KEYS = ("contig_id", "variant_contig", "variant_position", "variant_allele")
P, Q = "simulated_population_frequency", "simulated_ancestry_proportion"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("simulated") / "first.vcz", 50)


def write(path: Path, n_samples: int) -> Path:
    simulate.simulate(
        path,
        n_samples=n_samples,
        n_variants=2_000,
        n_populations=3,
        fst=0.1,
        seed=1,
    )
    return path


def call(*arguments: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, [str(a) for a in arguments])


def test_simulate__newcomers_have_the_variants_and_p_of_the_truth(
    first: Path, tmp_path: Path
):
    new = tmp_path / "new.vcz"
    result = call("simulate", new, "--truth", first, "--samples", 40, "--seed", 1)
    assert result.exit_code == 0, result.output
    for name in (*KEYS, "variant_id", P):
        files = [
            {p.name: p.read_bytes() for p in sorted((store / name).iterdir())}
            for store in (first, new)
        ]
        assert files[0] == files[1], name
    old, ancestry = (helpers.read_array(store, Q) for store in (first, new))
    assert ancestry.shape == (40, 3)
    assert np.abs(old[:40] - ancestry).mean() > 0.1
    ids = [set(open_cohort(store).sample_ids.tolist()) for store in (first, new)]
    assert len(ids[1]) == 40
    assert not ids[0] & ids[1]
    # No random number of the genotypes is shared, though the seed is.
    calls = [helpers.read_array(s, "call_genotype")[:, :40] for s in (first, new)]
    expected = (ancestry @ helpers.read_array(new, P).T).T
    other = (old[:40] @ helpers.read_array(first, P).T).T
    left = [
        np.where(c < 0, 0, c - p[:, :, None]).ravel()
        for c, p in zip(calls, (other, expected), strict=True)
    ]
    assert abs(np.corrcoef(left)[0, 1]) < 0.01


def test_simulate__newcomers_are_as_the_model_says(first: Path, tmp_path: Path):
    new = tmp_path / "new.vcz"
    simulate.simulate_newcomers(new, first, n_samples=30, seed=7)
    frequencies = helpers.read_array(new, P).T.astype(np.float64)
    calls = helpers.read_array(new, "call_genotype")
    counts = np.where((calls < 0).any(axis=2), -1, calls.sum(axis=2)).T
    truth = helpers.read_array(new, Q)
    errors = [
        np.sqrt(np.mean((project(counts, p) - truth) ** 2))
        for p in (frequencies, _others(tmp_path))
    ]
    assert errors[0] < 0.04
    assert errors[1] > 0.2


def project(counts: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Q given P by expectation maximisation."""
    q = np.full((len(counts), len(p)), 1 / len(p))
    called = counts >= 0
    alternate, reference = np.where(called, counts, 0), np.where(called, 2 - counts, 0)
    for _ in range(300):
        mean = q @ p
        q = q * (alternate / mean @ p.T + reference / (1 - mean) @ (1 - p).T)
        q /= q.sum(axis=1, keepdims=True)
    return q


def _others(folder: Path) -> np.ndarray:
    """P of a cohort of another number of people, of the same seed."""
    path = write(folder / "others.vcz", 51)
    return helpers.read_array(path, P).T.astype(np.float64)


def test_simulate__newcomers_of_the_same_seed_have_the_same_bytes(
    first: Path, tmp_path: Path
):
    for name in ("a", "b"):
        simulate.simulate_newcomers(tmp_path / name, first, n_samples=9, seed=3)
    files = [
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in _files(tmp_path / n)}
        for n in ("a", "b")
    ]
    assert files[0] == files[1]
    with pytest.raises(InputError, match="has people of seed 3; give another --seed"):
        simulate.simulate_newcomers(tmp_path / "c", tmp_path / "a", n_samples=9, seed=3)
    simulate.simulate_newcomers(tmp_path / "c", tmp_path / "a", n_samples=9, seed=4)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_simulate__refuses_what_the_truth_says_by_itself(first: Path, tmp_path: Path):
    base = ("simulate", tmp_path / "x.vcz", "--truth", first, "--samples", 5)
    for options in (("--variants", 5), ("-k", 2), ("--fst", 0.2), ("--genealogy",)):
        result = call(*base, *options)
        assert result.exit_code == 2
        assert f"{options[0]} are those of --truth; leave" in result.output.replace(
            "--n-populations", "-k"
        )
    result = call("simulate", tmp_path / "x.vcz", "--samples", 5)
    assert result.exit_code == 2
    assert "Missing option '--variants'" in result.output
    assert not (tmp_path / "x.vcz").exists()


def test_simulate__refuses_a_truth_that_is_none(tmp_path: Path):
    real = helpers.write_cohort(tmp_path / "c", helpers.random_genotypes(5, 4))
    for path, message in ((real, "no simulated_population_freq"), ("absent", "name a")):
        with pytest.raises(InputError, match=message):
            simulate.simulate_newcomers(tmp_path / "x", path, n_samples=3, seed=0)
