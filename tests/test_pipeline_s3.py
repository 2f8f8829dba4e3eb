"""Every way in which the pipeline reads and writes, on a server of the S3 protocol."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest

from estimator.acceleration import Point
from pipeline import (
    bundle,
    calls,
    checkpoint,
    cli,
    decode,
    lock,
    publication,
    s3,
    schema,
    store,
    stream,
    zarr_files,
)
from pipeline.cohort import open_cohort
from pipeline.errors import BusyError, InputError
from pipeline.location import Location, RemotePath, bytes_received
from pipeline.plan import Rows
from pipeline.simulate import simulate
from pipeline.store import Store
from pipeline.write_back import WriteBack
from tests import s3_server
from tests.helpers import random_genotypes, write_cohort
from tests.s3_server import Proxy, remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

GENOTYPES = random_genotypes(20, 12)
PROPORTION = schema.ANCESTRY["sample_ancestry_proportion"]
PACKED = schema.PREPARED["call_genotype_packed"]
ROWS = np.arange(12, dtype=np.uint8).reshape(4, 3)
FREQUENCIES = np.linspace(0.1, 0.9, 8, dtype=np.float32).reshape(4, 2)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with s3_server.serve() as started:
        yield started


@pytest.fixture(autouse=True)
def _healthy(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.heal()


@pytest.fixture(scope="module")
def url(proxy: Proxy) -> str:
    """A cohort whose genotypes have a fill value, as FSStore would read it."""
    path = remote("cohort.vcz")
    write_cohort(zarr_files.ObjectStore(path), GENOTYPES, fill_value=0)
    return str(path)


@pytest.fixture(scope="module")
def model(proxy: Proxy) -> RemotePath:
    path = remote("model.zarr")
    _write_model(path)
    return path


def _write_model(path: Location, note: str = "") -> None:
    made = Store.create(path, "model")
    spec = schema.MODEL["variant_population_frequency"]
    made.write("variant_population_frequency", spec, FREQUENCIES)
    made.set_attrs(note=note)
    made.finish()


@pytest.fixture(scope="module")
def prepared(proxy: Proxy) -> RemotePath:
    path = remote("prepared.zarr")
    _write_prepared(path)
    return path


def _write_prepared(path: RemotePath) -> None:
    made = Store.create(path, "prepared")
    made.lay_out("call_genotype_packed", PACKED, ROWS.shape, (2, 100))
    everybody = np.ones(len(ROWS), bool)
    made.write("sample_in_fit", schema.PREPARED["sample_in_fit"], everybody)
    made.track_blocks(2)
    for block, rows in enumerate((Rows(0, 2), Rows(2, 4))):
        made.write_rows("call_genotype_packed", rows, ROWS[rows.slice])
        made.mark_done(block)
    made.finish()


@pytest.fixture(scope="module")
def rounds(proxy: Proxy) -> RemotePath:
    folder = remote("rounds")
    checkpoint.save_point(folder, "fitted", Point(FREQUENCIES, FREQUENCIES.T))
    return folder


def test_store__round_trips(prepared: RemotePath):
    opened = Store.open(prepared, "prepared")
    opened.check_whole()
    before = bytes_received()
    np.testing.assert_array_equal(opened.read("call_genotype_packed"), ROWS)
    assert bytes_received() > before
    assert opened.names() == ["call_genotype_packed", "sample_in_fit"]
    assert store.is_complete(prepared, "prepared")
    with pytest.raises(InputError, match=r"nothing\.zarr does not exist"):
        Store.open(remote("nothing.zarr"), "prepared")


def test_store__begun_anew_has_nothing_of_the_earlier_one(proxy: Proxy):
    path = remote("again.zarr")
    _write_prepared(path)
    made = Store.create(path, "prepared")
    assert made.names() == []
    assert path.keys() == [".zattrs", ".zgroup"]
    assert not store.is_complete(path, "prepared")


def test_store__an_absent_chunk_is_found(proxy: Proxy):
    path = remote("absent.zarr")
    _write_prepared(path)
    (path / "call_genotype_packed/1.0").unlink()
    message = "chunk 1.0 of array call_genotype_packed is absent"
    with pytest.raises(InputError, match=message):
        Store.open(path, "prepared").check_whole()


def test_cohort__reads_as_written(url: str):
    cohort = open_cohort(url)
    np.testing.assert_array_equal(cohort.dataset["call_genotype"], GENOTYPES)
    store.check_genotypes(url)


def test_round_files__are_read_whole_and_by_rows(rounds: RemotePath):
    np.testing.assert_array_equal(
        checkpoint.load_point(rounds, "fitted").frequencies, FREQUENCIES.T
    )
    rows = checkpoint.load_rows(rounds / "fitted-ancestry.npy", np.array([2, 3, 0]))
    np.testing.assert_array_equal(rows, FREQUENCIES[[2, 3, 0]])


# What is read, an object that it needs, and how the error names it.
Reader = Callable[[dict[str, Any]], Any]
READERS: dict[str, tuple[Reader, str, str]] = {
    "quality control": (
        lambda at: calls.count_calls(
            open_cohort(at["url"]), np.ones(20, bool), np.ones(12, bool)
        ),
        "call_genotype/1.0.0",
        "cohort.vcz: chunk 1.0.0 of array call_genotype",
    ),
    "fingerprint": (
        lambda at: open_cohort(at["url"]).fingerprint(),
        "call_genotype/1.0.0",
        "cohort.vcz: chunk 1.0.0 of array call_genotype",
    ),
    "decoding": (
        lambda at: decode.decode_rows(
            at["url"], Rows(0, 5), decode.Columns(np.arange(20), np.zeros(20, bool))
        ),
        "call_genotype/1.0.0",
        "cohort.vcz: chunk 1.0.0 of array call_genotype",
    ),
    "sample ids": (
        lambda at: open_cohort(at["url"]),
        "sample_id/0",
        "cohort.vcz: chunk 0 of array sample_id",
    ),
    "shard": (
        lambda at: stream.load_shard(
            stream.ShardKey(at["prepared"], "stamp", Rows(0, 4)), 0
        ),
        "call_genotype_packed/1.0",
        "prepared.zarr: chunk 1.0 of array call_genotype_packed",
    ),
    "minibatch": (
        lambda at: stream.BlockReader().read(at["prepared"], [Rows(2, 4)], []),
        "call_genotype_packed/1.0",
        "prepared.zarr: chunk 1.0 of array call_genotype_packed",
    ),
    "model": (
        lambda at: bundle.load_model(at["model"]),
        "variant_population_frequency/0.0",
        "model.zarr: chunk 0.0 of array variant_population_frequency",
    ),
    "model metadata": (
        lambda at: bundle.load_model(at["model"]),
        "model.zarr/.zmetadata",
        "model.zarr: .zmetadata",
    ),
    "round": (
        lambda at: checkpoint.load_array(at["rounds"] / "fitted-frequencies.npy"),
        "fitted-frequencies.npy",
        "rounds/fitted-frequencies.npy",
    ),
    "rows of a round": (
        lambda at: checkpoint.load_rows(
            at["rounds"] / "fitted-ancestry.npy", np.arange(2)
        ),
        "fitted-ancestry.npy",
        "rounds/fitted-ancestry.npy",
    ),
}
FAULTS = ("403", "500", "503", "stall", "truncate", "drop")


def _assert_refused(
    fault: str, reader: str, at: dict[str, Any], proxy: Proxy, seconds: float
) -> None:
    read, part, name = READERS[reader]
    with s3_server.patience(seconds):
        proxy.fail_object(fault, part)
        before = time.monotonic()
        with pytest.raises(InputError, match=rf"{name} cannot be read \(.*; check the"):
            read(at)
        taken = time.monotonic() - before
    assert proxy.failed
    # The last try begins within the patience and has half of it for each of two waits.
    assert taken < 2 * seconds + 10
    if fault not in ("403", "stall"):
        assert len(proxy.failed) > 1


@pytest.fixture
def at(
    url: str, prepared: RemotePath, model: RemotePath, rounds: RemotePath
) -> dict[str, Any]:
    return {"url": url, "prepared": prepared, "model": model, "rounds": rounds}


@pytest.mark.parametrize("reader", READERS)
def test_read__a_refused_object_is_an_error_everywhere(
    reader: str, at: dict[str, Any], proxy: Proxy
):
    _assert_refused("403", reader, at, proxy, 1)


@pytest.mark.parametrize("fault", ["503", "truncate"])
def test_read__an_object_that_keeps_failing_is_an_error(
    fault: str, at: dict[str, Any], proxy: Proxy
):
    _assert_refused(fault, "shard", at, proxy, 1)


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reader", READERS)
def test_read__every_fault_is_an_error_everywhere(
    fault: str, reader: str, at: dict[str, Any], proxy: Proxy
):
    _assert_refused(fault, reader, at, proxy, 4)


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["503", "stall"])
def test_read__a_request_that_keeps_failing_ends_within_a_minute(
    fault: str, at: dict[str, Any], proxy: Proxy
):
    proxy.fail_object(fault, "call_genotype_packed/1.0")
    before = time.monotonic()
    with pytest.raises(InputError, match=r"chunk 1\.0 of array call_genotype_packed"):
        Store.open(at["prepared"], "prepared").read("call_genotype_packed")
    assert s3.PATIENCE_SECONDS - 1 < time.monotonic() - before < 60


@pytest.mark.parametrize(
    "fault",
    [
        "503",
        *(pytest.param(f, marks=pytest.mark.soak) for f in ("500", "truncate", "drop")),
    ],
)
def test_requests__that_fail_now_and_then_are_repeated(fault: str, proxy: Proxy):
    path = remote(f"often-{fault}.zarr")
    proxy.fail_some(fault, 0.2)
    _write_prepared(path)
    found = Store.open(path, "prepared").read("call_genotype_packed")
    assert len(proxy.failed) > 3
    np.testing.assert_array_equal(found, ROWS)


def test_requests__wait_for_a_server_that_restarts(proxy: Proxy, prepared: RemotePath):
    opened = Store.open(prepared, "prepared")
    proxy.stop()
    timer = threading.Timer(1.0, proxy.start)
    timer.start()
    np.testing.assert_array_equal(opened.read("call_genotype_packed"), ROWS)
    timer.join()


def test_exists__is_an_error_where_nobody_can_tell(proxy: Proxy):
    proxy.fail("403", lambda method, path: True)
    with pytest.raises(InputError, match=r"anything cannot be looked up \(Forbidden\)"):
        remote("anything").exists()
    with pytest.raises(InputError, match=r"model\.zarr: \.zmetadata cannot be read"):
        Store.open(remote("model.zarr"), "model")


def test_check_genotypes__is_an_error_where_chunks_cannot_be_listed(
    url: str, proxy: Proxy
):
    proxy.fail("403", lambda method, path: "list-type" in path)
    with pytest.raises(InputError, match="call_genotype cannot be listed"):
        store.check_genotypes(url)


def test_write__to_no_bucket_is_an_error(proxy: Proxy):
    with pytest.raises(InputError, match=r"cannot be written \(no such bucket\)"):
        RemotePath("s3://no-such-bucket/file").write_bytes(b"")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf"])
def test_patience__must_be_a_number(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(s3.PATIENCE_VARIABLE, text)
    with pytest.raises(InputError, match=f"PATIENCE is '{text}'; set it to seconds"):
        s3.patience()


def test_build_locally__replaces_a_store_that_was_copied_there(
    model: RemotePath, tmp_path: Path
):
    output = remote("copied/model.zarr")
    _write_model(output, "copied")
    with publication.build_locally(output, tmp_path) as built:
        _write_model(built, "new")
    real = publication.resolve(output)
    assert Store.open(real, "model").attrs["note"] == "new"
    assert output.keys() == []


@pytest.mark.soak
def test_simulate__is_uploaded_and_published(proxy: Proxy, tmp_path: Any):
    sizes: dict[str, Any] = {"n_samples": 5, "n_variants": 6, "n_populations": 2}
    output = remote("simulated/cohort.vcz")
    simulate(output, **sizes, seed=1)
    simulate(tmp_path / "cohort.vcz", **sizes, seed=1)
    real = open_cohort(publication.published_url(str(output)))
    assert real.fingerprint() == open_cohort(tmp_path / "cohort.vcz").fingerprint()
    with pytest.raises(InputError, match="already exists; pass --overwrite"):
        simulate(output, **sizes, seed=2)
    simulate(output, **sizes, overwrite=True, seed=2)
    again = open_cohort(publication.published_url(str(output)))
    assert again.fingerprint() != real.url


def _hold(path: RemotePath) -> None:
    with lock.hold(path, path.parent):
        pass


def test_lock__keeps_a_second_run_out_and_goes_away(proxy: Proxy):
    path = remote("locked/.lock")
    with lock.hold(path, path.parent) as check:
        check()
        with pytest.raises(BusyError, match="locked: another run is at work there"):
            _hold(path)
        check()
    assert not path.exists()
    _hold(path)


def test_lock__left_over_is_taken_over_and_its_holder_told(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    path = remote("stale/.lock")
    with lock.hold(path, path.parent) as first:
        # The server's times are whole seconds.
        time.sleep(1.1)
        monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
        with lock.hold(path, path.parent) as second:
            second()
            with pytest.raises(BusyError, match="another run took this one over"):
                first()


def test_lock__is_refreshed(proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "REFRESH_SECONDS", 0.2)
    path = remote("fresh/.lock")
    with lock.hold(path, path.parent):
        before = path.read_bytes()
        deadline = time.monotonic() + 30
        while path.read_bytes() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_cli__takes_urls(proxy: Proxy, tmp_path: Any):
    arguments = [
        "report",
        str(remote("none.zarr")),
        "--output",
        str(tmp_path / "x.html"),
    ]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "s3://bucket/none.zarr does not exist; check the path" in result.stderr


def test_write_back__touches_nothing_else(proxy: Proxy, tmp_path: Path):
    path = remote("own.vcz")
    files = zarr_files.ObjectStore(path)
    write_cohort(files, GENOTYPES)
    before = {key: files[key] for key in files if key != ".zmetadata"}
    for k, back in ((3, WriteBack()), (2, WriteBack(overwrite=True))):
        ancestry = Store.create(tmp_path / f"{k}.zarr", "ancestry")
        q = np.full((GENOTYPES.shape[1], k), 1 / k, np.float32)
        ancestry.write("sample_ancestry_proportion", PROPORTION, q)
        ids = np.array([f"s{i}" for i in range(len(q))])
        ancestry.write("sample_id", schema.PREPARED["sample_id"], ids)
        ancestry.set_attrs(stamp=str(k))
        ancestry.finish()
        back.write(str(path), tmp_path / f"{k}.zarr")
        found = open_cohort(str(path)).dataset["sample_ancestry_proportion"]
        np.testing.assert_array_equal(found.values, q)
    others = {key for key in files if not key.startswith("sample_ancestry")}
    assert others - {".zmetadata"} == before.keys()
    assert all(files[key] == value for key, value in before.items())
    with pytest.raises(InputError, match="already; pass --overwrite"):
        WriteBack().check(str(path), "4", 2, named=False)
    proxy.fail("403", lambda method, _: method == "PUT")
    with pytest.raises(InputError, match="cannot be written"):
        WriteBack(overwrite=True).check(str(path), "4", 2, named=False)
