"""Stores of the newest bio2zarr, from an environment of its own, and a real kill.

`make soak` runs these: the environment is installed from the package index.
"""

import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import pytest
import sgkit

from pipeline import datasets
from pipeline.cohort import open_cohort
from pipeline.errors import InputError
from pipeline.store import check_genotypes
from tests import source_files

pytestmark = pytest.mark.soak

CALLS = source_files.admixed_calls(150, 60)
COMMAND = str(Path(sys.executable).parent / "streamixture")


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of bio2zarr 0.2.1, which needs zarr 3."""
    folder = tmp_path_factory.mktemp("bio2zarr")
    venv.create(folder, with_pip=True)
    install = ["-m", "pip", "install", "--quiet", "bio2zarr[vcf]==0.2.1"]
    subprocess.run([str(folder / "bin" / "python"), *install], check=True)
    return folder / "bin"


def convert(newest: Path, folder: Path, kind: str, *options: str) -> Path:
    store = folder / "c.vcz"
    if kind == "vcf":
        source = source_files.write_vcf_calls(folder / "c.vcf.gz", CALLS)
        command = ["vcf2zarr", "convert", "-Q", *options, str(source), str(store)]
    else:
        source = source_files.write_bed(folder / "c.bed", CALLS)
        prefix = str(source.with_suffix(""))
        command = ["plink2zarr", "convert", "-Q", *options, prefix, str(store)]
    subprocess.run([str(newest / command[0]), *command[1:]], check=True)
    return store


@pytest.mark.parametrize("kind", ["vcf", "plink"])
@pytest.mark.parametrize("chunk", ["20", "1000"])
def test_open_cohort__reads_stores_of_bio2zarr_0_2(
    newest: Path, tmp_path: Path, kind: str, chunk: str
):
    store = convert(newest, tmp_path, kind, "--variants-chunk-size", chunk)
    cohort = open_cohort(str(store))
    check_genotypes(str(store))
    assert cohort.contigs.tolist() == CALLS.contigs
    assert cohort.positions.tolist() == CALLS.positions
    assert cohort.sample_ids.tolist() == CALLS.people
    calls = cohort.dataset["call_genotype"].values
    found = np.where((calls < 0).any(axis=2), -1, calls.sum(axis=2))
    np.testing.assert_array_equal(found, CALLS.counts)
    names = {name: name for name in ("call_genotype", "call_dosage")}
    ds = datasets.select_cohort(sgkit.load_dataset(str(store)), names)
    contigs = ds["contig_id"].values[ds["variant_contig"].values]
    assert contigs.tolist() == CALLS.contigs


def test_open_cohort__refuses_zarr_format_3_with_the_remedy(
    newest: Path, tmp_path: Path
):
    store = convert(newest, tmp_path, "vcf", "--zarr-format", "3")
    with pytest.raises(InputError, match="bio2zarr without --zarr-format 3"):
        open_cohort(str(store))


def test_import__killed_with_its_processes_goes_on(tmp_path: Path):
    few = source_files.admixed_calls(800, 1_000)
    # So many people that there are three chunks of variants.
    counts = np.tile(few.counts, (1, 200))
    many = source_files.Calls(counts, few.contigs, few.positions)
    source = source_files.write_pgen(tmp_path / "c.pgen", many)
    arguments = [COMMAND, "import", str(source), "--workers", "2", "--output"]
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True)
    marks = tmp_path / ".x.import" / "written"
    started = subprocess.Popen([*arguments, str(tmp_path / "x")])
    while not (marks.exists() and any(marks.iterdir())):
        assert started.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "x").exists()
    subprocess.run([*arguments, str(tmp_path / "x"), "--resume"], check=True)
    files = [
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.*.*")}
        for root in (tmp_path / "x", tmp_path / "whole")
    ]
    assert files[0] == files[1]
    assert not marks.exists()
