from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from estimator.packing import (
    CALLS,
    DOSAGES,
    AlleleCounts,
    Encoding,
    packed_width,
    unpack_alleles,
    unpack_genotypes,
)
from pipeline import decode
from pipeline.call_codes import NeedsWiderError
from pipeline.decode import Columns, decode_rows
from pipeline.errors import InputError
from pipeline.plan import Rows
from tests.helpers import random_genotypes, write_cohort, write_dosages

N_VARIANTS, N_SAMPLES = 45, 23


def _columns(index: npt.ArrayLike, swapped: np.ndarray | None = None) -> Columns:
    rows = np.asarray(index, np.int64)
    if swapped is None:
        swapped = np.zeros(len(rows), bool)
    return Columns(rows, swapped)


def _straight(genotypes: np.ndarray, rows: Rows, columns: Columns) -> np.ndarray:
    """Alternate alleles of each person at each column, one genotype at a time."""
    counts = np.full((len(rows), len(columns)), -1, np.int8)
    for person in range(len(rows)):
        for place, variant in enumerate(columns.index):
            calls = genotypes[variant, rows.start + person]
            if variant >= 0 and min(calls) >= 0:
                wanted = 0 if columns.swapped[place] else 1
                counts[person, place] = list(calls).count(wanted)
    return counts


def _decoded(url: str, rows: Rows, columns: Columns) -> np.ndarray:
    packed = decode_rows(url, rows, columns)
    assert packed.shape == (len(rows), packed_width(len(columns)))
    everything = unpack_genotypes(packed, 4 * packed.shape[1])
    assert (everything[:, len(columns) :] == -1).all()
    return everything[:, : len(columns)]


def _assert_decodes(path: Path, genotypes: np.ndarray, rows: Rows, columns: Columns):
    url = write_cohort(path / "cohort.vcz", genotypes, chunks=(7, 5))
    np.testing.assert_array_equal(
        _decoded(url, rows, columns), _straight(genotypes, rows, columns)
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("rows", [Rows(0, 23), Rows(5, 10), Rows(3, 17), Rows(22, 23)])
def test_decode_rows__agrees_with_a_straight_count(tmp_path, rows, dtype):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0.2).astype(dtype)
    _assert_decodes(tmp_path, genotypes, rows, _columns(np.arange(N_VARIANTS)))


@pytest.mark.parametrize("n_columns", [1, 2, 3, 4, 5, 8])
def test_decode_rows__fills_the_last_byte_with_missing(tmp_path, n_columns):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    columns = _columns(np.arange(20, 20 + n_columns))
    _assert_decodes(tmp_path, genotypes, Rows(0, N_SAMPLES), columns)


def test_decode_rows__of_no_variants_is_empty(tmp_path):
    url = write_cohort(tmp_path / "cohort.vcz", random_genotypes(4, 5))
    assert decode_rows(url, Rows(1, 4), _columns(np.arange(0))).shape == (3, 0)


@pytest.mark.parametrize("window_cells", [1, 4 * 23, 8 * 23, 12 * 23 + 1, 10**6])
def test_decode_rows__windows_make_no_difference(tmp_path, monkeypatch, window_cells):
    rng = np.random.default_rng(0)
    index = rng.permutation(np.arange(-5, N_VARIANTS))
    columns = _columns(np.maximum(index, -1), rng.random(len(index)) < 0.5)
    monkeypatch.setattr(decode, "WINDOW_CELLS", window_cells)
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0.2)
    _assert_decodes(tmp_path, genotypes, Rows(0, N_SAMPLES), columns)


@pytest.mark.parametrize("window_cells", [4 * 23, 12 * 23, 10**6])
def test_decode_rows__reads_each_chunk_once(tmp_path, monkeypatch, window_cells):
    url = write_cohort(tmp_path / "c.vcz", random_genotypes(N_VARIANTS, N_SAMPLES))
    read_calls, starts = decode.read_calls, []

    def counted(url, variants, people, out):
        starts.append(variants.start)
        return read_calls(url, variants, people, out)

    monkeypatch.setattr(decode, "read_calls", counted)
    monkeypatch.setattr(decode, "WINDOW_CELLS", window_cells)
    kept = np.setdiff1d(np.arange(N_VARIANTS), np.arange(14, 21))
    decode_rows(url, Rows(0, N_SAMPLES), _columns(kept))
    assert starts == [0, 7, 21, 28, 35, 42]


