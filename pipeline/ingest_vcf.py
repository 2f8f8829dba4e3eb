"""Import VCF and BCF files, through bio2zarr.

Reads bgzipped and indexed files of the same people; writes VCF Zarr by way of
bio2zarr's columns, which lie beside the store until it is whole. Invariant: no file
that ends before its end mark, or has records that cannot be read, is imported in part.
"""

import contextlib
import functools
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from bio2zarr import vcf, vcf_utils, vcz

from pipeline import encode, pieces, remedies, vcf_ploidy
from pipeline.config import SourceConfig
from pipeline.errors import InputError
from pipeline.schema import CALLS, DOSAGES
from pipeline.source_files import SourceFiles

logger = logging.getLogger(__name__)

_NAMED_TWICE = "Duplicated sample name"
_INCOMPATIBLE = "Incompatible"
_DOSAGE_FIELD = "FORMAT/DS"
INDEX_SUFFIXES = (".tbi", ".csi")

# The empty block that ends every file of bgzip.
_END_MARK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def ingest(
    source: SourceFiles, folder: Path, n_workers: int, config: SourceConfig
) -> None:
    """Write the store `folder/store` of VCF files, or go on writing it.

    Raises
    ------
    InputError
        If a file is not compressed, not indexed, damaged, without genotypes or
        variants, or of other people than the first.
    """
    paths = source.files
    _check_files(paths)
    columns = folder / "exploded"
    named = str(paths[0]) if len(paths) == 1 else f"{paths[0]} or one of the others"
    try:
        _explode(paths, columns, folder, n_workers, named)
        if not (folder / "checked").exists():
            chosen = _choose_calls(columns, named, config)
            (folder / "checked").write_text(chosen)
        columnar = _COLUMNS[(folder / "checked").read_text()]
        encode.encode(columnar, columns, folder, n_workers)
    except pieces.LibraryError as error:
        remedy = f"check that it is whole, and put it in order: {remedies.SORT_VCF}"
        if _INCOMPATIBLE in str(error):
            remedy = remedies.ONE_HEADER
        raise InputError(
            f"{named} could not be imported ({error}); {remedy}"
        ) from error


class _Dosages(vcf.IntermediateColumnarFormat):
    """Columns of which DS becomes call_dosage, and genotypes are left out."""

    def generate_schema(self, *args: Any, **options: Any) -> vcz.VcfZarrSchema:
        """Layout of the store."""
        schema = super().generate_schema(*args, **options)
        kept = [f for f in schema.fields if not f.name.startswith(CALLS)]
        (dosages,) = (field for field in kept if field.source == _DOSAGE_FIELD)
        dosages.name, dosages.dtype = DOSAGES, "f4"
        dosages.dimensions = ["variants", "samples"]
        schema.fields = kept
        return schema

    def iter_field(
        self, field_name: str, shape: tuple[int, ...], start: int, stop: int
    ) -> Iterator[Any]:
        """Values of a field, of DS those of the first alternate allele."""
        if field_name != _DOSAGE_FIELD:
            yield from super().iter_field(field_name, shape, start, stop)
            return
        for value in self.fields[field_name].iter_values(start, stop):
            yield np.nan if value is None else _first(value)


def _first(value: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    dosages = np.asarray(value).reshape(len(value), -1)[:, 0].astype(np.float32)
    # The missing value of VCF is a NaN of its own.
    dosages[np.isnan(dosages)] = np.nan
    return dosages


_COLUMNS = {CALLS: vcf.IntermediateColumnarFormat, DOSAGES: _Dosages}


def _check_files(paths: Sequence[Path]) -> None:
    """Check what can be told from the start of the files: ends, indexes, people."""
    first: list[str] = []
    for path in paths:
        _check_compressed(path)
        _check_index(path)
        samples = _read_samples(path)
        if not samples:
            raise InputError(f"{path} names no people; there is nothing to fit")
        first = first or samples
        if samples != first:
            raise InputError(
                f"{path} has other people than {paths[0]}, or another order of them: "
                f"{_first_difference(first, samples)}; "
                f"{remedies.order_people(paths[0])}"
            )


def read_sizes(paths: Sequence[Path]) -> tuple[int, int]:
    """People and variants of VCF files, as their headers and indexes have them.

    Raises
    ------
    InputError
        As of `ingest`.
    """
    _check_files(paths)
    n_variants = 0
    for path in paths:
        with pieces.listening(), vcf_utils.VcfFile(path) as file:
            n_listed = sum(file.contig_record_counts().values())
            # Not every index has the number of records.
            known = n_listed < vcf_utils.RECORD_COUNT_UNKNOWN
            n_variants += int(n_listed) if known else sum(1 for _ in file.vcf)
    return len(_read_samples(paths[0])), n_variants


def _check_compressed(path: Path) -> None:
    if path.suffix == ".vcf":
        raise InputError(f"{path} is not compressed; {remedies.BGZIP}")
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(_END_MARK), 0))
        ending = file.read()
    if ending != _END_MARK:
        raise InputError(
            f"{path} does not end as bgzip ends files: it is cut short, or compressed "
            f"otherwise; copy it again; of a whole file, {remedies.BGZIP}"
        )


