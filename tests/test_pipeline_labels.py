"""Labelled people: the file, and fits in which their ancestry is given."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from estimator.config import MIN_FREQUENCY
from estimator.packing import unpack_genotypes
from pipeline import fit_stage, labels, lineage, run
from pipeline.config import FitConfig, QCConfig, RunConfig, TrainConfig
from pipeline.errors import InputError
from pipeline.prepared import open_prepared
from pipeline.store import Store
from tests import helpers, oracle

SHARED = Path(__file__).parents[2] / "shared" / "data" / "hapmap3"
# Nats per genotype that a first-order bound may leave.
GAP = 5e-6
IDS = np.array(["s0", "s1", "s2", "s3"])


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.tsv"
    path.write_text(text)
    return path


def test_read_labels__header_blank_lines_and_unlabelled_people(tmp_path):
    text = "sample_id\tpopulation\ns2\tB\n\ns0\tA\ns1\t-\n"
    found = labels.read_labels(write(tmp_path, text))
    assert found.people == {"s2": ("B", 2), "s0": ("A", 4)}
    assert found.populations == ["A", "B"]
    placed = labels.place_labels(found, IDS, 3)
    assert placed.tolist() == [0, -1, 1, -1]
    assert labels.population_names(found, 3) == ["A", "B", "population_3"]


def test_read_labels__fingerprint_is_of_who_is_where(tmp_path):
    first = labels.read_labels(write(tmp_path, "s0\tA\ns1\tB\n")).fingerprint
    assert labels.read_labels(write(tmp_path, "s1\tB\ns0\tA\n")).fingerprint == first
    assert labels.read_labels(write(tmp_path, "s1\tA\ns0\tB\n")).fingerprint != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s0\tA\ns1 B\n", r"line 2: 1 fields; write a sample id, a tab"),
        ("s0\tA\textra\n", r"line 1: 3 fields"),
        ("s0\tA\n\tB\n", r"line 2: 2 fields"),
        ("s0\tA\ns1\tB\ns0\tB\n", r"line 3: sample id 's0' is on line 1 already"),
        ("", r"labels nobody; leave --labels out or add lines"),
        ("s0\t-\n", r"labels nobody"),
    ],
)
def test_read_labels__refuses(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        labels.read_labels(write(tmp_path, text))


def test_read_labels__one_word_a_line_is_in_the_order_of_people(tmp_path, caplog):
    with caplog.at_level("INFO"):
        found = labels.read_labels(write(tmp_path, "B\n-\n A \nB\n\n"))
    assert "one word a line" in caplog.text
    config = RunConfig(fit=FitConfig(n_populations=2))
    matched = fit_stage.match_labels(found, IDS, config)
    assert matched is not None
    named = labels.read_labels(write(tmp_path, "s3\tB\ns2\tA\ns0\tB\n"))
    assert matched.fingerprint == named.fingerprint
    placed = labels.place_labels(matched, IDS, 2)
    np.testing.assert_array_equal(placed, labels.place_labels(named, IDS, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A\nB\nA\n", "has 3 lines of one word, and the cohort 4 people"),
        ("s0\ns1\ns2\ns3\n", "lists sample ids and no populations"),
        ("A\n\nB\nA\n", 'line 2 is empty; write "-"'),
        ("-\n-\n-\n-\n", "labels nobody"),
        ("A\nB\nC\nA\n", "has 3 populations .* and the model 2"),
    ],
)
def test_read_labels__refuses_words_that_do_not_fit(tmp_path, text, message):
    config = RunConfig(fit=FitConfig(n_populations=2))
    with pytest.raises(InputError, match=message):
        fit_stage.match_labels(labels.read_labels(write(tmp_path, text)), IDS, config)


def test_read_labels__refuses_what_is_no_text_file(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tsv: .*; check --labels"):
        labels.read_labels(tmp_path / "absent.tsv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        labels.read_labels(tmp_path / "binary")


@pytest.mark.parametrize(
    ("text", "k", "message"),
    [
        ("s0\tA\ns9\tB\n", 2, r"line 2: sample id 's9' is not in the cohort"),
        ("s0\tA\ns1\tB\n", 1, r"2 populations \(A, B\) and the model 1; raise -k to 2"),
        ("s0\tpopulation_2\n", 2, r"names a population 'population_2', as unlabelled"),
    ],
)
def test_place_labels__refuses(tmp_path, text, k, message):
    with pytest.raises(InputError, match=message):
        labels.place_labels(labels.read_labels(write(tmp_path, text)), IDS, k)


def test_fix_labelled__refuses_a_population_without_people_in_the_fit(tmp_path):
    prepared = helpers.small_prepared(tmp_path, helpers.random_genotypes(12, 4))
    found = labels.read_labels(write(tmp_path, "s0\tA\ns1\tA\ns2\tB\n"))
    with pytest.raises(InputError, match=r"'B' has 1 people that passed .* needs 2"):
        labels.fix_labelled(prepared, found, IDS, 2)


def test_match_labels__the_neural_method_takes_none(tmp_path):
    found = labels.read_labels(write(tmp_path, "s0\tA\n"))
    config = RunConfig(fit=FitConfig(method="neural"))
    with pytest.raises(InputError, match="takes no labels; leave --labels out"):
        fit_stage.match_labels(found, IDS, config)


def run_labelled(cohort: str, folder: Path, text: str, k: int) -> Path:
    config = RunConfig(
        qc=QCConfig(enabled=False),
        fit=FitConfig(n_populations=k),
        train=TrainConfig(epochs=0),
    )
    known = labels.read_labels(write(folder, text))
    cluster = contextlib.nullcontext(helpers.SerialCluster())
    run.run(cohort, folder / "out", config, cluster, labels=known)
    return folder / "out"


def calls_of(genotypes: np.ndarray) -> np.ndarray:
    """Phased calls, variants x people x 2, of people's counts."""
    counts = genotypes.T
    calls = np.stack([counts >= 1, counts == 2], axis=2).astype(np.int8)
    calls[counts < 0] = -1
    return calls