def test_decode_rows__absent_variants_are_missing(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0)
    # The last variant is where an index of -1 would lead.
    genotypes[-1] = 1
    columns = _columns([3, -1, 7, -1, -1], np.array([0, 0, 1, 0, 1], bool))
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    found = _decoded(url, Rows(0, N_SAMPLES), columns)
    assert ((found == -1) == [False, True, False, True, True]).all()


def test_decode_rows__with_every_variant_absent_reads_nothing(tmp_path):
    url = write_cohort(tmp_path / "cohort.vcz", random_genotypes(4, 5))
    for chunk in (tmp_path / "cohort.vcz" / "call_genotype").glob("[0-9]*"):
        chunk.write_bytes(b"not a chunk")
    found = _decoded(url, Rows(0, 5), _columns([-1, -1]))
    np.testing.assert_array_equal(found, np.full((5, 2), -1))


def test_decode_rows__swapped_variants_count_reference_alleles(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0.2)
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    index = np.arange(N_VARIANTS)
    plain = _decoded(url, Rows(0, N_SAMPLES), _columns(index))
    turned = _columns(index, np.ones(N_VARIANTS, bool))
    expected = np.where(plain < 0, -1, 2 - plain)
    np.testing.assert_array_equal(_decoded(url, Rows(0, N_SAMPLES), turned), expected)


def test_decode_rows__any_order_of_variants(tmp_path):
    order = np.random.default_rng(1).permutation(N_VARIANTS)[:30]
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES)
    _assert_decodes(tmp_path, genotypes, Rows(2, 20), _columns(order))


@pytest.mark.parametrize("call", [(-1, -1), (-2, -2), (-1, -2)])
def test_decode_rows__calls_without_an_allele_are_missing(tmp_path, call):
    genotypes = random_genotypes(4, 5, missing=0)
    genotypes[2, 3] = call
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    found = _decoded(url, Rows(0, 5), _columns(np.arange(4)))
    assert list(zip(*np.nonzero(found == -1), strict=True)) == [(3, 2)]


def _alleles(url: str, rows: Rows, columns: Columns, encoding: Encoding):
    packed = decode_rows(url, rows, columns, encoding)
    assert packed.shape == (len(rows), packed_width(len(columns)))
    assert packed.dtype == encoding.dtype
    whole = unpack_alleles(packed, 4 * packed.shape[1])
    assert not whole.observed[:, len(columns) :].any()
    kept = slice(0, len(columns))
    return AlleleCounts(whole.alternate[:, kept], whole.observed[:, kept])


def _turn(counts: AlleleCounts, swapped: np.ndarray) -> AlleleCounts:
    turned = counts.observed - counts.alternate
    return AlleleCounts(np.where(swapped, turned, counts.alternate), counts.observed)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_decode_rows__half_calls_count_the_allele_observed(tmp_path, dtype):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0.1).astype(dtype)
    rng = np.random.default_rng(3)
    one = rng.random((N_VARIANTS, N_SAMPLES, 2)) < 0.1
    genotypes[one] = -1
    genotypes[:5, ::2, 1] = -2
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    swapped = rng.random(N_VARIANTS) < 0.5
    columns = _columns(np.arange(N_VARIANTS), swapped)
    known = genotypes >= 0
    alternate = np.where(known, genotypes, 0).sum(axis=2).T
    expected = _turn(AlleleCounts(alternate, known.sum(axis=2).T), swapped)
    found = _alleles(url, Rows(3, 20), columns, CALLS)
    np.testing.assert_array_equal(found.alternate, expected.alternate[3:20])
    np.testing.assert_array_equal(found.observed, expected.observed[3:20])
    assert set(np.unique(found.observed)) == {0, 1, 2}


@pytest.mark.parametrize("call", [(-1, 1), (1, -1), (0, -1), (1, -2)])
def test_decode_rows__two_bits_do_not_hold_half_calls(tmp_path, call):
    genotypes = random_genotypes(4, 5, missing=0)
    genotypes[2, 3] = call
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    with pytest.raises(NeedsWiderError) as raised:
        decode_rows(url, Rows(0, 5), _columns(np.arange(4)))
    assert raised.value.encoding is CALLS
    # Nobody asks for the variant, or for the person.
    decode_rows(url, Rows(0, 5), _columns([0, 1, 3]))
    decode_rows(url, Rows(0, 3), _columns(np.arange(4)))


