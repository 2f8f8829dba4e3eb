"""What is prepared from candidates is what the cohort's own chunks would give."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from pipeline import candidates, decode, kinship, linkage, prepare, qc, relatedness
from pipeline.calls import CohortCalls
from pipeline.candidates import Candidates
from pipeline.cohort import Cohort
from pipeline.config import QCConfig
from pipeline.mask_parts import cut_mask
from pipeline.prepared import CANDIDATES, KIND, open_prepared, open_store
from pipeline.store import Store, has_blocks
from tests.helpers import SerialCluster, linked_genotypes, small_cohort, text

N_VARIANTS, N_SAMPLES = 90, 140
ATTRS = {"stamp": "x"}
CONFIG = dataclasses.replace(QCConfig(), min_variant_call_rate=0.8, max_ld_r2=0.2)


def _genotypes() -> np.ndarray:
    """Calls of which something fails every filter, and two people are the same."""
    genotypes = linked_genotypes(N_VARIANTS, N_SAMPLES)
    genotypes[7, :60] = -1
    genotypes[:60, 11] = -1
    genotypes[20] = -1
    genotypes[:, 40] = genotypes[:, 3]
    return genotypes


def _cohort(folder: Path, chunks: tuple[int, int] = (16, 35)) -> Cohort:
    alleles = text([["A", "C", ""]] * N_VARIANTS)
    alleles[5] = ["A", "C", "G"]
    return small_cohort(folder, _genotypes(), chunks=chunks, variant_allele=alleles)


def _prepare(cohort: Cohort, path: Path, config: QCConfig = CONFIG) -> None:
    prepare.prepare(cohort, path, config, SerialCluster(), ATTRS)


def _contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(autouse=True)
def few_variants_tell_relatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relatedness, "MIN_VARIANTS", 20)
    monkeypatch.setattr(kinship, "MIN_SHARED_CALLS", 20)
    monkeypatch.setattr(linkage, "_BLOCK_CALLS", 1_000)


@pytest.mark.parametrize("chunks", [(16, 35), (90, 140), (7, 64), (4, 33)])
def test_prepare__from_candidates_has_the_bytes_of_the_cohorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int]
):
    cohort = _cohort(tmp_path, chunks)
    config = dataclasses.replace(CONFIG, relatives="project")
    _prepare(cohort, tmp_path / "once.zarr", config)
    assert not (tmp_path / CANDIDATES).exists()
    monkeypatch.setattr(prepare, "_pack_candidates", lambda *_: None)
    _prepare(cohort, tmp_path / "again.zarr", config)
    found = _contents(tmp_path / "once.zarr")
    assert found == _contents(tmp_path / "again.zarr")
    steps = open_store(tmp_path / "once.zarr").attrs["qc_steps"]
    removed = {step["name"]: step["removed"] for step in steps if step["removed"]}
    assert {"variant_call_rate", "sample_call_rate", "relatives"} < set(removed)
    assert {"minor_allele_frequency", "linkage_disequilibrium"} < set(removed)


def test_prepare__reads_each_chunk_of_the_cohort_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cohort, reads = _cohort(tmp_path), []
    read_calls = decode.read_calls

    def record(url: str, variants: slice, people: slice, *out: Any) -> np.ndarray:
        reads.append((variants.start, people.start))
        return read_calls(url, variants, people, *out)

    monkeypatch.setattr(decode, "read_calls", record)
    _prepare(cohort, tmp_path / "prepared.zarr")
    assert len(reads) == len(set(reads)) == 6 * 4


def test_prepare__of_half_calls_goes_back_to_the_cohort(tmp_path: Path):
    genotypes = _genotypes()
    genotypes[1, 2] = 0, -1
    cohort = small_cohort(tmp_path, genotypes, chunks=(16, 35))
    config = dataclasses.replace(CONFIG, min_maf=0, max_ld_r2=1)
    _prepare(cohort, tmp_path / "prepared.zarr", config)
    assert open_prepared(tmp_path / "prepared.zarr").itemsize == 2
    assert not (tmp_path / CANDIDATES).exists()


class _KilledError(Exception):
    """Stands for a driver that dies: nothing after it runs."""


def _die_after(n: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(n))

    def called(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise _KilledError
        return function(*arguments)

    return called


def _refuse(*_arguments: Any) -> NoReturn:
    raise AssertionError("this was done already")


@pytest.mark.parametrize(
    ("module", "name", "n_calls", "done"),
    [
        (decode, "decode_block", 2, ()),
        (qc, "quality_control", 0, ("decode.decode_block",)),
        (candidates, "select_block", 0, ("decode.decode_block", "qc.quality_control")),
        (candidates, "select_block", 2, ("decode.decode_block", "qc.quality_control")),
        (Store, "finish", 1, ("decode.decode_block", "candidates.select_block")),
    ],
)
def test_prepare__goes_on_from_where_it_was_killed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    n_calls: int,
    done: tuple[str, ...],
):
    cohort = _cohort(tmp_path)
    _prepare(cohort, tmp_path / "whole" / "prepared.zarr")
    path = tmp_path / "killed" / "prepared.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, _die_after(n_calls, getattr(module, name)))
        with pytest.raises(_KilledError):
            _prepare(cohort, path)
    for each in done:
        monkeypatch.setattr(f"pipeline.{each}", _refuse)
    _prepare(cohort, path)
    assert _contents(path) == _contents(tmp_path / "whole" / "prepared.zarr")


def _packed(cohort: Cohort, path: Path) -> Candidates:
    found = prepare._pack_candidates(cohort, path, CONFIG, SerialCluster())
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_candidates__count_and_compare_as_the_cohort_does(tmp_path: Path, seed: int):
    cohort = _cohort(tmp_path, (12, 33))
    packed, source = _packed(cohort, tmp_path / "c.zarr"), CohortCalls(cohort)
    rng = np.random.default_rng(seed)
    variants = qc.candidate_variants(cohort, CONFIG)
    variants &= rng.random(N_VARIANTS) < [1, 0.5, 0.1, 0.9][seed]
    samples = rng.random(N_SAMPLES) < [1, 0.5, 0.9, 0.1][seed]
    counts, expected = packed.count(variants, samples), source.count(variants, samples)
    np.testing.assert_array_equal(counts.table, expected.table)
    np.testing.assert_array_equal(counts.sample_called, expected.sample_called)
    dosage = packed.dosage(variants, samples)
    assert dosage.dtype == np.int8
    np.testing.assert_array_equal(dosage, source.dosage(variants, samples))


def test_candidates__of_nothing_are_no_counts(tmp_path: Path):
    cohort = _cohort(tmp_path)
    packed = _packed(cohort, tmp_path / "c.zarr")
    nobody, everybody = np.zeros(N_SAMPLES, bool), np.ones(N_SAMPLES, bool)
    nothing = np.zeros(N_VARIANTS, bool)
    for counts in (packed.count(nothing, everybody), packed.count(nothing, nobody)):
        assert not counts.table.any()
        assert not counts.sample_called.any()
    with pytest.raises(AssertionError, match="what is asked for was packed"):
        packed.count(~nothing, everybody)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_cut_mask__covers_what_is_selected(chunk: int):
    mask = np.random.default_rng(chunk).random(50) < 0.4
    parts = cut_mask(mask, chunk)
    positions = [np.arange(50)[part.positions] for part in parts]
    assert [len(part) for part in parts] == [len(each) for each in positions]
    np.testing.assert_array_equal(np.concatenate(positions), np.flatnonzero(mask))
    for part, each in zip(parts, positions, strict=True):
        assert each[0] // chunk == each[-1] // chunk
        np.testing.assert_array_equal(np.arange(50)[part.bounds][part.within], each)
    assert cut_mask(np.zeros(50, bool), chunk) == []


def test_has_blocks__once_one_is_marked(tmp_path: Path):
    cohort, path = _cohort(tmp_path), tmp_path / "c.zarr"
    assert not has_blocks(path, KIND)
    variants = qc.candidate_variants(cohort, CONFIG)
    store = candidates.lay_out_candidates(cohort, path, variants)
    assert not has_blocks(path, KIND)
    store.track_blocks(4)
    assert not has_blocks(path, KIND)
    store.mark_done(2)
    assert has_blocks(path, KIND)
