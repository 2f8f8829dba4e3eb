"""Import PLINK 1 and VCF files to VCF Zarr, through bio2zarr.

Reads PREFIX.bed with PREFIX.bim and PREFIX.fam, or an indexed .vcf.gz, .vcf.bgz or
.bcf. The invariant: a store appears at its destination complete or not at all.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import xarray as xr
from bio2zarr import plink, vcf

from pipeline import provenance, vcf_zarr
from pipeline.errors import InputError
from pipeline.location import Location

logger = logging.getLogger(__name__)

PLINK_SUFFIX = ".bed"
VCF_SUFFIXES = (".vcf.gz", ".vcf.bgz", ".bcf", ".vcf")
INDEX_SUFFIXES = (".tbi", ".csi")

_BED_MAGIC = b"\x6c\x1b"
_BED_HEADER_BYTES = 3
_VARIANT_MAJOR = 1
# What pandas, behind bio2zarr, takes for a missing value.
_READ_AS_MISSING = frozenset(
    ["NA", "N/A", "n/a", "<NA>", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "None"]
)
_ENCODING_BUFFER_BYTES = 256 * 2**20
# bio2zarr holds genotypes (two bytes), their mask (two) and phase (one) per call.
_ENCODING_BYTES_PER_CALL = 5
_CALLS_PER_CHUNK = 10_000_000


def needs_import(source: str | Path) -> bool:
    """Whether the suffix says PLINK or VCF, to be imported before anything else.

    >>> needs_import("cohort.bed"), needs_import("chr1.vcf.gz"), needs_import("c.vcz")
    (True, True, False)
    """
    return str(source).endswith((PLINK_SUFFIX, *VCF_SUFFIXES))


def ingest(
    source: str | Path,
    destination: str | Location,
    *,
    n_workers: int = 0,
    overwrite: bool = False,
) -> None:
    """Import a PLINK 1 fileset or an indexed VCF or BCF file to a VCF Zarr store.

    Of PLINK, allele 1 (the fifth column of .bim, usually the minor allele) becomes the
    alternate and allele 2 (the sixth) the reference, so the number of alternate alleles
    is the number of copies of allele 1 that .bed stores. ADMIXTURE's P on the same
    files is the frequency of allele 2. Allele codes are kept as they are, including
    '0' for the unseen allele of a monomorphic variant. Sample ids are the individual
    ids, without the family ids.

    Parameters
    ----------
    source
        PREFIX.bed, or a file ending in .vcf.gz, .vcf.bgz or .bcf with its index beside.
    destination
        Folder for the store.
    n_workers
        Processes to use; 0 works in this one.
    overwrite
        Replace a Zarr store that is already at the destination.

    Raises
    ------
    InputError
        If a file is missing, damaged, unindexed or holds no genotypes, or if the
        destination exists.
    """
    path = _local_file(source)
    with vcf_zarr.new_store(destination, overwrite=overwrite) as store:
        if path.suffix == PLINK_SUFFIX:
            _ingest_plink(path, store, n_workers)
        else:
            _ingest_vcf(path, store, n_workers)
    logger.info("imported %s to %s", path, destination)


def source_digest(source: str | Path) -> str:
    """SHA-256 of the files that an import would read, in hexadecimal.

    Raises
    ------
    InputError
        If a file is missing.
    """
    path = _local_file(source)
    files = [path]
    if path.suffix == PLINK_SUFFIX:
        files += _companions(path)
    digests = []
    for each in files:
        with each.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return provenance.digest(digests)


def _companions(bed: Path) -> list[Path]:
    """The .bim and .fam files of a fileset."""
    found = [bed.with_suffix(".bim"), bed.with_suffix(".fam")]
    for companion in found:
        if not companion.is_file():
            raise InputError(
                f"{companion} does not exist; {bed} needs its .bim and .fam beside it"
            )
    return found


def _local_file(source: str | Path) -> Path:
    if "://" in str(source):
        raise InputError(f"{source} is remote; copy it to this machine to import it")
    if not needs_import(source):
        raise InputError(
            f"{source} is neither .bed, .vcf.gz nor .bcf; only these are imported"
        )
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file; check the path")
    return path


def _ingest_plink(bed: Path, store: Path, n_workers: int) -> None:
    sample_ids = _check_plink(bed)
    variants, samples = _chunk_sizes(len(sample_ids))
    # bio2zarr guesses the separator of each table from its first lines.
    remedy = "separate the columns of .bim and .fam by single tabs, without commas"
    with _readable(bed, remedy):
        plink.convert(
            str(bed.with_suffix("")),
            store,
            variants_chunk_size=variants,
            samples_chunk_size=samples,
            worker_processes=n_workers,
        )
    _check_sample_ids(bed.with_suffix(".fam"), sample_ids, store)


def _check_plink(bed: Path) -> list[str]:
    """Sample ids of a fileset whose three files fit one another."""
    bim, fam = _companions(bed)
    sample_ids = [row[1] for row in _rows(fam)]
    n_variants = _count_variants(bim)
    for companion, n_rows in ((fam, len(sample_ids)), (bim, n_variants)):
        if n_rows == 0:
            raise InputError(f"{companion} is empty; there is nothing to import")
    _check_bed(bed, n_variants, len(sample_ids))
    return sample_ids


def _rows(table: Path) -> Iterator[list[str]]:
    """Fields of each line of a .bim or .fam file, both of which have six columns."""
    with table.open() as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if len(fields) not in (0, 6):
                raise InputError(
                    f"{table} line {number} has {len(fields)} columns, not 6; repair it"
                )
            if fields:
                yield fields


def _count_variants(bim: Path) -> int:
    n_variants = 0
    for contig, name, _, position, *alleles in _rows(bim):
        n_variants += 1
        if not position.lstrip("-").isdecimal():
            raise InputError(
                f"{bim} row {n_variants}: the position {position!r} is not a whole "
                "number; repair it"
            )
        if not _READ_AS_MISSING.isdisjoint((contig, name, *alleles)):
            raise InputError(
                f"{bim} row {n_variants}: a name or allele that reads as a missing "
                "value (NA, null or the like); rename it"
            )
    return n_variants


def _check_bed(bed: Path, n_variants: int, n_samples: int) -> None:
    with bed.open("rb") as file:
        header = file.read(_BED_HEADER_BYTES)
    if header[:2] != _BED_MAGIC or len(header) < _BED_HEADER_BYTES:
        raise InputError(
            f"{bed} does not start with the PLINK 1 magic number; "
            "make it again with plink --make-bed"
        )
    if header[2] != _VARIANT_MAJOR:
        raise InputError(
            f"{bed} is stored person by person; convert it with plink --make-bed"
        )
    expected = _BED_HEADER_BYTES + n_variants * ((n_samples + 3) // 4)
    size = bed.stat().st_size
    if size != expected:
        raise InputError(
            f"{bed} holds {size} bytes, but {n_variants} variants (.bim) of "
            f"{n_samples} people (.fam) need {expected}; make the three files together"
        )


def _check_sample_ids(fam: Path, expected: list[str], store: Path) -> None:
    # A guessed separator or an id such as 'NA' would go wrong without an error.
    with xr.open_zarr(store, chunks=None, mask_and_scale=False) as dataset:
        imported = dataset["sample_id"].values.tolist()
    for row, (want, got) in enumerate(zip(expected, imported, strict=True), start=1):
        if want != got:
            raise InputError(
                f"{fam} row {row}: the id {want!r} is read as {got!r}; rename it"
            )


def _ingest_vcf(path: Path, store: Path, n_workers: int) -> None:
    _check_index(path)
    # Beside the store, because the default is /tmp, often too small for a cohort.
    exploded = store.with_name("exploded")
    with _readable(path, "check that it is whole"):
        columns = vcf.explode(exploded, [path], worker_processes=n_workers)
        if columns.gt_field is None or columns.num_samples == 0:
            raise InputError(f"{path} holds no genotypes (FORMAT/GT); nothing to fit")
        variants, samples = _chunk_sizes(columns.num_samples)
        vcf.encode(
            exploded,
            store,
            variants_chunk_size=variants,
            samples_chunk_size=samples,
            worker_processes=n_workers,
        )


def _check_index(path: Path) -> None:
    if path.suffix == ".vcf":
        raise InputError(
            f"{path} is not compressed; run bgzip on it, then tabix on the .vcf.gz"
        )
    indexes = [Path(f"{path}{suffix}") for suffix in INDEX_SUFFIXES]
    if not any(index.is_file() for index in indexes):
        raise InputError(
            f"{path} has no index (.csi or .tbi) beside it; run bcftools index "
            "(or tabix) on it"
        )


def _chunk_sizes(n_samples: int) -> tuple[int, int]:
    """Variants and samples per chunk, for the encoder's buffer of whole variants.

    >>> _chunk_sizes(2_504), _chunk_sizes(500_000)
    ((10000, 1000), (107, 10000))
    """
    bytes_per_variant = _ENCODING_BYTES_PER_CALL * n_samples
    variants = max(100, min(10_000, _ENCODING_BUFFER_BYTES // bytes_per_variant))
    samples = max(1_000, min(10_000, _CALLS_PER_CHUNK // variants))
    return variants, samples


@contextlib.contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    """Turn whatever the readers behind bio2zarr raise into one line on the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} could not be imported ({reason}); {remedy}"
        ) from error
