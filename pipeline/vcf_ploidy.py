"""Refuse VCF files of more alleles a call than the model has, before much is done.

Reads the first records of a file, and what bio2zarr says of a part that it has read;
writes nothing. Invariant: an import does not begin where one of these has more.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.cohort_metadata import MAX_PLOIDY
from pipeline.errors import InputError

_FIRST_RECORDS = 1_000
_GENOTYPES = "FORMAT/GT"


def check_first_records(path: Path, records: Iterable[Any]) -> None:
    """Look at the first records of a file, which tell the ploidy of most.

    Parameters
    ----------
    path
        The file, for errors.
    records
        Its records, as cyvcf2 gives them.

    Raises
    ------
    InputError
        If one has a call of more than two alleles.
    """
    for record in itertools.islice(records, _FIRST_RECORDS):
        # Without genotypes, as where there are dosages alone, cyvcf2 raises.
        if "GT" in record.FORMAT and record.ploidy > MAX_PLOIDY:
            raise _refused(f"{path}: {record.CHROM}:{record.POS}", record.ploidy)


def check_partition(columns: Path, number: int) -> None:
    """Look at what bio2zarr found in a partition that it has read.

    Raises
    ------
    InputError
        If there is a call of more than two alleles.
    """
    wip = columns / "wip"
    summaries = json.loads((wip / f"p{number}.json").read_text())["field_summaries"]
    # The alleles of a call, and whether it is phased.
    ploidy = summaries.get(_GENOTYPES, {}).get("max_number", 0) - 1
    if ploidy > MAX_PLOIDY:
        parts = json.loads((wip / "metadata.json").read_text())["partitions"]
        raise _refused(f"{parts[number]['vcf_path']}: a record", ploidy)


def _refused(where: str, ploidy: int) -> InputError:
    return InputError(
        f"{where} has a call of {ploidy} alleles, and at most {MAX_PLOIDY} are "
        "supported; keep the haploid and diploid calls only"
    )
