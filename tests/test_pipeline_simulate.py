import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sgkit
import xarray as xr

from pipeline import draws, genealogy, simulate
from pipeline.errors import InputError
from pipeline.truth import simulate_truth

SIZE: dict[str, Any] = {"n_samples": 60, "n_variants": 500, "n_populations": 3}
CHUNKS: dict[str, Any] = {"chunk_variants": 200, "chunk_samples": 25}


def load(path):
    return sgkit.load_dataset(path, mask_and_scale=False)


def digests(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulate") / "cohort.vcz"
    simulate.simulate(path, **SIZE, **CHUNKS, missing_rate=0.1, seed=7)
    return path


def test_simulate__follows_vcf_zarr_conventions(store):
    dataset = load(store)
    assert dataset.attrs["vcf_zarr_version"] == "0.2"
    assert dataset.attrs["source"] == "streamixture simulate"
    assert dataset.attrs["simulation"]["seed"] == 7
    assert dataset.call_genotype.dims == ("variants", "samples", "ploidy")
    assert dataset.call_genotype.dtype == np.int8
    assert dataset.call_genotype.data.chunksize == (200, 25, 2)
    assert dataset.sample_id.values[[0, -1]].tolist() == ["S0000001", "S0000060"]
    assert dataset.contig_id.values.tolist() == [str(i) for i in range(1, 23)]
    first = dataset.isel(variants=0).load()
    reference, alternate = first.variant_allele.values
    assert first.variant_id.item() == f"1:10000:{reference}:{alternate}"


def test_simulate__genotypes_have_no_fill_value_and_consolidated_metadata(store):
    metadata = json.loads((store / ".zmetadata").read_text())["metadata"]
    array = metadata["call_genotype/.zarray"]
    assert array["fill_value"] is None
    assert array["zarr_format"] == 2
    assert array["compressor"]["cname"] == "zstd"
    assert metadata["call_genotype/.zattrs"]["_ARRAY_DIMENSIONS"] == [
        "variants",
        "samples",
        "ploidy",
    ]
    # A reader that does mask and scale must find reference alleles all the same.
    masked = xr.open_zarr(store).call_genotype
    assert masked.dtype == np.int8
    assert (masked == 0).any()


def test_simulate__variants_are_ordered_snps_with_unambiguous_strand(store):
    dataset = load(store)
    contig = dataset.variant_contig.values
    position = dataset.variant_position.values
    assert (np.diff(contig) >= 0).all()
    assert np.unique(contig).size == 22
    assert (np.diff(position)[np.diff(contig) == 0] == 10_000).all()
    pairs = {frozenset(pair) for pair in dataset.variant_allele.values.tolist()}
    assert pairs == {frozenset(pair) for pair in ("AC", "AG", "CT", "GT")}


def test_simulate__missing_calls_are_whole_and_at_their_rate(store):
    missing = load(store).call_genotype.values == -1
    assert (missing.all(axis=2) == missing.any(axis=2)).all()
    # Five standard errors of a proportion of 0.1 among 30,000 calls.
    assert missing.mean() == pytest.approx(0.1, abs=0.009)


def test_simulate__same_seed_same_bytes(store, tmp_path):
    for name, seed in (("same", 7), ("other", 8)):
        options = {**SIZE, **CHUNKS, "missing_rate": 0.1, "seed": seed}
        simulate.simulate(tmp_path / name, **options)
    assert digests(tmp_path / "same") == digests(store)
    other = digests(tmp_path / "other")
    assert other["call_genotype/0.0.0"] != digests(store)["call_genotype/0.0.0"]


def test_simulate__stores_the_truth(store):
    truth = simulate_truth(**SIZE, seed=7)
    dataset = load(store)
    np.testing.assert_allclose(
        dataset.simulated_ancestry_proportion, truth.ancestry, atol=1e-7
    )
    np.testing.assert_allclose(
        dataset.simulated_population_frequency, truth.frequencies.T, atol=1e-7
    )


def test_simulate__refuses_and_replaces_an_existing_store(store, tmp_path):
    with pytest.raises(InputError, match="already exists; pass --overwrite"):
        simulate.simulate(store, **SIZE, seed=1)
    path = tmp_path / "cohort.vcz"
    for seed in (1, 2):
        simulate.simulate(path, **SIZE, overwrite=True, seed=seed)
    assert load(path).attrs["simulation"]["seed"] == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["cohort.vcz"]


def test_simulate__never_replaces_what_is_not_a_store(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match="is not a Zarr store"):
        simulate.simulate(tmp_path / "home", **SIZE, overwrite=True, seed=1)
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_simulate__failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(simulate, "erase_calls", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        simulate.simulate(tmp_path / "cohort.vcz", **SIZE, seed=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples is 0; it must be at least 1"),
        ({"n_variants": -1}, "n_variants is -1; it must be at least 1"),
        ({"n_populations": 0}, "n_populations is 0; it must be at least 1"),
        ({"fst": 1.0}, r"fst is 1.0; it must be between 0 and 1"),
        ({"dirichlet": 0.0}, "dirichlet is 0.0; it must be positive"),
        ({"missing_rate": 1.0}, r"missing_rate is 1.0; it must be in \[0, 1\)"),
        ({"chunk_samples": 0}, "^chunk_samples is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"kinds": draws.CallKinds(half_rate=1.0)}, r"half_rate is 1.0; .* \[0, 1\)"),
        ({"kinds": draws.CallKinds(x_share=1.5)}, r"x_share is 1.5; .* in \[0, 1\]"),
        ({"kinds": draws.CallKinds(dosage_blur=-1)}, r"dosage_blur is -1; .*\[0, 1\]"),
        (
            {"kinds": draws.CallKinds(x_share=0.5, dosage_blur=0)},
            "dosages are of two alleles; leave out half calls and X",
        ),
    ],
)
def test_simulate__refuses_parameters_out_of_range(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        simulate.simulate(tmp_path / "x", **{**SIZE, "seed": 1, **change})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 7, 2), (9, 1, 1), (3, 23, 4)])
def test_simulate__smallest_cohorts(tmp_path, size):
    names = ("n_samples", "n_variants", "n_populations")
    simulate.simulate(
        tmp_path / "x", **dict(zip(names, size, strict=True)), missing_rate=0, seed=3
    )
    genotypes = load(tmp_path / "x").call_genotype.values
    assert genotypes.shape == (size[1], size[0], 2)
    assert set(np.unique(genotypes)) <= {0, 1}


