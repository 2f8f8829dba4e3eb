import dask
import dask.array as da
import numpy as np
import pytest
import sgkit
import xarray as xr

from pipeline import linkage, pruning
from pipeline.bit_planes import bit_planes
from tests.helpers import forbid_dask, linked_genotypes


def _dosage(n_variants: int, n_people: int, missing: float = 0.05) -> np.ndarray:
    """Alternate alleles of partly linked variants, missing -1."""
    calls = linked_genotypes(n_variants, n_people)
    dosage = np.where(calls.min(axis=2) < 0, 0, calls.sum(axis=2)).astype(np.int8)
    dosage[np.random.default_rng(3).random(dosage.shape) < missing] = -1
    return dosage


def _r2_of_all(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return linkage.squared_correlation(bit_planes(rows), bit_planes(columns))


def _sgkit_r2(dosage: np.ndarray) -> np.ndarray:
    """r2 of every pair, of which sgkit computes those above the diagonal."""
    n_variants = len(dosage)
    dataset = xr.Dataset({"call_dosage": (("variants", "samples"), dosage)})
    dataset["variant_contig"] = "variants", np.zeros(n_variants, np.int64)
    dataset["contig_id"] = "contigs", np.array(["1"])
    dataset = sgkit.window_by_variant(dataset, size=n_variants)
    pairs = sgkit.ld_matrix(dataset).compute()
    r2 = np.zeros((n_variants, n_variants))
    r2[pairs["i"], pairs["j"]] = pairs["value"]
    return np.maximum(r2, r2.T)


def _r2(first: np.ndarray, second: np.ndarray) -> float:
    """Squared correlation over people called at both variants; 0 if undefined."""
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    if both.sum() == 0 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1] ** 2)


def _links(
    dosage: np.ndarray,
    contigs: np.ndarray,
    positions: np.ndarray,
    window_bp: int,
    threshold: float,
) -> set[tuple[int, int]]:
    """Every pair within the window whose r2 reaches the threshold, by brute force."""
    return {
        (i, j)
        for i in range(len(dosage))
        for j in range(i + 1, len(dosage))
        if contigs[i] == contigs[j]
        and positions[j] - positions[i] <= window_bp
        and _r2(dosage[i], dosage[j]) >= threshold
    }


def _greedy(links: set[tuple[int, int]], maf: np.ndarray) -> np.ndarray:
    """Maximal independent set, by falling frequency and then by index."""
    dropped: set[int] = set()
    for variant in np.argsort(-maf, kind="stable"):
        if variant not in dropped:
            dropped |= {j for i, j in links if i == variant}
            dropped |= {i for i, j in links if j == variant}
    return ~np.isin(np.arange(len(maf)), list(dropped))


def _minor_frequency(dosage: np.ndarray) -> np.ndarray:
    alternate = np.maximum(dosage, 0).sum(axis=1)
    total = 2 * (dosage >= 0).sum(axis=1)
    return np.minimum(alternate, total - alternate) / total


def _common(dosage: np.ndarray) -> np.ndarray:
    """Variants that vary among any few people; sgkit's r2 of others is undefined."""
    return dosage[_minor_frequency(dosage) > 0.1]


@pytest.mark.parametrize("missing", [0.0, 0.05, 0.3])
def test_squared_correlation__agrees_with_sgkit(missing):
    dosage = _common(_dosage(90, 90, missing))
    r2 = _r2_of_all(dosage, dosage)
    np.testing.assert_allclose(np.diag(r2), 1)
    np.fill_diagonal(r2, 1)
    np.testing.assert_allclose(r2, _sgkit_r2(dosage), atol=1e-5)
    assert (r2 > 0.2).sum() > 100


def test_squared_correlation__of_complete_rows_with_gappy_columns():
    complete, gappy = _dosage(30, 50, 0), _dosage(30, 50, 0.2)
    for rows, columns in ((complete, gappy), (gappy, complete)):
        r2 = _r2_of_all(rows, columns)
        expected = [[_r2(row, column) for column in columns] for row in rows]
        np.testing.assert_allclose(r2, expected, atol=1e-12)


def test_squared_correlation__is_zero_where_it_is_undefined():
    dosage = np.array(
        [[0, 0, 1, 2], [1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, -1, -1], [-1, 2, 0, 1]],
        np.int8,
    )
    r2 = _r2_of_all(dosage, dosage)
    defined = np.zeros((5, 5), np.bool_)
    defined[np.ix_([0, 4], [0, 4])] = True
    np.testing.assert_array_equal(r2 > 0, defined)


def test_squared_correlation__counts_of_many_people_are_exact():
    many = np.full((2, 2**22), 2, np.int8)
    many[0, 0], many[1, :2] = 1, [0, 1]
    expected = _r2(*many)
    assert _r2_of_all(many[:1], many[1:])[0, 0] == pytest.approx(expected, rel=1e-9)
    assert _r2_of_all(many, many)[0, 0] == 1


