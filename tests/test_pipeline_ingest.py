import errno
import json
from pathlib import Path

import numpy as np
import pytest
import sgkit

from pipeline import encode, ingest, pieces
from pipeline.errors import InputError
from tests.source_files import END_OF_BGZIP, bgzip_block, pack_bed, write_vcf

HAPMAP3 = Path(__file__).parents[2] / "shared" / "data" / "hapmap3" / "hapmap3.bed"

# Alternate alleles (copies of allele 1) of three variants in five people.
COUNTS = np.array([[0, 1, 2, -1, 0], [2, 2, 1, 0, -1], [0, 0, 0, 0, 0]], np.int8)
BIM = "1 rs1 0 100 A G\n1 rs2 0 200 C TT\n2 . 0 50 0 T\n"
FAM = "".join(f"F{i} person{i} 0 0 0 -9\n" for i in range(5))

VCF_HEADER = """\
##fileformat=VCFv4.2
##contig=<ID=1,length=10000>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tann\tbob
"""
VCF_RECORDS = """\
1\t100\trs1\tA\tG\t.\tPASS\t.\tGT\t0|1\t./.
1\t200\trs2\tC\tT,G\t.\tPASS\t.\tGT\t1/1\t0/2
"""


def load(path):
    return sgkit.load_dataset(path, mask_and_scale=False).load()


def alternate_counts(dataset):
    genotypes = dataset.call_genotype.values
    missing = (genotypes < 0).any(axis=2)
    return np.where(missing, -1, genotypes.sum(axis=2))


def unpack_bed(bed, n_variants, n_samples):
    """Copies of allele 1, by plain numpy: the oracle for real filesets."""
    packed = np.fromfile(bed, np.uint8)[3:].reshape(n_variants, -1)
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    copies = np.array([2, -1, 1, 0], np.int8)
    return copies[codes.reshape(n_variants, -1)[:, :n_samples]]


def plink_files(folder, bed=None, bim=BIM, fam=FAM):
    content = {".bed": pack_bed(COUNTS) if bed is None else bed, ".bim": bim}
    content[".fam"] = fam
    for suffix, data in content.items():
        if data is not None:
            data = data.encode() if isinstance(data, str) else data
            (folder / f"toy.v1{suffix}").write_bytes(data)
    return folder / "toy.v1.bed"


def vcf_files(folder, records=VCF_RECORDS, header=VCF_HEADER):
    return write_vcf(folder / "toy.vcf.gz", header, records)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.bed", True),
        (Path("b/a.vcf.gz"), True),
        ("a.vcf.bgz", True),
        ("a.bcf", True),
        ("a.vcf", True),
        ("a.vcz", False),
        ("s3://bucket/a.zarr", False),
        ("chr*.vcf.gz", True),
        ("a.pgen", True),
        ("a.bgen", True),
        ("bed", False),
    ],
)
def test_needs_import__by_suffix(source, expected):
    assert ingest.needs_import(source) is expected


def test_ingest__plink_toy(tmp_path):
    ingest.ingest(plink_files(tmp_path), tmp_path / "toy.vcz")
    dataset = load(tmp_path / "toy.vcz")
    assert dataset.call_genotype.dtype == np.int8
    np.testing.assert_array_equal(alternate_counts(dataset), COUNTS)
    assert (dataset.call_genotype.values[0, 3] == -1).all()
    assert dataset.sample_id.values.tolist() == [f"person{i}" for i in range(5)]
    alleles = dataset.variant_allele.values.tolist()
    assert alleles == [["G", "A"], ["TT", "C"], ["T", "0"]]
    assert dataset.variant_position.values.tolist() == [100, 200, 50]
    assert dataset.contig_id.values.tolist() == ["1", "2"]
    assert dataset.variant_contig.values.tolist() == [0, 0, 1]


def test_ingest__genotypes_have_no_fill_value(tmp_path):
    ingest.ingest(plink_files(tmp_path), tmp_path / "toy.vcz")
    array = json.loads((tmp_path / "toy.vcz" / "call_genotype" / ".zarray").read_text())
    assert array["fill_value"] is None
    assert array["zarr_format"] == 2
    assert (tmp_path / "toy.vcz" / ".zmetadata").is_file()


@pytest.mark.skipif(not HAPMAP3.exists(), reason="shared data are not here")
def test_ingest__plink_hapmap3_equals_numpy(tmp_path):
    ingest.ingest(HAPMAP3, tmp_path / "hapmap3.vcz")
    dataset = load(tmp_path / "hapmap3.vcz")
    bim = [row.split() for row in HAPMAP3.with_suffix(".bim").read_text().splitlines()]
    fam = [row.split() for row in HAPMAP3.with_suffix(".fam").read_text().splitlines()]
    expected = unpack_bed(HAPMAP3, len(bim), len(fam))
    np.testing.assert_array_equal(alternate_counts(dataset), expected)
    assert dataset.variant_allele.values.tolist() == [[row[5], row[4]] for row in bim]
    assert dataset.variant_position.values.tolist() == [int(row[3]) for row in bim]
    assert dataset.sample_id.values.tolist() == [row[1] for row in fam]