def test_draw_genotypes__alleles_are_independent_bernoulli():
    generator = np.random.default_rng(5)
    truth = simulate_truth(40, 3, 3, seed=5)
    variants = np.repeat(np.arange(3), 5_000)
    alleles = draws.draw_genotypes(
        truth.ancestry, truth.frequencies[:, variants], generator
    ).reshape(3, 5_000, 40, 2)
    expected = (truth.ancestry @ truth.frequencies).T
    error = np.sqrt(expected * (1 - expected) / 10_000)
    assert (np.abs(alleles.mean(axis=(1, 3)) - expected) < 5 * error).all()
    homozygous = alleles.all(axis=3).mean(axis=1)
    assert (np.abs(homozygous - expected**2) < 10 * error).all()


def test_draw_genotypes__certain_frequencies():
    frequencies = np.array([[0.0, 1.0]]).repeat(1000, axis=1)
    drawn = draws.draw_genotypes(
        np.ones((50, 1)), frequencies, np.random.default_rng(0)
    )
    assert (drawn[:1000] == 0).all()
    assert drawn[1000:].mean() > 0.9999


def test_erase_calls__any_rate():
    for rate in (0.0, 0.001, 0.5, 0.999):
        calls = np.zeros((400, 250, 2), np.int8)
        draws.erase_calls(calls, rate, np.random.default_rng(2))
        error = np.sqrt(rate * (1 - rate) / 100_000)
        assert abs((calls[..., 0] == -1).mean() - rate) <= 5 * error
        np.testing.assert_array_equal(calls[..., 0], calls[..., 1])


