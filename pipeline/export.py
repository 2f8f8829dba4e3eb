"""Ancestry as text files in ADMIXTURE's format, with the names of rows beside them.

Reads an ancestry store block by block and writes PREFIX.K.Q, PREFIX.K.P,
PREFIX.samples and PREFIX.variants, and PREFIX.populations where populations have names.
All appear once all are written.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from pipeline import publication, store, variant_list
from pipeline.errors import InputError
from pipeline.location import Location

logger = logging.getLogger(__name__)

# Numbers formatted at once: as Python objects they take a hundred bytes each.
_NUMBERS_AT_ONCE = 200_000


def export_admixture(
    store_path: Location, prefix: Location, *, overwrite: bool = False
) -> list[Path]:
    """Write an ancestry store as ADMIXTURE-style text files.

    Four files, none with anything but its rows, except for the header line of the last:

    - PREFIX.K.Q: a person a line, the share of each of K populations;
    - PREFIX.K.P: a variant a line, the frequency of the alternate allele in each
      population;
    - PREFIX.samples: the person's id on each line of the Q file;
    - PREFIX.variants: contig, position (base pairs from 1), id, reference and alternate
      allele of each line of the P file, separated by tabs.

    A store with named populations gives one more, PREFIX.populations: the name of each
    column of the Q and P files, a line each.

    Numbers have six decimals and a space between them. A person without any called
    genotype is a line of "nan", and the number of such people is logged.

    Parameters
    ----------
    store_path
        The ancestry store.
    prefix
        Start of the files' names, in a folder that exists.
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
    ancestry = store.Store.open(publication.resolve(store_path), "ancestry")
    n_populations = ancestry.shape("sample_ancestry_proportion")[1]
    targets = _target_files(prefix, n_populations)
    is_named = "population_id" in ancestry
    if is_named:
        targets.append(prefix.with_name(f"{prefix.name}.populations"))
    _check_targets(targets, overwrite=overwrite)
    with _written_together(targets) as files:
        shares, frequencies, samples, variants = files[:4]
        n_without = _write_numbers(shares, ancestry, "sample_ancestry_proportion")
        _write_numbers(frequencies, ancestry, "variant_population_frequency")
        _write_samples(samples, ancestry)
        _write_variants(variants, ancestry)
        if is_named:
            names = ancestry.read("population_id").tolist()
            files[4].writelines(f"{name}\n" for name in names)
    if n_without:
        logger.warning(
            "%s no called genotype; in %s, nan stands for their ancestry",
            "1 person has" if n_without == 1 else f"{n_without:,} people have",
            targets[0],
        )
    return targets


def _target_files(prefix: Path, n_populations: int) -> list[Path]:
    if prefix.name in ("", ".."):
        raise InputError(
            f"prefix {prefix} has no file name; name the files as in {prefix}/cohort"
        )
    endings = (f"{n_populations}.Q", f"{n_populations}.P", "samples", "variants")
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


def _blocks(ancestry: store.Store, name: str) -> Iterator[slice]:
    """Whole chunks of an array's rows, so that each is decoded once."""
    n_rows, size = ancestry.shape(name)[0], ancestry.chunks(name)[0]
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def _write_numbers(file: TextIO, ancestry: store.Store, name: str) -> int:
    """Write an array's rows; return how many of them hold a NaN."""
    n_without = 0
    for block in _blocks(ancestry, name):
        values = ancestry.read(name, block)
        n_without += int(np.isnan(values).any(axis=1).sum())
        n_rows = max(_NUMBERS_AT_ONCE // values.shape[1], 1)
        for start in range(0, len(values), n_rows):
            file.write(_format_rows(values[start : start + n_rows]))
    return n_without


def _format_rows(values: npt.NDArray[np.floating]) -> str:
    r"""Text of a block of numbers, by one formatting operation.

    >>> _format_rows(np.array([[0.25, 0.75], [np.nan, np.nan]]))
    '0.250000 0.750000\nnan nan\n'
    """
    n_rows, n_columns = values.shape
    line = " ".join(["%.6f"] * n_columns) + "\n"
    return (line * n_rows) % tuple(values.ravel().tolist())


def _write_samples(file: TextIO, ancestry: store.Store) -> None:
    for block in _blocks(ancestry, "sample_id"):
        ids = ancestry.read("sample_id", block)
        file.writelines(f"{sample}\n" for sample in ids.tolist())


def _write_variants(file: TextIO, ancestry: store.Store) -> None:
    file.write("\t".join(variant_list.COLUMNS) + "\n")
    for block in _blocks(ancestry, "variant_position"):
        alleles = ancestry.read("variant_allele", block)
        columns = (
            ancestry.read("variant_contig_name", block).tolist(),
            ancestry.read("variant_position", block).tolist(),
            ancestry.read("variant_id", block).tolist(),
            alleles[:, 0].tolist(),
            alleles[:, 1].tolist(),
        )
        file.writelines(
            f"{contig}\t{position}\t{name}\t{reference}\t{alternate}\n"
            for contig, position, name, reference, alternate in zip(
                *columns, strict=True
            )
        )
