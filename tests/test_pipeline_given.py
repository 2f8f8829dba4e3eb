"""Models of given frequencies: files as ADMIXTURE and the export write them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import bundle, given
from pipeline.config import RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import helpers

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
    assert store.attrs["method"] == bundle.fitted_by(store.path) == "given"
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
