"""What an error message recommends works on the input that provokes the message.

Each case makes an input, imports it or runs on it, and looks for the message; then it
runs the command that the message holds, as it stands there, and imports what came of
it. With PLINK 2.00a3.5 and bcftools 1.16 (Debian 12's packages); a
case without its program is skipped.
"""

import gzip
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click.testing
import numpy as np
import pytest
import xarray as xr

from pipeline import cli, remedies
from tests import source_files
from tests.source_files import Calls

CALLS = source_files.admixed_calls(40, 12)
Write = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """An input, the message about it, and the command in the message.

    Attributes
    ----------
    write
        Makes the input in the working directory; returns what the command line takes.
    message
        Part of what is said of it.
    commands
        Patterns of the commands in the message; each is run.
    given
        What the message leaves out, because the user knows it: added to the command.
    names
        Words of the message that the user replaces.
    result
        Arguments of the import after it.
    command
        The command of streamixture that says it.
    n_variants
        Number of variants then.
    """

    write: Write
    message: str
    commands: tuple[str, ...]
    given: str = ""
    names: dict[str, str] = field(default_factory=dict)
    result: tuple[str, ...] = ("NEW.pgen",)
    command: str = "import"
    n_variants: int = len(CALLS.counts)


PLINK2 = r"plink2 .*?--out NEW"
PLINK2_LIST = r"plink2 --pmerge-list .*?--out NEW"
BCFTOOLS_NEW = r"bcftools view -Oz -o NEW.vcf.gz"


def forget_ids(bim: Path) -> None:
    rows = [line.split("\t") for line in bim.read_text().splitlines()]
    bim.write_text("".join("\t".join([r[0], ".", *r[2:]]) + "\n" for r in rows))


def duplicated(*, swapped: bool) -> Write:
    def write(_: Path) -> list[str]:
        positions = list(CALLS.positions)
        positions[5] = positions[4]
        calls = Calls(CALLS.counts, CALLS.contigs, positions)
        bed = source_files.write_bed(Path("c.bed"), calls)
        forget_ids(bed.with_suffix(".bim"))
        if swapped:
            rows = bed.with_suffix(".bim").read_text().splitlines()
            contig, name, cm, place, first, second = rows[5].split("\t")
            rows[5] = "\t".join([contig, name, cm, place, second, first])
            bed.with_suffix(".bim").write_text("\n".join(rows) + "\n")
        return ["c.bed"]

    return write


def unsorted(_: Path) -> list[str]:
    positions = list(CALLS.positions)
    positions[2], positions[3] = positions[3], positions[2]
    source_files.write_bed(Path("c.bed"), Calls(CALLS.counts, CALLS.contigs, positions))
    return ["c.bed"]


def by_contig() -> list[tuple[str, Calls]]:
    found = []
    for contig in dict.fromkeys(CALLS.contigs):
        rows = [i for i, name in enumerate(CALLS.contigs) if name == contig]
        positions = [CALLS.positions[row] for row in rows]
        calls = Calls(CALLS.counts[rows], [contig] * len(rows), positions)
        found.append((contig, calls))
    return found


def several(suffix: str, write_one: Callable[[Path, Calls], Path]) -> Write:
    def write(_: Path) -> list[str]:
        files = [write_one(Path(f"chr{c}{suffix}"), part) for c, part in by_contig()]
        for file in files:
            if suffix == ".bed":
                forget_ids(file.with_suffix(".bim"))
        names = [file.stem for file in files]
        Path("LIST").write_text("".join(f"{name}\n" for name in names))
        return [str(file) for file in files]

    return write


def person_by_person(_: Path) -> list[str]:
    bed = source_files.write_bed(Path("c.bed"), CALLS)
    codes = np.array([3, 2, 0, 1])[CALLS.counts].T
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    quads = codes.reshape(len(codes), -1, 4) << np.array([0, 2, 4, 6])
    packed = quads.sum(axis=2).astype(np.uint8)
    bed.write_bytes(b"\x6c\x1b\0" + packed.tobytes())
    return ["c.bed"]


def phased_bgen(_: Path) -> list[str]:
    text = source_files.vcf_header(CALLS.people, ["1", "2"])
    text += source_files.vcf_records(CALLS).replace("/", "|")
    return exported(text, "bgen-1.2")