def test_ingest__vcf(tmp_path, capfd):
    ingest.ingest(vcf_files(tmp_path), tmp_path / "toy.vcz")
    dataset = load(tmp_path / "toy.vcz")
    assert dataset.call_genotype.dtype == np.int8
    assert dataset.call_genotype.values.tolist() == [
        [[0, 1], [-1, -1]],
        [[1, 1], [0, 2]],
    ]
    assert dataset.variant_allele.values.tolist() == [["A", "G", ""], ["C", "T", "G"]]
    assert dataset.sample_id.values.tolist() == ["ann", "bob"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "toy.vcf.gz",
        "toy.vcf.gz.tbi",
        "toy.vcz",
    ]
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.fixture
def started(monkeypatch):
    """Numbers of processes that were started."""
    numbers = []

    def start(n_workers):
        numbers.append(n_workers)
        return processes(n_workers)

    processes = pieces._processes
    monkeypatch.setattr(pieces, "_processes", start)
    return numbers


def test_ingest__several_processes_give_the_same_genotypes(
    tmp_path, monkeypatch, started
):
    monkeypatch.setattr(encode, "_CALLS_PER_PROCESS", 1)
    monkeypatch.setattr(encode, "chunk_sizes", lambda n_samples: (1, n_samples))
    ingest.ingest(plink_files(tmp_path), tmp_path / "toy.vcz", n_workers=2)
    np.testing.assert_array_equal(alternate_counts(load(tmp_path / "toy.vcz")), COUNTS)
    assert started == [2]


def test_ingest__few_calls_start_no_process(tmp_path, monkeypatch, started):
    monkeypatch.setattr(encode, "chunk_sizes", lambda n_samples: (1, n_samples))
    ingest.ingest(plink_files(tmp_path), tmp_path / "toy.vcz", n_workers=2)
    np.testing.assert_array_equal(alternate_counts(load(tmp_path / "toy.vcz")), COUNTS)
    assert started == []


def test_ingest__refuses_or_replaces_an_existing_store(tmp_path):
    bed = plink_files(tmp_path)
    destination = tmp_path / "toy.vcz"
    ingest.ingest(bed, destination)
    with pytest.raises(InputError, match="toy.vcz already exists; pass --overwrite"):
        ingest.ingest(bed, destination)
    bed = plink_files(tmp_path, bed=pack_bed(2 - np.abs(COUNTS)))
    ingest.ingest(bed, destination, overwrite=True)
    np.testing.assert_array_equal(
        alternate_counts(load(destination)), 2 - np.abs(COUNTS)
    )


