import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import bundle, schema, store
from pipeline.alleles import relate
from pipeline.cohort import Cohort
from pipeline.errors import InputError
from pipeline.match import Match, MatchCounts, match_variants
from tests.helpers import random_genotypes, small_cohort, text

Key = tuple[str, int, str, str]

MODEL: list[Key] = [
    ("1", 100, "A", "C"),
    ("1", 200, "G", "T"),
    ("1", 200, "G", "GTT"),
    ("2", 100, "A", "C"),
    ("X", 5, "T", "G"),
]
PALINDROME: Key = ("1", 100, "A", "T")
OTHER = dict(zip("ACGT", "TGCA", strict=True))


def _model(folder: Path, keys: list[Key]) -> store.Store:
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
    return model


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


def _opposite(key: Key) -> Key:
    contig, position, *pair = key
    reference, alternate = ("".join(OTHER[base] for base in allele) for allele in pair)
    return contig, position, reference, alternate


def _counts(match: Match) -> list[int]:
    """Matched, swapped, complemented, both, ambiguous, absent, decided."""
    return list(dataclasses.astuple(match.counts))


def test_match_variants__the_same_variants(tmp_path):
    match = _match(tmp_path, MODEL, MODEL)
    assert match.columns.index.tolist() == [0, 1, 2, 3, 4]
    assert not match.columns.swapped.any()
    assert _counts(match) == [5, 0, 0, 0, 0, 0, 0]


def test_match_variants__finds_them_in_any_order(tmp_path):
    order = [3, 0, 4, 2, 1]
    match = _match(tmp_path, MODEL, [MODEL[i] for i in order])
    assert match.columns.index.tolist() == np.argsort(order).tolist()
    assert match.counts.n_matched == 5


def test_match_variants__swapped_alleles(tmp_path):
    cohort = [_turned(key) if i in (1, 4) else key for i, key in enumerate(MODEL)]
    match = _match(tmp_path, MODEL, cohort)
    assert match.columns.index.tolist() == [0, 1, 2, 3, 4]
    assert match.columns.swapped.tolist() == [False, True, False, False, True]
    assert _counts(match) == [3, 2, 0, 0, 0, 0, 0]


