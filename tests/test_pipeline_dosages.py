"""Dosages beside hard calls: what is lost without them, and reading them."""

import gzip
import logging
from pathlib import Path

import bio2zarr.vcf
import click.testing
import numpy as np
import pgenlib
import pytest
import xarray as xr

from estimator import packing
from pipeline import cli, ingest, sources
from pipeline.config import SourceConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import source_files

CALLS = source_files.admixed_calls(60, 40)
# PLINK 2 calls a genotype whose dosage is this far at most from a whole number.
THRESHOLD = 0.1


def blurred(seed: int = 1) -> np.ndarray:
    """Dosages of the calls, of which a third are between two whole numbers."""
    rng = np.random.default_rng(seed)
    shape = CALLS.counts.shape
    counts = np.maximum(CALLS.counts, 0)
    inwards = np.where(counts == 2, -1, 1) * rng.uniform(0.01, 0.3, shape)
    dosages = np.where(rng.random(shape) < 1 / 3, counts + inwards, counts)
    # As the file stores them.
    dosages = np.rint(dosages * 2**14) / 2**14
    return np.where(CALLS.counts < 0, np.nan, dosages)


def write_pgen(pgen: Path, dosages: np.ndarray) -> Path:
    source_files.write_pgen(pgen, CALLS)
    writer = pgenlib.PgenWriter(
        bytes(pgen),
        dosages.shape[1],
        variant_ct=len(dosages),
        nonref_flags=False,
        dosage_present=True,
    )
    for row in dosages:
        writer.append_dosages(np.where(np.isnan(row), -9, row).astype(np.float64))
    writer.close()
    return pgen


def load(store: Path) -> xr.Dataset:
    with xr.open_zarr(store, chunks=None, mask_and_scale=False) as dataset:
        return dataset.load()


def test_pgen__says_how_many_calls_the_dosages_leave_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dosages = blurred()
    pgen = write_pgen(tmp_path / "c.pgen", dosages)
    with caplog.at_level(logging.WARNING):
        ingest.ingest(pgen, tmp_path / "c.vcz", n_workers=0)
    distance = np.abs(dosages - np.rint(dosages))
    (line,) = [m for m in caplog.messages if "--dosages" in m]
    lost = np.mean(distance > THRESHOLD)
    assert f"{100 * np.mean(distance > 2**-14):.2f} % of the genotypes" in line
    assert f"{100 * lost:.2f} % are missing" in line
    calls = load(tmp_path / "c.vcz")["call_genotype"].values
    assert (calls < 0).all(axis=2).mean() == pytest.approx(
        lost + np.isnan(dosages).mean()
    )


def test_pgen__dosages_are_read_where_they_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    dosages = blurred()
    pgen = write_pgen(tmp_path / "c.pgen", dosages)
    store = tmp_path / "c.vcz"
    arguments = ["import", str(pgen), "--output", str(store), "--workers", "0"]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, "--dosages"])
    assert result.exit_code == 0, result.output
    assert "missing" not in result.output
    found = load(store)
    assert "call_genotype" not in found
    np.testing.assert_allclose(found["call_dosage"].values, dosages, atol=2**-14)


def test_pgen__without_dosages_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pgen = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    with caplog.at_level(logging.WARNING):
        ingest.ingest(pgen, tmp_path / "c.vcz", n_workers=0)
    assert not caplog.messages
    ingest.ingest(
        pgen, tmp_path / "d.vcz", config=SourceConfig(dosages=True), n_workers=0
    )
    counts = np.where(CALLS.counts < 0, np.nan, CALLS.counts)
    np.testing.assert_array_equal(load(tmp_path / "d.vcz")["call_dosage"], counts)


FIELDS = {
    "DS": '##FORMAT=<ID=DS,Number={number},Type=Float,Description="Dosage">\n',
    "GP": '##FORMAT=<ID=GP,Number=G,Type=Float,Description="Probabilities">\n',
}


def write_vcf(
    path: Path, dosages: np.ndarray, fields: str = "GT:DS", number: str = "1"
) -> Path:
    """The calls and their dosages, or probabilities, in a VCF that declares all."""
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    declared = "".join(FIELDS.values()).format(number=number)
    lines = []
    for row, counts, values in zip(CALLS.rows, CALLS.counts, dosages, strict=True):
        calls = zip(counts.tolist(), values.tolist(), strict=True)
        texts = [
            ":".join(value_text(name, *call) for name in fields.split(":"))
            for call in calls
        ]
        contig, place, name = row
        start = [contig, str(place), name, "A", "G", ".", "PASS", ".", fields]
        lines.append("\t".join([*start, *texts]) + "\n")
    head = header.replace("#CHROM", declared + "#CHROM")
    return source_files.write_vcf(path, head, "".join(lines))


def value_text(name: str, count: int, dosage: float) -> str:
    if name == "GT":
        return {0: "0/0", 1: "0|1", 2: "1/1", -1: "./."}[count]
    if np.isnan(dosage):
        return "."
    if name == "DS":
        return f"{dosage:.6f}"
    # All on the two genotypes beside the dosage.
    low = min(int(dosage), 1)
    chances = [0.0, 0.0, 0.0]
    chances[low], chances[low + 1] = 1 - (dosage - low), dosage - low
    return ",".join(f"{chance:.6f}" for chance in chances)