# Everybody pure is labelled; two labels of three; and only some of the admixed free.
@pytest.mark.soak
@pytest.mark.parametrize("n_labels", [2, 3])
def test_labels__likelihood_is_at_the_constrained_optimum(tmp_path, n_labels):
    k, n_pure = 3, 20
    drawn = oracle.simulate(60, 400, k, seed=5, fst=0.2)
    ancestry = np.concatenate([drawn.ancestry, np.repeat(np.eye(k), n_pure, axis=0)])
    rng = np.random.default_rng(6)
    pure = rng.binomial(2, ancestry[60:] @ drawn.frequencies).astype(np.int8)
    genotypes = np.concatenate([drawn.genotypes, pure])
    cohort = helpers.write_cohort(
        tmp_path / "cohort.vcz", calls_of(genotypes), chunks=(100, 50)
    )
    population = ancestry.argmax(axis=1)
    is_labelled = (np.arange(len(ancestry)) >= 60) & (population < n_labels)
    text = "".join(f"s{i}\tpop{population[i]}\n" for i in np.flatnonzero(is_labelled))
    output = run_labelled(cohort, tmp_path, text, k)

    store = Store.open(output / "ancestry.zarr", "ancestry")
    names = [f"pop{i}" for i in range(n_labels)] + ["population_3"][: k - n_labels]
    assert store.read("population_id").tolist() == names
    model = Store.open(output / "model.zarr", "model")
    assert model.read("population_id").tolist() == names
    q = store.read("sample_ancestry_proportion")
    assert (q[is_labelled] == np.eye(k)[population[is_labelled]]).all()
    errors = store.read("sample_ancestry_proportion_se")
    assert (errors[is_labelled] == 0).all()
    assert (errors[~is_labelled] > 0).any(axis=1).all()

    start = np.where(is_labelled[:, None], np.eye(k)[population], 1 / k)
    start[60:][~is_labelled[60:]] = [0.05, 0.05, 0.9]
    best = oracle.fit(genotypes, start, drawn.frequencies, fixed=is_labelled)
    assert (best.ancestry[is_labelled] == q[is_labelled]).all()
    summary = json.loads((output / "run.json").read_text())
    observed = summary["observed_genotypes"]
    assert abs(summary["log_likelihood"] - best.log_likelihood) / observed < 1e-7
    given = oracle.log_likelihood(
        genotypes, q, store.read("variant_population_frequency").T
    )
    np.testing.assert_allclose(given, summary["log_likelihood"], rtol=1e-8)
    np.testing.assert_allclose(q, best.ancestry, atol=2e-3)
    assert summary["population_id"] == names
    assert summary["labels_fingerprint"] == model.attrs["labels_fingerprint"]


