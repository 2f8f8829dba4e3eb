from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sgkit
import tensorstore
import xarray as xr
import zarr

from pipeline import schema, store
from pipeline.errors import InputError
from pipeline.plan import Rows
from pipeline.store import Store
from tests.helpers import local

KEYS = {
    "variant_contig_name": np.array(["1", "HLA-A*01:01"]),
    "variant_position": np.array([7, 2**40]),
    "variant_allele": np.array([["A", "C"], ["G", "GTT"]]),
    "variant_id": np.array([".", "rs1"]),
}
PACKED = schema.PREPARED["call_genotype_packed"]
ROWS = np.arange(15, dtype=np.uint8).reshape(5, 3)


def _finished(path: Path, kind: str = "prepared", first_id: str = "Åsa") -> Store:
    made = Store.create(path, kind)
    store.write_all(made, schema.PREPARED, KEYS)
    ids = np.array([first_id, "李", "c", "d", "e"])
    made.write("sample_id", schema.PREPARED["sample_id"], ids)
    made.lay_out("call_genotype_packed", PACKED, ROWS.shape, (2, 100))
    made.write_rows("call_genotype_packed", Rows(0, 5), ROWS)
    made.finish()
    return made


def _laid_out(tmp_path: Path) -> Store:
    made = Store.create(tmp_path / "made.zarr", "prepared")
    made.lay_out("call_genotype_packed", PACKED, ROWS.shape, (2, 100))
    return made


@pytest.mark.parametrize("opener", [xr.open_zarr, sgkit.load_dataset])
def test_finish__leaves_a_store_that_xarray_and_sgkit_read(tmp_path, opener):
    path = tmp_path / "made.zarr"
    _finished(path)
    dataset = opener(str(path))
    sizes = {"samples": 5, "variants": 2, "alleles": 2, "variant_bytes": 3}
    assert dict(dataset.sizes) == sizes
    for name in dataset:
        assert dataset[name].dims == schema.PREPARED[name].dims
        assert dataset[name].attrs["description"] == schema.PREPARED[name].doc
    np.testing.assert_array_equal(dataset["call_genotype_packed"], ROWS)
    assert dataset["call_genotype_packed"].dtype == np.uint8
    assert dataset["sample_id"].values.tolist() == ["Åsa", "李", "c", "d", "e"]
    assert dataset.attrs["kind"] == "prepared"


def test_write__round_trips_text_and_numbers(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    for name, values in KEYS.items():
        found = made.read(name)
        assert found.dtype.kind == values.dtype.kind
        np.testing.assert_array_equal(found, values)
    assert made.names() == sorted([*KEYS, "sample_id", "call_genotype_packed"])
    assert "sample_id" in made
    assert "sample_call_rate" not in made


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_write__takes_an_array_without_rows(tmp_path, shape):
    made = Store.create(tmp_path / "made.zarr", "model")
    spec = schema.ArraySpec(("variants", "alleles")[: len(shape)], "str", "Nothing.")
    made.write("empty", spec, np.empty(shape, "U1"))
    assert made.read("empty").shape == shape


def test_read__selects_rows_and_columns(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    np.testing.assert_array_equal(
        made.read("call_genotype_packed", slice(1, 4)), ROWS[1:4]
    )
    np.testing.assert_array_equal(
        made.read("call_genotype_packed", slice(3, 5), slice(0, 2)), ROWS[3:, :2]
    )


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"no chunk at all, but text"])
def test_read__names_the_chunk_that_is_corrupted(tmp_path, content):
    made = _finished(tmp_path / "made.zarr")
    (made.path / "call_genotype_packed" / "1.0").write_bytes(content)
    np.testing.assert_array_equal(
        made.read("call_genotype_packed", slice(0, 2)), ROWS[:2]
    )
    message = (
        r"made\.zarr: chunk 1\.0 of array call_genotype_packed cannot be decoded "
        r"\(.+\); restore that chunk or make the store again"
    )
    with pytest.raises(InputError, match=message):
        made.read("call_genotype_packed", slice(2, 4))


