"""Stages cut short and continued, in this process: what is left, and the same bytes."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from estimator import training
from pipeline import (
    block_counts,
    checkpoint,
    decode,
    fit_stage,
    group_tasks,
    minibatch,
    prepare_stage,
    projection,
    run,
    sources,
    train,
)
from pipeline.cluster import Cluster
from pipeline.config import FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.store import Store
from tests import helpers
from tests.helpers import SerialCluster, local, random_genotypes, small_prepared

CONFIG = RunConfig(
    qc=QCConfig(enabled=False),
    fit=FitConfig(n_populations=2, max_rounds=4),
    train=TrainConfig(epochs=3, batch_size=64, n_slices=2),
)
SERIAL: contextlib.nullcontext[Cluster] = contextlib.nullcontext(SerialCluster())
N_BLOCKS = 4


class _KilledError(Exception):
    """Stands for a driver that dies: nothing after it runs."""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Leave out what takes long and has nothing to continue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "DISTILLATION_STEPS", 20)
        patch.setattr(run, "write_report", lambda _, path: path.write_text("report"))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "cohort.vcz"
    genotypes = helpers.random_genotypes(40, 32 * N_BLOCKS)
    helpers.write_cohort(path, genotypes, chunks=(20, 32))
    return path


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run.run(str(source), output, CONFIG, SERIAL)
    return output


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _stores(output: Path) -> dict[str, dict[str, bytes]]:
    return {path.name: _tree(path) for path in sorted(output.glob("*.zarr"))}


class _Calls:
    """Counts the calls of a function, and dies instead of one of them."""

    def __init__(self, function: Callable[..., Any], fatal: int | None) -> None:
        self._function, self._fatal = function, fatal
        self.n_calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self.n_calls == self._fatal:
            raise _KilledError
        self.n_calls += 1
        return self._function(*args, **options)


@contextlib.contextmanager
def _counted(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, fatal: int | None
):
    calls = _Calls(getattr(module, name), fatal)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, calls)
        yield calls


def _interrupt(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    fatal: int,
    work: Callable[[], Any],
) -> None:
    """Do some work, and die instead of one call of a function."""
    with _counted(monkeypatch, module, name, fatal), pytest.raises(_KilledError):
        work()


# What each stage does once for a block, a round, a step.
UNITS: dict[str, tuple[Any, str]] = {
    "prepare": (decode, "decode_block"),
    "counting": (block_counts, "sum_counts"),
    "fit": (checkpoint, "save_search"),
    "train": (train, "_update"),
    "apply": (group_tasks, "write_block"),
}
ALL = {
    "prepare": N_BLOCKS,
    "counting": 1,
    "fit": CONFIG.fit.max_rounds,
    "train": 6,
    "apply": N_BLOCKS,
}


@pytest.mark.parametrize(
    ("stage", "n_done"),
    [
        ("prepare", 0),
        ("prepare", 1),
        ("prepare", 3),
        ("counting", 0),
        ("fit", 2),
        ("train", 0),
        ("train", 5),
        ("apply", 1),
        ("apply", 3),
    ],
)
def test_run__goes_on_where_it_was_cut_short(
    source: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    n_done: int,
):
    # Every step is saved, however little time it took.
    monkeypatch.setattr(checkpoint, "WRITING_SHARE", np.inf)
    output = tmp_path / "out"

    def work(**options: Any) -> None:
        run.run(str(source), output, CONFIG, SERIAL, **options)

    _interrupt(monkeypatch, *UNITS[stage], n_done, work)
    stages_before = list(UNITS)[: list(UNITS).index(stage)]
    with contextlib.ExitStack() as stack:
        counts = {
            name: stack.enter_context(_counted(monkeypatch, *unit, None))
            for name, unit in UNITS.items()
        }
        work(resume=True)
    expected = {**ALL, stage: ALL[stage] - n_done, **dict.fromkeys(stages_before, 0)}
    assert {name: calls.n_calls for name, calls in counts.items()} == expected
    assert _stores(output) == _stores(undisturbed)
    records = json.loads((output / "run.json").read_text())["stages"]
    interrupted = "prepare" if stage == "counting" else stage
    attempts = {record["name"]: record["attempts"] for record in records}
    assert attempts == {
        name: 2 if name == interrupted else 1
        for name in ("prepare", "fit", "train", "apply")
    }
    assert all(record["wall_seconds"] >= 0 for record in records)


@pytest.mark.parametrize("name", ["discard", "finish"])
def test_prepare__ends_what_was_cut_short_at_its_end(tmp_path, monkeypatch, name):
    def die(store: Store, array: str = "") -> NoReturn:
        if array:
            (store.path / array / ".zarray").unlink()
        raise _KilledError

    genotypes = random_genotypes(42, 150)
    whole = small_prepared(tmp_path / "whole", genotypes, chunks=(8, 40)).path
    with monkeypatch.context() as patch:
        patch.setattr(Store, name, die)
        with pytest.raises(_KilledError):
            small_prepared(tmp_path / "part", genotypes, chunks=(8, 40))
    with _counted(monkeypatch, decode, "decode_block", None) as decoded:
        ended = small_prepared(tmp_path / "part", genotypes, chunks=(8, 40)).path
    assert decoded.n_calls == 0
    assert _tree(local(ended)) == _tree(local(whole))


def test_train__continues_without_distilling_again(
    source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Nothing but the distilled weights is saved.
    monkeypatch.setattr(checkpoint, "WRITING_SHARE", 0.0)
    output = tmp_path / "out"

    def work(**options: Any) -> None:
        run.run(str(source), output, CONFIG, SERIAL, **options)

    _interrupt(monkeypatch, train, "_update", 4, work)
    with (
        _counted(monkeypatch, minibatch, "read_features", None) as distilled,
        _counted(monkeypatch, train, "_update", None) as steps,
    ):
        work(resume=True)
    assert (distilled.n_calls, steps.n_calls) == (0, 6)
    assert _stores(output) == _stores(undisturbed)


def _finish(step: str) -> Callable[..., None]:
    """Each stage's own function, from the source and the undisturbed run's stores."""

    def work(source: Path, finished: Path, output: Path, **options: Any) -> None:
        if step == "prepare":
            prepare_stage.prepare_only(str(source), output, CONFIG, SERIAL, **options)
        elif step == "fit":
            prepared = finished / "prepared.zarr"
            fit_stage.fit_only(prepared, output, CONFIG, SERIAL, **options)
        else:
            model = finished / "model.zarr"
            projection.project(model, str(source), output, CONFIG, SERIAL, **options)

    return work


@pytest.mark.parametrize(
    ("command", "unit", "n_done"),
    [
        ("prepare", "prepare", 1),
        ("fit", "train", 3),
        ("apply", "prepare", 2),
        ("apply", "apply", 2),
    ],
)
def test_stages__go_on_where_they_were_cut_short(
    source: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    unit: str,
    n_done: int,
):
    monkeypatch.setattr(checkpoint, "WRITING_SHARE", np.inf)
    work = _finish(command)
    whole, output = tmp_path / "whole.zarr", tmp_path / "out.zarr"
    work(source, undisturbed, whole)
    _interrupt(
        monkeypatch,
        *UNITS[unit],
        n_done,
        lambda: work(source, undisturbed, output),
    )
    assert not output.exists()
    with pytest.raises(InputError, match=r"was begun in \.out\.zarr\.work; pass --re"):
        work(source, undisturbed, output)
    with _counted(monkeypatch, *UNITS[unit], None) as calls:
        work(source, undisturbed, output, resume=True)
    assert calls.n_calls == ALL[unit] - n_done
    assert _tree(output) == _tree(whole)
    before = output.stat().st_mtime_ns
    work(source, undisturbed, output, resume=True)
    assert output.stat().st_mtime_ns == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["out.zarr", "whole.zarr"]


def test_prepare_only__refuses_to_resume_with_another_cohort(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    output, other = tmp_path / "out.zarr", tmp_path / "other.vcz"
    genotypes = helpers.random_genotypes(40, 32 * N_BLOCKS, seed=1)
    helpers.write_cohort(other, genotypes, chunks=(20, 32))

    def work(path: Path, **options: bool) -> None:
        prepare_stage.prepare_only(str(path), output, CONFIG, SERIAL, **options)

    _interrupt(monkeypatch, *UNITS["prepare"], 1, lambda: work(source))
    with pytest.raises(InputError, match="the unfinished run has another cohort; run"):
        work(other, resume=True)
    work(source, resume=True)
    with pytest.raises(InputError, match="finished run had another cohort, config"):
        work(other, resume=True)


def test_fit_only__refuses_to_resume_with_another_prepared_store(
    source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of the same cohort, but with other quality control."""
    prepared, output = tmp_path / "p.zarr", tmp_path / "out.zarr"
    strict = RunConfig(qc=QCConfig(max_ld_r2=1, min_maf=0.4))
    prepare_stage.prepare_only(str(source), prepared, strict, SERIAL)
    first = undisturbed / "prepared.zarr"
    _interrupt(
        monkeypatch,
        *UNITS["fit"],
        1,
        lambda: fit_stage.fit_only(first, output, CONFIG, SERIAL),
    )
    with pytest.raises(InputError, match="the unfinished run has another prepared"):
        fit_stage.fit_only(prepared, output, CONFIG, SERIAL, resume=True)


