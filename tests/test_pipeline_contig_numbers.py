"""Stores in which zarr 3 left out the chunks of the first contig."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.cohort import open_cohort
from pipeline.errors import InputError
from tests import helpers

# Chunks of three variants: two on the first contig, one on both, one on the second.
CONTIGS = np.array([0] * 8 + [1] * 4, np.int8)
# Chunk, contig, first and last position, end of the last, number of variants.
INDEX = np.array(
    [
        [0, 0, 1, 3, 3, 3],
        [1, 0, 4, 6, 6, 3],
        [2, 0, 7, 8, 8, 2],
        [2, 1, 1, 1, 1, 1],
        [3, 1, 2, 4, 4, 3],
    ],
    np.int32,
)


def write(path: Path, *, index: np.ndarray | None = INDEX) -> Path:
    """A store as bio2zarr 0.2 lays it out: no fill value, no chunks of zeros."""
    genotypes = helpers.random_genotypes(12, 5)
    names = helpers.text(["1", "2"])
    helpers.write_cohort(path, genotypes, variant_contig=CONTIGS, contig_id=names)
    group = zarr.open_group(str(path))
    dims = group["variant_contig"].attrs.asdict()
    group.create_dataset(
        "variant_contig", data=CONTIGS, chunks=3, fill_value=None, overwrite=True
    ).attrs.update(dims)
    if index is not None:
        group.create_dataset("region_index", data=index).attrs.update(
            {"_ARRAY_DIMENSIONS": ["region_index_values", "region_index_fields"]}
        )
    (path / ".zmetadata").unlink()
    for chunk in (0, 1):
        (path / "variant_contig" / str(chunk)).unlink()
    return path


def test_open_cohort__absent_chunks_are_of_the_first_contig(tmp_path):
    cohort = open_cohort(str(write(tmp_path / "c.vcz")))
    assert cohort.contigs.tolist() == ["1"] * 8 + ["2"] * 4
    assert cohort.dataset["variant_contig"].values.tolist() == CONTIGS.tolist()


def test_open_cohort__absent_chunks_without_an_index_are_refused(tmp_path):
    path = write(tmp_path / "c.vcz", index=None)
    with pytest.raises(InputError, match="chunk 0 of array variant_contig is absent"):
        open_cohort(str(path))


def test_open_cohort__other_absent_chunks_are_refused(tmp_path):
    path = write(tmp_path / "c.vcz")
    (path / "variant_contig" / "3").unlink()
    with pytest.raises(InputError, match="chunk 3 of array variant_contig is absent"):
        open_cohort(str(path))
    path = write(tmp_path / "d.vcz")
    shutil.move(path / "variant_position" / "0", tmp_path)
    with pytest.raises(InputError, match="chunk 0 of array variant_position is absent"):
        open_cohort(str(path))
