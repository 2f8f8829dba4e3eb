"""Writers of the files that cohorts come in, by their public specifications.

All take a `Calls`, so that the same genotypes can be written in every format.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pgenlib

BED_CODES = {2: 0b00, -1: 0b01, 1: 0b10, 0: 0b11}
END_OF_BGZIP = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_VCF_TEXT = {0: "0/0", 1: "0/1", 2: "1/1", -1: "./."}


@dataclass(frozen=True)
class Calls:
    """Genotypes and what they are of.

    Attributes
    ----------
    counts
        Alternate alleles, (variants, people); -1 is missing.
    contigs, positions
        Of each variant. Positions lie below 16,384, which the VCF index needs.
    """

    counts: np.ndarray
    contigs: list[str]
    positions: list[int]

    @property
    def people(self) -> list[str]:
        return [f"person{number}" for number in range(self.counts.shape[1])]

    @property
    def names(self) -> list[str]:
        return [f"rs{number}" for number in range(len(self.counts))]

    @property
    def rows(self) -> list[tuple[str, int, str]]:
        return list(zip(self.contigs, self.positions, self.names, strict=True))


def admixed_calls(n_variants: int, n_people: int, *, seed: int = 0) -> Calls:
    """Two populations, their mixtures, missing calls, on two chromosomes."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.1, 0.9, (n_variants, 2))
    share = rng.beta(0.4, 0.4, n_people)
    mixed = frequency @ np.stack([share, 1 - share])
    counts = rng.binomial(2, mixed).astype(np.int8)
    counts[rng.random(counts.shape) < 0.03] = -1
    half = n_variants // 2
    contigs = ["1"] * half + ["2"] * (n_variants - half)
    positions = [*range(10, 10 + 20 * half, 20), *range(5, 5 + 20 * half, 20)]
    return Calls(counts, contigs, positions[:n_variants])


def pack_bed(counts: np.ndarray) -> bytes:
    """PLINK's variant-major bytes, four people a byte from the lowest bits up."""
    rows = []
    for row in counts:
        codes = [BED_CODES[int(count)] for count in row]
        codes += [0] * (-len(codes) % 4)
        quads = np.array(codes, np.uint8).reshape(-1, 4)
        rows.append((quads << np.array([0, 2, 4, 6], np.uint8)).sum(1).astype(np.uint8))
    return b"\x6c\x1b\x01" + np.concatenate(rows).tobytes()


def write_bed(bed: Path, calls: Calls) -> Path:
    """A PLINK 1 fileset whose allele 1 is the alternate G, allele 2 the reference A."""
    bed.write_bytes(pack_bed(calls.counts))
    bim = (f"{c}\t{name}\t0\t{place}\tG\tA\n" for c, place, name in calls.rows)
    bed.with_suffix(".bim").write_text("".join(bim))
    fam = (f"F\t{person}\t0\t0\t0\t-9\n" for person in calls.people)
    bed.with_suffix(".fam").write_text("".join(fam))
    return bed


def write_pgen(
    pgen: Path, calls: Calls, alternates: Sequence[str] | None = None
) -> Path:
    """A PLINK 2 fileset, with the text of ALT of each variant; the first is carried."""
    alternates = alternates or ["G"] * len(calls.counts)
    n_alleles = [2 + text.count(",") for text in alternates]
    writer = pgenlib.PgenWriter(
        bytes(pgen),
        calls.counts.shape[1],
        variant_ct=len(calls.counts),
        nonref_flags=False,
        allele_ct_limit=max(n_alleles),
    )
    for row, count in zip(calls.counts, n_alleles, strict=True):
        alleles = np.stack([row == 2, row > 0], axis=1).astype(np.int32)
        alleles[row < 0] = -9
        writer.append_alleles(alleles.ravel(), allele_ct=count)
    writer.close()
    rows = zip(calls.rows, alternates, strict=True)
    lines = (f"{c}\t{place}\t{name}\tA\t{text}\n" for (c, place, name), text in rows)
    header = "##source=test\n#CHROM\tPOS\tID\tREF\tALT\n"
    pgen.with_suffix(".pvar").write_text(header + "".join(lines))
    people = (f"F\t{person}\tNA\n" for person in calls.people)
    pgen.with_suffix(".psam").write_text("#FID\tIID\tSEX\n" + "".join(people))
    return pgen


