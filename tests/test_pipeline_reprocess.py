"""A cohort that grows, reprocessed: what is projected, kept, published and refused."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from estimator import training
from pipeline import (
    due,
    location,
    lock,
    projection,
    publication,
    reprocess,
    update,
    versions,
)
from pipeline.bundle import load_model
from pipeline.config import ApplyConfig, FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.errors import BusyError, InputError
from pipeline.renumber import renumber_model
from pipeline.reprocess_config import (
    DriftConfig,
    ReprocessConfig,
    load_reprocess_config,
)
from pipeline.store import Store
from pipeline.tasks import Cluster
from tests import helpers, oracle, s3_server
from tests.dask_processes import ROOT
from tests.helpers import SerialCluster

SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
N_PEOPLE, N_NEW, N_VARIANTS, K, CHUNK = 200, 24, 1_024, 3, 64


class _ForbiddenCluster(contextlib.AbstractContextManager[Cluster]):
    """Workers that must not be started."""

    def __enter__(self) -> Cluster:
        raise AssertionError("workers were started")

    def __exit__(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 20)
        yield


RUN = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(n_populations=K, max_rounds=60),
    train=TrainConfig(epochs=0),
    apply=ApplyConfig(standard_errors="none"),
)


def draw(n_people: int, populations: list[float], seed: int) -> np.ndarray:
    """Calls, variants x people x 2, of people whose ancestry is as concentrated."""
    p = oracle.simulate(1, N_VARIANTS, 4, seed=7, fst=0.1).frequencies
    rng = np.random.default_rng(seed)
    genotypes = rng.binomial(2, rng.dirichlet(populations, n_people) @ p)
    calls = np.stack([genotypes >= 1, genotypes >= 2], axis=2).astype(np.int8)
    calls[rng.random(genotypes.shape) < 0.02] = -1
    return calls.transpose(1, 0, 2)


THREE, FOURTH = [0.3, 0.3, 0.3, 1e-9], [1e-9, 1e-9, 1e-9, 1.0]
# Of everybody who is ever in the cohort: 200, newcomers like them, and of a fourth
# population.
CALLS = np.concatenate(
    [draw(N_PEOPLE, THREE, 1), draw(60, THREE, 2), draw(56, FOURTH, 3)], axis=1
)
GHOSTS = range(N_PEOPLE + 60, N_PEOPLE + 116)


def write(path: Path, people: Any, calls: np.ndarray = CALLS, **changes: Any) -> None:
    """Write the people of some positions, but no file that is there as it is."""
    people = np.asarray(people)
    ids = helpers.text([f"person{i}" for i in people.tolist()])
    options = {"chunks": (256, CHUNK), "sample_id": ids, **changes}
    new = path.with_name("new")
    helpers.write_cohort(new, calls[:, people], **options)
    before = files(path) if path.exists() else {}
    for name, content in files(new).items():
        if before.pop(name, None) != content:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    for name in before:
        (path / name).unlink()
    shutil.rmtree(new)


def config(folder: Path, **changes: Any) -> ReprocessConfig:
    values: dict[str, Any] = {
        "cohort": str(folder / "cohort.vcz"),
        "output": str(folder / "out"),
        "run": RUN,
    }
    return ReprocessConfig(**{**values, **changes})


def bring_up_to_date(settings: ReprocessConfig, **options: Any) -> str:
    return reprocess.reprocess(settings, SERIAL, **options)


def ancestry(folder: Path, number: int) -> Store:
    path = versions.version_path(folder / "out", number) / "ancestry.zarr"
    return Store.open(path, "ancestry")


def read_q(folder: Path, number: int) -> np.ndarray:
    return ancestry(folder, number).read("sample_ancestry_proportion")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first version of 200 people, not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    write(folder / "cohort.vcz", range(N_PEOPLE))
    bring_up_to_date(config(folder))
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(begun, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_reprocess__first_version_is_a_fit(begun: Path):
    output = begun / "out"
    assert versions.numbers(output) == [1]
    assert (output / "ancestry.zarr").resolve().parent.name.endswith("0001")
    store = ancestry(begun, 1)
    assert store.read("sample_version").tolist() == [1] * N_PEOPLE
    assert len(np.unique(store.read("sample_genotype_digest"), axis=0)) == N_PEOPLE
    record = versions.read_record(output, 1)
    assert record["cause"] == "fit"
    assert [e["version"] for e in versions.read_journal(output)] == [1]
    assert not (output / ".work").exists()
    assert "person" not in json.dumps(record)


def test_reprocess__nothing_changed_writes_nothing(begun: Path):
    before = files(begun)
    outlook = due.look(config(begun))
    assert outlook.is_idle
    assert "nothing changed; version 1 is current" in outlook.describe()
    said = reprocess.reprocess(config(begun), _ForbiddenCluster())
    assert "nothing changed" in said
    assert files(begun) == before


def test_reprocess__new_people_equal_a_direct_projection(folder: Path, tmp_path: Path):
    before = files(folder / "out" / "version-0000000000000001")
    write(folder / "cohort.vcz", range(N_PEOPLE + N_NEW))
    said = bring_up_to_date(config(folder))
    assert said == "published version 2: 24 new people, 0 changed, 0 left"
    write(tmp_path / "new.vcz", range(N_PEOPLE, N_PEOPLE + N_NEW))
    direct = tmp_path / "direct.zarr"
    model = folder / "out" / "model.zarr"
    projection.project(model, str(tmp_path / "new.vcz"), direct, RUN, SERIAL)
    names = ["sample_ancestry_proportion", "sample_log_likelihood", "sample_n_called"]
    for name in names:
        new = ancestry(folder, 2).read(name)[N_PEOPLE:]
        np.testing.assert_array_equal(new, Store.open(direct, "ancestry").read(name))
        old = ancestry(folder, 1).read(name)
        np.testing.assert_array_equal(ancestry(folder, 2).read(name)[:N_PEOPLE], old)
    assert files(folder / "out" / "version-0000000000000001") == before
    # Whole chunks of old people are the same bytes.
    pieces = [files(helpers.local(ancestry(folder, n).path)) for n in (1, 2)]
    for chunk in range(N_PEOPLE // CHUNK):
        name = f"sample_ancestry_proportion/{chunk}.0"
        assert pieces[0][name] == pieces[1][name]
    record = versions.read_record(folder / "out", 2)
    assert record["people"]["new"] == record["people"]["projected"] == N_NEW
    # Nobody but the people of the last chunk was read.
    assert record["people"]["read"] == N_NEW + N_PEOPLE % CHUNK
    assert record["model_version"] == 1
    assert due.look(config(folder)).is_idle


def test_reprocess__changed_removed_and_reordered(folder: Path, caplog: Any):
    calls = CALLS.copy()
    calls[::2, 70] = -1
    people = np.r_[70:N_PEOPLE, 0:60]
    write(folder / "cohort.vcz", people, calls)
    said = bring_up_to_date(config(folder))
    assert said == "published version 2: 0 new people, 1 changed, 10 left"
    store = ancestry(folder, 2)
    assert store.read("sample_id").tolist() == [f"person{i}" for i in people]
    np.testing.assert_array_equal(read_q(folder, 2)[1:], read_q(folder, 1)[people[1:]])
    assert store.read("sample_n_called")[0] < store.read("sample_n_called")[1] * 0.6
    assert store.read("sample_version").tolist() == [2] + [1] * 189
    assert store.read("sample_in_fit").all()
    old = ancestry(folder, 1).read("reference_sample")
    kept = [f"person{i}" for i in old if i in set(people.tolist())]
    found = store.read("sample_id")[store.read("reference_sample")]
    assert sorted(found) == sorted(kept)
    assert "person70" not in caplog.text


def test_reprocess__files_written_again_are_no_change(folder: Path):
    write(folder / "cohort.vcz", range(N_PEOPLE), compressor=None, chunks=(256, 40))
    said = bring_up_to_date(config(folder))
    assert said == "nobody's genotypes changed; version 1 is current"
    assert versions.numbers(folder / "out") == [1]
    assert due.look(config(folder)).is_idle


def test_reprocess__contents_are_compared_where_asked(folder: Path):
    settings = config(folder, compare="contents")
    assert not due.look(settings).is_idle
    assert "nobody's genotypes changed" in bring_up_to_date(settings)
    assert due.look(settings).is_idle
    for path in (folder / "cohort.vcz").rglob("*"):
        path.touch()
    assert due.look(settings).is_idle


def test_reprocess__results_in_the_cohorts_store_are_no_change(folder: Path):
    group = zarr.open_group(str(folder / "cohort.vcz"))
    group.create_dataset("sample_ancestry_proportion", data=np.ones((N_PEOPLE, K)))
    zarr.consolidate_metadata(group.store)
    assert due.look(config(folder)).is_idle


def test_reprocess__a_half_call_of_somebody_new_leaves_the_others(folder: Path):
    calls = CALLS.copy()
    calls[3, N_PEOPLE, 1], calls[3, N_PEOPLE, 0] = -1, 1
    write(folder / "cohort.vcz", range(N_PEOPLE + 1), calls)
    said = bring_up_to_date(config(folder))
    assert said == "published version 2: 1 new person, 0 changed, 0 left"


def test_reprocess__settings_of_the_projection_concern_everybody(folder: Path):
    again = ApplyConfig(standard_errors="none", fit_check_threshold=0.03)
    changed = RunConfig(RUN.seed, RUN.qc, RUN.fit, RUN.train, apply=again)
    said = bring_up_to_date(config(folder, run=changed))
    assert said == "published version 2: 0 new people, 0 changed, 0 left"
    assert versions.read_record(folder / "out", 2)["people"]["projected"] == N_PEOPLE
    assert ancestry(folder, 2).read("sample_version").tolist() == [1] * N_PEOPLE
    assert ancestry(folder, 2).attrs["fit_check"]["threshold"] == 0.03
    np.testing.assert_array_equal(read_q(folder, 2), read_q(folder, 1))
    correlation = "sample_residual_correlation"
    np.testing.assert_array_equal(
        ancestry(folder, 2).read(correlation), ancestry(folder, 1).read(correlation)
    )


def test_reprocess__settings_of_the_fit_are_reported_or_refitted(folder: Path):
    changed = RunConfig(1, RUN.qc, RUN.fit, RUN.train, apply=RUN.apply)
    assert due.look(config(folder, run=changed, refit="never")).refit_due == ()
    outlook = due.look(config(folder, run=changed))
    assert outlook.is_idle
    assert "a refit is due: settings of the fit changed" in outlook.describe()
    settings = config(folder, run=changed, refit="auto")
    said = bring_up_to_date(settings)
    assert said.startswith("published version 2: a new fit of 200 people with K = 3")
    np.testing.assert_allclose(read_q(folder, 2), read_q(folder, 1), atol=5e-3)
    assert due.look(settings).is_idle


@pytest.fixture(scope="module")
def drifted(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, with people of a population that the fit lacks."""
    folder = tmp_path_factory.mktemp("drifted") / "copy"
    shutil.copytree(begun, folder, symlinks=True)
    write(folder / "cohort.vcz", [*range(N_PEOPLE), *GHOSTS])
    return folder


