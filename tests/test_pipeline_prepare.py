import dataclasses
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from estimator.counting import count_called
from estimator.packing import CALLS, unpack_alleles, unpack_genotypes
from pipeline import calls, decode, filling, plan, prepare, schema
from pipeline.config import QCConfig
from pipeline.errors import InputError
from pipeline.prepared import open_prepared, open_store
from pipeline.qc import quality_control
from pipeline.store import Store
from tests.helpers import (
    SerialCluster,
    local,
    random_genotypes,
    small_cohort,
    small_prepared,
    text,
)

N_VARIANTS, N_SAMPLES = 42, 150


def _dosage(genotypes: np.ndarray) -> np.ndarray:
    """Alternate alleles, people by variants; -1 where an allele is missing."""
    counts = genotypes.sum(axis=2)
    return np.where((genotypes < 0).any(axis=2), -1, counts).T


def _cohort_changes() -> dict[str, Any]:
    alleles = text([["A", "C", ""]] * N_VARIANTS)
    alleles[5] = ["A", "C", "G"]
    return {"variant_allele": alleles}


def _genotypes() -> np.ndarray:
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    genotypes[5, 0] = 2
    genotypes[11] = -1
    return genotypes


@pytest.mark.parametrize("sample_chunk", [10, 40, 64, 100, 1_000])
def test_prepare__stores_everybody_at_the_kept_variants(tmp_path, sample_chunk):
    genotypes = _genotypes()
    prepared = small_prepared(
        tmp_path, genotypes, chunks=(8, sample_chunk), **_cohort_changes()
    )
    kept = np.delete(np.arange(N_VARIANTS), [5, 11])
    store = open_store(prepared.path)
    packed = store.read("call_genotype_packed")
    found = unpack_genotypes(packed, len(kept))
    np.testing.assert_array_equal(found, _dosage(genotypes)[:, kept])
    np.testing.assert_array_equal(store.read("sample_n_called"), count_called(packed))
    np.testing.assert_array_equal(store.read("variant_index"), kept)
    np.testing.assert_array_equal(store.read("variant_position"), 1000 * (kept + 1))
    np.testing.assert_array_equal(store.read("variant_id"), [f"rs{i}" for i in kept])
    assert store.read("sample_id")[-1] == f"s{N_SAMPLES - 1}"
    called = found >= 0
    frequency = (found * called).sum(axis=0) / (2 * called.sum(axis=0))
    np.testing.assert_allclose(store.read("variant_frequency"), frequency)


def test_prepare__records_quality_control_and_provenance(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0)
    genotypes[:, 7] = -1
    cohort = small_cohort(tmp_path, genotypes)
    config = dataclasses.replace(QCConfig(), max_ld_r2=1.0, min_variant_call_rate=0.5)
    path = tmp_path / "prepared.zarr"
    prepare.prepare(cohort, path, config, SerialCluster(), {"stamp": "abc"})
    attrs = open_store(path).attrs
    assert attrs["stamp"] == "abc"
    people = [step for step in attrs["qc_steps"] if step["axis"] == "samples"]
    assert [step["removed"] for step in people] == [1, 0]
    assert attrs["relatives"] is None  # a few variants cannot tell
    prepared = open_prepared(path)
    assert prepared.n_in_fit == N_SAMPLES - 1
    assert not prepared.in_fit[7]
    assert prepared.n_samples == N_SAMPLES


def test_prepare__without_quality_control_counts_what_it_packed(tmp_path, monkeypatch):
    def refuse(*_arguments: Any) -> NoReturn:
        raise AssertionError("the cohort's own genotypes were counted")

    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    beforehand = quality_control(
        small_cohort(tmp_path / "a", genotypes, chunks=(8, 40)), QCConfig(enabled=False)
    )
    monkeypatch.setattr(calls, "count_calls", refuse)
    prepared = small_prepared(tmp_path / "b", genotypes, chunks=(8, 40))
    store = open_store(prepared.path)
    found = store.read("variant_frequency")
    np.testing.assert_array_equal(found, beforehand.alternate_frequency)
    found = store.read("sample_call_rate")
    np.testing.assert_array_equal(found, beforehand.sample_call_rate)
    steps = [(s["name"], s["remaining"]) for s in store.attrs["qc_steps"]]
    assert steps == [(s.name, s.remaining) for s in beforehand.steps]


