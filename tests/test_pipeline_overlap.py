"""New people on a model whose P is the truth, however their cohort is written."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.optimize

from estimator.metrics import rmse
from pipeline import given, projection, sources
from pipeline.config import ApplyConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.match import MatchCounts
from pipeline.simulate import draw_genotypes, erase_calls
from pipeline.store import Store
from pipeline.truth import simulate_truth
from tests import helpers

N_PEOPLE, N_VARIANTS, K = 300, 3_000, 3
PAIRS = np.array([[a, b] for a in "ACGT" for b in "ACGT" if a != b])
OTHER = dict(zip("ACGT", "TGCA", strict=True))
ATTRIBUTES: dict[str, Any] = {"vcf_meta_information": [["reference", "GRCh37.fa"]]}

Calls = np.ndarray


class Written(NamedTuple):
    """A cohort as it is written: calls (variants, people, 2), alleles, and places."""

    calls: Calls
    alleles: np.ndarray
    contig: np.ndarray
    position: np.ndarray
    people: np.ndarray


class World(NamedTuple):
    """What all cohorts here are drawn from, and the model that holds its P."""

    ancestry: np.ndarray
    frequencies: np.ndarray
    written: Written
    model: Path

    @property
    def either_strand(self) -> np.ndarray:
        pairs = self.written.alleles.tolist()
        return np.array([OTHER[first] == second for first, second in pairs])


def config(**apply: Any) -> RunConfig:
    return RunConfig(train=TrainConfig(hidden_dims=(16,)), apply=ApplyConfig(**apply))


def workers() -> Any:
    return contextlib.nullcontext(helpers.SerialCluster())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    truth = simulate_truth(N_PEOPLE, N_VARIANTS, K, fst=0.1, dirichlet=0.3, seed=5)
    rng = np.random.default_rng(6)
    alleles = PAIRS[rng.integers(len(PAIRS), size=N_VARIANTS)]
    calls = draw_genotypes(truth.ancestry, truth.frequencies, rng)
    people = np.array([f"p{i}" for i in range(N_PEOPLE)])
    written = Written(calls, alleles, truth.contig, truth.position, people)
    keys = {
        "variant_contig_name": np.array([f"{number + 1}" for number in truth.contig]),
        "variant_position": truth.position.astype(np.int64),
        "variant_allele": alleles,
        "variant_id": np.full(N_VARIANTS, "."),
    }
    known = given.Frequencies(keys, truth.frequencies, "GRCh37")
    model = tmp_path_factory.mktemp("model") / "model.zarr"
    given.make_model(known, model, config(), workers())
    return World(truth.ancestry, truth.frequencies, written, model)


def project(
    world: World,
    written: Written,
    folder: Path,
    attributes: dict[str, Any] = ATTRIBUTES,
    **apply: Any,
) -> tuple[Store, MatchCounts]:
    source, output = folder / "cohort.vcz", folder / "ancestry.zarr"
    helpers.write_cohort(
        source,
        written.calls,
        chunks=(700, 90),
        attributes=attributes,
        contig_id=helpers.text([f"chr{i}" for i in range(1, 23)]),
        variant_contig=written.contig.astype(np.int8),
        variant_position=written.position,
        variant_allele=written.alleles.astype(object),
        variant_id=None,
        sample_id=written.people.astype(object),
    )
    arguments = (world.model, str(source), output, config(**apply), workers())
    counts = projection.project(*arguments)
    return Store.open(output, "ancestry"), counts


def ancestry(store: Store) -> np.ndarray:
    return store.read("sample_ancestry_proportion")


def maximum(calls: Calls, frequencies: np.ndarray) -> np.ndarray:
    """Exact maximum likelihood of each person's Q with P fixed, in float64."""
    counts = np.where((calls < 0).any(axis=2), -1, calls.sum(axis=2)).T
    return np.array([maximum_of_person(person, frequencies) for person in counts])


