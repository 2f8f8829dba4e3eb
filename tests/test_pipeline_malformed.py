"""Malformed cohorts, through the command: one line, status 2, nothing written.

What libraries in C write to the real standard error counts as a line too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from pipeline import cli
from tests import helpers, source_files
from tests.source_files import Calls

CALLS = source_files.admixed_calls(40, 12, seed=4)
Case = Callable[[Path], str | Path]


def edit(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def cut(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def vcf(folder: Path, calls: Calls = CALLS, name: str = "c.vcf.gz") -> Path:
    return source_files.write_vcf_calls(folder / name, calls)


def vcf_text(folder: Path, old: str, new: str, count: int = 1) -> Path:
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    text = header + source_files.vcf_records(CALLS)
    assert old in text
    lines = text.replace(old, new, count).splitlines(keepends=True)
    records = "".join(line for line in lines if not line.startswith("#"))
    header = "".join(line for line in lines if line.startswith("#"))
    return source_files.write_vcf(folder / "c.vcf.gz", header, records)


def cut_vcf(folder: Path) -> Path:
    path = vcf(folder)
    cut(path, 60)
    return path


def cut_vcf_with_end_mark(folder: Path) -> Path:
    path = vcf(folder)
    cut(path, 200)
    path.write_bytes(path.read_bytes() + source_files.END_OF_BGZIP)
    return path


def unsorted_vcf(folder: Path) -> Path:
    half = len(CALLS.positions) // 2
    turned = [*CALLS.positions[:half][::-1], *CALLS.positions[half:]]
    return vcf(folder, Calls(CALLS.counts, CALLS.contigs, turned))


def vcf_without_index(folder: Path) -> Path:
    path = vcf(folder)
    Path(f"{path}.tbi").unlink()
    return path


def vcf_damaged_index(folder: Path) -> Path:
    path = vcf(folder)
    cut(Path(f"{path}.tbi"), 80)
    return path


def plain_vcf(folder: Path) -> Path:
    path = folder / "c.vcf"
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    path.write_text(header + source_files.vcf_records(CALLS))
    return path


def empty_vcf(folder: Path) -> Path:
    (folder / "c.vcf.gz").touch()
    Path(f"{folder / 'c.vcf.gz'}.tbi").touch()
    return folder / "c.vcf.gz"


def header_only_vcf(folder: Path) -> Path:
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    return source_files.write_vcf(folder / "c.vcf.gz", header, "")


def text_in_genotypes(folder: Path) -> Path:
    return vcf_text(folder, "GT\t0/1", "GT\tA/G")


def vcf_of_a_person_twice(folder: Path) -> Path:
    return vcf_text(folder, "person3\t", "person2\t")


def vcfs_of_other_people(folder: Path) -> str:
    vcf(folder, name="chr1.vcf.gz")
    header = source_files.vcf_header(CALLS.people[::-1], ["3"])
    records = source_files.vcf_records(CALLS).replace("\n2\t", "\n1\t")
    records = "".join(f"3{line[1:]}\n" for line in records.splitlines())
    source_files.write_vcf(folder / "chr3.vcf.gz", header, records)
    return f"{folder}/chr*.vcf.gz"


def pattern_of_no_file(folder: Path) -> str:
    return f"{folder}/chr*.vcf.gz"


def bed(folder: Path, calls: Calls = CALLS) -> Path:
    return source_files.write_bed(folder / "c.bed", calls)


def changed_bed(suffix: str, old: str, new: str) -> Case:
    def make(folder: Path) -> Path:
        path = bed(folder)
        edit(path.with_suffix(suffix), old, new)
        return path

    return make


def bed_bytes(change: Callable[[bytes], bytes]) -> Case:
    def make(folder: Path) -> Path:
        path = bed(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def bed_of_unsorted_contigs(folder: Path) -> Path:
    contigs = ["1", "2"] * (len(CALLS.contigs) // 2)
    return bed(folder, Calls(CALLS.counts, contigs, CALLS.positions))


def bed_of_more_people(folder: Path) -> Path:
    path = bed(folder)
    with path.with_suffix(".fam").open("a") as fam:
        fam.write("F\tsomeone\t0\t0\t0\t-9\n")
    return path


def bed_with_a_variant_twice(folder: Path) -> Path:
    positions = list(CALLS.positions)
    positions[5] = positions[4]
    return bed(folder, Calls(CALLS.counts, CALLS.contigs, positions))


def pgen(folder: Path) -> Path:
    return source_files.write_pgen(folder / "c.pgen", CALLS)


def changed_pgen(suffix: str, old: str, new: str) -> Case:
    def make(folder: Path) -> Path:
        path = pgen(folder)
        edit(path.with_suffix(suffix), old, new)
        return path

    return make


def pgen_bytes(change: Callable[[bytes], bytes]) -> Case:
    def make(folder: Path) -> Path:
        path = pgen(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def bgen(**changes: Any) -> Case:
    def make(folder: Path) -> Path:
        return source_files.write_bgen(folder / "c.bgen", CALLS, **changes)

    return make


def bgen_bytes(change: Callable[[bytes], bytes]) -> Case:
    def make(folder: Path) -> Path:
        path = source_files.write_bgen(folder / "c.bgen", CALLS)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def bgen_with_other_people(folder: Path) -> Path:
    path = source_files.write_bgen(folder / "c.bgen", CALLS)
    path.with_suffix(".sample").write_text("ID_1 ID_2 missing\n0 0 0\na a 0\n")
    return path


# Chances of 0 and of 1 copy that together exceed 1.
IMPOSSIBLE = np.full((*CALLS.counts.shape, 2), 0.8)


def store(**changes: Any) -> Case:
    def make(folder: Path) -> str:
        genotypes = helpers.random_genotypes(30, 8)
        return helpers.write_cohort(folder / "c.vcz", genotypes, **changes)

    return make


def empty_store(folder: Path) -> str:
    return helpers.write_cohort(folder / "c.vcz", np.zeros((0, 8, 2), np.int8))


def store_of_format_3(folder: Path) -> Path:
    (folder / "c.vcz").mkdir()
    (folder / "c.vcz" / "zarr.json").write_text('{"zarr_format": 3}')
    return folder / "c.vcz"


def not_a_store(folder: Path) -> Path:
    (folder / "c.vcz").mkdir()
    return folder / "c.vcz"


def damaged_store(folder: Path) -> str:
    url = store()(folder)
    cut(folder / "c.vcz" / "call_genotype" / "1.0.0", 5)
    return str(url)


SAME_PLACE = np.array([1000] * 2 + [1000 * i for i in range(3, 31)], np.int32)

COHORTS: list[tuple[Case, str]] = [
    (cut_vcf, "c.vcf.gz does not end as bgzip ends files: it is cut short"),
    (cut_vcf_with_end_mark, "20 records can be read, and the index counts 40"),
    (unsorted_vcf, "records can be read, and the index counts 40"),
    (vcf_without_index, "c.vcf.gz has no index (.csi or .tbi) beside it"),
    (vcf_damaged_index, "check that it and its index are whole"),
    (plain_vcf, "c.vcf is not compressed"),
    (empty_vcf, "c.vcf.gz does not end as bgzip ends files"),
    (header_only_vcf, "c.vcf.gz holds no variants"),
    (text_in_genotypes, "c.vcf.gz could not be imported"),
    (vcf_of_a_person_twice, "c.vcf.gz could not be imported"),
    (vcfs_of_other_people, "chr3.vcf.gz has other people than"),
    (pattern_of_no_file, "chr*.vcf.gz matches no file; check the pattern"),
    (bed_bytes(lambda data: data[:-1]), "c.bed holds 122 bytes, but 40 variants"),
    (bed_bytes(lambda data: data + b"\0"), "c.bed holds 124 bytes"),
    (bed_bytes(lambda data: b"PK" + data), "PLINK 1 magic number"),
    (bed_bytes(lambda data: data[:2] + b"\0" + data[3:]), "stored person by person"),
    (changed_bed(".bim", "1\trs0\t0\t10\tG\tA\n", ""), "but 39 variants (.bim)"),
    (
        changed_bed(".fam", "F\tperson0\t0\t0\t0\t-9\n", ""),
        "has genotypes beyond the 11 people",
    ),
    (bed_of_more_people, "of 13 people (.fam) need 163"),
    (changed_bed(".fam", "person3", "person2"), "'person2' is in both row 3 and row 4"),
    (changed_bed(".bim", "\t10\t", "\tten\t"), "row 1: the position 'ten' is not a"),
    (changed_bed(".bim", "\tG\tA\n", "\tG\n"), "c.bim line 1 has 5 columns, not 6"),
    (bed_of_unsorted_contigs, "variant_position is not sorted within contigs"),
    (bed_with_a_variant_twice, "variants 4 and 5 are both 1:90:A:G; keep one"),
    (pgen_bytes(lambda data: data[:-30]), "c.pgen could not be imported"),
    (pgen_bytes(lambda data: data[:5]), "c.pgen could not be imported"),
    (pgen_bytes(lambda data: b"PK" + data), "PLINK magic number"),
    (
        changed_pgen(".psam", "F\tperson0\tNA\n", ""),
        "c.psam names 11 people, and",
    ),
    (changed_pgen(".psam", "person3", "person2"), "'person2' is in both row 3 and"),
    (
        changed_pgen(".pvar", "1\t10\trs0\tA\tG\n", ""),
        "c.pvar names 39 variants, and",
    ),
    (changed_pgen(".pvar", "\tREF", "\tRAF"), "c.pvar has no column REF"),
    (bgen_bytes(lambda data: data[:-30]), "fewer than its variants need"),
    (bgen_bytes(lambda data: data[: len(data) // 2]), "bytes, fewer than"),
    (bgen_bytes(lambda data: data[:10]), "c.bgen does not start as a BGEN file"),
    (bgen_bytes(lambda data: data.replace(b"bgen", b"nope", 1)), "start as a BGEN"),
    (bgen(probabilities=IMPOSSIBLE), "at variant 0 is not probabilities"),
    (bgen(phased=True), "phased or not diploid"),
    (bgen(ids=False), "c.bgen has no sample ids"),
    (bgen_with_other_people, "c.sample names 1 people, and"),
    (empty_store, "call_genotype has no variants"),
    (store_of_format_3, "is in zarr format 3"),
    (not_a_store, "is not a Zarr group (no .zgroup)"),
    (damaged_store, "c.vcz: chunk 1.0.0 of array call_genotype cannot be decoded"),
    (store(variant_position=SAME_PLACE), "variants 0 and 1 are both 1:1000:A:C"),
]


def name_of(case: Any) -> str:
    return getattr(case, "__qualname__", str(case)).split(".")[0]


@pytest.mark.parametrize(("case", "message"), COHORTS, ids=name_of)
def test_run__refuses_malformed_cohorts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: Case, message: str
):
    folder = tmp_path / "data"
    folder.mkdir()
    source = case(folder)
    before = contents(tmp_path)
    arguments = ["run", str(source), "--output", str(tmp_path / "out"), "-k", "2"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert_one_line(result, message, capfd)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (cut_vcf_with_end_mark, "20 records can be read, and the index counts 40"),
        (text_in_genotypes, "could not be imported"),
        (changed_bed(".fam", "person3", "person2"), "'person2' is in both row 3"),
        (pgen_bytes(lambda data: data[:-30]), "c.pgen could not be imported"),
        (bgen(probabilities=IMPOSSIBLE), "is not probabilities"),
    ],
    ids=name_of,
)
def test_import__refuses_malformed_cohorts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], case: Case, message: str
):
    source = case(tmp_path)
    before = contents(tmp_path)
    output = tmp_path / "new" / "folder" / "c.vcz"
    arguments = ["import", str(source), "--output", str(output), "--workers", "0"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert_one_line(result, message, capfd)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("k", "message"),
    [
        ("0", "0 is not in the range x>=1"),
        ("-3", "-3 is not in the range x>=1"),
        ("two", "'two' is not a valid integer"),
        (
            "5",
            "5 populations need 10 people, and 8 passed quality control; set -k",
        ),
    ],
)
def test_run__refuses_a_wrong_number_of_populations(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], k: str, message: str
):
    source = str(store()(tmp_path))
    before = contents(tmp_path)
    arguments = ["run", source, "--output", str(tmp_path / "out"), "-k", k, "--no-qc"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert_one_line(result, message, capfd)
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def assert_one_line(
    result: click.testing.Result, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert message in lines[0]
    assert result.stdout == ""