def old_bgen(_: Path) -> list[str]:
    text = source_files.vcf_header(CALLS.people, ["1", "2"])
    return exported(text + source_files.vcf_records(CALLS), "bgen-1.1")


def haploid_bgen(_: Path) -> list[str]:
    text = source_files.vcf_header(CALLS.people, ["1", "2", "X"])
    text += source_files.vcf_records(CALLS)
    haploid = ["0/1", "1"] * (len(CALLS.people) // 2)
    text += "\t".join(["X", "3000000", ".", "A", "G", ".", ".", ".", "GT", *haploid])
    sexes = [f"{person} {2 - i % 2}" for i, person in enumerate(CALLS.people)]
    Path("sexes").write_text("\n".join(["#IID SEX", *sexes]) + "\n")
    return exported(text + "\n", "bgen-1.2", "--update-sex", "sexes")


def exported(vcf: str, kind: str, *options: str) -> list[str]:
    """A BGEN file that PLINK 2 writes of a VCF."""
    Path("from.vcf").write_text(vcf)
    plink = ["plink2", "--vcf", "from.vcf", *options, "--export", kind, "ref-first"]
    subprocess.run([*plink, "--out", "c"], check=True, capture_output=True)
    return ["c.bgen"]


def plain_vcf(_: Path) -> list[str]:
    text = source_files.vcf_header(CALLS.people, ["1", "2"])
    Path("c.vcf").write_text(text + source_files.vcf_records(CALLS))
    return ["c.vcf"]


def gzipped_vcf(_: Path) -> list[str]:
    plain_vcf(_)
    Path("c.vcf.gz").write_bytes(gzip.compress(Path("c.vcf").read_bytes()))
    return ["c.vcf.gz"]


def unindexed_vcf(_: Path) -> list[str]:
    source_files.write_vcf_calls(Path("c.vcf.gz"), CALLS)
    Path("c.vcf.gz.tbi").unlink()
    return ["c.vcf.gz"]


def unsorted_vcf(_: Path) -> list[str]:
    header = source_files.vcf_header(CALLS.people, ["1", "2"])
    records = source_files.vcf_records(CALLS).splitlines(keepends=True)
    records[3], records[9] = records[9], records[3]
    source_files.write_vcf(Path("c.vcf.gz"), header, "".join(records))
    return ["c.vcf.gz"]


def far_from_sorted_vcf(_: Path) -> list[str]:
    half = len(CALLS.positions) // 2
    turned = [*CALLS.positions[:half][::-1], *CALLS.positions[half:]]
    source_files.write_vcf_calls(
        Path("c.vcf.gz"), Calls(CALLS.counts, CALLS.contigs, turned)
    )
    return ["c.vcf.gz"]


def other_headers(_: Path) -> list[str]:
    first, second = (calls for _, calls in by_contig())
    source_files.write_vcf_calls(Path("chr1.vcf.gz"), first)
    header = source_files.vcf_header(CALLS.people, ["2"])
    declared = '##FILTER=<ID=q10,Description="Low">\n#CHROM'
    source_files.write_vcf(
        Path("chr2.vcf.gz"),
        header.replace("#CHROM", declared),
        source_files.vcf_records(second),
    )
    return ["chr1.vcf.gz", "chr2.vcf.gz"]


def person_twice(_: Path) -> list[str]:
    people = [*CALLS.people[:-1], CALLS.people[0]]
    header = source_files.vcf_header(people, ["1", "2"])
    source_files.write_vcf(Path("c.vcf.gz"), header, source_files.vcf_records(CALLS))
    Path("NAMES").write_text("".join(f"{person}\n" for person in CALLS.people))
    return ["c.vcf.gz"]


def other_order(_: Path) -> list[str]:
    first, second = (calls for _, calls in by_contig())
    source_files.write_vcf_calls(Path("chr1.vcf.gz"), first)
    people = CALLS.people
    people[2], people[4] = people[4], people[2]
    swapped = second.counts.copy()
    swapped[:, [2, 4]] = swapped[:, [4, 2]]
    calls = Calls(swapped, second.contigs, second.positions)
    header = source_files.vcf_header(people, ["2"])
    records = source_files.vcf_records(calls)
    source_files.write_vcf(Path("chr2.vcf.gz"), header, records)
    return ["chr1.vcf.gz", "chr2.vcf.gz"]


def probabilities_alone(_: Path) -> list[str]:
    header = source_files.vcf_header(CALLS.people, ["1", "2"]).replace(
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        '##FORMAT=<ID=GP,Number=G,Type=Float,Description="Probabilities">',
    )
    text = {"0/0": "1,0,0", "0/1": "0,1,0", "1/1": "0,0,1", "./.": "."}
    records = source_files.vcf_records(CALLS).replace("\tGT\t", "\tGP\t")
    for call, chances in text.items():
        records = records.replace(f"\t{call}", f"\t{chances}")
    source_files.write_vcf(Path("c.vcf.gz"), header, records)
    return ["c.vcf.gz"]


BGEN_RESULT = ("NEW.pgen", "--dosages")
CASES = {
    "a-variant-twice": Case(
        duplicated(swapped=False),
        "c.bed: variants 4 and 5 are both 1:90:A:G; keep one of them",
        (PLINK2,),
        given="--bfile c",
        command="prepare",
        n_variants=len(CALLS.counts) - 1,
    ),
    "a-variant-twice-the-other-way-round": Case(
        duplicated(swapped=True),
        "c.bed: variants 4 and 5 are both 1:90:",
        (PLINK2,),
        given="--bfile c",
        command="prepare",
        n_variants=len(CALLS.counts) - 1,
    ),
    "not-sorted": Case(
        unsorted,
        "c.bed: variant_position is not sorted within contigs",
        (PLINK2,),
        given="--bfile c",
        command="prepare",
    ),
    "several-bed": Case(
        several(".bed", source_files.write_bed),
        "2 PLINK 1 files were given, and only VCF may come in several",
        (PLINK2_LIST,),
    ),
    "several-pgen": Case(
        several(".pgen", source_files.write_pgen),
        "2 PLINK 2 files were given, and only VCF may come in several",
        (PLINK2_LIST,),
    ),
    "several-bgen": Case(
        several(".bgen", source_files.write_bgen),
        "2 BGEN files were given, and only VCF may come in several",
        (r"plink2 --bgen FILE ref-first --make-pgen", PLINK2_LIST),
        names={"FILE": "chr1.bgen chr2.bgen"},
        result=BGEN_RESULT,
    ),
    "person-by-person": Case(
        person_by_person,
        "c.bed is stored person by person",
        ("plink2 --make-bed",),
        given="--bfile c --out NEW",
        result=("NEW.bed",),
    ),
    "phased-bgen": Case(
        phased_bgen, "is phased or not diploid", (PLINK2,), result=BGEN_RESULT
    ),
    "haploid-bgen": Case(
        haploid_bgen,
        "person 1 at variant 40 is not diploid",
        (PLINK2,),
        result=BGEN_RESULT,
    ),
    "bgen-1.1": Case(old_bgen, "has layout 1", (PLINK2,), result=BGEN_RESULT),
    "plain-vcf": Case(
        plain_vcf,
        "c.vcf is not compressed",
        (BCFTOOLS_NEW, "bcftools index"),
        names={"view": "view c.vcf", "index": "index NEW.vcf.gz"},
        result=("NEW.vcf.gz",),
    ),
    "gzipped-vcf": Case(
        gzipped_vcf,
        "c.vcf.gz does not end as bgzip ends files",
        (BCFTOOLS_NEW, "bcftools index"),
        names={"view": "view c.vcf.gz", "index": "index NEW.vcf.gz"},
        result=("NEW.vcf.gz",),
    ),
    "unindexed-vcf": Case(
        unindexed_vcf,
        "c.vcf.gz has no index",
        ("bcftools index",),
        given="c.vcf.gz",
        result=("c.vcf.gz",),
    ),
    "unsorted-vcf": Case(
        unsorted_vcf,
        "c.vcf.gz: variant_position is not sorted within contigs",
        ("bcftools sort",),
        given="-Oz -o NEW.vcf.gz c.vcf.gz && bcftools index NEW.vcf.gz",
        result=("NEW.vcf.gz",),
        command="prepare",
    ),
    "far-from-sorted-vcf": Case(
        far_from_sorted_vcf,
        "records can be read, and the index counts 40",
        ("bcftools sort -Oz -o NEW.vcf.gz", "bcftools index"),
        names={"sort": "sort c.vcf.gz", "index": "index NEW.vcf.gz"},
        result=("NEW.vcf.gz",),
    ),
    "other-headers": Case(
        other_headers,
        "could not be imported (Incompatible VCF chunks)",
        ("bcftools concat -Oz -o NEW.vcf.gz FILES", "bcftools index NEW.vcf.gz"),
        names={"FILES": "chr1.vcf.gz chr2.vcf.gz"},
        result=("NEW.vcf.gz",),
    ),
    "a-person-twice": Case(
        person_twice,
        "Duplicated sample name 'person0'",
        ("bcftools reheader -s NAMES",),
        given="-o NEW.vcf.gz c.vcf.gz && bcftools index NEW.vcf.gz",
        result=("NEW.vcf.gz",),
    ),
    "another-order-of-people": Case(
        other_order,
        "chr2.vcf.gz has other people than chr1.vcf.gz, or another order of them: "
        "person 3 is 'person4', not 'person2'",
        (
            "bcftools query -l chr1.vcf.gz > IDS",
            "bcftools view -S IDS -Oz -o NEW.vcf.gz FILE and bcftools index NEW.vcf.gz",
        ),
        names={"FILE": "chr1.vcf.gz chr2.vcf.gz"},
        result=("NEW_chr1.vcf.gz", "NEW_chr2.vcf.gz"),
    ),
    "probabilities-alone": Case(
        probabilities_alone,
        "c.vcf.gz holds no genotypes (GT) or dosages",
        (PLINK2,),
        result=BGEN_RESULT,
    ),
}


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, arguments)