@pytest.fixture(scope="module")
def said(drifted: Path) -> str:
    """What is said of them when they are brought up to date."""
    return bring_up_to_date(config(drifted))


def test_reprocess__absent_population_is_reported(said: str, drifted: Path):
    assert said.startswith("published version 2: 56 new people")
    assert "a refit is due: " in said
    drift = versions.read_record(drifted / "out", 2)["drift"]
    assert drift["newcomers_poorly_described"] > 0.9
    assert drift["training_poorly_described"] < 0.05
    assert drift["newcomers_unlikely"] > 0.3
    assert drift["training_unlikely"] < 0.02
    assert due.look(config(drifted)).is_idle
    assert "a refit is due" in due.look(config(drifted)).describe()
    assert due.look(config(drifted, refit="never")).refit_due == ()


@pytest.mark.soak
@pytest.mark.usefixtures("said")
def test_reprocess__refit_keeps_old_populations_in_their_columns(drifted: Path):
    before = read_q(drifted, 2)
    settings = config(drifted, refit="auto", drift=DriftConfig(max_populations=5))
    assert not due.look(settings).is_idle
    said = bring_up_to_date(settings)
    assert "a new fit of 256 people with K = 4" in said
    record = versions.read_record(drifted / "out", 3)
    q = read_q(drifted, 3)
    np.testing.assert_allclose(q[:N_PEOPLE, :3], before[:N_PEOPLE], atol=0.1)
    assert q[N_PEOPLE:, 3].mean() > 0.8
    model = Store.open(drifted / "out" / "model.zarr", "model")
    fitted = "variant_population_frequency"
    np.testing.assert_array_equal(model.read(fitted), ancestry(drifted, 3).read(fitted))
    assert due.look(settings).is_idle
    assert record["refit_due"] == []
    assert versions.roll_back(drifted / "out", None) == 2
    assert due.look(settings).is_idle