def _check_index(path: Path) -> None:
    indexes = [Path(f"{path}{suffix}") for suffix in INDEX_SUFFIXES]
    if not any(index.is_file() for index in indexes):
        raise InputError(
            f"{path} has no index (.csi or .tbi) beside it; {remedies.INDEX}"
        )


def _read_samples(path: Path) -> list[str]:
    try:
        with pieces.listening(), vcf_utils.VcfFile(path) as file:
            if sum(file.contig_record_counts().values()) == 0:
                raise InputError(f"{path} holds no variants; there is nothing to fit")
            samples = list(file.vcf.samples)
    except pieces.LibraryError as error:
        remedy = "check that it and its index are whole"
        if _NAMED_TWICE in str(error):
            remedy = remedies.RENAME_PEOPLE
        raise InputError(f"{path} could not be imported ({error}); {remedy}") from error
    # Of a file that is cut short, the import itself says how many records are there.
    with (
        contextlib.suppress(pieces.LibraryError),
        pieces.listening(),
        vcf_utils.VcfFile(path) as file,
    ):
        vcf_ploidy.check_first_records(path, file.vcf)
    return samples


def _first_difference(first: list[str], second: list[str]) -> str:
    if len(first) != len(second):
        return f"{len(second)}, not {len(first)}"
    number = next(i for i, name in enumerate(first) if name != second[i])
    return f"person {number + 1} is {second[number]!r}, not {first[number]!r}"


def _explode(
    paths: Sequence[Path], columns: Path, folder: Path, n_workers: int, named: str
) -> None:
    """Split the records into columns, unless that is finished."""
    if (folder / "exploded_all").exists():
        return
    begun = folder / "exploded_begun"
    if not begun.exists():
        shutil.rmtree(columns, ignore_errors=True)
        with pieces.listening():
            vcf.explode_init(columns, paths, target_num_partitions=encode.N_PARTITIONS)
        begun.touch()
    unfinished = columns / "wip" / "metadata.json"
    if not _is_json(columns / "metadata.json"):
        scanned = json.loads(unfinished.read_text())
        n_partitions = len(scanned["partitions"])
        piece = functools.partial(_explode_partition, columns)
        pieces.complete(piece, n_partitions, folder / "exploded_parts", n_workers)
        _check_counts(columns, scanned["num_records"], n_partitions, named)
        with pieces.listening():
            vcf.explode_finalise(columns)
    shutil.rmtree(columns / "wip", ignore_errors=True)
    (folder / "exploded_all").touch()


def _explode_partition(columns: Path, number: int) -> None:
    with pieces.listening():
        vcf.explode_partition(columns, number)
    vcf_ploidy.check_partition(columns, number)


def _check_counts(
    columns: Path, n_indexed: float, n_partitions: int, named: str
) -> None:
    """Refuse records that the reader skipped: out of order, or of a damaged block."""
    parts = [columns / "wip" / f"p{number}.json" for number in range(n_partitions)]
    n_read = sum(json.loads(part.read_text())["num_records"] for part in parts)
    # An index need not have counts.
    if math.isfinite(n_indexed) and n_read != n_indexed:
        raise InputError(
            f"{named}: {n_read} records can be read, and the index counts {n_indexed}; "
            f"check that the file is whole, and put it in order: {remedies.SORT_VCF}"
        )


def _is_json(path: Path) -> bool:
    """Whether a file is there and was written to its end."""
    try:
        json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return True


def _choose_calls(columns: Path, named: str, config: SourceConfig) -> str:
    """Array that the calls become: call_genotype, or call_dosage from DS."""
    found = vcf.IntermediateColumnarFormat(columns)
    if found.num_records == 0:
        raise InputError(f"{named} holds no variants; there is nothing to fit")
    # A field may be declared, and no record have it.
    written = {
        field.name
        for field in found.metadata.format_fields
        if field.summary.max_number > 0
    }
    if "DS" in written and (config.dosages or "GT" not in written):
        return DOSAGES
    if config.dosages or "GT" not in written:
        what = "dosages (FORMAT/DS)" if config.dosages else "genotypes (GT) or dosages"
        raise InputError(f"{named} holds no {what}; {_remedy(named, written)}")
    if "DS" in written:
        logger.info("%s: genotypes are read; --dosages reads DS instead", named)
    return CALLS


def _remedy(named: str, written: set[str]) -> str:
    """What to do with files that lack the field that is needed."""
    if "GT" in written:
        return "leave --dosages out to read its genotypes"
    if "GP" in written:
        return remedies.dosages_of_probabilities(named)
    return f"its fields are {', '.join(sorted(written)) or 'none'}; nothing to fit"
