"""Open a cohort: a VCF Zarr (zarr format 2) store, checked and read lazily.

Reads the store's JSON metadata and its sample ids; genotypes stay on disk behind a
dask array. Writes nothing. Invariant: a `Cohort` that exists has calls of at most two
alleles, or dosages, unique sample ids and arrays whose shapes agree.
"""

import functools
import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline import (
    cohort_metadata,
    contig_numbers,
    genome_build,
    schema,
    zarr_files,
)
from pipeline.alleles import PLACEHOLDERS, UNOBSERVED
from pipeline.errors import InputError
from pipeline.location import Location, files_below, locate

_SLAB = 100_000
_CHUNK_KEY = re.compile(r"\d+([./]\d+)*")


class Alleles(NamedTuple):
    """Reference and alternate allele of every variant, '' where there is none.

    Of a multiallelic variant the first alternate; never one that stands for no allele,
    such as <NON_REF>.
    """

    reference: npt.NDArray[np.str_]
    alternate: npt.NDArray[np.str_]


class _Slots(NamedTuple):
    biallelic: npt.NDArray[np.bool_]
    alternate: npt.NDArray[np.int8]


_UNUSED, _ALLELE, _PLACEHOLDER = range(3)


def _kind(value: str | bytes) -> int:
    name = value.decode() if isinstance(value, bytes) else value
    if name in UNOBSERVED:
        return _UNUSED
    return _PLACEHOLDER if name in PLACEHOLDERS else _ALLELE