def test_reprocess__two_at_once(folder: Path):
    write(folder / "cohort.vcz", range(N_PEOPLE - 1))
    with (
        lock.hold(folder / "out" / ".lock", folder),
        pytest.raises(BusyError, match="another run is at work"),
    ):
        bring_up_to_date(config(folder))


def test_reprocess__roll_back_holds_until_the_cohort_changes(folder: Path):
    write(folder / "cohort.vcz", range(N_PEOPLE + 5))
    bring_up_to_date(config(folder))
    output = folder / "out"
    assert versions.roll_back(output, None) == 1
    assert (output / "ancestry.zarr" / "sample_id").exists()
    assert (
        len(Store.open(output / "ancestry.zarr", "ancestry").read("sample_id")) == 200
    )
    assert due.look(config(folder)).is_idle
    assert versions.roll_back(output, 2) == 2
    assert versions.roll_back(output, 1) == 1
    write(folder / "cohort.vcz", range(N_PEOPLE + 6))
    said = bring_up_to_date(config(folder))
    assert said == "published version 3: 6 new people, 0 changed, 0 left"
    assert versions.numbers(output) == [1, 2, 3]


def test_reprocess__keeps_so_many_versions(folder: Path):
    for n_people in (N_PEOPLE - 1, N_PEOPLE - 2):
        write(folder / "cohort.vcz", range(n_people))
        bring_up_to_date(config(folder, keep_versions=2))
    assert versions.numbers(folder / "out") == [2, 3]
    # The model's files are shared, and outlive the version that they were made for.
    assert Store.open(folder / "out" / "model.zarr", "model").attrs["complete"]