@pytest.mark.parametrize("number", ["1", "A"])
@pytest.mark.parametrize(
    ("fields", "options"), [("DS", []), ("DS", ["--dosages"]), ("GT:DS", ["--dosages"])]
)
def test_vcf__ds_is_read_as_dosages(
    tmp_path: Path, number: str, fields: str, options: list[str]
):
    dosages = blurred()
    vcf = write_vcf(tmp_path / "c.vcf.gz", dosages, fields, number)
    store = tmp_path / "c.vcz"
    arguments = ["import", str(vcf), "--output", str(store), "--workers", "0"]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    found = load(store)
    assert not [name for name in found if str(name).startswith("call_genotype")]
    np.testing.assert_allclose(found["call_dosage"].values, dosages, atol=1e-6)
    assert sources.open_source(str(store), tmp_path).has_dosages


def test_vcf__genotypes_are_read_where_both_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    vcf = write_vcf(tmp_path / "c.vcf.gz", blurred())
    with caplog.at_level(logging.INFO):
        ingest.ingest(vcf, tmp_path / "c.vcz", n_workers=0)
    assert "genotypes are read; --dosages reads DS instead" in caplog.text
    cohort = sources.open_source(str(tmp_path / "c.vcz"), tmp_path)
    assert not cohort.has_dosages


@pytest.mark.parametrize("number", ["1", "A"])
def test_store__of_bio2zarr_with_ds_alone_is_read(tmp_path: Path, number: str):
    dosages = blurred()
    vcf = write_vcf(tmp_path / "c.vcf.gz", dosages, "DS", number)
    # Without GT in the header, bio2zarr makes no genotypes.
    declared = FIELDS["DS"].format(number=number)
    people = source_files.vcf_header(CALLS.people, ["1", "2"])
    head = "".join(
        line for line in people.splitlines(keepends=True) if "ID=GT" not in line
    ).replace("#CHROM", declared + "#CHROM")
    records = gzip.decompress(vcf.read_bytes()).decode().splitlines(keepends=True)
    text = "".join(line for line in records if not line.startswith("#"))
    source_files.write_vcf(vcf, head, text)
    bio2zarr.vcf.convert([vcf], tmp_path / "c.vcz", worker_processes=0)
    cohort = sources.open_source(str(tmp_path / "c.vcz"), tmp_path)
    assert (cohort.calls_name, cohort.has_dosages) == ("call_DS", True)
    output = tmp_path / "out"
    arguments = ["prepare", cohort.url, "--output", str(output), "--workers", "1"]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, "--no-qc"])
    assert result.exit_code == 0, result.output
    packed = Store.open(output, "prepared").read("call_genotype_packed")
    alternate = packing.unpack_alleles(packed, len(dosages)).alternate
    np.testing.assert_allclose(
        np.where(np.isnan(dosages.T), 0, dosages.T), alternate, atol=2**-14
    )


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ("GT", ["--dosages"], "holds no dosages (FORMAT/DS); leave --dosages out"),
        ("GP", [], "holds no genotypes (GT) or dosages; plink2 --vcf "),
    ],
)
def test_vcf__without_the_field_names_the_remedy(
    tmp_path: Path, fields: str, options: list[str], message: str
):
    vcf = write_vcf(tmp_path / "c.vcf.gz", blurred(), fields)
    arguments = ["import", str(vcf), "--output", str(tmp_path / "c"), "--workers", "0"]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, *options])
    assert result.exit_code == 2
    assert message in result.stderr


def test_store__with_genotypes_is_not_read_as_dosages(tmp_path: Path):
    pgen = source_files.write_pgen(tmp_path / "c.pgen", CALLS)
    ingest.ingest(pgen, tmp_path / "c.vcz", n_workers=0)
    config = SourceConfig(dosages=True)
    with pytest.raises(InputError, match="has genotypes .* import these with it"):
        sources.open_source(str(tmp_path / "c.vcz"), tmp_path, config)


def test_bed__has_no_dosages(tmp_path: Path):
    bed = source_files.write_bed(tmp_path / "c.bed", CALLS)
    config = SourceConfig(dosages=True)
    with pytest.raises(InputError, match="holds no dosages; leave --dosages out"):
        ingest.ingest(bed, tmp_path / "c.vcz", config=config, n_workers=0)


def test_ingest__goes_on_only_with_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pgen = write_pgen(tmp_path / "c.pgen", blurred())
    monkeypatch.setattr("pipeline.vcf_zarr.write_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ingest.ingest(pgen, tmp_path / "c.vcz", n_workers=0)
    monkeypatch.undo()
    config = SourceConfig(dosages=True)
    with pytest.raises(InputError, match="begun from other files"):
        ingest.ingest(pgen, tmp_path / "c.vcz", config=config, n_workers=0, resume=True)
    ingest.ingest(pgen, tmp_path / "c.vcz", n_workers=0, resume=True)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_run__reads_dosages_of_a_pgen(tmp_path: Path):
    pgen = write_pgen(tmp_path / "c.pgen", blurred())
    arguments = ["run", str(pgen), "--output", str(tmp_path / "out"), "-k", "2"]
    options = ["--no-qc", "--workers", "1", "--dosages"]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    prepared = Store.open(tmp_path / "out" / "prepared.zarr", "prepared")
    assert prepared.read("call_genotype_packed").dtype == np.uint64
    assert prepared.attrs["config"]["source"]["dosages"] is True