def run_command(case: Case, command: str) -> None:
    """Run a command as the message has it, with what the user knows put in."""
    if "FILE " in f"{command} ":
        for file in case.names["FILE"].split():
            name = file.split(".")[0]
            one = command.replace("FILE", file).replace("NEW", f"NEW_{name}")
            # To be run for each, under names that the user chooses.
            one = one.replace(" and ", " && ")
            run_shell(f"{one} --out {name}" if "plink2" in one else one)
        return
    for word, text in case.names.items():
        command = re.sub(rf"\b{word}\b", text, command, count=1)
    run_shell(f"{command} {case.given}")


def run_shell(command: str) -> None:
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-500:], done.stderr[-500:])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_advice__works_on_the_input_that_provokes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
):
    programs = {"plink2" if "plink2" in c else "bcftools" for c in case.commands}
    if case.result == BGEN_RESULT:
        programs.add("plink2")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not there")
    monkeypatch.chdir(tmp_path)
    sources = case.write(tmp_path)
    refused = invoke(case.command, *sources, "--output", "out", "--workers", "1")
    assert refused.exit_code == 2, (refused.output, refused.exception)
    (line,) = refused.stderr.strip().splitlines()[-1:]
    assert case.message in line
    assert ".work" not in line
    assert str(tmp_path) not in line
    for pattern in case.commands:
        found = re.search(pattern, line)
        assert found, (pattern, line)
        run_command(case, found.group())
    done = invoke("import", *case.result, "--output", "new.vcz", "--workers", "0")
    assert done.exit_code == 0, done.output
    with xr.open_zarr("new.vcz", chunks=None, mask_and_scale=False) as dataset:
        assert dataset.sizes["variants"] == case.n_variants
        assert dataset["sample_id"].values.tolist() == CALLS.people
    if case.command != "import":
        again = invoke(case.command, "new.vcz", "--output", "new", "--workers", "1")
        assert again.exit_code in (0, 2), again.output
        assert case.message.split(":", 1)[1] not in again.output


TRIED = {
    "plink2 --set-all-var-ids": "a-variant-twice",
    "plink2 --sort-vars": "not-sorted",
    "plink2 --pmerge-list": "several-bed",
    "plink2 --bgen": "phased-bgen",
    "plink2 --make-bed": "person-by-person",
    "plink2 --vcf": "probabilities-alone",
    "bcftools view": "plain-vcf",
    "bcftools index": "unindexed-vcf",
    "bcftools sort": "far-from-sorted-vcf",
    "bcftools reheader": "a-person-twice",
    "bcftools concat": "other-headers",
    "bcftools query": "another-order-of-people",
}


def test_advice__every_command_of_another_program_has_a_case():
    said: set[str] = set()
    for module in Path(remedies.__file__).parent.glob("*.py"):
        text = module.read_text()
        said.update(re.findall(r"(?:plink2|bcftools) (?:--)?[a-z][a-z-]+", text))
    assert said == set(TRIED)
    assert set(TRIED.values()) <= set(CASES)
