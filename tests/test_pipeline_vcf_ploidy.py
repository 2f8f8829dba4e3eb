"""VCF files of higher ploidy are refused before they are imported."""

from pathlib import Path

import click.testing
import pytest

from pipeline import cli, ingest, ingest_vcf, vcf_ploidy
from pipeline.errors import InputError
from tests import source_files

CALLS = source_files.admixed_calls(40, 6)


def write(path: Path, rows: range, text: str = "0/0/0/1") -> Path:
    """A VCF file whose first person has calls of four alleles in some rows."""
    lines = source_files.vcf_records(CALLS).splitlines(keepends=True)
    for row in rows:
        fields = lines[row].split("\t")
        lines[row] = "\t".join([*fields[:9], text, *fields[10:]])
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    return source_files.write_vcf(path, header, "".join(lines))


def test_import__refuses_higher_ploidy_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write(tmp_path / "c.vcf.gz", range(3, 40))
    monkeypatch.setattr(ingest_vcf, "_explode", lambda *_: pytest.fail("imported"))
    output = str(tmp_path / "c.vcz")
    arguments = ["import", str(source), "--output", output, "--workers", "0"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    message = (
        "c.vcf.gz: 1:70 has a call of 4 alleles, and at most 2 are supported; keep"
    )
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["c.vcf.gz", "c.vcf.gz.tbi"]


def test_import__ends_with_the_first_part_of_higher_ploidy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write(tmp_path / "c.vcf.gz", range(15, 16), "0/1/1")
    monkeypatch.setattr(vcf_ploidy, "_FIRST_RECORDS", 10)
    parts = []
    explode = ingest_vcf._explode_partition

    def counted(columns: Path, number: int) -> None:
        parts.append(number)
        explode(columns, number)

    monkeypatch.setattr(ingest_vcf, "_explode_partition", counted)
    with pytest.raises(InputError, match=r"c\.vcf\.gz: a record has a call of 3 alle"):
        ingest.ingest(source, tmp_path / "c.vcz", n_workers=0)
    assert parts == [0], "the second contig was not read"
    assert not (tmp_path / "c.vcz").exists()


def test_import__takes_haploid_and_half_calls(tmp_path: Path):
    source = write(tmp_path / "c.vcf.gz", range(3, 9), "1")
    ingest.ingest(source, tmp_path / "c.vcz", n_workers=0)
    assert (tmp_path / "c.vcz" / "call_genotype").exists()