def test_prepare__without_quality_control_of_half_calls(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    genotypes[3, 100, 1] = -1
    store = open_store(small_prepared(tmp_path, genotypes, chunks=(8, 40)).path)
    assert store.dtype("call_genotype_packed") == CALLS.dtype
    assert store.shape("variant_index") == (N_VARIANTS,)


class _KilledError(Exception):
    """Stands for a driver that dies: nothing after it runs."""


def test_prepare__writes_again_what_was_written_in_part(tmp_path, monkeypatch):
    write_all = prepare.write_all

    def die_while_writing(store: Store, specs: Any, values: Any) -> None:
        if "variant_frequency" not in values:
            return write_all(store, specs, values)
        shape = values["variant_frequency"].shape
        store.lay_out("variant_frequency", specs["variant_frequency"], shape, (7,))
        raise _KilledError

    cohort = small_cohort(tmp_path, random_genotypes(N_VARIANTS, N_SAMPLES))
    path, config = tmp_path / "prepared.zarr", QCConfig(enabled=False)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_all", die_while_writing)
        with pytest.raises(_KilledError):
            prepare.prepare(cohort, path, config, SerialCluster(), {})
    prepare.prepare(cohort, path, config, SerialCluster(), {})
    assert open_store(path).chunks("variant_frequency") == (N_VARIANTS,)
    open_prepared(path)


def test_prepare__specifies_every_array_as_the_schema(tmp_path):
    prepared = small_prepared(tmp_path, random_genotypes(N_VARIANTS, N_SAMPLES))
    store = open_store(prepared.path)
    assert store.names() == sorted(schema.PREPARED)
    for name, spec in schema.PREPARED.items():
        kind = "U" if spec.dtype == "str" else np.dtype(spec.dtype).kind
        assert store.read(name).dtype.kind == kind


def test_prepare__keeps_population_labels(tmp_path):
    cohort = small_cohort(tmp_path, random_genotypes(N_VARIANTS, 3))
    labels = ("samples", ["north", "south", "north"])
    dataset = cohort.dataset.assign(sample_population=labels)
    cohort = dataclasses.replace(cohort, dataset=dataset)
    path = tmp_path / "prepared.zarr"
    prepare.prepare(cohort, path, QCConfig(enabled=False), SerialCluster(), {})
    found = open_store(path).read("sample_population")
    np.testing.assert_array_equal(found, labels[1])


def test_prepare__of_the_same_cohort_has_the_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        prepared = small_prepared(tmp_path / name, _genotypes(), **_cohort_changes())
        path = local(prepared.path)
        files = sorted(p for p in path.rglob("*") if p.is_file())
        contents.append({p.relative_to(path): p.read_bytes() for p in files})
    assert contents[0] == contents[1]


def test_fill__tells_the_encoding_that_a_block_needs(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, 70, missing=0)
    genotypes[9, 40, 1] = -1
    cohort = small_cohort(tmp_path, genotypes, chunks=(8, 32))
    index = np.arange(N_VARIANTS)
    columns = decode.Columns(index, np.zeros(N_VARIANTS, bool))
    keys = filling.variant_keys(cohort, index)
    path = tmp_path / "prepared.zarr"
    store = filling.lay_out(cohort, path, columns, keys)
    # Twice, as after an interruption.
    for _ in range(2):
        assert filling.fill(cohort, store, SerialCluster()) is CALLS
        assert store.blocks_left() == [1]
    store = filling.lay_out(cohort, path, columns, keys, CALLS)
    assert filling.fill(cohort, store, SerialCluster()) is None
    found = unpack_alleles(store.read("call_genotype_packed"), N_VARIANTS)
    np.testing.assert_array_equal(found.observed, (genotypes >= 0).sum(axis=2).T)


def test_fill__turns_swapped_variants_round(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, 70)
    cohort = small_cohort(tmp_path, genotypes, chunks=(8, 32))
    index = np.array([4, -1, 2, 30])
    columns = decode.Columns(index, np.array([True, False, False, True]))
    keys = filling.variant_keys(cohort, np.maximum(index, 0))
    store = filling.lay_out(cohort, tmp_path / "turned.zarr", columns, keys)
    filling.fill(cohort, store, SerialCluster())
    store.finish()
    dosage = _dosage(genotypes)[:, index]
    dosage[:, 1] = -1
    for column in (0, 3):
        called = dosage[:, column] >= 0
        dosage[called, column] = 2 - dosage[called, column]
    found = unpack_genotypes(store.read("call_genotype_packed"), 4)
    np.testing.assert_array_equal(found, dosage)
    assert store.read("variant_swapped").tolist() == [True, False, False, True]


def test_variant_keys__follow_the_index(tmp_path):
    alleles = text([["A", f"C{'T' * i}"] for i in range(4)])
    cohort = small_cohort(
        tmp_path,
        random_genotypes(4, 3),
        variant_allele=alleles,
        contig_id=text(["1", "X"]),
        variant_contig=np.array([0, 0, 1, 1], np.int8),
    )
    keys = filling.variant_keys(cohort, np.array([3, 0]))
    assert {name: values.tolist() for name, values in keys.items()} == {
        "variant_contig_name": ["X", "1"],
        "variant_position": [4000, 1000],
        "variant_allele": [["A", "CTTT"], ["A", "C"]],
        "variant_id": ["rs3", "rs0"],
    }


@pytest.mark.parametrize("sample_chunk", [50, 33, 1_000])
def test_open_prepared__gives_its_sizes(tmp_path, sample_chunk):
    prepared = small_prepared(
        tmp_path, random_genotypes(6, N_SAMPLES), chunks=(8, sample_chunk)
    )
    stored = min(sample_chunk, N_SAMPLES)
    assert prepared.sample_chunk == stored
    assert prepared.unit == plan.chunk_people(stored)
    assert (prepared.n_samples, prepared.n_variants) == (N_SAMPLES, 6)
    assert prepared.in_fit.all()


def _unfinished(path: Path) -> None:
    Store.create(path, "prepared")


def _model(path: Path) -> None:
    Store.create(path, "model").finish()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: None, r"at does not exist; check the path"),
        (_unfinished, r"at is unfinished; run `streamixture prepare` again"),
        (_model, r"at is not a streamixture prepared store \(kind: model\)"),
    ],
)
def test_open_prepared__refuses(tmp_path, build, message):
    build(tmp_path / "at")
    with pytest.raises(InputError, match=message):
        open_prepared(tmp_path / "at")


def test_fill__a_block_that_failed_is_left(tmp_path):
    cohort = small_cohort(tmp_path, random_genotypes(8, 5))
    index = np.arange(8)
    columns = decode.Columns(index, np.zeros(8, bool))
    keys = filling.variant_keys(cohort, index)
    store = filling.lay_out(cohort, tmp_path / "p.zarr", columns, keys)
    chunk = tmp_path / "cohort.vcz" / "call_genotype" / "1.0.0"
    chunk.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"chunk 1\.0\.0 of array call_genotype"):
        filling.fill(cohort, store, SerialCluster())
    assert store.blocks_left() == [0]