def test_reprocess__cohort_written_meanwhile(folder: Path, monkeypatch: Any):
    write(folder / "cohort.vcz", range(N_PEOPLE + 3))
    original = update.apply_model

    def disturbed(*args: Any) -> None:
        original(*args)
        write(folder / "cohort.vcz", range(N_PEOPLE + 4))

    with monkeypatch.context() as patch:
        patch.setattr(update, "apply_model", disturbed)
        with pytest.raises(BusyError, match="was written while it was read"):
            bring_up_to_date(config(folder))
    assert versions.current(folder / "out") == 1
    assert "4 new people" in bring_up_to_date(config(folder))


def test_reprocess__another_cohort_altogether(folder: Path):
    position = 7 + 1000 * np.arange(N_VARIANTS, dtype=np.int32)
    write(folder / "cohort.vcz", range(N_PEOPLE), variant_position=position)
    with pytest.raises(InputError, match="0 of the 1024 variants"):
        bring_up_to_date(config(folder))
    assert versions.current(folder / "out") == 1


def test_renumber_model__encoder_and_projection_follow(begun: Path, tmp_path: Path):
    order = np.array([2, 0, 1])
    model, turned = begun / "out" / "model.zarr", tmp_path / "turned.zarr"
    renumber_model(model, turned, order)
    # The encoder's own answer, which nothing puts right.
    alone = ApplyConfig(refine=0, standard_errors="information", fit_check_people=0)
    found, errors = [], []
    for path in (model, turned):
        output = tmp_path / f"of-{path.name}"
        settings = RunConfig(apply=alone)
        projection.project(path, str(begun / "cohort.vcz"), output, settings, SERIAL)
        store = Store.open(output, "ancestry")
        found.append(store.read("sample_ancestry_proportion"))
        errors.append(store.read("sample_ancestry_proportion_se"))
    np.testing.assert_allclose(found[1], found[0][:, order], atol=1e-6)
    np.testing.assert_allclose(errors[1], errors[0][:, order], rtol=1e-3, atol=1e-5)
    assert not np.allclose(found[1], found[0], atol=1e-3)
    frequencies = load_model(model).frequencies
    np.testing.assert_array_equal(load_model(turned).frequencies, frequencies[order])


