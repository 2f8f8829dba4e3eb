"""Pairs of alleles against a table of all of them, and as hypothesis draws them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.alleles import OTHER_STRAND, Orientation, Relation, normalise, relate

AS_WRITTEN = Orientation.AS_WRITTEN
SWAPPED, COMPLEMENTED = Orientation.SWAPPED, Orientation.COMPLEMENTED
BASES = "ACGT"
OTHER = dict(zip("ACGT", "TGCA", strict=True))
PAIRS = list(itertools.permutations(BASES, 2))


def _turned(pair, orientation):
    """A pair as another cohort writes it."""
    if orientation & COMPLEMENTED:
        pair = (OTHER[pair[0]], OTHER[pair[1]])
    return pair[::-1] if orientation & SWAPPED else pair


@pytest.mark.parametrize("model", PAIRS)
@pytest.mark.parametrize("cohort", PAIRS)
def test_relate__all_single_bases(model, cohort):
    turns = [o for o in map(Orientation, range(4)) if _turned(model, o) == cohort]
    relation = relate(model, cohort)
    if not turns:
        assert relation is None
        return
    assert relation == Relation(turns[0], len(turns) > 1, True)
    assert relation.either_strand == (OTHER[model[0]] == model[1])
    if relation.either_strand:
        assert turns == [turns[0], turns[0] ^ OTHER_STRAND]


@pytest.mark.parametrize(
    ("model", "cohort", "orientation"),
    [
        (("G", "GTT"), ("G", "GTT"), AS_WRITTEN),
        (("G", "GTT"), ("GTT", "G"), SWAPPED),
        (("G", "GTT"), ("C", "CAA"), None),
        (("AT", "GC"), ("TA", "CG"), None),
        (("AT", "GC"), ("AT", "GC"), AS_WRITTEN),
        (("A", "<DEL>"), ("T", "<DEL>"), None),
        (("A", "<DEL>"), ("A", "<DEL>"), AS_WRITTEN),
        (("1", "2"), ("2", "1"), SWAPPED),
        (("I", "D"), ("D", "I"), SWAPPED),
        (("A", "*"), ("T", "*"), None),
        (("A", "A"), ("A", "A"), None),
        (("A", "C"), ("A", "A"), None),
    ],
)
def test_relate__what_is_no_single_base_is_compared_as_written(
    model, cohort, orientation
):
    expected = None if orientation is None else Relation(orientation, False, True)
    assert relate(model, cohort) == expected


@pytest.mark.parametrize(
    ("model", "cohort", "expected"),
    [
        (("A", "C"), ("A", ""), (AS_WRITTEN, False)),
        (("A", "C"), ("C", ""), (SWAPPED, False)),
        (("A", "C"), ("", "C"), (AS_WRITTEN, False)),
        (("A", "C"), ("T", ""), (COMPLEMENTED, False)),
        (("A", "C"), ("G", ""), (OTHER_STRAND, False)),
        (("A", "T"), ("A", ""), (AS_WRITTEN, True)),
        (("A", "T"), ("T", ""), (SWAPPED, True)),
        (("A", "T"), ("C", ""), None),
        (("A", ""), ("C", "A"), (SWAPPED, False)),
        (("A", ""), ("A", "T"), (AS_WRITTEN, True)),
        (("A", ""), ("A", ""), (AS_WRITTEN, False)),
        (("A", ""), ("", "A"), (SWAPPED, False)),
        # The other strand of A, or the other allele.
        (("A", ""), ("T", ""), None),
        (("A", ""), ("C", ""), None),
        (("", ""), ("A", "C"), None),
        (("1", "2"), ("2", ""), (SWAPPED, False)),
        (("G", "GTT"), ("G", ""), None),
        (("GTT", ""), ("GTT", ""), (AS_WRITTEN, False)),
    ],
)
def test_relate__an_allele_that_nobody_carries(model, cohort, expected):
    found = relate(model, cohort)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found.orientation, found.either_strand) == expected
    assert not found.complete


alleles = st.sampled_from([*BASES, "", "GT", "1", "<DEL>"])
pairs = st.tuples(alleles, alleles)


@given(pairs, pairs)
def test_relate__swapping_both_changes_nothing(model, cohort):
    assert relate(model, cohort) == relate(model[::-1], cohort[::-1])


@given(pairs, pairs)
def test_relate__swapping_one_turns_the_answer_round(model, cohort):
    straight, turned = relate(model, cohort), relate(model, cohort[::-1])
    if straight is None or turned is None:
        assert straight is turned
        return
    assert straight.orientation ^ SWAPPED == turned.orientation
    assert straight.either_strand == turned.either_strand


@pytest.mark.parametrize(
    ("allele", "expected"),
    [("a", "A"), ("0", ""), (".", ""), ("", ""), ("gtT", "GTT"), ("<Del>", "<DEL>")],
)
def test_normalise(allele, expected):
    assert normalise(allele) == expected


def test_rank__prefers_two_alleles_then_fewer_turns():
    ranked = [
        relate(("A", "C"), cohort)
        for cohort in [("A", "C"), ("C", "A"), ("T", "G"), ("G", "T")]
    ]
    ranked += [relate(("A", "C"), (known, "")) for known in "ACTG"]
    ranks = [relation.rank for relation in ranked if relation is not None]
    assert ranks == list(range(8))
