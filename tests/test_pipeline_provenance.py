import hashlib
import json
import multiprocessing
import time

import numpy as np
import pytest

from pipeline import provenance


def test_package_versions__name_all_that_results_depend_on():
    versions = provenance.package_versions()
    assert set(versions) == {"python", *provenance.PACKAGES}
    assert versions["numpy"] == np.__version__
    assert all(version[0].isdigit() for version in versions.values())


def test_digest__does_not_depend_on_the_order_of_keys():
    assert provenance.digest({"a": [1, 2], "b": {"c": None}}) == provenance.digest(
        {"b": {"c": None}, "a": [1, 2]}
    )


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": ["1", 2]}, {"b": [1, 2]}, []])
def test_digest__tells_values_apart(other):
    assert provenance.digest(other) != provenance.digest({"a": [1, 2]})


def test_digest__is_of_canonical_json():
    text = b'{"a":[1,"x"],"b":null}'
    expected = hashlib.sha256(text).hexdigest()
    assert provenance.digest({"b": None, "a": [1, "x"]}) == expected


def test_process_usage__counts_cpu_seconds_not_wall_seconds():
    before = provenance.process_usage().cpu_seconds
    time.sleep(0.2)
    after_sleep = provenance.process_usage().cpu_seconds
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    after_work = provenance.process_usage().cpu_seconds
    assert after_sleep - before < 0.15
    assert 0.15 < after_work - after_sleep < 0.5


def test_process_usage__counts_bytes_read(tmp_path):
    (tmp_path / "data").write_bytes(bytes(3_000_000))
    before = provenance.process_usage().bytes_read
    (tmp_path / "data").read_bytes()
    read = provenance.process_usage().bytes_read - before
    assert 3_000_000 <= read < 3_100_000


def test_process_usage__peak_memory_is_in_bytes():
    values = np.ones(25_000_000)
    peak = provenance.process_usage().peak_rss_bytes
    assert values.nbytes < peak < 2**40


def _child_peak(connection):
    connection.send(provenance.process_usage().peak_rss_bytes)
    connection.close()


def test_process_usage__a_child_does_not_inherit_the_parents_peak():
    size = 400_000_000
    values = np.ones(size // 8)
    values.sum()
    del values
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(
        target=_child_peak, args=(sender,)
    )
    child.start()
    peak = receiver.recv()
    child.join()
    assert provenance.process_usage().peak_rss_bytes > size
    assert peak < size


def test_write_json__round_trips(tmp_path):
    value = {"a": [1, 2.5, None], "b": {"c": "é"}}
    provenance.write_json(tmp_path / "run.json", value)
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text) == value
    assert text.endswith("}\n")


def test_write_json__what_is_no_json_leaves_the_old_file(tmp_path):
    provenance.write_json(tmp_path / "run.json", [1])
    with pytest.raises(TypeError, match="not JSON serializable"):
        provenance.write_json(tmp_path / "run.json", {1, 2})
    assert json.loads((tmp_path / "run.json").read_text()) == [1]


def test_stopwatch__counts_from_its_making():
    watch = provenance.Stopwatch()
    time.sleep(0.05)
    first = watch.seconds
    assert 0.05 <= first <= watch.seconds < 5