def test_ingest__a_failed_replacement_keeps_the_old_store(tmp_path):
    ingest.ingest(plink_files(tmp_path), tmp_path / "toy.vcz")
    bed = plink_files(tmp_path, bed=b"\x6c\x1b\x01")
    with pytest.raises(InputError, match="holds 3 bytes"):
        ingest.ingest(bed, tmp_path / "toy.vcz", overwrite=True)
    np.testing.assert_array_equal(alternate_counts(load(tmp_path / "toy.vcz")), COUNTS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bim": None}, r"toy.v1.bim does not exist; .*needs its .bim and .fam"),
        ({"fam": None}, r"toy.v1.fam does not exist; .*needs its .bim and .fam"),
        ({"bim": ""}, r"toy.v1.bim is empty"),
        ({"fam": "\n"}, r"toy.v1.fam is empty"),
        ({"bed": b""}, "magic number; check that it holds PLINK's"),
        ({"bed": b"PK\x03\x04"}, "magic number"),
        ({"bed": b"\x6c\x1b\x00" + bytes(6)}, "stored person by person"),
        ({"bed": pack_bed(COUNTS)[:-1]}, r"holds 8 bytes, but 3 variants.* need 9;"),
        ({"bed": pack_bed(COUNTS) + b"\0"}, "holds 10 bytes"),
        ({"bim": BIM + "2 rs4 0 60 A\n"}, "toy.v1.bim line 4 has 5 columns, not 6"),
        (
            {"bim": BIM.replace("200", "far")},
            "row 2: the position 'far' is not a whole",
        ),
    ],
)
def test_ingest__refuses_bad_plink_and_leaves_nothing(tmp_path, files, message):
    bed = plink_files(tmp_path, **files)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        ingest.ingest(bed, tmp_path / "toy.vcz")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent.bed", "absent.bed does not exist or is not a file"),
        ("absent.vcf.gz", "absent.vcf.gz does not exist or is not a file"),
        ("cohort.vcz", "is neither .bed, .pgen, .bgen, .vcf.gz nor .bcf"),
        ("s3://bucket/chr1.vcf.gz", "is remote; copy it to this machine"),
    ],
)
def test_ingest__refuses_what_it_cannot_reach(tmp_path, source, message):
    source = source if "://" in source else tmp_path / source
    with pytest.raises(InputError, match=message):
        ingest.ingest(source, tmp_path / "x.vcz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.bed", "a.vcf.gz"],
            r"of several formats \(PLINK 1, VCF\); import files of",
        ),
        (["a.vcf.gz", "b.vcf.gz", "a.vcf.gz"], "a.vcf.gz is named twice"),
        (["a.bed", "b.bed"], "2 PLINK 1 files were given, .* merge them with plink"),
        (["a.pgen"], r"a.pvar does not exist; .*needs its .pvar and .psam beside it"),
        (["x*.bgen"], "matches no file; check the pattern"),
    ],
)
def test_ingest__refuses_files_that_are_no_cohort(tmp_path, names, message):
    for name in ("a.bed", "b.bed", "a.vcf.gz", "b.vcf.gz", "a.pgen"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        ingest.ingest([tmp_path / name for name in names], tmp_path / "x.vcz")
    assert not (tmp_path / "x.vcz").exists()


def test_ingest__refuses_an_unindexed_vcf(tmp_path):
    path = vcf_files(tmp_path)
    Path(f"{path}.tbi").unlink()
    with pytest.raises(InputError, match="no index .*bcftools index makes it"):
        ingest.ingest(path, tmp_path / "toy.vcz")
    plain = tmp_path / "toy.vcf"
    plain.write_text(VCF_HEADER + VCF_RECORDS)
    with pytest.raises(InputError, match="not compressed; bcftools view -Oz"):
        ingest.ingest(plain, tmp_path / "toy.vcz")


def test_ingest__refuses_a_vcf_without_genotypes(tmp_path):
    header = "".join(
        line.replace("\tFORMAT\tann\tbob", "")
        for line in VCF_HEADER.splitlines(keepends=True)
        if "##FORMAT" not in line
    )
    path = vcf_files(tmp_path, "1\t100\trs1\tA\tG\t.\tPASS\t.\n", header)
    with pytest.raises(InputError, match="names no people"):
        ingest.ingest(path, tmp_path / "toy.vcz")


def test_ingest__refuses_a_damaged_vcf_and_leaves_nothing(tmp_path):
    path = vcf_files(tmp_path)
    path.write_bytes(bgzip_block(b"not a VCF at all\n") + END_OF_BGZIP)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="toy.vcf.gz could not be imported"):
        ingest.ingest(path, tmp_path / "toy.vcz")
    assert sorted(tmp_path.iterdir()) == before


def test_ingest__again_in_one_process_reads_the_files_again(tmp_path):
    bed = plink_files(tmp_path)
    ingest.ingest(bed, tmp_path / "c.vcz", n_workers=0)
    plink_files(tmp_path, bim=BIM.replace("200", "250"))
    ingest.ingest(bed, tmp_path / "c.vcz", n_workers=0, overwrite=True)
    assert 250 in load(tmp_path / "c.vcz").variant_position.values.tolist()


MIXED = """1 \t rs1   0\t100 A,G  C
NA\tNA\t0\t200\tnull\tT
 X  x"1 0 300  T\tA
"""


def test_ingest__separates_columns_by_any_blanks(tmp_path):
    fam = "F NA 0 0 0 -9\nF\t 'b'\t0 0  0\tNA\n" + FAM.split("\n", 2)[2]
    bed = plink_files(tmp_path, bim=MIXED, fam=fam)
    ingest.ingest(bed, tmp_path / "c.vcz", n_workers=0)
    dataset = load(tmp_path / "c.vcz")
    assert dataset.variant_id.values.tolist() == ["rs1", "NA", 'x"1']
    assert dataset.contig_id.values.tolist() == ["1", "NA", "X"]
    assert dataset.variant_position.values.tolist() == [100, 200, 300]
    assert dataset.variant_allele.values.tolist()[:2] == [["C", "A,G"], ["T", "null"]]
    assert dataset.sample_id.values.tolist()[:2] == ["NA", "'b'"]
    np.testing.assert_array_equal(alternate_counts(dataset), COUNTS)


def test_source_digest__names_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    bed = plink_files(tmp_path)

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        InputError, match=r"toy\.v1\.bed cannot be read \(Permission denied"
    ):
        ingest.source_digest(bed)
