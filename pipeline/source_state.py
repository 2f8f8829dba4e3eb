"""What a cohort's files look like, to tell whether anything was written since.

Lists files, and reads none but small metadata, unless their contents are to be
compared. Writes nothing. Only arrays that are used count: results that were added to
the cohort's store change nothing here. Invariant: where the state is the same, so are
the genotypes; where it is not, they may be.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline import provenance, publication, source_files
from pipeline.cohort_metadata import read_metadata
from pipeline.location import Location, file_mark, file_marks, locate
from pipeline.schema import calls_array

_VARIANTS = (
    "variant_contig",
    "variant_position",
    "variant_allele",
    "contig_id",
    "contig_length",
)
_PEOPLE = ("sample_id", "sample_population")
# Of the metadata of the calls; their shape grows with the cohort.
_LAYOUT = ("chunks", "dtype", "filters", "compressor", "fill_value", "order")


@dataclass(frozen=True)
class SourceState:
    """The files of a cohort at one time, as digests.

    Attributes
    ----------
    variants
        Of the variants and of how the calls are laid out.
    people
        Of ids and labels.
    columns
        Of the calls of each chunk of people; empty where the cohort is imported.
    sample_chunk
        People in such a chunk; 0 where the cohort is imported.
    """

    variants: str
    people: str
    columns: tuple[str, ...] = ()
    sample_chunk: int = 0

    def as_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {**dataclasses.asdict(self), "columns": list(self.columns)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo `as_json`."""
        return cls(**{**values, "columns": tuple(values["columns"])})

    def same_columns(self, other: "SourceState") -> list[bool]:
        """Whether each chunk of people has the calls that it has in another state.

        Who the people are is not compared.
        """
        alike = (self.variants, self.sample_chunk) == (
            other.variants,
            other.sample_chunk,
        )
        known = dict(enumerate(other.columns)) if alike else {}
        return [known.get(i) == digest for i, digest in enumerate(self.columns)]


def observe(source: str, *, contents: bool) -> SourceState:
    """Look at the files of a cohort.

    Parameters
    ----------
    source
        A VCF Zarr store, or files that are imported.
    contents
        Whether to read the files, and not to trust their sizes and times.

    Raises
    ------
    InputError
        If nothing is there.
    """
    if source_files.needs_import(source):
        found = source_files.find_files([source])
        files = (*found.files, *found.companions)
        marks = {str(path): file_mark(path) for path in files}
        if contents:
            marks = {
                str(path): str(provenance.file_digest(str(path))) for path in files
            }
        return SourceState(provenance.digest(marks), "")
    path = publication.resolve(locate(source))
    metadata = read_metadata(path)
    calls = calls_array([name.removesuffix("/.zarray") for name in metadata])
    layout = metadata.get(f"{calls}/.zarray") or {}
    marks = {
        f"{name}/{key}": mark
        for name in (*_VARIANTS, *_PEOPLE, calls)
        for key, mark in file_marks(path / name).items()
    }
    if contents:
        marks = _read_marks(path, marks)
    shape, chunks = layout.get("shape", [0, 0]), layout.get("chunks", [0, 1])
    rest = [calls, shape[:1] + shape[2:], [layout.get(name) for name in _LAYOUT]]
    return SourceState(
        variants=provenance.digest([rest, _below(marks, _VARIANTS)]),
        people=provenance.digest([shape, _below(marks, _PEOPLE)]),
        columns=_column_digests(_below(marks, [calls]), shape[1], chunks[1]),
        sample_chunk=chunks[1],
    )


def _below(marks: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    prefixes = tuple(f"{name}/" for name in names)
    return {key: mark for key, mark in marks.items() if key.startswith(prefixes)}


def _read_marks(path: Location, keys: Iterable[str]) -> dict[str, str]:
    def digest(key: str) -> tuple[str, str]:
        file = path / key
        if isinstance(file, Path):
            return key, str(provenance.file_digest(str(file)))
        return key, hashlib.sha256(file.read_bytes()).hexdigest()

    with ThreadPoolExecutor() as executor:
        return dict(executor.map(digest, keys))


def _column_digests(
    marks: Mapping[str, str], n_samples: int, sample_chunk: int
) -> tuple[str, ...]:
    """Digest of the chunks of each chunk of people.

    >>> [d[:4] for d in _column_digests({"c/0.0.0": "a", "c/1.1.0": "b"}, 20, 10)]
    ['bdc2', '4afb']
    """
    n_columns = -(-n_samples // max(sample_chunk, 1))
    columns: list[list[tuple[str, str]]] = [[] for _ in range(n_columns)]
    for key, mark in sorted(marks.items()):
        parts = key.partition("/")[2].replace("/", ".").split(".")
        if len(parts) > 1 and all(part.isdigit() for part in parts):
            column = int(parts[1])
            if column < n_columns:
                columns[column].append((key, mark))
    return tuple(provenance.digest([json.dumps(c)]) for c in columns)