def test_squared_correlation__of_some_columns_leaves_the_others():
    dosage = _dosage(5, 70)
    planes = bit_planes(dosage)
    begins, stops = np.array([0, 1, 5, 2, 4]), np.array([5, 3, 5, 1, 5])
    r2 = linkage.squared_correlation(planes, planes, begins, stops)
    column = np.arange(5)
    inside = (column >= begins[:, None]) & (column < stops[:, None])
    expected = np.where(inside, _r2_of_all(dosage, dosage), 0)
    np.testing.assert_array_equal(r2, expected)


def test_window_ends__includes_the_variant_exactly_at_its_width():
    contigs = np.array([5, 5, 5, 5, 2, 2, 9])
    positions = np.array([100, 200, 200, 301, 150, 250, 251])
    assert linkage.window_ends(contigs, positions, 100).tolist() == [
        3,
        3,
        3,
        4,
        6,
        6,
        7,
    ]
    assert linkage.window_ends(contigs, positions, 101).tolist() == [
        3,
        4,
        4,
        4,
        6,
        6,
        7,
    ]
    assert linkage.window_ends(contigs, positions, 10**9).tolist() == [4] * 4 + [
        6,
        6,
        7,
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("window_bp", [1000, 5500, 10**9])
def test_prune__matches_brute_force(threshold, window_bp):
    dosage = _dosage(60, 50)
    dosage[[7, 31]] = [[0], [1]]  # no variance: never linked
    contigs = np.repeat([2, 0, 1], 20)
    positions = np.tile(1000 * np.arange(1, 21), 3)
    positions[[11, 12, 13, 14]] = positions[11]
    maf = _minor_frequency(dosage)
    ends = linkage.window_ends(contigs, positions, window_bp)
    mask = pruning.prune(da.from_array(dosage, chunks=(13, 7)), ends, maf, threshold)
    reaches = max(threshold, 1e-12)
    links = _links(dosage, contigs, positions, window_bp, reaches)
    np.testing.assert_array_equal(mask, _greedy(links, maf))
    kept = set(np.flatnonzero(mask))
    assert links
    assert not [pair for pair in links if kept.issuperset(pair)]
    assert all(
        any({i, j} & kept for i, j in links if dropped in (i, j))
        for dropped in set(range(60)) - kept
    )


def test_prune__decides_as_sgkit_does_at_size():
    dosage = _common(_dosage(700, 200, 0.02))
    maf = _minor_frequency(dosage)
    n = len(dosage)
    ends = linkage.window_ends(np.zeros(n, int), 1000 * np.arange(n), 40_000)
    first, second = linkage.linked_pairs(da.from_array(dosage), ends, 0.1)
    r2 = np.triu(_sgkit_r2(dosage), 1)
    r2[np.arange(n) >= ends[:, np.newaxis]] = 0
    expected = {(int(i), int(j)) for i, j in np.argwhere(r2 >= 0.1)}
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    mask = pruning.prune(da.from_array(dosage), ends, maf, 0.1)
    np.testing.assert_array_equal(mask, _greedy(expected, maf))
    assert 100 < mask.sum() < n - 100


@pytest.mark.parametrize("block_rows", [1, 4, 17, 60])
@pytest.mark.parametrize("tile_rows", [1, 5, 128])
def test_linked_pairs__does_not_depend_on_blocks(monkeypatch, block_rows, tile_rows):
    dosage = _dosage(60, 50)
    positions = 1000 * np.arange(60)
    positions[20:35] = positions[20]
    ends = linkage.window_ends(np.zeros(60, int), positions, 9000)
    monkeypatch.setattr(linkage, "_BLOCK_CALLS", 50 * block_rows)
    monkeypatch.setattr(linkage, "_TILE_ROWS", tile_rows)
    chunked = da.from_array(dosage, chunks=(11, 9))
    first, second = linkage.linked_pairs(chunked, ends, 0.1)
    expected = _links(dosage, np.zeros(60), positions, 9000, 0.1)
    assert len(expected) > 20
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == sorted(expected)


def test_linked_pairs__of_distant_or_single_variants_is_empty():
    for n_variants in (1, 3):
        dosage = da.from_array(_dosage(n_variants, 20))
        ends = np.arange(1, n_variants + 1)
        first, second = linkage.linked_pairs(dosage, ends, 0.1)
        assert first.size == second.size == 0
        frequency = np.full(n_variants, 0.5)
        assert pruning.prune(dosage, ends, frequency, 0.1).all()


def test_linked_pairs__computes_block_by_block(monkeypatch):
    dosage = _dosage(60, 50)
    monkeypatch.setattr(linkage, "_BLOCK_CALLS", 50 * 10)
    loaded: list[tuple[int, ...]] = []

    def watched(block: np.ndarray) -> np.ndarray:
        loaded.append(block.shape)
        return block

    chunked = da.from_array(dosage, chunks=(10, 50))
    source = chunked.map_blocks(watched, meta=np.empty((0, 0), np.int8))
    ends = np.minimum(np.arange(60) + 15, 60)
    with dask.config.set(scheduler=forbid_dask), pytest.raises(AssertionError):
        linkage.linked_pairs(source, ends, 0.1)
    assert loaded == []
    with dask.config.set(scheduler="synchronous"):
        linkage.linked_pairs(source, ends, 0.1)
    # Each block is loaded once, though several tasks use it.
    assert loaded == [(10, 50)] * 6