def write_bgen(
    bgen: Path,
    calls: Calls,
    *,
    probabilities: np.ndarray | None = None,
    bits: int = 8,
    alternates: Sequence[str] | None = None,
    phased: bool = False,
    ids: bool = True,
) -> Path:
    """A BGEN 1.2 file: layout 2, zlib, one block of 8 or 16 bits a probability.

    Parameters
    ----------
    probabilities
        Of 0 and of 1 copy of the second allele, (variants, people, 2); by default
        those of the hard calls.
    alternates
        Text of the alternate alleles of each variant; those beyond the first nobody
        carries.
    phased
        Write the flag of phased calls, with a probability for each haplotype.
    ids
        Write the block of sample ids.
    """
    if probabilities is None:
        probabilities = np.stack([calls.counts == 0, calls.counts == 1], axis=2)
    people = b"".join(_text16(person) for person in calls.people)
    sample_block = struct.pack("<II", 8 + len(people), len(calls.people)) + people
    sample_block = sample_block if ids else b""
    flags = 1 | 2 << 2 | int(ids) << 31
    shape = calls.counts.shape
    header = struct.pack("<III4sI", 20, *shape, b"bgen", flags)
    parts = [struct.pack("<I", 20 + len(sample_block)), header, sample_block]
    texts = alternates or ["G"] * len(calls.counts)
    for row, text, known, chances in zip(
        calls.rows, texts, calls.counts >= 0, probabilities, strict=True
    ):
        alleles = ["A", *text.split(",")]
        data = _probability_block(known, chances, bits, len(alleles), phased)
        packed = zlib.compress(data)
        contig, place, name = row
        parts += [_text16(name), _text16(name), _text16(contig)]
        parts += [struct.pack("<IH", place, len(alleles))]
        parts += [struct.pack("<I", len(a)) + a.encode() for a in alleles]
        parts += [struct.pack("<II", 4 + len(packed), len(data)), packed]
    bgen.write_bytes(b"".join(parts))
    return bgen


def _text16(text: str) -> bytes:
    return struct.pack("<H", len(text)) + text.encode()


def _probability_block(
    known: np.ndarray, chances: np.ndarray, bits: int, n_alleles: int, phased: bool
) -> bytes:
    n_people = len(known)
    head = struct.pack("<IHBB", n_people, n_alleles, 2, 2)
    # The highest bit says that nothing is known. Genotypes are in the order AA, AG,
    # GG, and those of further alleles.
    ploidy = np.where(known, 2, 2 | 0x80).astype(np.uint8)
    n_genotypes = n_alleles * (n_alleles + 1) // 2
    stored = np.zeros((n_people, n_genotypes - 1))
    stored[known, :2] = chances[known]
    if n_genotypes > 3:
        stored[known, 2] = 1 - chances[known].sum(axis=1)
    scaled = np.rint(stored * (2**bits - 1)).astype(f"<u{bits // 8}")
    return head + ploidy.tobytes() + bytes([phased, bits]) + scaled.tobytes()


def bgzip_block(data: bytes) -> bytes:
    """One BGZF block: a gzip member whose extra field holds its own length."""
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(data) + deflate.flush()
    head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, 0)
    size = len(head) + len(body) + 8
    head = head[:-2] + struct.pack("<H", size - 1)
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def vcf_header(people: list[str], contigs: list[str]) -> str:
    lines = ["##fileformat=VCFv4.2"]
    lines += [f"##contig=<ID={contig},length=20000>" for contig in contigs]
    lines += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    return "\n".join([*lines, "\t".join([*columns, *people])]) + "\n"


def vcf_records(calls: Calls) -> str:
    lines = []
    for (contig, place, name), row in zip(calls.rows, calls.counts, strict=True):
        texts = [_VCF_TEXT[count] for count in row.tolist()]
        fields = [contig, str(place), name, "A", "G", ".", "PASS", ".", "GT", *texts]
        lines.append("\t".join(fields) + "\n")
    return "".join(lines)


def write_vcf(path: Path, header: str, records: str) -> Path:
    """A bgzipped VCF with a tabix index; each contig begins a block of its own."""
    by_contig: dict[str, str] = {}
    for line in records.splitlines(keepends=True):
        contig = line.split("\t")[0]
        by_contig[contig] = by_contig.get(contig, "") + line
    content = bgzip_block(header.encode())
    bins = b""
    for text in by_contig.values():
        begin = len(content) << 16
        data = text.encode()
        for start in range(0, len(data), 60_000):
            content += bgzip_block(data[start : start + 60_000])
        end = len(content) << 16
        # All records lie in the first bin of 16 kb; then the bin that counts them.
        bins += struct.pack("<iIiQQ", 2, 4681, 1, begin, end)
        bins += struct.pack("<IiQQQQ", 37450, 2, begin, end, text.count("\n"), 0)
        bins += struct.pack("<iQ", 1, begin)
    names = b"".join(contig.encode() + b"\0" for contig in by_contig)
    index = struct.pack(
        "<4s8i", b"TBI\1", len(by_contig), 2, 1, 2, 0, 35, 0, len(names)
    )
    path.write_bytes(content + END_OF_BGZIP)
    Path(f"{path}.tbi").write_bytes(bgzip_block(index + names + bins) + END_OF_BGZIP)
    return path


def write_vcf_calls(path: Path, calls: Calls) -> Path:
    header = vcf_header(calls.people, list(dict.fromkeys(calls.contigs)))
    return write_vcf(path, header, vcf_records(calls))
