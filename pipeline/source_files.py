"""Which files a cohort comes in, before it is VCF Zarr.

Knows suffixes, patterns and companions; reads nothing but whether files are there.
Invariant: a `SourceFiles` names files that exist, all of one format.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import remedies
from pipeline.errors import InputError

BED, VCF, PGEN, BGEN = "PLINK 1", "VCF", "PLINK 2", "BGEN"
_SUFFIXES = {
    ".bed": BED,
    ".vcf.gz": VCF,
    ".vcf.bgz": VCF,
    ".bcf": VCF,
    ".vcf": VCF,
    ".pgen": PGEN,
    ".bgen": BGEN,
}
_KNOWN = ".bed, .pgen, .bgen, .vcf.gz nor .bcf"
# Tables of people of PLINK 2, and of PLINK 1.
_PEOPLE = (".psam", ".fam")
_WILDCARDS = re.compile(r"[*?\[]")
_MERGE = {
    BED: remedies.merge_filesets(".bed"),
    PGEN: remedies.merge_filesets(".pgen"),
    BGEN: remedies.MERGE_BGEN,
}


@dataclass(frozen=True)
class SourceFiles:
    """The files of a cohort.

    Attributes
    ----------
    kind
        BED, VCF, PGEN or BGEN.
    files
        The files named, several only of VCF.
    companions
        What belongs to them: .bim and .fam, .pvar and .psam, or .sample.
    others
        Further tables that name the people, of the other version of PLINK.
    """

    kind: str
    files: tuple[Path, ...]
    companions: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """The one file, or the first."""
        return self.files[0]

    def __str__(self) -> str:
        others = len(self.files) - 1
        return f"{self.path} and {others} more" if others else str(self.path)


def needs_import(source: str | Path) -> bool:
    """Whether the suffix says PLINK, VCF or BGEN, to be imported before anything else.

    >>> needs_import("cohort.bed"), needs_import("chr*.vcf.gz"), needs_import("c.vcz")
    (True, True, False)
    """
    return str(source).endswith(tuple(_SUFFIXES))


# What a prefix may be of, and the tables beside, which people name as well.
_FILESETS = (".bed", ".pgen", ".bgen")
_TABLES = {
    (".bim", ".fam"): (".bed", ".pgen"),
    (".pvar", ".pvar.zst", ".psam"): (".pgen",),
    (".sample",): (".bgen",),
}


def complete(source: str) -> str:
    """The file that holds the genotypes, where a prefix is given as PLINK takes it.

    Anything that exists, or of which nothing is found, is as it was.

    Raises
    ------
    InputError
        If several filesets have the prefix, or a table beside the genotypes is named.
    """
    if "://" in source or needs_import(source):
        return source
    for suffixes, kinds in _TABLES.items():
        table = next((s for s in suffixes if source.endswith(s)), None)
        if table is not None and Path(source).is_file():
            whole = _existing_files(source.removesuffix(table), kinds)
            named = whole[0] if whole else f"the {' or '.join(kinds)} file"
            raise InputError(f"{source} holds no genotypes; name {named} beside it")
    if Path(source).exists():
        return source
    found = _existing_files(source, _FILESETS)
    if len(found) > 1:
        raise InputError(
            f"{source} is the prefix of {' and '.join(found)}; name the one to read"
        )
    return found[0] if found else source


def _existing_files(prefix: str, suffixes: Sequence[str]) -> list[str]:
    return [f"{prefix}{end}" for end in suffixes if Path(f"{prefix}{end}").is_file()]


def find_files(sources: Sequence[str | Path]) -> SourceFiles:
    """Find the files that were named, or that match the patterns given.

    Parameters
    ----------
    sources
        Paths, or patterns of the shell (``chr*.vcf.gz``). What a pattern finds is put
        in order by the numbers in the names: chr2 before chr10.

    Raises
    ------
    InputError
        If a file or companion is missing, or formats are mixed.
    """
    files = [path for source in sources for path in _expand(str(source))]
    kinds = sorted({_kind(path) for path in files})
    if len(kinds) > 1:
        raise InputError(
            f"{files[0]} and the others are of several formats ({', '.join(kinds)}); "
            "import files of one format"
        )
    again = [path for path in files if files.count(path) > 1]
    if again:
        raise InputError(f"{again[0]} is named twice; name each file once")
    kind = kinds[0]
    if len(files) > 1 and kind in _MERGE:
        raise InputError(
            f"{len(files)} {kind} files were given, and only VCF may come in several; "
            f"{_MERGE[kind]}"
        )
    companions = _companions(kind, files[0])
    return SourceFiles(kind, tuple(files), companions, _others(files[0], companions))


def _expand(source: str) -> list[Path]:
    if "://" in source:
        raise InputError(f"{source} is remote; copy it to this machine to import it")
    if not needs_import(source):
        raise InputError(f"{source} is neither {_KNOWN}; only these are imported")
    if _WILDCARDS.search(source) and not Path(source).exists():
        found = sorted(glob.glob(source), key=_by_numbers)
        if not found:
            raise InputError(f"{source} matches no file; check the pattern")
        return [Path(path) for path in found]
    if not Path(source).is_file():
        raise InputError(f"{source} does not exist or is not a file; check the path")
    return [Path(source)]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers.

    >>> sorted(["chr10", "chr2", "chrX"], key=_by_numbers)
    ['chr2', 'chr10', 'chrX']
    """
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _kind(path: Path) -> str:
    return next(kind for end, kind in _SUFFIXES.items() if path.name.endswith(end))


def _companions(kind: str, path: Path) -> tuple[Path, ...]:
    if kind == BED:
        return tuple(_existing(path, [(".bim",), (".fam",)]))
    if kind == PGEN:
        # PLINK 2 writes the tables of PLINK 1 too (--make-bpgen).
        return tuple(_existing(path, [(".pvar", ".pvar.zst", ".bim"), _PEOPLE]))
    if kind == BGEN:
        return tuple(p for p in (path.with_suffix(".sample"),) if p.is_file())
    return ()


def _existing(path: Path, wanted: Sequence[tuple[str, ...]]) -> Iterator[Path]:
    """The first file of each table that is there, by the suffixes it may have."""
    for suffixes in wanted:
        tables = [path.with_suffix(suffix) for suffix in suffixes]
        found = next((table for table in tables if table.is_file()), None)
        if found is None:
            needed = " and ".join(names[0] for names in wanted)
            raise InputError(
                f"{tables[0]} does not exist; {path} needs its {needed} beside it"
            )
        yield found


def _others(path: Path, companions: Sequence[Path]) -> tuple[Path, ...]:
    if not {path.with_suffix(suffix) for suffix in _PEOPLE}.isdisjoint(companions):
        tables = [path.with_suffix(suffix) for suffix in _PEOPLE]
        return tuple(t for t in tables if t not in companions and t.is_file())
    return ()