@dataclass(frozen=True, eq=False)
class Cohort:
    """A checked VCF Zarr store.

    Attributes
    ----------
    url
        Where the store is, as the user gave it.
    dataset
        The store as sgkit.load_dataset opens it. Genotypes and other matrices are dask
        arrays in the store's chunks; ids and variant keys are read on use, without
        dask. Missing calls are -1.
    """

    url: str
    dataset: xr.Dataset

    @property
    def n_samples(self) -> int:
        """Number of people."""
        return self.dataset.sizes["samples"]

    @property
    def n_variants(self) -> int:
        """Number of variants, multiallelic ones included."""
        return self.dataset.sizes["variants"]

    @property
    def sample_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the people, in the store's order."""
        return _text(self.dataset["sample_id"].values)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Position of every variant on its contig, in base pairs from 1."""
        return self.dataset["variant_position"].values.astype(np.int64)

    @property
    def contig_names(self) -> npt.NDArray[np.str_]:
        """Names of the contigs, those without variants included."""
        # Older stores name their contigs in an attribute, as sgkit still accepts.
        stored = self.dataset.get("contig_id", self.dataset.attrs.get("contigs"))
        return _text(np.asarray(stored))

    @property
    def contig_numbers(self) -> npt.NDArray[np.integer[Any]]:
        """Index of every variant's contig among the names."""
        names = self.contig_names
        numbers: npt.NDArray[np.integer[Any]] = self.dataset["variant_contig"].values
        unnamed = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
        if unnamed.size:
            raise InputError(
                f"{self.url}: variant_contig[{unnamed[0]}] is {numbers[unnamed[0]]}, "
                f"but contig_id names {len(names)} contigs; convert the cohort again"
            )
        return numbers

    @property
    def contigs(self) -> npt.NDArray[np.str_]:
        """Name of every variant's contig."""
        return self.contig_names[self.contig_numbers]

    @property
    def genome_build(self) -> str:
        """Build that the positions are on, one of `genome_build.BUILDS`."""
        header = genome_build.header_lines(self.dataset.attrs)
        lengths = genome_build.header_lengths(header)
        if {"contig_id", "contig_length"} <= set(self.dataset):
            names = _strings(self.dataset["contig_id"].values)
            stored = self.dataset["contig_length"].values.tolist()
            lengths |= dict(zip(names, stored, strict=True))
        return genome_build.identify(lengths, header)

    @property
    def alleles(self) -> Alleles:
        """Alleles of every variant; the width of the arrays is the longest allele."""
        allele = self.dataset["variant_allele"]
        reference = _text(allele[:, 0].values)
        if allele.shape[1] == 1:
            return Alleles(reference, np.full_like(reference, ""))
        alternate = _text(allele[:, 1].values)
        slots = self.alternate_slots
        if slots is not None:
            alternate[slots == 0] = ""
            for slot in range(2, allele.shape[1]):
                rows = np.flatnonzero(slots == slot)
                if rows.size:
                    found = _text(allele[rows, slot].values)
                    alternate = alternate.astype(max(alternate.dtype, found.dtype))
                    alternate[rows] = found
        return Alleles(reference, alternate)

    @property
    def variant_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the variants; '.' everywhere if the store has none."""
        if "variant_id" not in self.dataset:
            return np.full(self.n_variants, ".")
        return _text(self.dataset["variant_id"].values)

    @property
    def calls_name(self) -> str:
        """Array that the calls are read from: call_genotype, else dosages."""
        return schema.calls_array([str(name) for name in self.dataset])

    @property
    def has_dosages(self) -> bool:
        """Whether the calls are expected counts of alternate alleles."""
        return self.calls_name != schema.CALLS

    @property
    def variant_chunk(self) -> int:
        """Variants in a chunk of the calls."""
        return int(self.dataset[self.calls_name].data.chunksize[0])

    @property
    def sample_chunk(self) -> int:
        """People in a chunk of the calls."""
        return int(self.dataset[self.calls_name].data.chunksize[1])

    @property
    def biallelic_mask(self) -> npt.NDArray[np.bool_]:
        """True for variants with at most one alternate allele.

        Other allele slots must be unobserved ('', '.' or PLINK's '0') or stand for no
        allele (`alleles.PLACEHOLDERS`); the calls tell whether anybody carries one of
        these. A monomorphic variant, whose only alternate allele is unobserved, is
        True.
        """
        return self._slots.biallelic

    @property
    def alternate_slots(self) -> npt.NDArray[np.int8] | None:
        """Number of the alternate allele, where others stand for no allele.

        0 where there is no alternate allele, and -1 where no allele is a placeholder;
        None if that is so of all biallelic variants.
        """
        slots = self._slots.alternate
        return slots if (slots >= 0).any() else None

    def slots_of(
        self, index: slice | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int8] | None:
        """`alternate_slots` of some variants; None if it is so of all of them."""
        slots = self._slots.alternate[index]
        return slots if (slots >= 0).any() else None

    @functools.cached_property
    def _slots(self) -> "_Slots":
        biallelic = np.ones(self.n_variants, dtype=np.bool_)
        alternate = np.full(self.n_variants, -1, np.int8)
        allele = self.dataset["variant_allele"]
        starts = range(0, self.n_variants if allele.shape[1] > 1 else 0, _SLAB)
        for start in starts:
            slab = slice(start, start + _SLAB)
            values = allele[slab, 1:].values
            kinds = np.array([_kind(value) for value in values.ravel().tolist()])
            kinds = kinds.reshape(values.shape)
            observed = kinds == _ALLELE
            has_placeholder = (kinds == _PLACEHOLDER).any(axis=1)
            # Unobserved alleles come last, unless something is wrong with them.
            in_place = ~observed[:, 1:].any(axis=1) | has_placeholder
            biallelic[slab] = in_place & (observed.sum(axis=1) <= 1)
            slot = np.where(observed.any(axis=1), 1 + observed.argmax(axis=1), 0)
            alternate[slab] = np.where(biallelic[slab] & has_placeholder, slot, -1)
        return _Slots(biallelic, alternate)

    def fingerprint(self) -> str:
        """SHA-256 of what the cohort holds, in hexadecimal.

        It covers the layout of the arrays that are used, the sample ids, the variant
        keys, and the chunks of the calls as stored (compressed, so this costs one read
        of the files and no decoding). Paths, times and other arrays do not count:
        a copy has the same fingerprint, and so has a store that results were added to.
        """
        path = locate(self.url)
        metadata = cohort_metadata.read_metadata(path)
        digest = hashlib.sha256()
        for name in sorted(cohort_metadata.arrays_used([self.calls_name])):
            layout = metadata.get(f"{name}/.zarray", {})
            fields = ("shape", "dtype", "chunks", "filters", "fill_value")
            _update(digest, [name, *(layout.get(field) for field in fields)])
        _update(digest, self.sample_ids.tolist())
        _update(digest, self.contigs.tolist())
        _update(digest, self.positions.tolist())
        for start in range(0, self.n_variants, _SLAB):
            alleles = self.dataset["variant_allele"][start : start + _SLAB].values
            _update(digest, _strings(alleles))
        for chunk in _chunk_digests(path, self.calls_name):
            _update(digest, chunk)
        return digest.hexdigest()


def open_cohort(url: str | Location) -> Cohort:
    """Open a VCF Zarr store after checking everything its metadata can tell.

    No genotype is read, and nothing is computed with dask.

    Parameters
    ----------
    url
        Directory, or URL that fsspec understands; its endpoint and credentials come
        from the environment.

    Raises
    ------
    InputError
        If the store is missing, is not a zarr format 2 VCF Zarr group, has calls of
        more than two alleles, is empty, or has the same sample id twice.
    """
    url = str(url)
    path = locate(url)
    cohort_metadata.check_arrays(url, cohort_metadata.read_metadata(path))
    # A fill value of 0 would turn reference alleles into NaN if it were masked.
    options: dict[str, Any] = {
        "mask_and_scale": False,
        "concat_characters": False,
        "consolidated": cohort_metadata.is_consolidated(path),
    }
    files = zarr_files.mapping(path)
    try:
        # As sgkit.load_dataset does, which takes two seconds to import.
        dataset = xr.open_zarr(files, **options)
        in_memory = xr.open_zarr(files, chunks=None, **options)
    except InputError:
        raise
    except (KeyError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{url}: cannot be opened ({reason}); convert the cohort again"
        ) from error
    wanted = (*cohort_metadata.SPECS, "variant_id", "contig_length")
    keys = [name for name in wanted if name in in_memory]
    dataset = dataset.assign(
        {name: in_memory[name].variable for name in keys if name != schema.CALLS}
    )
    numbers = contig_numbers.complete_contigs(url)
    if numbers is not None:
        dataset = dataset.assign(variant_contig=("variants", numbers))
    if schema.CALLS in dataset:
        dataset[schema.CALLS] = dataset[schema.CALLS].chunk({"ploidy": -1})
    cohort = Cohort(url, dataset)
    _check_sample_ids(cohort)
    return cohort


def _check_sample_ids(cohort: Cohort) -> None:
    first: dict[str, int] = {}
    for index, sample_id in enumerate(cohort.sample_ids.tolist()):
        if not sample_id:
            raise InputError(
                f"{cohort.url}: sample_id at {index} is empty; give everybody an id"
            )
        if first.setdefault(sample_id, index) != index:
            raise InputError(
                f"{cohort.url}: sample_id {sample_id!r} is at both {first[sample_id]} "
                f"and {index}; rename or remove one of the two"
            )


def _strings(values: npt.NDArray[Any]) -> list[str]:
    """Flatten strings, stored as objects, bytes or fixed-width text, to a list."""
    return [
        value.decode() if isinstance(value, bytes) else str(value)
        for value in values.ravel().tolist()
    ]


def _text(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    return np.array(_strings(values), dtype=np.str_)


def _update(digest: Any, value: list[Any]) -> None:
    """Hash a list so that no two different lists hash the same bytes."""
    encoded = json.dumps(value).encode()
    digest.update(len(encoded).to_bytes(8, "little"))
    digest.update(encoded)


def _chunk_digests(path: Location, name: str) -> list[list[str]]:
    """Key and BLAKE2 digest of every chunk of an array, in the order of their keys."""
    # Anything else is metadata, or what a killed writer left behind.
    files = files_below(path / name)
    chunks = [key for key in files if _CHUNK_KEY.fullmatch(key)]
    stored = zarr_files.mapping(path)

    def digest(key: str) -> list[str]:
        try:
            chunk = stored[f"{name}/{key}"]
        except OSError as error:
            raise InputError(
                f"{path}: chunk {key} of array {name} cannot be read "
                f"({error.strerror}); check permissions"
            ) from error
        return [key, hashlib.blake2b(chunk, digest_size=32).hexdigest()]

    with ThreadPoolExecutor() as executor:
        return list(executor.map(digest, chunks))