def write_toml(folder: Path, **changes: Any) -> Path:
    """The configuration as the file that a schedule names."""
    values = dataclasses.asdict(config(folder, **changes))

    def table(name: str, values: dict[str, Any]) -> list[str]:
        plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
        lines = [f"[{name}]"] if name else []
        lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
        for key in values.keys() - plain.keys():
            lines += table(f"{name}.{key}" if name else key, values[key])
        return lines

    path = folder / "reprocess.toml"
    path.write_text("\n".join(table("", values)))
    return path


def call(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "streamixture"), "reprocess"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )


IS_LIGHT = """
import sys
from pipeline import cli
cli.main(["reprocess", sys.argv[1]], standalone_mode=False)
heavy = {"jax", "sgkit", "xarray", "zarr", "dask", "distributed"} & set(sys.modules)
assert not heavy, heavy
"""


def test_command__second_run_is_quick_and_loads_nothing(folder: Path):
    settings = write_toml(folder)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in walk(folder / "out")}
    start = time.monotonic()
    done = call(settings)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder}/out: nothing changed; version 1 is current\n"
    assert seconds < 5
    light = subprocess.run(
        [sys.executable, "-c", IS_LIGHT, str(settings)],
        env={**os.environ, "PYTHONPATH": ROOT},
        check=False,
    )
    assert light.returncode == 0
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in walk(folder / "out")}
    assert after == before


def walk(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_command__refuses_while_another_is_at_work(folder: Path):
    settings = write_toml(folder)
    write(folder / "cohort.vcz", range(N_PEOPLE - 1))
    with lock.hold(folder / "out" / ".lock", folder):
        for options in ([], ["--roll-back", "1"]):
            done = call(settings, *options)
            assert done.returncode == 75
            assert done.stderr.startswith("Error: ")
            assert "another run is at work" in done.stderr
            assert len(done.stderr.splitlines()) == 1
        assert "a run is at work" in call(settings, "--status").stdout


def test_command__dry_run_status_and_roll_back(folder: Path):
    settings = write_toml(folder)
    write(folder / "cohort.vcz", range(N_PEOPLE - 1))
    before = files(folder / "out")
    said = call(settings, "--dry-run").stdout
    assert said == f"{folder}/out: version 1 is current; the cohort's files changed\n"
    assert files(folder / "out") == before
    bring_up_to_date(config(folder))
    assert call(settings, "--roll-back").stdout.endswith("version 1 is current\n")
    lines = call(settings, "--status").stdout.splitlines()
    assert lines[0] == f"{folder}/out: versions 1 (current), 2"
    assert [line.split("  ")[1].split(":")[0] for line in lines[1:]] == [
        "version 1",
        "version 2",
        "rolled back from 2 to 1",
    ]
    done = call(settings, "--roll-back", "9")
    assert done.returncode == 2
    assert "has no version 9; kept are 1, 2" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('cohort = "a"', "output is not set"),
        ('cohort = "a"\noutput = "b"\nrefits = 1', "unknown key refits"),
        ('cohort = "a"\noutput = "b"\nrefit = "daily"', "must be one of auto, report"),
        ('cohort = "a"\noutput = "b"\nkeep_versions = 0', "must be positive"),
        ('cohort = "a"\noutput = "b"\n[drift]\nmax_unlikely = 2', "in [0, 1]"),
        ('cohort = "a"\noutput = "b"\n[drift]\nmin_people = 0', "must be positive"),
        ('cohort = "a"\noutput = "b"\n[drift]\nmax_populations = 2', "0 keeps K"),
        ('cohort = "a"\noutput = "b"\n[run.fit]\nk = 2', "unknown key k in [fit]"),
    ],
)
def test_config__refusals(tmp_path: Path, text: str, message: str):
    (tmp_path / "reprocess.toml").write_text(text)
    with pytest.raises(InputError) as error:
        load_reprocess_config(tmp_path / "reprocess.toml")
    assert message in str(error.value)


