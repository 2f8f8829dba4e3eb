from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import bundle, schema, store
from pipeline.cohort import Cohort
from pipeline.errors import InputError
from pipeline.match import Match, match_variants
from tests.helpers import local, random_genotypes, small_cohort, text

Key = tuple[str, int, str, str]

MODEL: list[Key] = [
    ("1", 100, "A", "C"),
    ("1", 200, "G", "T"),
    ("1", 200, "G", "GTT"),
    ("2", 100, "A", "C"),
    ("X", 5, "T", "G"),
]


def _model(folder: Path, keys: list[Key]) -> Path:
    contigs, positions, references, alternates = zip(*keys, strict=True)
    model = store.Store.create(folder / "model.zarr", bundle.KIND)
    values: dict[str, Any] = {
        "variant_contig_name": np.array(contigs),
        "variant_position": np.array(positions),
        "variant_allele": np.stack([references, alternates], axis=1),
        "variant_id": np.full(len(keys), "."),
    }
    store.write_all(model, schema.VARIANT_KEYS, values)
    model.finish()
    return local(model.path)


def _cohort(folder: Path, keys: list[Key], **changes: Any) -> Cohort:
    contigs, positions, references, alternates = zip(*keys, strict=True)
    names = sorted(set(contigs), reverse=True)
    arrays = {
        "contig_id": text(names),
        "variant_contig": np.array([names.index(c) for c in contigs], np.int8),
        "variant_position": np.array(positions, np.int32),
        "variant_allele": text(list(zip(references, alternates, strict=True))),
    }
    genotypes = random_genotypes(len(keys), 3)
    return small_cohort(folder, genotypes, **(arrays | changes))


def _match(folder: Path, model: list[Key], cohort: list[Key]) -> Match:
    return match_variants(_model(folder, model), _cohort(folder, cohort))


def _turned(key: Key) -> Key:
    contig, position, reference, alternate = key
    return contig, position, alternate, reference


def test_match_variants__the_same_variants(tmp_path):
    match = _match(tmp_path, MODEL, MODEL)
    assert match.columns.index.tolist() == [0, 1, 2, 3, 4]
    assert not match.columns.swapped.any()
    assert (match.n_matched, match.n_swapped, match.n_absent) == (5, 0, 0)


def test_match_variants__finds_them_in_any_order(tmp_path):
    order = [3, 0, 4, 2, 1]
    match = _match(tmp_path, MODEL, [MODEL[i] for i in order])
    assert match.columns.index.tolist() == np.argsort(order).tolist()
    assert match.n_matched == 5


def test_match_variants__swapped_alleles(tmp_path):
    cohort = [_turned(key) if i in (1, 4) else key for i, key in enumerate(MODEL)]
    match = _match(tmp_path, MODEL, cohort)
    assert match.columns.index.tolist() == [0, 1, 2, 3, 4]
    assert match.columns.swapped.tolist() == [False, True, False, False, True]
    assert (match.n_matched, match.n_swapped, match.n_absent) == (3, 2, 0)


@pytest.mark.parametrize(
    "other",
    [
        ("1", 101, "A", "C"),
        ("3", 100, "A", "C"),
        ("1", 100, "A", "G"),
        ("1", 100, "A", "CC"),
        ("1", 100, "T", "G"),  # the other strand
    ],
)
def test_match_variants__another_variant_is_absent(tmp_path, other):
    match = _match(tmp_path, MODEL, [other, *MODEL[1:]])
    assert match.columns.index.tolist() == [-1, 1, 2, 3, 4]
    assert (match.n_matched, match.n_swapped, match.n_absent) == (4, 0, 1)


def test_match_variants__takes_no_notice_of_what_the_model_lacks(tmp_path):
    extra: list[Key] = [("7", i, "A", "C") for i in range(1, 40)]
    match = _match(tmp_path, MODEL, [*extra, *MODEL, *extra])
    assert match.columns.index.tolist() == [39, 40, 41, 42, 43]


def test_match_variants__multiallelic_sites_are_absent(tmp_path):
    alleles = text([[*key[2:], ""] for key in MODEL])
    alleles[3, 2] = "G"
    cohort = _cohort(tmp_path, MODEL, variant_allele=alleles)
    match = match_variants(_model(tmp_path, MODEL), cohort)
    assert match.columns.index.tolist() == [0, 1, 2, -1, 4]


@pytest.mark.parametrize("second", [MODEL[0], _turned(MODEL[0])])
def test_match_variants__refuses_a_variant_that_is_there_twice(tmp_path, second):
    name = ":".join(map(str, second))
    message = rf"cohort\.vcz: variants 0 and 5 are both {name}; keep one of them"
    with pytest.raises(InputError, match=message):
        _match(tmp_path, MODEL, [*MODEL, second])


def test_match_variants__a_model_with_a_variant_twice_keeps_its_width(tmp_path):
    match = _match(tmp_path, [MODEL[0], *MODEL], MODEL)
    assert match.columns.index.tolist() == [-1, 0, 1, 2, 3, 4]
    assert (match.n_matched, match.n_swapped, match.n_absent) == (5, 0, 1)


def test_match_variants__half_of_the_variants_will_do(tmp_path):
    match = _match(tmp_path, MODEL[:4], [MODEL[0], _turned(MODEL[1])])
    assert (match.n_matched, match.n_swapped, match.n_absent) == (1, 1, 2)


def test_match_variants__refuses_fewer_than_half(tmp_path):
    message = (
        r"cohort\.vcz has 2 of the model's 5 variants, and 50% are needed; check that "
        r"both are of the same genome build and name contigs alike"
    )
    with pytest.raises(InputError, match=message):
        _match(tmp_path, MODEL, MODEL[:2])