def test_labels__everybody_labelled(tmp_path):
    # Of the same size as above, so that nothing is compiled anew.
    drawn = oracle.simulate(120, 400, 3, seed=8)
    cohort = helpers.write_cohort(
        tmp_path / "cohort.vcz", calls_of(drawn.genotypes), chunks=(100, 50)
    )
    text = "".join(f"s{i}\t{'ABC'[i % 3]}\n" for i in range(120))
    output = run_labelled(cohort, tmp_path, text, 3)
    store = Store.open(output / "ancestry.zarr", "ancestry")
    frequencies = store.read("variant_population_frequency")
    expected = [oracle.pooled_frequency(drawn.genotypes[i::3]) for i in range(3)]
    clipped = np.clip(np.transpose(expected), 1e-5, 1 - 1e-5)
    np.testing.assert_allclose(frequencies, clipped, atol=1e-5)


def test_labels__are_part_of_what_a_resumed_fit_must_agree_with(tmp_path):
    prepared = helpers.small_prepared(tmp_path, helpers.random_genotypes(40, 12))
    assert open_prepared(prepared.path).fixed is None
    inputs = [
        lineage.provenance_inputs("x", RunConfig(), known)
        for known in (
            None,
            labels.read_labels(write(tmp_path, "s0\tA\ns1\tA\n")),
            labels.read_labels(write(tmp_path, "s0\tA\ns2\tA\n")),
        )
    ]
    stamps = {lineage.describe("c.vcz", each)["stamp"] for each in inputs}
    assert len(stamps) == 3
    assert "labels" not in inputs[0]


@pytest.mark.soak
@pytest.mark.skipif(not SHARED.exists(), reason="hapmap3 is not beside the project")
def test_labels__hapmap3_is_at_the_constrained_optimum(tmp_path):
    lines = (SHARED / "labels.tsv").read_text().splitlines()[1:]
    known = dict(line.split("\t")[:2] for line in lines)
    text = "".join(f"{i}\t{p}\n" for i, p in known.items() if p in ("CEU", "YRI"))
    output = run_labelled(str(SHARED / "hapmap3.bed"), tmp_path, text, 3)
    store = Store.open(output / "ancestry.zarr", "ancestry")
    q = store.read("sample_ancestry_proportion").astype(np.float64)
    p = store.read("variant_population_frequency").T.astype(np.float64)
    names = store.read("population_id").tolist()
    assert names == ["CEU", "YRI", "population_3"]
    population = [known[i] for i in store.read("sample_id")]
    fixed = np.isin(population, names)
    given = np.eye(3)[[names.index(p) for p in np.array(population)[fixed]]]
    assert (q[fixed] == given).all()

    packed = Store.open(output / "prepared.zarr", "prepared").read(
        "call_genotype_packed"
    )
    genotypes = unpack_genotypes(packed, p.shape[1])
    observed = store.attrs["observed_genotypes"]
    found = oracle.log_likelihood(genotypes, q, p)
    np.testing.assert_allclose(store.attrs["log_likelihood"], found, rtol=1e-9)
    # The likelihood is concave in Q and in P: along the slope it gains at most this.
    slope = oracle.ancestry_gradient(genotypes, q, p)[~fixed]
    gain = (slope.max(axis=1) - (slope * q[~fixed]).sum(axis=1)).sum()
    slope = oracle.frequency_gradient(genotypes, q, p)
    bound = np.where(slope > 0, 1 - MIN_FREQUENCY, MIN_FREQUENCY)
    assert gain / observed < GAP
    assert (slope * (bound - p)).sum() / observed < GAP
    after = oracle.expectation_maximisation(genotypes, q, p)
    after_q = np.where(fixed[:, None], q, after[0])
    assert (
        oracle.log_likelihood(genotypes, after_q, after[1]) - found
    ) / observed < 1e-9
    # What the unlabelled people are said to be is no accident of the labels.
    means = {
        name: q[np.array(population) == name].mean(axis=0) for name in ("ASW", "MEX")
    }
    assert means["ASW"].argmax() == 1
    assert means["MEX"][1] < 0.1
