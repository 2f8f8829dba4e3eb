import gzip
import importlib.util
from collections import Counter

import numpy as np
import pytest
import sgkit

from pipeline import demo
from pipeline.errors import InputError

needs_peddy = pytest.mark.skipif(
    importlib.util.find_spec("peddy") is None, reason="peddy is not installed"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "demo.vcz"
    demo.write_demo_cohort(path)
    return sgkit.load_dataset(path, mask_and_scale=False).load()


def frequency(dataset, position, contig, population):
    """Frequency of the alternate allele at one site of one superpopulation."""
    index = dataset.contig_id.values.tolist().index(contig)
    at_site = (dataset.variant_contig == index).values & (
        dataset.variant_position == position
    ).values
    people = (dataset.sample_population == population).values
    return dataset.call_genotype.values[at_site][:, people].mean()


@needs_peddy
def test_write_demo_cohort__holds_every_site_and_person(dataset):
    assert dict(dataset.sizes) == {
        "variants": 23_770,
        "samples": 2_504,
        "ploidy": 2,
        "alleles": 2,
        "contigs": 22,
    }
    assert dataset.call_genotype.dtype == np.int8
    assert dataset.sample_id.values[[0, -1]].tolist() == ["1KG0001", "1KG2504"]
    assert dataset.variant_id.values[0] == "1:69761:A:T"
    assert dataset.contig_id.values.tolist() == [str(i) for i in range(1, 23)]
    assert Counter(dataset.sample_population.values.tolist()) == {
        "AFR": 661,
        "AMR": 347,
        "EAS": 504,
        "EUR": 503,
        "SAS": 489,
    }


@needs_peddy
def test_write_demo_cohort__sites_are_sorted_and_as_documented(dataset):
    contig, position = dataset.variant_contig.values, dataset.variant_position.values
    assert (np.diff(contig) >= 0).all()
    assert (np.diff(position)[np.diff(contig) == 0] > 0).all()
    counts = dataset.call_genotype.values.sum(axis=2)
    assert counts.min() == 0, "there are no missing calls"
    assert (counts.min(axis=1) == counts.max(axis=1)).sum() == 1_086


@needs_peddy
@pytest.mark.parametrize(
    ("contig", "position", "population", "published"),
    [
        ("2", 109_513_601, "EAS", 0.87),  # EDAR rs3827760, G
        ("2", 109_513_601, "AFR", 0.00),
        ("16", 48_258_198, "EAS", 0.78),  # ABCC11 rs17822931, T
        ("4", 100_239_319, "EAS", 0.30),  # ADH1B rs1229984, C
        ("1", 169_519_049, "EUR", 0.99),  # F5 rs6025, the reference allele is rare
        ("6", 26_091_179, "EUR", 0.17),  # HFE rs1799945, G
    ],
)
def test_write_demo_cohort__counts_the_alternate_allele(
    dataset, contig, position, population, published
):
    found = frequency(dataset, position, contig, population)
    assert found == pytest.approx(published, abs=0.01)


def small_peddy(folder, **changes):
    """Files laid out as peddy's, with two sites and the full number of people."""
    codes = np.tile(np.array([[0, 1, 2, 3]], np.uint8), (2, demo.N_SAMPLES // 4))
    files = {
        "GRCH37.sites": b"1:100:A:G\n22:5:C:T",
        "GRCH37.sites.bin.gz": gzip.compress(codes.tobytes()),
        "pca.py": b'_str = "%s"\nimport toolshed\n' % b"|".join([b"0", b"4"] * 1252),
        **changes,
    }
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def test_write_demo_cohort__decodes_all_four_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_peddy_folder", lambda: small_peddy(tmp_path))
    demo.write_demo_cohort(tmp_path / "x.vcz", chunk_variants=1, chunk_samples=999)
    small = sgkit.load_dataset(tmp_path / "x.vcz", mask_and_scale=False)
    expected = np.tile([[0, 0], [0, 1], [1, 1], [-1, -1]], (626, 1))
    for variant in range(2):
        np.testing.assert_array_equal(small.call_genotype[variant], expected)
    assert small.contig_id.values.tolist() == ["1", "22"]
    assert small.variant_contig.values.tolist() == [0, 1]
    assert small.sample_population.values[:3].tolist() == ["AFR", "SAS", "AFR"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"GRCH37.sites": None}, "GRCH37.sites is not that of peddy 0.4.8 .*No such"),
        ({"GRCH37.sites": b"X:1:A:G"}, "the site 'X:1:A:G'"),
        ({"GRCH37.sites": b"1:1:A:G,T"}, "the site '1:1:A:G,T'"),
        ({"GRCH37.sites": b"1:1:A:G"}, "5008 genotypes for 1 sites"),
        ({"GRCH37.sites.bin.gz": b"not gzip"}, r"bin.gz is not that of peddy 0.4.8"),
        ({"pca.py": b"import toolshed"}, "pca.py .*0 superpopulation codes"),
    ],
)
def test_read_peddy__refuses_other_files(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        demo.read_peddy(small_peddy(tmp_path, **changes))


def test_write_demo_cohort__says_how_to_get_peddy(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps peddy==0\.4\.8"):
        demo.write_demo_cohort(tmp_path / "x.vcz")
    assert list(tmp_path.iterdir()) == []
