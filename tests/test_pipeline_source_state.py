"""What a cohort's files look like, and what of them tells of a change."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.source_state import SourceState, observe
from tests import helpers

CALLS = helpers.random_genotypes(20, 12)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    helpers.write_cohort(tmp_path / "cohort.vcz", CALLS, chunks=(10, 5))
    return tmp_path / "cohort.vcz"


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))


def test_observe__chunks_of_people(cohort: Path):
    before = observe(str(cohort), contents=False)
    assert (len(before.columns), before.sample_chunk) == (3, 5)
    assert observe(str(cohort), contents=False) == before
    assert SourceState.from_json(before.as_json()) == before
    touch(cohort / "call_genotype" / "1.2.0")
    after = observe(str(cohort), contents=False)
    assert after.same_columns(before) == [True, True, False]
    touch(cohort / "sample_id" / "0")
    assert observe(str(cohort), contents=False).same_columns(after) == [True] * 3
    touch(cohort / "variant_position" / "0")
    assert observe(str(cohort), contents=False).same_columns(after) == [False] * 3


def test_observe__contents_do_not_mind_times(cohort: Path):
    before = observe(str(cohort), contents=True)
    for path in cohort.rglob("*"):
        touch(path)
    assert observe(str(cohort), contents=True) == before
    chunk = cohort / "call_genotype" / "0.0.0"
    times = chunk.stat()
    chunk.write_bytes(chunk.read_bytes()[::-1])
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert observe(str(cohort), contents=True).same_columns(before)[0] is False


def test_observe__chunks_of_another_size_are_all_new(cohort: Path, tmp_path: Path):
    before = observe(str(cohort), contents=True)
    helpers.write_cohort(tmp_path / "other.vcz", CALLS, chunks=(10, 4))
    after = observe(str(tmp_path / "other.vcz"), contents=True)
    assert after.same_columns(before) == [False] * 3


def test_observe__files_that_are_imported(tmp_path: Path):
    for suffix in (".bed", ".bim", ".fam"):
        (tmp_path / f"cohort{suffix}").write_text(suffix)
    source = str(tmp_path / "cohort.bed")
    before = [observe(source, contents=each) for each in (False, True)]
    touch(tmp_path / "cohort.fam")
    assert observe(source, contents=False) != before[0]
    assert observe(source, contents=True) == before[1]
    assert before[0].same_columns(before[0]) == []


def test_observe__nothing_there(tmp_path: Path):
    with pytest.raises(InputError, match="no such store"):
        observe(str(tmp_path / "cohort.vcz"), contents=False)


def test_observe__dosages(tmp_path: Path):
    dosages = np.zeros((20, 12), np.float32)
    source = helpers.write_dosages(tmp_path / "cohort.vcz", dosages, chunks=(10, 5))
    assert len(observe(source, contents=False).columns) == 3