def maximum_of_person(counts: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    p = frequencies[:, counts >= 0]
    alternate = counts[counts >= 0] / counts.size
    reference = 2 / counts.size - alternate

    def loss(q: np.ndarray) -> tuple[float, np.ndarray]:
        expected = q @ p
        logs = alternate @ np.log(expected) + reference @ np.log1p(-expected)
        return -logs, -p @ (alternate / expected - reference / (1 - expected))

    found = scipy.optimize.minimize(
        loss,
        np.full(K, 1 / K),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * K,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        options={"ftol": 1e-13},
    )
    return found.x


def take(written: Written, variants: np.ndarray) -> Written:
    chosen = {
        name: values[variants]
        for name, values in written._asdict().items()
        if name != "people"
    }
    return written._replace(**chosen)


def swap(written: Written, chosen: np.ndarray) -> Written:
    calls, alleles = written.calls.copy(), written.alleles.copy()
    calls[chosen] = np.where(calls[chosen] < 0, -1, 1 - calls[chosen])
    alleles[chosen] = alleles[chosen, ::-1]
    return written._replace(calls=calls, alleles=alleles)


def complement(written: Written, chosen: np.ndarray) -> Written:
    alleles = written.alleles.copy()
    alleles[chosen] = [[OTHER[a], OTHER[b]] for a, b in alleles[chosen].tolist()]
    return written._replace(alleles=alleles)


def erased(written: Written, missing: float) -> Written:
    calls = written.calls.copy()
    erase_calls(calls, missing, np.random.default_rng(7))
    return written._replace(calls=calls)


@pytest.fixture(scope="module")
def as_is(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, MatchCounts]:
    written = erased(world.written, 0.02)
    return project(world, written, tmp_path_factory.mktemp("as-is"))


ODD = np.arange(N_VARIANTS) % 2 == 1
HALF = np.arange(N_VARIANTS) % 4 < 2
SHUFFLED = np.random.default_rng(8).permutation(N_VARIANTS)

REWRITTEN: dict[str, Callable[[Written], Written]] = {
    "alleles": lambda written: swap(written, ODD),
    "strands": lambda written: complement(written, HALF),
    "order": lambda written: take(written, SHUFFLED),
    "all": lambda written: take(complement(swap(written, ODD), HALF), SHUFFLED),
}


@pytest.mark.parametrize("change", REWRITTEN)
def test_project__alleles_strands_and_order_change_no_bit(
    world, as_is, change, tmp_path
):
    store, counts = as_is
    written = REWRITTEN[change](erased(world.written, 0.02))
    found, others = project(world, written, tmp_path)
    for name in ("sample_ancestry_proportion", "sample_log_likelihood"):
        assert found.read(name).tobytes() == store.read(name).tobytes()
    assert others.n_used == counts.n_used
    assert others.n_ambiguous == counts.n_ambiguous
    if change == "all":
        used = [others.n_matched, others.n_swapped]
        used += [others.n_complemented, others.n_complemented_swapped]
        assert min(used) > 500


def test_project__people_in_another_order(world, as_is, tmp_path):
    order = np.random.default_rng(9).permutation(N_PEOPLE)
    written = REWRITTEN["all"](erased(world.written, 0.02))
    shuffled = written._replace(
        calls=written.calls[:, order], people=written.people[order]
    )
    found, _ = project(world, shuffled, tmp_path)
    expected = dict(zip(world.written.people, ancestry(as_is[0]), strict=True))
    for person, q in zip(found.read("sample_id"), ancestry(found), strict=True):
        np.testing.assert_allclose(q, expected[person], atol=1e-6)


def test_project__counts_what_became_of_the_variants(world, as_is):
    store, counts = as_is
    n_either = np.count_nonzero(world.either_strand)
    assert counts.n_ambiguous + counts.n_decided_by_frequency == n_either
    # The strand of a variant with a frequency near one half is left open.
    assert 0 < counts.n_ambiguous < 0.15 * n_either
    assert counts.n_matched == N_VARIANTS - counts.n_ambiguous
    assert counts.as_attrs().items() <= store.attrs.items()
    assert store.attrs["genome_build"] == "GRCh37"
    called = store.read("sample_n_called")
    assert abs(called.mean() / (0.98 * counts.n_used) - 1) < 0.01


@pytest.mark.parametrize("missing", [0, 0.02, 0.1, 0.3])
def test_project__is_exact_maximum_likelihood_with_missing_calls(
    world, missing, tmp_path
):
    written = erased(world.written, missing)
    found, _ = project(world, written, tmp_path, strand="trusted")
    exact = maximum(written.calls, world.frequencies)
    ratio = rmse(ancestry(found), world.ancestry, match=False)
    ratio /= rmse(exact, world.ancestry, match=False)
    assert 0.98 < ratio < 1.02
    np.testing.assert_allclose(ancestry(found), exact, atol=5e-4)


def test_project__with_two_fifths_of_the_variants_absent(world, tmp_path):
    left = np.flatnonzero(np.arange(N_VARIANTS) % 5 > 1)
    written = take(world.written, left)
    found, counts = project(world, written, tmp_path, strand="trusted")
    assert (counts.n_matched, counts.n_absent) == (1_800, 1_200)
    assert found.attrs["variants_absent"] == 1_200
    exact = maximum(written.calls, world.frequencies[:, left])
    error = rmse(ancestry(found), world.ancestry, match=False)
    assert abs(error / rmse(exact, world.ancestry, match=False) - 1) < 0.05
    bias = (ancestry(found) - world.ancestry).mean(axis=0)
    assert np.abs(bias).max() < 3 * error / np.sqrt(N_PEOPLE)


def test_project__with_three_fifths_absent_is_refused(world, tmp_path):
    written = take(world.written, np.flatnonzero(np.arange(N_VARIANTS) % 5 > 2))
    message = r"cohort\.vcz has 1200 of the 3000 variants of .*model\.zarr, and 50% are"
    with pytest.raises(InputError, match=message):
        project(world, written, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.vcz"]
    found, counts = project(world, written, tmp_path, min_overlap=0.3)
    assert counts.n_absent == 1_800
    assert rmse(ancestry(found), world.ancestry, match=False) < 0.1


def test_project__ambiguous_variants_count_as_absent_for_the_overlap(world, tmp_path):
    either = world.either_strand
    written = take(
        world.written, np.flatnonzero(either | (np.arange(N_VARIANTS) < 900))
    )
    total, n_either = len(written.position), np.count_nonzero(either)
    apply: dict[str, Any] = {"min_overlap": total / N_VARIANTS - 0.01}
    message = (
        rf"cohort\.vcz has {total - n_either} of the 3000 variants of .*model\.zarr "
        rf"and {n_either} more of ambiguous strand \(A/T and C/G\), "
        r"and \d\d% are needed \(apply\.min_overlap\); if it is on the model's strand, "
        r"say --strand trusted"
    )
    with pytest.raises(InputError, match=message):
        project(world, written, tmp_path, strand="drop", **apply)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.vcz"]
    _, counts = project(world, written, tmp_path, strand="trusted", **apply)
    assert counts.n_matched == total


def test_project__strands_of_the_frequencies_are_the_true_ones(world, tmp_path):
    """A wrong strand would show as a person's likelihood at the true Q."""
    written = complement(world.written, HALF)
    found, counts = project(world, written, tmp_path)
    n_turned = np.count_nonzero(world.either_strand & HALF)
    others = np.count_nonzero(~world.either_strand & HALF)
    assert counts.n_matched + counts.n_complemented == counts.n_used
    assert others < counts.n_complemented <= others + n_turned
    exact = maximum(world.written.calls, world.frequencies)
    np.testing.assert_allclose(ancestry(found), exact, atol=0.1)


def test_project__drop_leaves_ambiguous_variants_out(world, tmp_path):
    _, counts = project(world, world.written, tmp_path, strand="drop")
    assert counts.n_ambiguous == np.count_nonzero(world.either_strand)
    assert counts.n_decided_by_frequency == 0


def test_project__trusted_warns_of_the_opposite_strand(world, tmp_path, caplog):
    written = complement(world.written, HALF & ~world.either_strand)
    _, counts = project(world, written, tmp_path, strand="trusted")
    assert counts.n_ambiguous == 0
    n_opposite = np.count_nonzero(HALF & ~world.either_strand)
    assert counts.n_complemented == n_opposite
    message = f"{n_opposite} variants are on the opposite strand, though strands are"
    assert message in caplog.text


def test_project__the_cohort_that_the_model_was_fitted_to_is_trusted(world, tmp_path):
    _, before = project(world, world.written, tmp_path / "before")
    source = tmp_path / "before" / "cohort.vcz"
    cohort = sources.open_source(str(source), tmp_path)
    model = Store.open(world.model, "model", writable=True)
    model.set_attrs(cohort_fingerprint=cohort.fingerprint())
    _, after = project(world, world.written, tmp_path / "after")
    model.set_attrs(cohort_fingerprint="")
    assert before.n_ambiguous > 0
    assert (after.n_ambiguous, after.n_matched) == (0, N_VARIANTS)


def test_project__too_few_variants_tell_no_strand(world, tmp_path):
    either = world.either_strand
    few = ~either & (np.cumsum(~either) < 100)
    written = take(world.written, np.flatnonzero(either | few))
    _, counts = project(world, written, tmp_path, min_overlap=0)
    assert (counts.n_matched, counts.n_ambiguous) == (99, np.count_nonzero(either))


def test_project__another_genome_build_is_refused(world, tmp_path):
    header = {"vcf_meta_information": [["reference", "hs38DH.fa"]]}
    message = (
        r"cohort\.vcz is on genome build GRCh38, and .*model\.zarr on GRCh37; lift the "
        r"cohort over, or use a model of its build"
    )
    with pytest.raises(InputError, match=message):
        project(world, world.written, tmp_path, header)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.vcz"]


def test_project__an_unknown_build_passes_and_is_reported(world, tmp_path):
    found, _ = project(world, world.written, tmp_path, {})
    assert found.attrs["genome_build"] == "unknown"


def test_project__resumed_after_it_was_finished_reports_the_same(world, tmp_path):
    _, counts = project(world, world.written, tmp_path)
    output = tmp_path / "ancestry.zarr"
    source = str(tmp_path / "cohort.vcz")
    again = projection.project(
        world.model, source, output, config(), workers(), resume=True
    )
    assert again == counts


def flipped(written: Written) -> Written:
    """The other allele counted, though the alleles are written as before."""
    calls = np.where(written.calls < 0, -1, 1 - written.calls)
    return written._replace(calls=calls)


@pytest.mark.parametrize("strand", ["check", "trusted", "drop"])
def test_project__of_the_other_allele_is_refused(world, tmp_path, strand):
    message = (
        r"cohort\.vcz: allele frequencies of \d+ variants run against those of .*"
        r"model\.zarr \(correlation -(0\.9\d|1\.00)\); .*import-model --allele 2`"
    )
    with pytest.raises(InputError, match=message):
        project(world, flipped(world.written), tmp_path, strand=strand)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.vcz"]


@pytest.mark.parametrize("person", [0, 17, 250])
def test_project__one_person_tells_which_allele_is_counted(world, person, tmp_path):
    written = world.written
    alone = written._replace(
        calls=written.calls[:, [person]], people=written.people[[person]]
    )
    found, _ = project(world, alone, tmp_path / "right", strand="drop")
    assert found.shape("sample_id") == (1,)
    with pytest.raises(InputError, match="run against those of"):
        project(world, flipped(alone), tmp_path / "wrong", strand="drop")