def test_match_variants__the_opposite_strand(tmp_path):
    cohort = [_opposite(MODEL[0]), _turned(_opposite(MODEL[1])), *MODEL[2:]]
    match = _match(tmp_path, MODEL, cohort)
    assert match.columns.index.tolist() == [0, 1, 2, 3, 4]
    assert match.columns.swapped.tolist() == [False, True, False, False, False]
    assert _counts(match) == [3, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("cohort", [PALINDROME, ("1", 100, "T", "A")])
def test_match_variants__what_reads_alike_on_both_strands_is_ambiguous(
    tmp_path, cohort
):
    match = _match(tmp_path, [PALINDROME, *MODEL[1:]], [cohort, *MODEL[1:]])
    assert match.ambiguous.tolist() == [True, False, False, False, False]
    assert match.columns.index.tolist() == [-1, 1, 2, 3, 4]
    assert not match.columns.swapped.any()
    assert _counts(match) == [4, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    "other",
    [
        ("1", 101, "A", "C"),
        ("3", 100, "A", "C"),
        ("1", 100, "A", "G"),
        ("1", 100, "A", "CC"),
        ("1", 100, "T", "C"),
    ],
)
def test_match_variants__another_variant_is_absent(tmp_path, other):
    match = _match(tmp_path, MODEL, [other, *MODEL[1:]])
    assert match.columns.index.tolist() == [-1, 1, 2, 3, 4]
    assert _counts(match) == [4, 0, 0, 0, 0, 1, 0]


def test_match_variants__names_of_contigs_and_case_of_alleles_do_not_matter(tmp_path):
    cohort = [(f"chr{c}", p, r.lower(), a.lower()) for c, p, r, a in MODEL]
    assert _match(tmp_path, MODEL, cohort).counts.n_matched == 5


@pytest.mark.parametrize("unobserved", ["0", ".", ""])
def test_match_variants__one_allele_tells_which_is_counted(tmp_path, unobserved):
    cohort = [
        ("1", 100, "A", unobserved),
        ("1", 200, "T", unobserved),  # alternate of the one and no allele of the other
        ("2", 100, "G", unobserved),
        ("X", 5, unobserved, "G"),
    ]
    match = _match(tmp_path, MODEL, cohort)
    assert match.columns.index.tolist() == [0, 1, -1, 2, 3]
    assert match.columns.swapped.tolist() == [False, True, False, True, False]
    assert _counts(match) == [2, 1, 0, 1, 0, 1, 0]


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


FORMS = [MODEL[0], _turned(MODEL[0]), _opposite(MODEL[0]), ("1", 100, "A", "0")]


@pytest.mark.parametrize("second", FORMS[1:])
@pytest.mark.parametrize("first", [True, False])
def test_match_variants__prefers_what_is_written_as_in_the_model(
    tmp_path, second, first
):
    cohort = [MODEL[0], second] if first else [second, MODEL[0]]
    match = _match(tmp_path, MODEL[:1], cohort)
    assert match.columns.index.tolist() == [0 if first else 1]
    assert match.counts.n_matched == 1


@pytest.mark.parametrize("twice", FORMS)
def test_match_variants__refuses_a_variant_that_is_there_twice(tmp_path, twice):
    name = ":".join(map(str, twice))
    message = rf"cohort\.vcz: variants 0 and 5 are both {name}; keep one of them"
    with pytest.raises(InputError, match=message):
        _match(tmp_path, MODEL, [twice, *MODEL[1:], twice])


def test_match_variants__two_that_would_do_are_no_matter_beside_a_better(tmp_path):
    cohort = [FORMS[1], FORMS[1], FORMS[0]]
    assert _match(tmp_path, MODEL[:1], cohort).columns.index.tolist() == [2]


def test_match_variants__a_model_with_a_variant_twice_keeps_its_width(tmp_path):
    match = _match(tmp_path, [MODEL[0], *MODEL], MODEL)
    assert match.columns.index.tolist() == [0, -1, 1, 2, 3, 4]
    assert _counts(match) == [5, 0, 0, 0, 0, 1, 0]


def test_match_variants__a_variant_serves_the_most_like_it(tmp_path):
    insertion, deletion = ("1", 200, "G", "GTT"), ("1", 200, "GTT", "G")
    match = _match(tmp_path, [insertion, deletion], [deletion])
    assert match.columns.index.tolist() == [-1, 0]


keys = st.builds(
    lambda contig, position, pair: (contig, position, *pair),
    st.sampled_from(["1", "2"]),
    st.integers(1, 3),
    st.permutations("ACGT").map(lambda bases: tuple(bases[:2])),
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    model=st.lists(keys, min_size=1, max_size=8, unique_by=lambda key: key[:2]),
    cohort=st.lists(keys, min_size=1, max_size=8, unique_by=lambda key: key[:2]),
)
def test_match_variants__like_every_pair_compared(tmp_path, model, cohort):
    match = _match(tmp_path, model, cohort)
    for i, key in enumerate(model):
        rows = [
            row
            for row, other in enumerate(cohort)
            if key[:2] == other[:2] and relate(key[2:], other[2:]) is not None
        ]
        assert match.index[i] == (rows[0] if rows else -1)


def test_match_counts__survive_a_store():
    counts = MatchCounts(1, 2, 3, 4, 5, 6, 7)
    attrs = counts.as_attrs()
    assert attrs["variants_swapped"] == 2
    assert attrs["variants_decided_by_frequency"] == 7
    assert MatchCounts.from_attrs({**attrs, "kind": "ancestry"}) == counts
    assert counts.n_used == 10
    assert str(counts) == (
        "1 matched, 2 with alleles swapped, 3 on the opposite strand, 4 both, "
        "6 absent, 5 of ambiguous strand left out (7 others decided by frequency)"
    )
