import pytest

from pipeline import genome_build
from pipeline.genome_build import UNKNOWN, contig_key, header_lines, identify


def test_identify__every_chromosome_of_every_build():
    for build, sizes in genome_build._LENGTHS.items():
        assert len(sizes) == 22
        for number, size in enumerate(sizes, start=1):
            assert identify({str(number): size}, []) == build
            assert identify({f"chr{number}": size}, []) == build


@pytest.mark.parametrize(
    ("lengths", "header", "build"),
    [
        ({}, [], UNKNOWN),
        ({"1": 1_000_000}, [], UNKNOWN),
        ({"X": 249250621}, [], UNKNOWN),
        ({"1": 249250621, "22": 50818468}, [], UNKNOWN),
        ({"chr1": 248956422}, [("reference", "hg19.fa")], "GRCh38"),
        ({"1": -1}, [("reference", "hg19.fa")], "GRCh37"),
        ({}, [("contig", "<ID=1,assembly=b37>")], "GRCh37"),
        ({}, [("assembly", "GRCh38.p14")], "GRCh38"),
        ({}, [("reference", "Homo_sapiens_assembly38.fasta")], "GRCh38"),
        ({}, [("reference", "ucsc.hg18.fasta")], "NCBI36"),
        ({}, [("reference", "chm13v2.0.fa")], "T2T-CHM13v2.0"),
        ({}, [("reference", "hg19-to-hg38")], UNKNOWN),
        ({}, [("source", "hg19")], UNKNOWN),
        ({}, [("reference", "b375.fa")], UNKNOWN),
    ],
)
def test_identify(lengths, header, build):
    assert identify(lengths, header) == build


def test_header_lines__as_bio2zarr_keeps_them():
    attrs = {"vcf_meta_information": [["reference", "x=1"], ["source", "y"]]}
    assert header_lines(attrs) == [("reference", "x=1"), ("source", "y")]
    text = "##fileformat=VCFv4.3\n##reference=x=1\n#CHROM\tPOS\n"
    expected = [("fileformat", "VCFv4.3"), ("reference", "x=1")]
    assert header_lines({"vcf_header": text}) == expected
    assert header_lines({}) == []


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1", "1"),
        ("chr1", "1"),
        ("CHR01", "1"),
        ("chrM", "MT"),
        ("M", "MT"),
        ("MT", "MT"),
        ("chrMT", "MT"),
        ("chrx", "X"),
        ("chr", "chr"),
        ("0", "0"),
        ("chr6_GL000256v2_alt", "6_GL000256v2_alt"),
    ],
)
def test_contig_key(name, key):
    assert contig_key(name) == key