@pytest.mark.soak
def test_reprocess__on_an_object_store(begun: Path):
    """The same versions, where nothing can be linked or renamed."""
    with s3_server.serve():
        cohort, output = s3_server.remote("cohorts/c.vcz"), s3_server.remote("out/a")
        location.upload(begun / "cohort.vcz", cohort)
        settings = config(begun, cohort=str(cohort), output=str(output))
        said = bring_up_to_date(settings)
        assert said.startswith("published version 1: a new fit of 200 people")
        assert due.look(settings).is_idle
        ids = helpers.text([f"person{i}" for i in range(N_PEOPLE - 2)])
        for key, content in sorted(
            files_without_two(begun / "cohort.vcz", ids).items()
        ):
            (cohort / key).write_bytes(content)
        before = publication.resolve(output / "ancestry.zarr")
        said = bring_up_to_date(settings)
        assert said == "published version 2: 0 new people, 0 changed, 2 left"
        assert versions.numbers(output) == [1, 2]
        after = publication.resolve(output / "ancestry.zarr")
        name = "sample_ancestry_proportion"
        q = [Store.open(path, "ancestry").read(name) for path in (before, after)]
        np.testing.assert_array_equal(q[0][: N_PEOPLE - 2], q[1])
        assert versions.roll_back(output, None) == 1
        assert publication.resolve(output / "ancestry.zarr") == before
        assert due.look(settings).is_idle
        assert versions.describe(output)[0].endswith("versions 1 (current), 2")
        assert not list((output / ".work").iterdir())


def files_without_two(cohort: Path, ids: np.ndarray) -> dict[str, bytes]:
    """Files of the cohort without the last two people."""
    path = cohort.with_name("fewer.vcz")
    calls = CALLS[:, : len(ids)]
    helpers.write_cohort(path, calls, chunks=(256, CHUNK), sample_id=ids)
    found = files(path)
    shutil.rmtree(path)
    return found


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_command__killed_at_any_time_and_begun_again(folder: Path, tmp_path: Path):
    """Real commands with real workers, killed every second or so; readers look on."""
    settings = write_toml(folder)
    write(folder / "cohort.vcz", range(N_PEOPLE + N_NEW))
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin, symlinks=True)
    assert call(write_toml(twin), "--workers", "2").returncode == 0
    command = [str(Path(sys.executable).parent / "streamixture"), "reprocess"]
    command += [str(settings), "--workers", "2"]
    n_killed, seconds = 0, 2.0
    while versions.current(folder / "out") == 1:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOT})
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            shown = versions.current(folder / "out")
            assert shown is not None
            q = read_q(folder, shown)
            assert len(q) == (N_PEOPLE if shown == 1 else N_PEOPLE + N_NEW)
            time.sleep(0.02)
        n_killed += process.poll() is None
        process.kill()
        process.wait()
        seconds += 1.2
    assert n_killed >= 2
    done = call(settings, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert versions.numbers(folder / "out") == [1, 2]
    name = "version-0000000000000002/ancestry.zarr"
    assert files(folder / "out" / name) == files(twin / "out" / name)
    assert [e["version"] for e in versions.read_journal(folder / "out")] == [1, 2]
    assert not (folder / "out" / ".work").exists()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_command__two_at_once_for_real(folder: Path):
    settings = write_toml(folder)
    write(folder / "cohort.vcz", range(N_PEOPLE + N_NEW))
    command = [str(Path(sys.executable).parent / "streamixture"), "reprocess"]
    processes = [
        subprocess.Popen(
            [*command, str(settings), "--workers", "1"],
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        for _ in range(2)
    ]
    statuses = sorted(process.wait() for process in processes)
    assert statuses == [0, 75]
    assert versions.numbers(folder / "out") == [1, 2]
