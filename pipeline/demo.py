"""The bundled demo cohort: 1000 Genomes phase 3, from the data files of peddy.

Reads the sites, genotypes and superpopulations that peddy 0.4.8 (MIT) installs, and
writes VCF Zarr. peddy itself is never imported: its dependencies need not be there.
"""

import gzip
import importlib.util
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from pipeline import vcf_zarr
from pipeline.errors import InputError
from pipeline.location import Location

PEDDY_VERSION = "0.4.8"
N_SAMPLES = 2_504
SUPERPOPULATIONS = ("AFR", "AMR", "EAS", "EUR", "SAS")

_SITE = re.compile(r"([1-9]|1[0-9]|2[0-2]):([0-9]+):([ACGT]):([ACGT])")
_SUPERPOPULATION_CODES = re.compile(r'^_str = "([0-4](?:\|[0-4])*)"$', re.MULTILINE)
# Alleles of the codes 0, 1 and 2 (alternate alleles) and 3 (missing).
_ALLELES = np.array([[0, 0], [0, 1], [1, 1], [-1, -1]], np.int8)


@dataclass(frozen=True)
class DemoCohort:
    """The 1000 Genomes people at peddy's sites, on GRCh37.

    Attributes
    ----------
    sites
        Contig, position, reference and alternate allele of each variant.
    codes
        Number of alternate alleles, 3 where missing. There are no missing calls in
        peddy 0.4.8.
    superpopulation
        One of SUPERPOPULATIONS for each person.
    """

    sites: list[tuple[str, int, str, str]]
    codes: UInt8[np.ndarray, "variants samples"]
    superpopulation: list[str]


def write_demo_cohort(
    path: str | Location,
    *,
    chunk_variants: int = 10_000,
    chunk_samples: int = 1_000,
    overwrite: bool = False,
) -> None:
    """Write the demo cohort as VCF Zarr, with `sample_population` (samples).

    All 23,770 sites of peddy's GRCH37.sites are biallelic autosomal SNPs, so none is
    dropped; 1,086 of them do not vary among these 2,504 people. Genotypes are unphased.
    The files name nobody: people are numbered 1KG0001 onwards in the files' order.

    Parameters
    ----------
    path
        Folder for the store.
    chunk_variants, chunk_samples
        Size of a chunk of genotypes.
    overwrite
        Replace a Zarr store that is already at `path`.

    Raises
    ------
    InputError
        If peddy is not installed, its files are not as in 0.4.8, or something is at
        `path` already.

    References
    ----------
    1000 Genomes Project Consortium (2015), Nature 526:68-74.
    Pedersen and Quinlan (2017), American Journal of Human Genetics 100:406-413.
    """
    cohort = read_peddy(_peddy_folder())

    def genotypes(rows: slice, columns: slice) -> vcf_zarr.Genotypes:
        return _ALLELES[cohort.codes[rows, columns]]

    with vcf_zarr.new_store(path, overwrite=overwrite) as store:
        vcf_zarr.write_vcf_zarr(
            store,
            _variables(cohort),
            genotypes,
            chunk_variants=chunk_variants,
            chunk_samples=chunk_samples,
        )


def _variables(cohort: DemoCohort) -> xr.Dataset:
    """Everything in the store but genotypes."""
    contigs = list(dict.fromkeys(contig for contig, _, _, _ in cohort.sites))
    index = {contig: number for number, contig in enumerate(contigs)}
    variables = vcf_zarr.cohort_variables(
        contigs,
        np.array([index[contig] for contig, _, _, _ in cohort.sites], np.int32),
        np.array([position for _, position, _, _ in cohort.sites], np.int32),
        np.array([alleles for _, _, *alleles in cohort.sites]),
        [f"1KG{number:04d}" for number in range(1, len(cohort.superpopulation) + 1)],
    )
    population = np.array(cohort.superpopulation, object)
    variables = variables.assign(sample_population=("samples", population))
    variables.attrs["source"] = f"1000 Genomes phase 3, from peddy {PEDDY_VERSION}"
    # Where bio2zarr keeps the header of a VCF file, and `genome_build` looks.
    variables.attrs["vcf_meta_information"] = [["reference", "GRCh37"]]
    return variables


def _peddy_folder() -> Path:
    # Finding a top-level package does not import it.
    spec = importlib.util.find_spec("peddy")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the demo cohort comes with peddy, which is not installed; "
            f"pip install --no-deps peddy=={PEDDY_VERSION}"
        )
    return Path(spec.submodule_search_locations[0])


def read_peddy(folder: Path) -> DemoCohort:
    """Read sites, genotypes and superpopulations from peddy's installed files.

    Raises
    ------
    InputError
        If a file is missing or not as in peddy 0.4.8.
    """
    sites = [_parse_site(line) for line in _read(folder / "GRCH37.sites").splitlines()]
    listed = _SUPERPOPULATION_CODES.search(_read(folder / "pca.py"))
    labels = [] if listed is None else listed[1].split("|")
    if len(labels) != N_SAMPLES:
        raise _unexpected(folder / "pca.py", f"{len(labels)} superpopulation codes")
    packed = folder / "GRCH37.sites.bin.gz"
    try:
        codes = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise _unexpected(packed, str(error)) from error
    if codes.size != len(sites) * N_SAMPLES or codes.max() >= len(_ALLELES):
        raise _unexpected(packed, f"{codes.size} genotypes for {len(sites)} sites")
    return DemoCohort(
        sites=sites,
        codes=codes.reshape(len(sites), N_SAMPLES),
        superpopulation=[SUPERPOPULATIONS[int(label)] for label in labels],
    )


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise _unexpected(file, str(error)) from error


def _parse_site(line: str) -> tuple[str, int, str, str]:
    match = _SITE.fullmatch(line.strip())
    if match is None:
        raise _unexpected(Path("GRCH37.sites"), f"the site {line!r}")
    contig, position, reference, alternate = match.groups()
    return contig, int(position), reference, alternate


def _unexpected(file: Path, found: str) -> InputError:
    return InputError(
        f"{file} is not that of peddy {PEDDY_VERSION} ({found}); "
        f"pip install --no-deps --force-reinstall peddy=={PEDDY_VERSION}"
    )