def test_simulate__half_calls_lack_either_allele(tmp_path):
    kinds = draws.CallKinds(missing_rate=0, half_rate=0.2)
    simulate.simulate(tmp_path / "x", **SIZE, **CHUNKS, kinds=kinds, seed=1)
    missing = load(tmp_path / "x").call_genotype.values == -1
    assert not missing.all(axis=2).any()
    error = 5 * np.sqrt(0.1 * 0.9 / missing[..., 0].size)
    np.testing.assert_allclose(missing.mean(axis=(0, 1)), 0.1, atol=error)
    simulate.simulate(tmp_path / "y", **SIZE, **CHUNKS, missing_rate=0, seed=1)
    whole = load(tmp_path / "y").call_genotype.values
    found = load(tmp_path / "x").call_genotype.values
    np.testing.assert_array_equal(found[~missing], whole[~missing])


def test_simulate__males_are_haploid_on_x(tmp_path):
    kinds = draws.CallKinds(missing_rate=0.1, x_share=0.3)
    simulate.simulate(tmp_path / "x", **SIZE, **CHUNKS, kinds=kinds, seed=1)
    dataset = load(tmp_path / "x")
    names = dataset.contig_id.values[dataset.variant_contig.values]
    assert (names == "X").sum() == round(0.3 * SIZE["n_variants"])
    assert (np.diff(dataset.variant_position.values[names == "X"]) > 0).all()
    haploid = dataset.call_genotype.values[..., 1] == -2
    males = np.arange(SIZE["n_samples"]) % 2 == 1
    np.testing.assert_array_equal(haploid, np.outer(names == "X", males))


@pytest.mark.parametrize("blur", [0.0, 0.6])
def test_simulate__dosages_have_the_expectation_of_genotypes(tmp_path, blur):
    kinds = draws.CallKinds(missing_rate=0.1, dosage_blur=blur)
    simulate.simulate(tmp_path / "x", **SIZE, **CHUNKS, kinds=kinds, seed=1)
    simulate.simulate(tmp_path / "y", **SIZE, **CHUNKS, missing_rate=0.1, seed=1)
    found, straight = load(tmp_path / "x"), load(tmp_path / "y")
    assert "call_genotype" not in found
    dosages = found.call_dosage.values
    assert dosages.dtype == np.float32
    calls = straight.call_genotype.values
    np.testing.assert_array_equal(np.isnan(dosages), calls[..., 0] < 0)
    known = calls[..., 0] >= 0
    expected = (
        2
        * found.simulated_population_frequency.values
        @ (found.simulated_ancestry_proportion.values.T)
    )
    difference = (dosages - calls.sum(axis=2))[known]
    assert np.abs(difference).max() <= 2 * blur
    assert (blur == 0) == (difference == 0).all()
    residual = (dosages - expected)[known]
    assert abs(residual.mean()) < 5 * residual.std() / np.sqrt(residual.size)


def test_write_cohort__memory_holds_one_chunk(tmp_path, monkeypatch):
    shapes = []
    draw = draws.draw_genotypes

    def watched(ancestry, frequencies, generator, out):
        shapes.append(out.shape)
        return draw(ancestry, frequencies, generator, out)

    monkeypatch.setattr(simulate, "draw_genotypes", watched)
    truth = simulate_truth(**SIZE, seed=1)
    simulate.write_cohort(tmp_path / "x", truth, seed=1, **CHUNKS)
    assert len(shapes) == 9
    assert max(shapes) == (200, 25, 2)


def test_simulate__writes_a_genealogy(tmp_path):
    pytest.importorskip("msprime")
    size: dict[str, Any] = {"n_samples": 50, "n_variants": 400, "n_populations": 2}
    options: dict[str, Any] = {**size, "fst": 0.1, "seed": 3}
    simulate.simulate(
        tmp_path / "x", **options, **CHUNKS, genealogy=True, missing_rate=0
    )
    expected = genealogy.simulate_genealogy(**options)
    dataset = load(tmp_path / "x")
    assert expected.genotypes is not None
    np.testing.assert_array_equal(dataset.call_genotype, expected.genotypes)
    assert dataset.attrs["simulation"]["model"] == "genealogy"
