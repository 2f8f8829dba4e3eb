"""The table of people: what R and pandas read from it."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import export, schema, store
from tests.test_pipeline_export import write_ancestry

SHARES = np.array([[0.25, 0.75], [np.nan, np.nan], [1, 0]], np.float32)
ERRORS = np.array([[0.01, 0.02], [np.nan, np.nan], [0, 0]], np.float32)
IDS = ["N'Djamena #1", 'a "b"', "007 x"]


def write_store(path: Path) -> Path:
    """Of three people with odd ids, of whom one has no called genotype."""
    write_ancestry(path, SHARES)
    result = store.Store.open(path, "ancestry", writable=True)
    del result._group["sample_id"]
    result.write("sample_id", schema.ANCESTRY["sample_id"], np.array(IDS))
    optional = schema.OPTIONAL_ANCESTRY
    for name, values in {
        "sample_ancestry_proportion_se": ERRORS,
        "sample_poorly_described": np.array([True, False, False]),
        "sample_population": np.array(["Côte d'Ivoire", "", "b"]),
        "population_id": np.array(["north", "south"]),
    }.items():
        result.write(name, optional[name], values)
    return path


def test_write_table__pandas_reads_it(tmp_path: Path) -> None:
    ancestry = write_store(tmp_path / "a.zarr")
    files = export.export_admixture(ancestry, tmp_path / "q")
    assert [file.name for file in files[-2:]] == ["q.2.Q_se", "q.tsv"]
    assert files[-2].read_text().splitlines()[::2] == [
        "0.010000 0.020000",
        "0.000000 0.000000",
    ]
    table = pd.read_csv(files[-1], sep="\t")
    assert table.columns.tolist() == [
        *("sample_id", "north", "south", "north_se", "south_se"),
        *("in_fit", "poorly_described", "log_likelihood", "group"),
    ]
    assert table["sample_id"].tolist() == IDS
    np.testing.assert_allclose(table[["north", "south"]], SHARES)
    np.testing.assert_allclose(table[["north_se", "south_se"]], ERRORS)
    assert table["in_fit"].tolist() == [True] * 3
    assert table["poorly_described"].isna().tolist() == [False, True, False]
    assert table["log_likelihood"].isna().tolist() == [False, True, False]
    assert table["group"].tolist()[::2] == ["Côte d'Ivoire", "b"]
    assert pd.isna(table["group"][1])


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="there is no R")
def test_write_table__r_reads_it(tmp_path: Path) -> None:
    export.export_admixture(write_store(tmp_path / "a.zarr"), tmp_path / "q")
    script = """
    t <- read.table("q.tsv", header = TRUE, sep = "\\t", encoding = "UTF-8")
    stopifnot(dim(t) == c(3, 9), is.numeric(t$south_se), is.logical(t$in_fit))
    stopifnot(is.logical(t$poorly_described), is.na(t$poorly_described[2]))
    stopifnot(is.na(t$north[2]), t$sample_id[1] == "N'Djamena #1")
    stopifnot(t$sample_id[2] == 'a "b"', abs(t$south[1] - .75) < 1e-9)
    q <- read.table("q.2.Q_se")
    stopifnot(dim(q) == c(3, 2))
    """
    command = ["Rscript", "-e", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_write_table__leaves_out_what_the_store_has_not(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "a.zarr")
    header = (
        export.export_admixture(path, tmp_path / "q")[-1].read_text().split("\n")[0]
    )
    assert header.split("\t") == [
        *("sample_id", "population_1", "population_2", "in_fit", "log_likelihood"),
    ]


def test_write_table__numbers_populations_whose_names_are_taken(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "a.zarr")
    result = store.Store.open(path, "ancestry", writable=True)
    names = np.array(["group", "b"])
    result.write("population_id", schema.POPULATION_ID, names)
    header = (
        export.export_admixture(path, tmp_path / "q")[-1].read_text().split("\n")[0]
    )
    assert header.split("\t")[1:3] == ["population_1", "population_2"]
