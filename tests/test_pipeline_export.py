"""ADMIXTURE-style files: their text, and that all of them appear or none."""

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline import export, schema, store
from pipeline.errors import InputError
from pipeline.plan import Rows

SHARES = np.array([[0.25, 0.75], [1e-5, 0.99999], [1, 0]], np.float32)
FREQUENCIES = np.array([[0.1, 0.9], [1e-6, 0.123456789]], np.float32)


def write_ancestry(
    path: Path, shares: np.ndarray = SHARES, frequencies: np.ndarray = FREQUENCIES
) -> Path:
    n_people, n_variants = len(shares), len(frequencies)
    result = store.Store.create(path, "ancestry")
    values = {
        "variant_contig_name": np.array([f"chr{i + 1}" for i in range(n_variants)]),
        "variant_position": np.arange(1, n_variants + 1) * 1_000,
        "variant_allele": np.array([["A", "CTT"]] * n_variants),
        "variant_id": np.array(["."] + [f"rs{i}" for i in range(1, n_variants)]),
        "variant_population_frequency": frequencies,
        "sample_id": np.array([f"é {i}" for i in range(n_people)]),
        "sample_in_fit": np.ones(n_people, bool),
        "sample_ancestry_proportion": shares,
        "sample_log_likelihood": np.zeros(n_people),
        "sample_n_called": np.full(n_people, n_variants),
    }
    store.write_all(result, schema.ANCESTRY, values)
    result.finish()
    return path


def test_export_admixture__writes_rows_in_order(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    files = export.export_admixture(ancestry, tmp_path / "cohort.v1")
    assert [file.name for file in files] == [
        "cohort.v1.2.Q",
        "cohort.v1.2.P",
        "cohort.v1.samples",
        "cohort.v1.variants",
        "cohort.v1.tsv",
    ]
    shares, frequencies, samples, variants = (f.read_text("utf-8") for f in files[:4])
    assert shares == "0.250000 0.750000\n0.000010 0.999990\n1.000000 0.000000\n"
    assert frequencies == "0.100000 0.900000\n0.000001 0.123457\n"
    assert samples == "é 0\né 1\né 2\n"
    assert variants == (
        "contig\tposition\tid\treference\talternate\tcounted\n"
        "chr1\t1000\t.\tA\tCTT\talternate\n"
        "chr2\t2000\trs1\tA\tCTT\talternate\n"
    )
    assert sorted(tmp_path.iterdir()) == sorted([ancestry, *files])


def test_export_admixture__names_of_populations(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "ancestry.zarr")
    result = store.Store.open(path, "ancestry", writable=True)
    result.write("population_id", schema.POPULATION_ID, np.array(["Yorùbá", "b"]))
    files = export.export_admixture(path, tmp_path / "cohort")
    assert [file.name for file in files[3:]] == [
        "cohort.variants",
        "cohort.populations",
        "cohort.tsv",
    ]
    assert files[4].read_text("utf-8") == "Yorùbá\nb\n"


def test_export_admixture__of_the_allele_that_admixture_counts(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    files = export.export_admixture(ancestry, tmp_path / "q", allele="reference")
    assert files[1].read_text() == "0.900000 0.100000\n0.999999 0.876543\n"
    lines = files[3].read_text().splitlines()
    assert [line.split("\t")[5] for line in lines[1:]] == ["reference"] * 2


def test_export_admixture__k_1_and_one_row(tmp_path: Path) -> None:
    one = np.ones((1, 1), np.float32)
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", one, one / 2)
    shares, frequencies = export.export_admixture(ancestry, tmp_path / "one")[:2]
    assert shares.name == "one.1.Q"
    assert shares.read_text() == "1.000000\n"
    assert frequencies.read_text() == "0.500000\n"


def test_export_admixture__reads_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of 7 rows, of which 3 are formatted at once."""
    monkeypatch.setattr(export, "_NUMBERS_AT_ONCE", 9)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 23).astype(np.float32)
    frequencies = np.full((5, 3), 0.5, np.float32)
    path = write_ancestry(tmp_path / "ancestry.zarr", shares, frequencies)
    result = store.Store.open(path, "ancestry", writable=True)
    name = "sample_ancestry_proportion"
    del result._group[name]
    result.lay_out(name, schema.ANCESTRY[name], shares.shape, (7, 3))
    result.write_rows(name, Rows(0, 23), shares)
    file = export.export_admixture(path, tmp_path / "cohort")[0]
    np.testing.assert_allclose(np.loadtxt(file), shares, atol=5.1e-7)


def test_export_admixture__counts_people_without_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shares = SHARES.copy()
    shares[1] = np.nan
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", shares)
    with caplog.at_level(logging.DEBUG, logger="pipeline.export"):
        file = export.export_admixture(ancestry, tmp_path / "cohort")[0]
    assert file.read_text().splitlines()[1] == "nan nan"
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("1 person has no called genotype")
    assert "é" not in caplog.text


def test_export_admixture__is_silent_where_all_have_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export.export_admixture(write_ancestry(tmp_path / "a.zarr"), tmp_path / "cohort")
    assert not caplog.messages


@pytest.mark.parametrize("ending", ["2.Q", "2.P", "samples", "variants", "tsv"])
def test_export_admixture__refuses_existing_file(tmp_path: Path, ending: str) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    earlier = tmp_path / f"cohort.{ending}"
    earlier.write_text("precious")
    with pytest.raises(InputError, match=rf"cohort\.{ending} exists; add --overwrite"):
        export.export_admixture(ancestry, tmp_path / "cohort")
    assert earlier.read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == sorted([ancestry, earlier])
    files = export.export_admixture(ancestry, tmp_path / "cohort", overwrite=True)
    assert earlier in files
    assert earlier.read_text() != "precious"


def test_export_admixture__refuses_missing_folder(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    with pytest.raises(InputError, match="folder .*none does not exist; make it first"):
        export.export_admixture(ancestry, tmp_path / "none" / "cohort")


def test_export_admixture__refuses_folder_in_the_way(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    (tmp_path / "cohort.2.P").mkdir()
    with pytest.raises(InputError, match=r"cohort\.2\.P is a folder; choose another"):
        export.export_admixture(ancestry, tmp_path / "cohort", overwrite=True)


@pytest.mark.parametrize("prefix", [".", "..", "/"])
def test_export_admixture__refuses_prefix_without_name(
    tmp_path: Path, prefix: str
) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    with pytest.raises(InputError, match="has no file name; name the files as in"):
        export.export_admixture(ancestry, Path(prefix))


def test_export_admixture__refuses_other_store(tmp_path: Path) -> None:
    store.Store.create(tmp_path / "model.zarr", "model").finish()
    with pytest.raises(InputError, match="is not a streamixture ancestry store"):
        export.export_admixture(tmp_path / "model.zarr", tmp_path / "cohort")


def test_export_admixture__keeps_earlier_files_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr")
    files = export.export_admixture(ancestry, tmp_path / "cohort")
    before = [file.read_bytes() for file in files]

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_variants", fail)
    with pytest.raises(InputError, match=r"cannot be written to \(No space left"):
        export.export_admixture(ancestry, tmp_path / "cohort", overwrite=True)
    assert [file.read_bytes() for file in files] == before
    assert sorted(tmp_path.iterdir()) == sorted([ancestry, *files])
