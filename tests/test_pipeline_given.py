"""Models of given frequencies: files as ADMIXTURE and the export write them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import bundle, export, given, ingest, projection
from pipeline.config import ApplyConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import helpers

HAPMAP3 = Path(__file__).parents[2] / "shared" / "data" / "hapmap3"
P = "0.1 0.2\n0.5 0.00001\n1.0 0.9\n"
BIM = "1\trs1\t0\t100\tA\tC\n1\trs2\t0\t200\t0\tG\nX\trs3\t0\t5\tT\tG\n"
VARIANTS = (
    "contig\tposition\tid\treference\talternate\n"
    "1\t100\trs1\tC\tA\n1\t200\trs2\tG\t\nX\t5\trs3\tG\tT\n"
)


def files(folder: Path, **changes: str) -> dict[str, Path]:
    written = {"P": P, "bim": BIM, "variants": VARIANTS} | changes
    for name, text in written.items():
        (folder / f"fit.{name}").write_text(text)
    return {name: folder / f"fit.{name}" for name in written}


def test_read_frequencies__of_admixture_counts_the_second_allele(tmp_path):
    paths = files(tmp_path)
    of_plink = given.read_frequencies(paths["P"], paths["bim"], "GRCh37")
    exported = given.read_frequencies(paths["P"], paths["variants"])
    np.testing.assert_allclose(exported.values, [[0.1, 0.5, 1.0], [0.2, 1e-5, 0.9]])
    np.testing.assert_allclose(of_plink.values, 1 - exported.values)
    assert of_plink.genome_build == "GRCh37"
    for name in ("variant_contig_name", "variant_position", "variant_id"):
        np.testing.assert_array_equal(of_plink.keys[name], exported.keys[name])
    assert of_plink.keys["variant_allele"].tolist() == [
        ["C", "A"],
        ["G", "0"],
        ["G", "T"],
    ]
    assert exported.keys["variant_allele"].tolist() == [
        ["C", "A"],
        ["G", ""],
        ["G", "T"],
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P": ""}, r"fit\.P is empty; give a table of frequencies"),
        ({"P": "0.1 a\n"}, r"fit\.P is not a table of numbers"),
        ({"P": "0.1 0.2\n0.5\n0.1 0.2\n"}, r"fit\.P is not a table of numbers"),
        ({"P": P + "0.5 0.5\n"}, r"fit\.P has 4 lines and .*fit\.bim 3 variants"),
        ({"P": P.replace("1.0", "1.1")}, r"variant 2 are .*; they must be in \[0, 1\]"),
        ({"P": P.replace("1.0", "nan")}, r"variant 2 are .*; they must be in \[0, 1\]"),
        ({"bim": BIM.replace("200", "2e2")}, r"fit\.bim variant 2 is .*2e2"),
        ({"bim": BIM.replace("\tG\n", "\n")}, r"fit\.bim variant 2 is .*two alleles"),
    ],
)
def test_read_frequencies__refuses(tmp_path, changes, message):
    paths = files(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        given.read_frequencies(paths["P"], paths["bim"])


INFO = "SNP\tA1\tA2\tPOP1\tPOP2\nrs3\tT\tG\t0.1\t0.2\nrs1\tA\tC\t0.7\t0.8\n"


def test_read_frequencies__allele_says_what_a_table_counts(tmp_path):
    paths = files(tmp_path)
    of = {
        allele: given.read_frequencies(paths["P"], paths["bim"], allele=allele)
        for allele in ("alternate", "reference", None)
    }
    np.testing.assert_allclose(
        of["alternate"].values, [[0.1, 0.5, 1], [0.2, 1e-5, 0.9]]
    )
    np.testing.assert_allclose(of["reference"].values, 1 - of["alternate"].values)
    np.testing.assert_array_equal(of[None].values, of["reference"].values)
    assert of[None].told_by == "as ADMIXTURE has it"


def test_read_frequencies__exports_say_what_they_count(tmp_path):
    counted = VARIANTS.replace("alternate\n", "alternate\tcounted\n", 1)
    header, *lines = counted.splitlines()
    text = "\n".join([header, *(f"{line}\treference" for line in lines)]) + "\n"
    paths = files(tmp_path, variants=text)
    found = given.read_frequencies(paths["P"], paths["variants"])
    np.testing.assert_allclose(found.values, [[0.9, 0.5, 0], [0.8, 1 - 1e-5, 0.1]])
    message = r"fit\.variants says that P counts the reference allele, and --allele the"
    with pytest.raises(InputError, match=message):
        given.read_frequencies(paths["P"], paths["variants"], allele="alternate")
    paths = files(tmp_path, variants=text.replace("reference\n", "both\n"))
    with pytest.raises(InputError, match="the column counted has .*both"):
        given.read_frequencies(paths["P"], paths["variants"])


def test_read_frequencies__of_fastmixture2_finds_its_variants_by_id(tmp_path):
    """What `--write-info` of fastmixture2 2.0.4 writes, of fewer variants."""
    paths = files(tmp_path, P=INFO)
    found = given.read_frequencies(paths["P"], paths["bim"])
    assert found.keys["variant_id"].tolist() == ["rs3", "rs1"]
    assert found.keys["variant_position"].tolist() == [5, 100]
    np.testing.assert_allclose(found.values, [[0.1, 0.7], [0.2, 0.8]])
    with pytest.raises(InputError, match=r"says that P counts the alternate allele"):
        given.read_frequencies(paths["P"], paths["bim"], allele="reference")
    for change, message in (
        ({"P": INFO.replace("rs3\tT\tG", "rs3\tG\tT")}, r"line 2: variant rs3 with"),
        ({"bim": BIM.replace("rs2\t0\t200\t0\tG", "rs1\t0\t200\tA\tC")}, "several"),
    ):
        paths = files(tmp_path, **({"P": INFO} | change))
        with pytest.raises(InputError, match=message):
            given.read_frequencies(paths["P"], paths["bim"])


def test_read_frequencies__refuses_missing_files_and_unknown_builds(tmp_path):
    paths = files(tmp_path)
    with pytest.raises(InputError, match=r"none\.P: No such file.*; check the path"):
        given.read_frequencies(tmp_path / "none.P", paths["bim"])
    with pytest.raises(InputError, match=r"none\.bim: No such file.*; check the path"):
        given.read_frequencies(paths["P"], tmp_path / "none.bim")
    with pytest.raises(InputError, match=r"genome build 'hg99' is not known"):
        given.read_frequencies(paths["P"], paths["bim"], "hg99")


def test_frequencies__refuses_keys_of_other_variants(tmp_path):
    paths = files(tmp_path)
    known = given.read_frequencies(paths["P"], paths["bim"])
    with pytest.raises(InputError, match=r"has 3 variants and the frequencies 2; give"):
        given.Frequencies(known.keys, known.values[:, :2])


def test_make_model__is_a_model_like_any_other(tmp_path):
    paths = files(tmp_path)
    known = given.read_frequencies(paths["P"], paths["variants"], "GRCh38")
    config = RunConfig(train=TrainConfig(hidden_dims=(4,)))
    output = tmp_path / "model.zarr"
    workers: Any = contextlib.nullcontext(helpers.SerialCluster())
    given.make_model(known, output, config, workers)
    store = Store.open(output, bundle.KIND)
    assert store.attrs["method"] == "given"
    assert store.attrs["genome_build"] == "GRCh38"
    model = bundle.load_model(store.path)
    np.testing.assert_allclose(model.frequencies, known.values, atol=1.01e-5)
    assert model.frequencies.min() > 0
    assert model.frequencies.max() < 1
    assert model.encoder.config.hidden_dims == (4,)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["fit.P", "fit.bim", "fit.variants", "model.zarr"]
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        given.make_model(known, output, config, workers)


def make(
    folder: Path, p: Path, variants: Path, cohort: Path, **options: Any
) -> np.ndarray:
    """Q of a cohort's people on a model that is made of files."""
    # Steps enough to the maximum from an encoder that is soon trained.
    small = TrainConfig(hidden_dims=(4,))
    config = RunConfig(train=small, apply=ApplyConfig(refine=40))
    workers: Any = contextlib.nullcontext(helpers.SerialCluster())
    known = given.read_frequencies(p, variants, **options)
    model, output = folder / "model.zarr", folder / "ancestry.zarr"
    given.make_model(known, model, config, workers, overwrite=True)
    projection.project(model, str(cohort), output, config, workers, overwrite=True)
    return Store.open(output, "ancestry").read("sample_ancestry_proportion")