def test_read__notices_any_bit_that_is_flipped(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    chunk = made.path / "call_genotype_packed" / "1.0"
    whole = chunk.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        chunk.write_bytes(bytes(content))
        try:
            values = made.read("call_genotype_packed", slice(2, 4))
        except InputError:
            continue
        # Some bits of a header say nothing.
        np.testing.assert_array_equal(values, ROWS[2:4])


def test_read__refuses_a_chunk_that_vanished_after_it_was_opened(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    opened = Store.open(made.path, "prepared")
    opened.check_whole()
    local(made.path / "call_genotype_packed" / "2.0").unlink()
    np.testing.assert_array_equal(
        opened.read("call_genotype_packed", slice(0, 4)), ROWS[:4]
    )
    message = r"made\.zarr: chunk 2\.0 of array call_genotype_packed is absent; copy or"
    for selection in ([slice(4, 5)], []):
        with pytest.raises(InputError, match=message):
            opened.read("call_genotype_packed", *selection)


def test_lay_out__chunks_are_no_larger_than_the_array(tmp_path):
    made = _laid_out(tmp_path)
    assert made.shape("call_genotype_packed") == (5, 3)
    assert made.chunks("call_genotype_packed") == (2, 3)


@pytest.mark.parametrize("rows", [Rows(0, 2), Rows(2, 4), Rows(2, 5), Rows(4, 5)])
def test_write_rows__fills_whole_chunks_and_no_others(tmp_path, rows):
    made = _laid_out(tmp_path)
    made.write_rows("call_genotype_packed", rows, ROWS[rows.slice])
    np.testing.assert_array_equal(
        made.read("call_genotype_packed", rows.slice), ROWS[rows.slice]
    )
    written = sorted(
        p.name for p in local(made.path / "call_genotype_packed").glob("[0-9]*")
    )
    assert written == [f"{i}.0" for i in range(rows.start // 2, -(-rows.stop // 2))]


@pytest.mark.parametrize("rows", [Rows(1, 2), Rows(0, 1), Rows(0, 3), Rows(3, 5)])
def test_write_rows__refuses_parts_of_chunks(tmp_path, rows):
    made = _laid_out(tmp_path)
    message = r"of call_genotype_packed do not cover whole chunks of 2"
    with pytest.raises(AssertionError, match=message):
        made.write_rows("call_genotype_packed", rows, ROWS[rows.slice])


def test_blocks__are_left_until_marked(tmp_path):
    made = _laid_out(tmp_path)
    made.track_blocks(4)
    made.mark_done(2)
    again = Store.open(made.path, "prepared", writable=True)
    again.mark_done(0)
    assert made.blocks_left() == again.blocks_left() == [1, 3]


def test_finish__refuses_while_blocks_are_left(tmp_path):
    made = _laid_out(tmp_path)
    made.track_blocks(2)
    made.mark_done(0)
    with pytest.raises(AssertionError, match=r"made\.zarr: blocks were not written"):
        made.finish()
    assert not store.is_complete(made.path, "prepared")
    made.mark_done(1)
    made.finish()
    assert store.is_complete(made.path, "prepared")
    assert made.names() == ["call_genotype_packed"]


def test_track_blocks__again_keeps_what_was_marked(tmp_path):
    made = _laid_out(tmp_path)
    made.track_blocks(3)
    made.mark_done(1, 0.1 + 0.2)
    again = Store.resume(made.path, "prepared")
    assert again is not None
    again.track_blocks(3)
    assert again.blocks_left() == [0, 2]
    assert again.block_figures()[1] == 0.1 + 0.2


def test_mark_done__refuses_a_figure_that_means_not_done(tmp_path):
    made = _laid_out(tmp_path)
    made.track_blocks(1)
    with pytest.raises(AssertionError, match="figure of block 0 is not a number"):
        made.mark_done(0, float("nan"))


def test_resume__needs_a_whole_layout(tmp_path):
    path = tmp_path / "made.zarr"
    assert Store.resume(path, "prepared") is None
    made = _laid_out(tmp_path)
    assert Store.resume(path, "prepared") is None
    made.track_blocks(0)
    assert Store.resume(path, "prepared") is not None
    with pytest.raises(InputError, match=r"not a streamixture model store"):
        Store.resume(path, "model")
    made.finish()
    assert Store.resume(path, "prepared") is None


def test_finish__removes_what_killed_writers_left(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    for name in (".zattrs.0a.partial", "call_genotype_packed/0.0.1b.partial"):
        (made.path / name).write_bytes(b"half")
    made.finish()
    assert _tree(local(made.path)) == _tree(
        local(_finished(tmp_path / "other.zarr").path)
    )


def test_is_complete__needs_the_consolidated_metadata(tmp_path):
    made = _finished(tmp_path / "made.zarr")
    (made.path / ".zmetadata").unlink()
    assert not store.is_complete(made.path, "prepared")


def test_finish__consolidates_every_attribute(tmp_path):
    made = _laid_out(tmp_path)
    made.set_attrs(stamp="abc", nested={"k": [1, 2.5]})
    made.finish()
    attrs = xr.open_zarr(str(made.path), consolidated=True).attrs
    assert attrs == made.attrs
    assert attrs == {
        "kind": "prepared",
        "schema_version": schema.SCHEMA_VERSION,
        "stamp": "abc",
        "nested": {"k": [1, 2.5]},
        "complete": True,
    }


def test_create__replaces_what_was_unfinished(tmp_path):
    _laid_out(tmp_path)
    assert Store.create(tmp_path / "made.zarr", "model").names() == []
    assert Store.open(tmp_path / "made.zarr", "model").attrs["kind"] == "model"


def test_create__same_values_same_bytes(tmp_path):
    values = np.random.default_rng(0).integers(0, 9, (300_000, 3)).astype(np.uint8)
    contents = []
    for name in ("a.zarr", "b.zarr"):
        made = _finished(tmp_path / name)
        made.write("large", PACKED, values)
        contents.append(_tree(local(made.path)))
    assert contents[0] == contents[1]


def _absent(path: Path) -> None:
    pass


def _file(path: Path) -> None:
    path.write_text("genotypes")


def _folder(path: Path) -> None:
    path.mkdir()


def _array(path: Path) -> None:
    zarr.save_array(str(path), np.arange(3))


def _group(path: Path) -> None:
    zarr.open_group(str(path), mode="w")


def _prepared(path: Path) -> None:
    _finished(path)


def _other_version(path: Path) -> None:
    _finished(path, "model").set_attrs(schema_version=schema.SCHEMA_VERSION + 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_absent, r"at does not exist; check the path"),
        (_file, r"at is not a Zarr store; expected a streamixture model store"),
        (_folder, r"at is not a Zarr store; expected a streamixture model store"),
        (_array, r"at is not a Zarr store; expected a streamixture model store"),
        (_group, r"is not a streamixture model store \(kind: None\); name the model"),
        (_prepared, r"is not a streamixture model store \(kind: prepared\); name"),
        (_other_version, r"has schema version 2, this release reads 1; run the"),
    ],
)
def test_open__refuses(tmp_path, build, message):
    build(tmp_path / "at")
    with pytest.raises(InputError, match=message):
        Store.open(tmp_path / "at", "model")


def test_open__is_read_only_unless_asked(tmp_path):
    _laid_out(tmp_path)
    opened = Store.open(tmp_path / "made.zarr", "prepared")
    with pytest.raises(zarr.errors.ReadOnlyError):
        opened.write_rows("call_genotype_packed", Rows(0, 5), ROWS)


def test_is_complete__of_nothing_is_false(tmp_path):
    assert not store.is_complete(tmp_path / "none.zarr", "model")


def test_open_genotypes__are_not_masked_by_a_fill_value(tmp_path):
    calls = np.zeros((3, 2, 2), np.int8)
    group = zarr.open_group(str(tmp_path / "c.vcz"), mode="w")
    group.create_dataset("call_genotype", data=calls, fill_value=0)
    found = store.open_genotypes(str(tmp_path / "c.vcz"))
    np.testing.assert_array_equal(found[:], calls)
    assert found.dtype == np.int8


def _tree(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*")}


def test_publish__replaces_a_store_as_a_whole(tmp_path):
    target = tmp_path / "results" / "out.zarr"
    _finished(target, first_id="old")
    (target / "left-over").write_text("of the earlier result")
    source = _finished(tmp_path / "work" / "out.zarr", first_id="new").path
    expected = _tree(local(source))
    store.publish(source, target)
    assert Store.open(target, "prepared").read("sample_id")[0] == "new"
    assert _tree(target) == expected
    assert not source.exists()
    assert [p.name for p in target.parent.iterdir()] == ["out.zarr"]


def test_publish__makes_the_folder_and_replaces_files(tmp_path):
    target = tmp_path / "new" / "run.json"
    for content in ("first", "second"):
        source = tmp_path / "run.json"
        source.write_text(content)
        store.publish(source, target)
        assert target.read_text() == content
        assert not source.exists()


def test_publish__clears_what_a_killed_one_left(tmp_path):
    aside = tmp_path / ".out.zarr.replaced"
    _finished(aside)
    target = tmp_path / "out.zarr"
    store.publish(_finished(tmp_path / "work.zarr").path, target)
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def test_store__tensorstore_reads_it_and_checks_it(tmp_path: Path):
    made = Store.create(tmp_path / "made.zarr", "prepared")
    made.lay_out("call_genotype_packed", PACKED, (5, 3), (2, 3))
    made.write_rows("call_genotype_packed", Rows(0, 5), ROWS)
    frequency = np.array([0.25, 0.5])
    spec = schema.PREPARED["variant_frequency"]
    made.write("variant_frequency", spec, frequency)
    made.finish()
    for name, expected in (
        ("call_genotype_packed", ROWS),
        ("variant_frequency", frequency.astype(spec.dtype)),
    ):
        array = _tensorstore(tmp_path / "made.zarr" / name)
        np.testing.assert_array_equal(array.read().result(), expected)
    for name, chunk in (("call_genotype_packed", "1.0"), ("variant_frequency", "0")):
        path = tmp_path / "made.zarr" / name
        data = bytearray((path / chunk).read_bytes())
        data[len(data) // 2] ^= 1
        (path / chunk).write_bytes(bytes(data))
        with pytest.raises(ValueError, match="(?i)zstd"):
            _tensorstore(path).read().result()
        with pytest.raises(InputError, match=f"chunk {chunk} of array {name} cannot"):
            made.read(name)


def _tensorstore(path: Path) -> Any:
    store = {"driver": "file", "path": f"{path}/"}
    return tensorstore.open({"driver": "zarr", "kvstore": store}).result()