def test_decode_rows__of_a_haploid_store(tmp_path):
    genotypes = random_genotypes(9, 5)[:, :, :1]
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    found = _alleles(url, Rows(0, 5), _columns(np.arange(9)), CALLS)
    np.testing.assert_array_equal(found.observed, (genotypes[..., 0] >= 0).T)
    expected = np.maximum(genotypes[..., 0], 0).T
    np.testing.assert_array_equal(found.alternate, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_decode_rows__of_dosages(tmp_path, dtype):
    rng = np.random.default_rng(3)
    dosages = rng.uniform(0, 2, (N_VARIANTS, N_SAMPLES)).astype(dtype)
    dosages[rng.random(dosages.shape) < 0.2] = np.nan
    url = write_dosages(tmp_path / "cohort.vcz", dosages)
    swapped = rng.random(N_VARIANTS) < 0.5
    index = np.where(np.arange(N_VARIANTS) % 7 == 3, -1, np.arange(N_VARIANTS))
    known = ~np.isnan(dosages) & (index >= 0)[:, None]
    alternate = np.where(known, np.rint(dosages * 2**14) / 2**14, 0).T
    expected = _turn(AlleleCounts(alternate, 2 * known.T), swapped)
    found = _alleles(url, Rows(3, 20), _columns(index, swapped), DOSAGES)
    np.testing.assert_array_equal(found.alternate, expected.alternate[3:20])
    np.testing.assert_array_equal(found.observed, expected.observed[3:20])
    with pytest.raises(NeedsWiderError) as raised:
        decode_rows(url, Rows(3, 20), _columns(index, swapped))
    assert raised.value.encoding is DOSAGES


def test_decode_rows__whole_dosages_are_genotypes(tmp_path):
    genotypes = random_genotypes(N_VARIANTS, N_SAMPLES, missing=0.2)
    straight = write_cohort(tmp_path / "genotypes.vcz", genotypes)
    missing = (genotypes < 0).any(axis=2)
    dosages = np.where(missing, np.nan, genotypes.sum(axis=2)).astype(np.float32)
    url = write_dosages(tmp_path / "cohort.vcz", dosages)
    columns = _columns(np.arange(N_VARIANTS), np.arange(N_VARIANTS) % 3 == 0)
    rows = Rows(0, N_SAMPLES)
    np.testing.assert_array_equal(
        decode_rows(url, rows, columns), decode_rows(straight, rows, columns)
    )


@pytest.mark.parametrize("value", [-0.01, 2.01, np.inf])
def test_decode_rows__refuses_impossible_dosages(tmp_path, value):
    dosages = np.ones((20, 12), np.float32)
    dosages[9, 11] = value
    url = write_dosages(tmp_path / "cohort.vcz", dosages)
    message = r"cohort\.vcz: call_dosage is .* at variant 9, sample 11; it must be in"
    with pytest.raises(InputError, match=message):
        decode_rows(url, Rows(6, 12), _columns(np.arange(19, -1, -1)))


def test_decode_rows__a_fill_value_of_zero_is_no_mask(tmp_path):
    genotypes = random_genotypes(4, 5, missing=0)
    url = write_cohort(tmp_path / "cohort.vcz", genotypes, fill_value=0)
    found = _decoded(url, Rows(0, 5), _columns(np.arange(4)))
    np.testing.assert_array_equal(found, genotypes.sum(axis=2).T)


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"no chunk at all, but text"])
def test_decode_rows__names_the_chunk_that_is_corrupted(tmp_path, content):
    url = write_cohort(tmp_path / "cohort.vcz", random_genotypes(20, 12))
    (Path(url) / "call_genotype" / "1.2.0").write_bytes(content)
    columns = _columns(np.arange(20))
    assert decode_rows(url, Rows(0, 10), columns).shape == (10, 5)
    message = (
        r"cohort\.vcz: chunk 1\.2\.0 of array call_genotype cannot be decoded \(.*\); "
        "restore that chunk"
    )
    with pytest.raises(InputError, match=message):
        decode_rows(url, Rows(10, 12), columns)


@pytest.mark.parametrize("call", [(0, 2), (2, 2), (1, 3), (127, 127)])
def test_decode_rows__refuses_a_third_allele(tmp_path, call):
    genotypes = random_genotypes(20, 12, missing=0)
    genotypes[9, 11] = call
    url = write_cohort(tmp_path / "cohort.vcz", genotypes)
    message = (
        r"cohort\.vcz: call_genotype has an allele above 1 at variant 9, sample 11"
    )
    with pytest.raises(InputError, match=message):
        decode_rows(url, Rows(0, 12), _columns(np.arange(19, -1, -1)))


def test_decode_rows__takes_no_notice_of_variants_left_out(tmp_path):
    genotypes = random_genotypes(20, 12, missing=0)
    genotypes[9] = 2
    columns = _columns(np.delete(np.arange(20), 9))
    _assert_decodes(tmp_path, genotypes, Rows(0, 12), columns)