def _write_bed(path: Path, genotypes: bytes) -> None:
    """Four people and one variant for each byte."""
    path.write_bytes(b"\x6c\x1b\x01" + genotypes)
    people = (f"f\ti{i}\t0\t0\t0\t0\n" for i in range(4))
    path.with_suffix(".fam").write_text("".join(people))
    variants = (f"1\trs{i}\t0\t{i + 1}\tA\tC\n" for i in range(len(genotypes)))
    path.with_suffix(".bim").write_text("".join(variants))


def test_open_source__imports_once_and_notices_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bed, folder = tmp_path / "c.bed", tmp_path / "work"
    folder.mkdir()
    _write_bed(bed, b"\x1b\x2e\xf0")

    def die(*_: Any) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.ingest_bed._check_sample_ids", die)
        with pytest.raises(_KilledError):
            sources.open_source(str(bed), folder)
    assert not (folder / "cohort.vcz").exists()
    assert (folder / ".cohort.vcz.import" / "store" / ".zmetadata").is_file()
    first = sources.open_source(str(bed), folder).fingerprint()
    assert sorted(p.name for p in folder.iterdir()) == ["cohort.json", "cohort.vcz"]
    with _counted(monkeypatch, sources, "ingest", None) as imports:
        assert sources.open_source(str(bed), folder).fingerprint() == first
    assert imports.n_calls == 0
    _write_bed(bed, b"\x1b\x2e\xf3")
    message = r"c\.bed has changed since the unfinished run imported it; restore it to"
    with pytest.raises(InputError, match=message):
        sources.open_source(str(bed), folder)