@pytest.mark.skipif(not HAPMAP3.exists(), reason="hapmap3 is not beside the project")
def test_make_model__of_admixtures_p_gives_its_q_and_so_do_our_exports(tmp_path):
    fitted = HAPMAP3 / "admixture_ref"
    bim = HAPMAP3 / "hapmap3.bim"
    cohort = tmp_path / "hapmap3.vcz"
    ingest.ingest(HAPMAP3 / "hapmap3.bed", cohort, n_workers=0)
    with pytest.raises(InputError, match="import-model --allele 2`"):
        make(tmp_path, fitted / "hapmap3.3.P", bim, cohort, allele="alternate")
    q = make(tmp_path, fitted / "hapmap3.3.P", bim, cohort)
    np.testing.assert_allclose(q, np.loadtxt(fitted / "hapmap3.3.Q"), atol=1e-4)
    for allele in ("alternate", "reference"):
        prefix = tmp_path / allele
        files = export.export_admixture(
            tmp_path / "ancestry.zarr", prefix, allele=allele
        )
        variants = tmp_path / f"{allele}.variants"
        again = make(tmp_path, files[1], variants, cohort)
        np.testing.assert_allclose(again, q, atol=1e-5)
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / "reference.3.P"),
        np.loadtxt(fitted / "hapmap3.3.P"),
        atol=2e-6,
    )
