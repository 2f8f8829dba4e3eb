"""Cohorts of half calls, haploid calls and dosages, from the store to Q."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator import training
from estimator.metrics import rmse
from estimator.packing import CALLS, DOSAGES, GENOTYPES, Encoding, unpack_alleles
from pipeline import fit_stage, prepare, prepare_stage, projection, qc, run, sources
from pipeline.config import FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.draws import CallKinds
from pipeline.errors import InputError
from pipeline.fit import fit
from pipeline.prepared import open_prepared, open_store
from pipeline.qc import QCResult
from pipeline.simulate import simulate
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle
from tests.helpers import SerialCluster

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SIZE = {"n_samples": 200, "n_variants": 1_500, "n_populations": 3}
CHUNKS = {"chunk_samples": 60, "chunk_variants": 400}
CONFIG = RunConfig(
    qc=QCConfig(max_ld_r2=1.0, min_maf=0.0, include_x=True),
    fit=FitConfig(n_populations=3),
    train=TrainConfig(epochs=1, batch_size=128),
)
KINDS = {
    "diploid": CallKinds(),
    "half": CallKinds(half_rate=0.05),
    "x": CallKinds(x_share=0.3),
    "dosage": CallKinds(dosage_blur=0.5),
    "whole dosage": CallKinds(dosage_blur=0.0),
}
SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
ENCODINGS = {"diploid": GENOTYPES, "half": CALLS, "x": CALLS, "dosage": DOSAGES}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Distil a rough encoder, for its answers are refined, and leave the report out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 50)
        patch.setattr(run, "write_report", lambda _, path: path.write_text("report"))
        yield


def simulated(folder: Path, kind: str, **changes: Any) -> Path:
    path = folder / f"{kind}.vcz"
    options = {**SIZE, **CHUNKS, "fst": 0.1, "dirichlet": 0.3, "seed": 3, **changes}
    simulate(path, kinds=KINDS[kind], **options)
    return path


def prepared_from(source: Path, folder: Path) -> Path:
    path = folder / f"{source.stem}.prepared.zarr"
    cohort = sources.open_source(str(source), folder)
    prepare.prepare(cohort, path, CONFIG.qc, SerialCluster(), {"stamp": source.stem})
    return path


def fitted_q(path: Path, folder: Path) -> np.ndarray:
    found = fit(
        open_prepared(path), CONFIG.fit, SerialCluster(), folder, seed=1, stamp="x"
    )
    assert found.converged
    return found.point.ancestry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ploidy")


@pytest.fixture(scope="module")
def cohorts(folder: Path) -> dict[str, Path]:
    return {kind: simulated(folder, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def stores(cohorts: dict[str, Path], folder: Path) -> dict[str, Path]:
    return {kind: prepared_from(source, folder) for kind, source in cohorts.items()}


@pytest.fixture(scope="module")
def diploid_q(stores: dict[str, Path], folder: Path) -> np.ndarray:
    return fitted_q(stores["diploid"], folder / "rounds")


@pytest.mark.parametrize("kind", ENCODINGS)
def test_prepare__has_the_narrowest_encoding(stores, kind):
    store = open_store(stores[kind])
    assert store.dtype("call_genotype_packed") == ENCODINGS[kind].dtype
    assert open_prepared(stores[kind]).itemsize == ENCODINGS[kind].itemsize


def test_prepare__keeps_the_alleles_observed(cohorts, stores):
    calls = helpers.read_array(cohorts["x"], "call_genotype")
    known = calls >= 0
    found = unpack_alleles(
        open_store(stores["x"]).read("call_genotype_packed"), len(calls)
    )
    np.testing.assert_array_equal(found.observed, known.sum(axis=2).T)
    alternate = np.where(known, calls, 0).sum(axis=2).T
    np.testing.assert_array_equal(found.alternate, alternate)
    frequency = alternate.sum(axis=0) / known.sum(axis=(1, 2))
    stored = open_store(stores["x"]).read("variant_frequency")
    np.testing.assert_allclose(stored, frequency)


def test_prepare__whole_dosages_have_the_bytes_of_genotypes(stores):
    def chunks(kind: str) -> dict[str, bytes]:
        arrays = ("call_genotype_packed", "variant_frequency", "sample_call_rate")
        return {
            f"{name}/{file.name}": file.read_bytes()
            for name in arrays
            for file in sorted((stores[kind] / name).iterdir())
        }

    assert chunks("whole dosage") == chunks("diploid")


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(k, marks=pytest.mark.soak) for k in ("half", "dosage")), "x"],
)
def test_fit__finds_the_truth_as_well_as_from_diploid_calls(
    cohorts, stores, diploid_q, tmp_path, kind
):
    truth = helpers.read_array(cohorts["diploid"], "simulated_ancestry_proportion")
    reference = rmse(diploid_q, truth)
    assert reference < 0.05
    # Males have 85 % of the alleles that they have at two each, dosages less noise.
    assert rmse(fitted_q(stores[kind], tmp_path), truth) < 1.1 * reference


def recode(source: Path, target: Path, encoding: Encoding) -> Path:
    """The same prepared calls in a wider encoding."""
    cohort = sources.open_source(str(source), target.parent)

    def counted(*arguments: Any) -> QCResult:
        result = original(*arguments)
        return QCResult(**{**vars(result), "encoding": encoding})

    original = qc.quality_control
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qc, "quality_control", counted)
        # Candidates are packed at two bits.
        patch.setattr(prepare, "_pack_candidates", lambda *_: None)
        # A dosage store is not what a genotype store is decoded to.
        prepare.prepare(cohort, target, CONFIG.qc, SerialCluster(), {"stamp": "y"})
    return target


def test_fit__of_diploid_calls_is_the_same_at_four_bits(cohorts, diploid_q, tmp_path):
    wide = recode(cohorts["diploid"], tmp_path / "wide.zarr", CALLS)
    assert open_prepared(wide).itemsize == 2
    q = fitted_q(wide, tmp_path / "rounds")
    np.testing.assert_allclose(q, diploid_q, atol=1e-6)


def test_fit__of_whole_dosages_is_the_same_at_sixteen_bits(
    cohorts, diploid_q, tmp_path
):
    wide = recode(cohorts["whole dosage"], tmp_path / "wide.zarr", DOSAGES)
    assert open_prepared(wide).itemsize == 8
    q = fitted_q(wide, tmp_path / "rounds")
    # The two kernels round the likelihood differently, and a fit ends anywhere within
    # its tolerance of the maximum, which is flat.
    np.testing.assert_allclose(q, diploid_q, atol=5e-4)


# Whole runs


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(cohorts, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    source = str(cohorts["x"])
    run.run(source, output, CONFIG, SERIAL)
    return output


def test_run__with_x_has_the_likelihood_of_the_oracle(finished, cohorts):
    calls = helpers.read_array(cohorts["x"], "call_genotype")
    known = calls >= 0
    counts = (
        np.where(known, calls, 0).sum(axis=2).T.astype(float),
        known.sum(axis=2).T.astype(float),
    )
    store = Store.open(finished / "ancestry.zarr", "ancestry")
    q = store.read("sample_ancestry_proportion")
    p = store.read("variant_population_frequency").T
    expected = oracle.log_likelihood(counts, q.astype(float), p.astype(float))
    summary = summary_of(finished)
    n_called = int(np.count_nonzero(counts[1]))
    assert summary["observed_genotypes"] == n_called
    assert abs(summary["log_likelihood"] - expected) / n_called < 1e-8


class _TightCluster(SerialCluster):
    def memory_limit(self) -> int:
        return 300 * 2**20


def test_fit_only__refuses_workers_without_room_for_the_encoding(finished, tmp_path):
    tight: contextlib.nullcontext[Cluster] = contextlib.nullcontext(_TightCluster())
    prepared = finished / "prepared.zarr"
    with pytest.raises(InputError, match=r"a worker needs about \d+ MiB to \w+, and"):
        fit_stage.fit_only(prepared, tmp_path / "model.zarr", CONFIG, tight)
    assert not (tmp_path / "model.zarr").exists()


def test_run__without_x_uses_autosomes(cohorts, tmp_path):
    config = RunConfig(qc=QCConfig(max_ld_r2=1.0, min_maf=0.0), fit=CONFIG.fit)
    path = tmp_path / "prepared.zarr"
    source = str(cohorts["x"])
    prepare_stage.prepare_only(source, path, config, SERIAL)
    store = open_store(path)
    assert "X" not in store.read("variant_contig_name")
    # X took the haploid calls with it.
    assert store.dtype("call_genotype_packed") == GENOTYPES.dtype
    steps = {step["name"]: step["removed"] for step in store.attrs["qc_steps"]}
    assert steps["autosomal"] == 450


def project(model: Path, source: Path, output: Path) -> np.ndarray:
    projection.project(model, str(source), output, CONFIG, SERIAL)
    return Store.open(output, "ancestry").read("sample_ancestry_proportion")


@pytest.mark.parametrize("kind", ["x", "half", "dosage"])
def test_project__takes_every_kind_of_call(finished, cohorts, tmp_path, kind):
    model = finished / "model.zarr"
    # The alleles and places of the variants are those of the model's cohort.
    source = simulated(tmp_path, kind) if kind != "x" else cohorts["x"]
    if kind != "x":
        for name in ("contig_id", "variant_contig", "variant_position"):
            _copy_array(cohorts["x"], source, name)
    q = project(model, source, tmp_path / "out.zarr")
    truth = helpers.read_array(cohorts["x"], "simulated_ancestry_proportion")
    fitted = Store.open(finished / "ancestry.zarr", "ancestry").read(
        "sample_ancestry_proportion"
    )
    if kind == "x":
        np.testing.assert_allclose(q, fitted, atol=2e-5)
    assert rmse(q, truth) < 1.1 * rmse(fitted, truth)


def _copy_array(source: Path, target: Path, name: str) -> None:
    shutil.rmtree(target / name)
    shutil.copytree(source / name, target / name)
    (target / ".zmetadata").unlink(missing_ok=True)


@pytest.mark.parametrize("value", [2.5, -1.0, np.inf])
def test_run__refuses_impossible_dosages(tmp_path, value):
    dosages = np.ones((20, 12), np.float32)
    dosages[9, 7] = value
    source = helpers.write_dosages(tmp_path / "cohort.vcz", dosages)
    message = r"cohort\.vcz: call_dosage is .* at variant 9, sample 7; it must be in"
    with pytest.raises(InputError, match=message):
        run.run(source, tmp_path / "out", CONFIG, SERIAL)
    assert not (tmp_path / "out").exists()


def test_open_source__refuses_dosages_with_an_absent_chunk(tmp_path):
    dosages = np.ones((20, 12), np.float32)
    source = helpers.write_dosages(tmp_path / "cohort.vcz", dosages)
    (Path(source) / "call_dosage" / "1.0").unlink()
    with pytest.raises(InputError, match=r"chunk 1\.0 of array call_dosage is absent"):
        sources.open_source(source, tmp_path)
