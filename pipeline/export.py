"""Ancestry as text files in ADMIXTURE's format, with the names of rows beside them.

Reads an ancestry store block by block and writes PREFIX.K.Q, PREFIX.K.P,
PREFIX.samples, PREFIX.variants and the table PREFIX.tsv; PREFIX.K.Q_se where errors are
known and PREFIX.populations where populations have names. All appear once all are
written.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from pipeline import (
    ancestry_table,
    counted_allele,
    output_names,
    publication,
    store,
    variant_list,
)
from pipeline.errors import InputError
from pipeline.location import Location

logger = logging.getLogger(__name__)

# Numbers formatted at once: as Python objects they take a hundred bytes each.
_NUMBERS_AT_ONCE = 200_000


def export_admixture(
    store_path: Location,
    prefix: Location,
    *,
    allele: str = counted_allele.ALTERNATE,
    overwrite: bool = False,
) -> list[Path]:
    """Write an ancestry store as ADMIXTURE-style text files.

    Files of rows alone, except for the header lines of PREFIX.variants and PREFIX.tsv:

    - PREFIX.K.Q: a person a line, the share of each of K populations;
    - PREFIX.K.P: a variant a line, the frequency of one allele in each population;
    - PREFIX.samples: the person's id on each line of the Q file;
    - PREFIX.variants: contig, position (base pairs from 1), id, reference and alternate
      allele of each line of the P file, and which of the two it counts, separated by
      tabs;
    - PREFIX.populations, of named populations: the name of each column of the Q and P
      files, a line each;
    - PREFIX.K.Q_se, of a store with standard errors: that of each number of the Q file;
    - PREFIX.tsv: a person a line with id, shares and what else is known, as
      `ancestry_table` has it, for R and pandas.

    Numbers have six decimals, with a space between them but in PREFIX.tsv. A person
    without any called genotype is a line of "nan", "NA" in PREFIX.tsv, and the number
    of such people is logged.

    Parameters
    ----------
    store_path
        The ancestry store.
    prefix
        Start of the files' names, in a folder that exists.
    allele
        Allele that P counts: "alternate", or "reference", which is PLINK's allele 2 and
        what ADMIXTURE's P counts.
    overwrite
        Replace files that are there already.

    Returns
    -------
    list of Path
        The files, the names of populations last.

    Raises
    ------
    InputError
        If the store is not one of ancestry, the folder does not exist or cannot be
        written to, or a file is there already.

    References
    ----------
    Alexander, Novembre and Lange (2009), Genome Research 19:1655-1664.
    """
    if not isinstance(prefix, Path):
        raise InputError(f"{prefix} is remote; name files of this machine, then copy")
    output_names.check_prefix(prefix.name)
    ancestry = store.Store.open(
        publication.find_result(store_path, "ancestry.zarr"), "ancestry"
    )
    writers = _writers(ancestry, allele)
    targets = _target_files(prefix, list(writers))
    _check_targets(targets, overwrite=overwrite)
    with _written_together(targets) as files:
        for file, write in zip(files, writers.values(), strict=True):
            write(file)
    n_without = _count_without(ancestry)
    if n_without:
        logger.warning(
            "%s no called genotype; in %s, nan stands for their ancestry",
            "1 person has" if n_without == 1 else f"{n_without:,} people have",
            targets[0],
        )
    return targets


def _writers(ancestry: store.Store, allele: str) -> dict[str, Callable[[TextIO], None]]:
    """What writes each of the files, by the ending of its name."""
    k = ancestry.shape("sample_ancestry_proportion")[1]

    def numbers(name: str, *, other: bool = False) -> Callable[[TextIO], None]:
        return lambda file: _write_numbers(file, ancestry, name, other=other)

    is_reference = allele == counted_allele.REFERENCE
    writers = {
        f"{k}.Q": numbers("sample_ancestry_proportion"),
        f"{k}.P": numbers("variant_population_frequency", other=is_reference),
        "samples": lambda file: _write_samples(file, ancestry),
        "variants": lambda file: _write_variants(file, ancestry, allele),
    }
    if "population_id" in ancestry:
        names = ancestry.read("population_id").tolist()
        writers["populations"] = lambda file: file.writelines(f"{n}\n" for n in names)
    if "sample_ancestry_proportion_se" in ancestry:
        writers[f"{k}.Q_se"] = numbers("sample_ancestry_proportion_se")
    writers["tsv"] = lambda file: ancestry_table.write_table(file, ancestry)
    return writers


def _count_without(ancestry: store.Store) -> int:
    """People without any called genotype, whose ancestry is NaN."""
    name = "sample_ancestry_proportion"
    blocks = ancestry_table.blocks(ancestry, name)
    return sum(int(np.isnan(ancestry.read(name, b)).any(axis=1).sum()) for b in blocks)


def _target_files(prefix: Path, endings: list[str]) -> list[Path]:
    if prefix.name in ("", ".."):
        raise InputError(
            f"prefix {prefix} has no file name; name the files as in {prefix}/cohort"
        )
    return [prefix.with_name(f"{prefix.name}.{ending}") for ending in endings]


def _check_targets(targets: list[Path], *, overwrite: bool) -> None:
    folder = targets[0].parent
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist; make it first")
    for target in targets:
        if target.is_dir():
            raise InputError(f"{target} is a folder; choose another prefix")
        if target.exists() and not overwrite:
            raise InputError(
                f"{target} exists; add --overwrite to replace it or choose "
                "another prefix"
            )


@contextlib.contextmanager
def _written_together(targets: list[Path]) -> Iterator[list[TextIO]]:
    """Open a file beside each target, and rename all of them when all are written."""
    staged = [target.with_name(f".{target.name}.partial") for target in targets]
    try:
        with contextlib.ExitStack() as files:
            yield [
                files.enter_context(open(path, "w", encoding="utf-8", newline="\n"))
                for path in staged
            ]
        for path, target in zip(staged, targets, strict=True):
            path.replace(target)
    except OSError as error:
        raise InputError(
            f"{targets[0].parent} cannot be written to ({error.strerror}); free space "
            "there or choose another prefix"
        ) from error
    finally:
        for path in staged:
            path.unlink(missing_ok=True)


def _write_numbers(
    file: TextIO, ancestry: store.Store, name: str, *, other: bool = False
) -> None:
    """Write an array's rows, or what they lack to 1."""
    for block in ancestry_table.blocks(ancestry, name):
        values = ancestry.read(name, block)
        values = 1 - values.astype(np.float64) if other else values
        n_rows = max(_NUMBERS_AT_ONCE // values.shape[1], 1)
        for start in range(0, len(values), n_rows):
            file.write(_format_rows(values[start : start + n_rows]))


def _format_rows(values: npt.NDArray[np.floating]) -> str:
    r"""Text of a block of numbers, by one formatting operation.

    >>> _format_rows(np.array([[0.25, 0.75], [np.nan, np.nan]]))
    '0.250000 0.750000\nnan nan\n'
    """
    n_rows, n_columns = values.shape
    line = " ".join(["%.6f"] * n_columns) + "\n"
    return (line * n_rows) % tuple(values.ravel().tolist())


def _write_samples(file: TextIO, ancestry: store.Store) -> None:
    for block in ancestry_table.blocks(ancestry, "sample_id"):
        ids = ancestry.read("sample_id", block)
        file.writelines(f"{sample}\n" for sample in ids.tolist())


def _write_variants(file: TextIO, ancestry: store.Store, allele: str) -> None:
    file.write("\t".join(variant_list.COLUMNS) + "\n")
    for block in ancestry_table.blocks(ancestry, "variant_position"):
        alleles = ancestry.read("variant_allele", block)
        columns = (
            ancestry.read("variant_contig_name", block).tolist(),
            ancestry.read("variant_position", block).tolist(),
            ancestry.read("variant_id", block).tolist(),
            alleles[:, 0].tolist(),
            alleles[:, 1].tolist(),
        )
        file.writelines(
            f"{contig}\t{position}\t{name}\t{reference}\t{alternate}\t{allele}\n"
            for contig, position, name, reference, alternate in zip(
                *columns, strict=True
            )
        )
