"""Residual correlations against dense float64 formulas and known truth."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from estimator import residuals
from estimator.config import MIN_FREQUENCY
from estimator.packing import (
    CALLS,
    DOSAGES,
    GENOTYPES,
    AlleleCounts,
    encode_alleles,
    pack_codes,
)
from estimator.residuals import HALVES, N_NEAREST, ResidualSums
from estimator.tiling import TileShape, pad_ancestry, pad_shard, untile_variants
from tests import oracle

HAPMAP = Path(__file__).parents[2] / "shared" / "data" / "hapmap3"
TILE = TileShape(people=8, width=4)
STRETCHES = 16


def split(values):
    """Halves of the variants, in stretches in turn; whole elements of four."""
    n_elements = values.shape[1] // 4
    half = np.arange(values.shape[1]) // 4 * STRETCHES // n_elements % 2
    return np.stack([values[:, half == i] for i in range(HALVES)])


def counts_of(genotypes):
    alternate, reference = oracle.counts(genotypes)
    return AlleleCounts(alternate, (alternate + reference).astype(np.int8))


def pack(alleles, tile, encoding=GENOTYPES):
    halves = [
        pad_shard(
            pack_codes(encode_alleles(AlleleCounts(*half), encoding), encoding), tile
        )
        for half in zip(split(alleles.alternate), split(alleles.observed), strict=True)
    ]
    return jnp.asarray(np.concatenate(halves, axis=1))


def dense_residuals(alleles, ancestry, frequencies):
    p = ancestry.astype(np.float64) @ frequencies.astype(np.float64)
    return alleles.alternate - alleles.observed * p


def dense_information(alleles, ancestry, frequencies):
    """On P at each variant, as K x K matrices."""
    observed = alleles.alternate, alleles.observed
    return oracle.frequency_hessian(observed, ancestry, frequencies)


def sums_of(alleles, ancestry, frequencies, panel, tile, encoding=GENOTYPES):
    packed = pack(alleles, tile, encoding)
    q = jnp.asarray(pad_ancestry(ancestry, packed.shape[0]))
    found = residuals.residual_sums(packed, q, panel, tile=tile)
    return ResidualSums(*(np.asarray(part)[: len(ancestry)] for part in found))


def make_panel(alleles, ancestry, frequencies, tile, encoding=GENOTYPES):
    """Panel of some people, by the kernel, and their residuals of each half."""
    halves = split(frequencies.astype(np.float32))
    tiles = residuals.tile_halves(halves, tile.width, fill=0.5)
    packed = pack(alleles, tile, encoding)
    q = jnp.asarray(pad_ancestry(ancestry, packed.shape[0]))
    found = residuals.reference_residuals(packed, q, tiles, tile=tile)
    found = found[:, :, : len(ancestry)]
    values = np.stack(
        [
            np.asarray(untile_variants(half, halves.shape[2]))
            for half in jnp.split(found, HALVES)
        ]
    )
    weight = (values**2).sum(axis=1, keepdims=True)
    panel = residuals.Panel(
        tiles,
        residuals.tile_halves(values, tile.width, fill=0.0),
        residuals.tile_halves(weight, tile.width, fill=0.0),
    )
    return panel, values


def check(alleles, ancestry, frequencies, *, references=None, fitted=True):
    """Correlations and fit check of people, by default with everybody else."""
    tile = TileShape(64, 64)
    ancestry = ancestry.astype(np.float32)
    chosen = np.arange(len(ancestry)) if references is None else references
    some = AlleleCounts(*(part[chosen] for part in alleles))
    panel, values = make_panel(some, ancestry[chosen], frequencies, tile)
    k = len(frequencies)
    covariance = np.zeros((HALVES, k, k))
    if fitted:
        information = dense_information(alleles, ancestry, frequencies)
        rows, columns = np.triu_indices(k)
        pairs = information[:, rows, columns].T.astype(np.float32)
        covariance = np.stack(
            [
                residuals.frequency_covariance(*half)
                for half in zip(
                    split(pairs), split(frequencies.astype(np.float32)), strict=True
                )
            ]
        )
    weight = (values.astype(np.float64) ** 2).sum(axis=(1, 2))
    own = sums_of(some, ancestry[chosen], frequencies, panel, tile)
    described = residuals.describe_references(ancestry[chosen], own, weight, covariance)
    sums = sums_of(alleles, ancestry, frequencies, panel, tile)
    in_fit = np.full(len(ancestry), fitted)
    found = residuals.correlate(sums, ancestry, in_fit, described)
    place = np.full(len(ancestry), -1)
    place[chosen] = np.arange(len(chosen))
    return found, residuals.check_fit(found.halves, place)


def draw(encoding, seed=5):
    """Calls of 21 people at 128 variants that need an encoding, Q and P."""
    rng = np.random.default_rng(seed)
    truth = oracle.simulate(21, 128, 3, seed=seed, missing_rate=0.1)
    alternate, observed = counts_of(truth.genotypes)
    if encoding is not GENOTYPES:
        single = (rng.random(observed.shape) < 0.2) & (observed == 2)
        alternate = np.where(single, alternate >= 1, alternate).astype(float)
        observed = np.where(single, 1, observed).astype(np.int8)
    if encoding is DOSAGES:
        alternate = np.rint(alternate * 0.75 * 2**14) / 2**14
    alleles = AlleleCounts(alternate, observed)
    return alleles, truth.ancestry.astype(np.float32), truth.frequencies


@pytest.mark.parametrize("encoding", [GENOTYPES, CALLS, DOSAGES], ids=lambda e: e.name)
def test_residual_sums__are_those_of_the_dense_residuals(encoding):
    alleles, ancestry, frequencies = draw(encoding)
    some = AlleleCounts(*(part[3:9] for part in alleles))
    panel, values = make_panel(some, ancestry[3:9], frequencies, TILE, encoding)
    dense = split(dense_residuals(alleles, ancestry, frequencies))
    np.testing.assert_allclose(values, dense[:, 3:9], atol=2e-6)
    found = sums_of(alleles, ancestry, frequencies, panel, TILE, encoding)
    weight = (dense[:, 3:9] ** 2).sum(axis=1)
    observed = split(alleles.observed)
    expected = ResidualSums(
        np.einsum("hiv,hsv->ihs", dense, dense[:, 3:9]),
        (dense**2).sum(axis=2).T,
        np.einsum("hiv,hv->ih", observed > 0, weight),
        np.einsum("hiv,hv->ih", observed, weight),
    )
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(
            getattr(found, name), values, rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_correlate__without_missing_calls_is_the_correlation():
    truth = oracle.simulate(120, 2048, 3, seed=1, missing_rate=0)
    alleles = counts_of(truth.genotypes)
    found, _ = check(alleles, truth.ancestry, truth.frequencies, fitted=False)
    dense = dense_residuals(alleles, truth.ancestry, truth.frequencies)
    for half, part in zip(found.halves, split(dense), strict=True):
        size = np.sqrt((part**2).sum(axis=1))
        expected = part @ part.T / size / size[:, None]
        np.testing.assert_allclose(half, expected, atol=1e-5)
    size = np.sqrt((dense**2).sum(axis=1))
    expected = dense @ dense.T / size / size[:, None]
    np.testing.assert_allclose(found.whole, expected, atol=1e-5)


def test_correlate__missing_calls_do_not_shrink_it():
    # Two people who are one: what is called in both is the same.
    truth = oracle.simulate(120, 2048, 3, seed=2, missing_rate=0)
    genotypes = truth.genotypes
    genotypes[1] = genotypes[0]
    ancestry = truth.ancestry.copy()
    ancestry[1] = ancestry[0]
    rng = np.random.default_rng(0)
    genotypes[0][rng.random(2048) < 0.3] = -1
    genotypes[1][rng.random(2048) < 0.5] = -1
    alleles = counts_of(genotypes)
    found, _ = check(alleles, ancestry, truth.frequencies, fitted=False)
    assert abs(found.whole[0, 1] - 1) < 0.06


def test_correlate__corrects_as_the_residuals_of_weighted_least_squares():
    """People of one population each, whose covariance is known exactly."""
    rng = np.random.default_rng(3)
    ancestry = np.repeat(np.eye(3, dtype=np.float32), 40, axis=0)
    truth = rng.uniform(0.1, 0.9, (3, 2048))
    genotypes = rng.binomial(2, ancestry @ truth).astype(np.int8)
    fitted = genotypes.reshape(3, 40, -1).mean(axis=1) / 2
    p = fitted.clip(1e-5, 1 - 1e-5)
    corrected, _ = check(counts_of(genotypes), ancestry, p)
    plain, _ = check(counts_of(genotypes), ancestry, p, fitted=False)
    same = (ancestry @ ancestry.T > 0) & ~np.eye(120, dtype=bool)
    assert plain.whole[same].mean() == pytest.approx(-1 / 39, abs=1e-4)
    assert abs(corrected.whole[same].mean()) < 0.001


def fit_one_population_each(genotypes, ancestry):
    """P at the maximum, as far from 0 and 1 as the fit keeps it."""
    shares = ancestry / ancestry.sum(axis=0)
    return (shares.T @ genotypes / 2).clip(MIN_FREQUENCY, 1 - MIN_FREQUENCY)


@pytest.mark.parametrize("heterozygous", [False, True])
@pytest.mark.parametrize("error", [0, 0.001])
def test_correlate__of_copies_who_are_a_population(heterozygous, error):
    """Copies of one person, whom the model reproduces but for errors."""
    rng = np.random.default_rng(4)
    ancestry = np.eye(2, dtype=np.float32)[(np.arange(80) < 8).astype(int)]
    p = rng.uniform(0.1, 0.9, (1, 4096))
    drawn = rng.binomial(2, p, (80, 4096)) if heterozygous else None
    genotypes = 2 * rng.binomial(1, p, (80, 4096)) if drawn is None else drawn
    genotypes[:8] = genotypes[0]
    wrong = rng.random((8, 4096)) < error
    genotypes[:8][wrong] = rng.integers(0, 3, np.count_nonzero(wrong))
    genotypes = genotypes.astype(np.int8)
    fitted = fit_one_population_each(genotypes, ancestry)
    found, checked = check(counts_of(genotypes), ancestry, fitted)
    known = ~np.isnan(found.whole)
    assert np.all(np.abs(found.whole[known]) <= 1)
    assert np.all(np.abs(found.halves[~np.isnan(found.halves)]) <= 1)
    assert np.isfinite(found.whole[8:, 8:]).all()
    assert np.abs(found.whole[8:, 8:][~np.eye(72, dtype=bool)]).max() < 0.2
    # Errors are all that the model leaves of an inbred line: next to nothing, if any.
    if error == 0:
        assert not known[:8].any()
        assert not known[:, :8].any()
        assert np.isnan(checked.correlation[:8]).all()
    assert np.isfinite(checked.correlation[8:]).all()


def test_correlate__of_people_whose_residuals_have_no_variance():
    genotypes = np.full((12, 256), 2, np.int8)
    ancestry = np.ones((12, 1), np.float32)
    p = np.full((1, 256), 1 - MIN_FREQUENCY)
    for fitted in (True, False):
        found, checked = check(counts_of(genotypes), ancestry, p, fitted=fitted)
        assert np.all(np.isnan(found.whole) | (np.abs(found.whole) <= 1))
        correlation = checked.correlation
        assert np.all(np.isnan(correlation) | (np.abs(correlation) <= 1))


@pytest.fixture(scope="module")
def right():
    """A cohort at the maximum of the likelihood of the model that it was drawn from."""
    truth = oracle.simulate(120, 1024, 3, seed=0, fst=0.1, concentration=0.4)
    shares = truth.ancestry.clip(1e-3)
    shares /= shares.sum(axis=1, keepdims=True)
    found = oracle.fit(truth.genotypes, shares, truth.frequencies, em_steps=5)
    return counts_of(truth.genotypes), found


def test_check_fit__of_the_right_model_is_a_standard_normal(right):
    alleles, found = right
    correlations, checked = check(alleles, found.ancestry, found.frequencies)
    plain, _ = check(alleles, found.ancestry, found.frequencies, fitted=False)
    dominant = found.ancestry.argmax(axis=1)
    same = (dominant[:, None] == dominant) & ~np.eye(120, dtype=bool)
    assert plain.whole[same].mean() < -0.01
    assert abs(correlations.whole[same].mean()) < 0.001
    assert abs(correlations.whole[~same & ~np.eye(120, dtype=bool)].mean()) < 0.001
    z = checked.correlation / checked.standard_error
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.2
    assert (z > 3.5).mean() <= 0.01


def test_check_fit__of_a_population_that_is_not_there():
    """New people on a model without the population that 15 of 120 are from."""
    truth = oracle.simulate(120, 2048, 4, seed=4, fst=0.1, missing_rate=0.02)
    rng = np.random.default_rng(4)
    ancestry = rng.dirichlet([0.5, 0.5, 0.5], 120)
    absent = np.arange(120) < 15
    p = ancestry @ truth.frequencies[:3]
    p[absent] = truth.frequencies[3]
    genotypes = rng.binomial(2, p).astype(np.int8)
    alleles = counts_of(genotypes)
    model = truth.frequencies[:3]
    shares = ancestry.copy()
    shares[absent] = 1 / 3
    for _ in range(60):
        shares, _ = oracle.expectation_maximisation(genotypes, shares, model)
    found, checked = check(alleles, shares, model, fitted=False)
    assert found.whole[:15, :15][~np.eye(15, dtype=bool)].mean() > 0.1
    assert abs(found.whole[15:, 15:][~np.eye(105, dtype=bool)].mean()) < 0.002
    flagged = checked.correlation > np.maximum(0.02, 3.5 * checked.standard_error)
    assert flagged[absent].all()
    assert flagged[~absent].mean() <= 0.02


@pytest.mark.skipif(not HAPMAP.exists(), reason="hapmap3 is not beside the project")
@pytest.mark.parametrize("k", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_check_fit__of_admixtures_own_fit_to_hapmap3(k):
    """Two populations leave Mexican Americans undescribed, and three nobody."""
    whole = 4 * STRETCHES * 216  # variants, so that both halves have as many
    packed = np.fromfile(HAPMAP / "hapmap3.bed", np.uint8)[3:].reshape(-1, 81)
    codes = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=2)
    # Copies of allele 2, whose frequencies ADMIXTURE's P has.
    genotypes = np.array([0, -1, 1, 2], np.int8)[codes.reshape(len(packed), -1).T]
    genotypes = genotypes[:, :whole]
    labels = np.loadtxt(HAPMAP / "labels.tsv", str, skiprows=1, usecols=1)
    fitted = HAPMAP / "admixture_ref" / f"hapmap3.{k}"
    ancestry, p = np.loadtxt(f"{fitted}.Q"), np.loadtxt(f"{fitted}.P").T[:, :whole]
    _, checked = check(counts_of(genotypes), ancestry, p.clip(1e-5, 1 - 1e-5))
    flagged = checked.correlation > np.maximum(0.02, 3.5 * checked.standard_error)
    if k == 2:
        assert flagged[labels == "MEX"].mean() >= 0.9
        assert flagged[labels != "MEX"].mean() <= 0.02
    else:
        assert not flagged.any()


def test_check_fit__relatives_correlate_and_are_not_flagged():
    truth = oracle.simulate(120, 2048, 3, seed=6, missing_rate=0)
    rng = np.random.default_rng(6)
    # A child has an allele of each of two parents, of one ancestry.
    q = truth.ancestry.copy()
    q[1] = q[2] = q[0]
    haplotypes = rng.random((3, 2, 2048)) < q[0] @ truth.frequencies
    child = [np.where(rng.random(2048) < 0.5, *pair) for pair in haplotypes[:2]]
    genotypes = truth.genotypes
    genotypes[:2] = haplotypes[:2].sum(axis=1)
    genotypes[2] = np.sum(child, axis=0)
    found, checked = check(counts_of(genotypes), q, truth.frequencies, fitted=False)
    assert found.whole[2, :2] == pytest.approx([0.5, 0.5], abs=0.08)
    assert abs(found.whole[0, 1]) < 0.08
    z = checked.correlation[:3] / checked.standard_error[:3]
    assert (z < 3.5).all()


def test_check_fit__is_the_median_of_those_nearest_on_the_other_half():
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(2, 5, 40))
    own = np.array([-1, 3, -1, -1, 39])
    found = residuals.check_fit(halves, own)
    for person in range(5):
        others = np.delete(halves[:, person], [i for i in (own[person],) if i >= 0], 1)
        medians = []
        for chosen, judged in (others, others[::-1]):
            nearest = np.argsort(-chosen)[:N_NEAREST]
            medians.append(np.median(judged[nearest]))
        assert found.correlation[person] == pytest.approx(np.mean(medians), rel=1e-6)
        difference = np.diff(others, axis=0)
        error = np.sqrt(np.mean(difference**2) / 2 * 0.168 / 2)
        error *= np.sqrt(1 + 1.4 * N_NEAREST / others.shape[1])
        assert found.standard_error[person] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("n_references", [32, 64, 512])
def test_check_fit__standard_error_of_chance(n_references):
    halves = np.random.default_rng(1).normal(size=(2, 3000, n_references)) * 0.02
    found = residuals.check_fit(halves, np.full(3000, -1))
    z = found.correlation / found.standard_error
    assert abs(z.mean()) < 0.05
    assert 0.95 < z.std() < 1.05


def test_check_fit__of_a_person_without_calls_is_nan():
    truth = oracle.simulate(40, 256, 2, seed=1)
    truth.genotypes[5] = -1
    alleles = counts_of(truth.genotypes)
    others = np.delete(np.arange(40), 5)
    _, checked = check(
        alleles, truth.ancestry, truth.frequencies, references=others, fitted=False
    )
    assert np.flatnonzero(np.isnan(checked.correlation)).tolist() == [5]
    assert np.flatnonzero(np.isnan(checked.standard_error)).tolist() == [5]


def test_frequency_covariance__population_without_people():
    information = np.zeros((3, 8), np.float32)
    information[0] = 100
    p = np.full((2, 8), 0.5, np.float32)
    found = residuals.frequency_covariance(information, p)
    expected = np.diag([8 / 100.04, 8 / 0.04])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    nothing = residuals.frequency_covariance(information * 0, p)
    assert nothing.tolist() == [[0.0, 0.0], [0.0, 0.0]]
