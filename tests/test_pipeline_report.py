"""The report's page: what it says, what it must not hold, and the groups' means."""

import html.parser
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import figures, report, schema, store
from pipeline.errors import InputError

N_VARIANTS = 4
QC_STEPS = [
    {
        "name": "variant call rate",
        "axis": "variants",
        "threshold": 0.95,
        "removed": 1_032,
        "remaining": 22_738,
    },
    {
        "name": "sample call rate",
        "axis": "samples",
        "threshold": None,
        "removed": 0,
        "remaining": 30,
    },
]
ATTRS: dict[str, Any] = {
    "log_likelihood": -1_234_567.89,
    "observed_genotypes": 1_000_000,
    "log_likelihood_trace": [-2e6, -1.5e6, -1_234_567.89],
    "qc_steps": QC_STEPS,
    "source": "a cohort",
    "provenance": {
        "versions": {"jax": "0.10.2", "numpy": "2.1.3"},
        "created": "2025-11-22T22:10:05+00:00",
    },
}


def dirichlet(n_people: int, n_populations: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_populations, 0.3), n_people).astype(np.float32)


def write_ancestry(
    path: Path,
    shares: np.ndarray,
    labels: list[str] | None = None,
    in_fit: np.ndarray | None = None,
    **attrs: Any,
) -> Path:
    n_people, n_populations = shares.shape
    result = store.Store.create(path, "ancestry")
    values = {
        "variant_contig_name": np.array(["1"] * N_VARIANTS),
        "variant_position": np.arange(1, N_VARIANTS + 1),
        "variant_allele": np.array([["A", "C"]] * N_VARIANTS),
        "variant_id": np.array(["."] * N_VARIANTS),
        "variant_population_frequency": np.full(
            (N_VARIANTS, n_populations), 0.5, np.float32
        ),
        "sample_id": np.array([f"PERSON{i}" for i in range(n_people)]),
        "sample_in_fit": np.ones(n_people, bool) if in_fit is None else in_fit,
        "sample_ancestry_proportion": shares,
        "sample_log_likelihood": np.zeros(n_people),
        "sample_n_called": np.full(n_people, N_VARIANTS),
    }
    store.write_all(result, schema.ANCESTRY, values)
    if labels is not None:
        spec = schema.OPTIONAL_ANCESTRY["sample_population"]
        result.write("sample_population", spec, np.array(labels))
    result.set_attrs(**{**ATTRS, **attrs})
    result.finish()
    return path


def test_write_report__names_of_populations(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "a.zarr", np.eye(2, dtype=np.float32))
    result = store.Store.open(path, "ancestry", writable=True)
    result.write("population_id", schema.POPULATION_ID, np.array(["CEU", "<b>"]))
    report.write_report(path, tmp_path / "report.html")
    rows = rows_of((tmp_path / "report.html").read_text("utf-8"))
    assert ["Group", "People", "CEU", "&lt;b&gt;"] in rows
    assert ["mostly CEU", "1", "1.000", "0.000"] in rows


def page_of(tmp_path: Path, *args: Any, **kwargs: Any) -> str:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", *args, **kwargs)
    report.write_report(ancestry, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text("utf-8")


def rows_of(page: str) -> list[list[str]]:
    """Text of the cells of every table row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]


class TagChecker(html.parser.HTMLParser):
    """Collect tags and ids, and check that every element is closed in its place."""

    void = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_tags(page: str) -> TagChecker:
    checker = TagChecker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    return checker


def test_group_means__ignores_people_without_calls() -> None:
    shares = np.array(
        [[1, 0], [0.5, 0.5], [np.nan, np.nan], [0, 1], [np.nan, np.nan]], np.float32
    )
    names, counts, means = report.group_means(shares, ["b", "a", "a", "a", "c"])
    assert names == ["a", "b", "c"]
    assert counts.tolist() == [3, 1, 1]
    expected = np.array([[0.25, 0.75], [1, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(means, expected)
    assert means.dtype == np.float64


def test_group_means__agrees_with_a_loop() -> None:
    shares = dirichlet(200, 4)
    groups = np.random.default_rng(1).choice(["x", "yy", "z"], 200)
    names, counts, means = report.group_means(shares, groups)
    for name, count, mean in zip(names, counts, means, strict=True):
        assert count == (groups == name).sum()
        np.testing.assert_allclose(mean, shares[groups == name].mean(0), rtol=1e-5)


def test_group_means__refuses_other_length() -> None:
    with pytest.raises(ValueError, match="3 rows of ancestry, 2 groups"):
        report.group_means(dirichlet(3, 2), ["a", "b"])


def test_write_report__says_what_the_store_holds(tmp_path: Path) -> None:
    shares = dirichlet(30, 3)
    shares[:2] = np.nan
    in_fit = np.arange(30) >= 7
    page = page_of(tmp_path, shares, ["b", "a", "a"] * 10, in_fit)
    for text in (
        "<h1>a cohort</h1>",
        "<dt>Populations (K)</dt><dd>3</dd>",
        "<dt>People</dt><dd>30</dd>",
        "<dt>Variants</dt><dd>4</dd>",
        "<dt>Log-likelihood</dt><dd>−1,234,567.9</dd>",
        "per called genotype</dt><dd>−1.234568</dd>",
        "22 November 2025, 22:10 UTC",
        "jax 0.10.2 · numpy 2.1.3",
        "after each of 3 rounds",
    ):
        assert text in page
    rows = rows_of(page)
    assert ["variant call rate", "variants", "0.95", "1,032", "22,738"] in rows
    assert ["sample call rate", "people", "off", "0", "30"] in rows
    assert ["Inform the fit", "23"] in rows
    assert ["Not in the fit, projected onto it", "5"] in rows
    assert ["Without any called genotype, no ancestry given", "2"] in rows
    mean = shares[np.arange(30) % 3 == 0][1:].mean(axis=0)
    assert ["b", "9", *(f"{share:.3f}" for share in mean)] in rows
    assert page.count('<svg role="img"') == 2
    assert "people are shown" not in page
    check_tags(page)


def test_write_report__is_self_contained_and_names_nobody(tmp_path: Path) -> None:
    page = page_of(tmp_path, dirichlet(30, 3), ["a", "b"] * 15)
    assert "PERSON" not in page
    tags = check_tags(page).tags
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    assert "@import" not in page
    # The names of the SVG vocabularies are the only addresses, and are never fetched.
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"'<> )]+", page)) == namespaces
    assert all(
        target.startswith(("#", "data:"))
        for target in re.findall(r"(?:href|src|url)[=(][\"']?([^\"')]+)", page)
    )


def test_write_report__same_store_gives_same_bytes(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "a.zarr", dirichlet(40, 4), ["x", "y"] * 20)
    for name in ("one.html", "two.html"):
        report.write_report(ancestry, tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.html", "two.html"))
    assert one == two


def test_write_report__escapes_labels(tmp_path: Path) -> None:
    label = "--><script>$x^2$"
    page = page_of(tmp_path, dirichlet(9, 2), [label] * 9, source="<b>&</b>")
    assert "<script" not in page
    assert page.count("--&gt;&lt;script&gt;$x^2$") == 2  # under the bars, in the table
    assert "<h1>&lt;b&gt;&amp;&lt;/b&gt;</h1>" in page
    check_tags(page)


def test_write_report__any_alphabet(tmp_path: Path) -> None:
    page = page_of(tmp_path, dirichlet(4, 2), ["漢族", "漢族", "Õ", ""])
    assert page.count("漢族") == page.count("Õ") == page.count("(no label)") == 2


def test_write_report__without_labels(tmp_path: Path) -> None:
    shares = dirichlet(50, 3)
    page = page_of(tmp_path, shares)
    assert "as no groups are given" in page
    counts = np.bincount(shares.argmax(1), minlength=3)
    listed = [row[:2] for row in rows_of(page) if row[0].startswith("mostly")]
    assert listed == [[f"mostly {k + 1}", f"{counts[k]}"] for k in range(3)]


@pytest.mark.parametrize(
    ("n_people", "n_populations"), [(1, 1), (1, 3), (20, 1), (3, 31)]
)
def test_write_report__small_and_odd(
    tmp_path: Path, n_people: int, n_populations: int
) -> None:
    page = page_of(tmp_path, dirichlet(n_people, n_populations), ["only"] * n_people)
    assert ["only", str(n_people)] in [row[:2] for row in rows_of(page)]
    assert "stand together" not in page
    check_tags(page)


def test_write_report__many_groups(tmp_path: Path) -> None:
    labels = [f"P{i:02d}" for i in range(26)]
    page = page_of(tmp_path, dirichlet(260, 8), labels * 10)
    for label in labels:
        assert page.count(f">{label}<") == 2  # under the bars, in the table
    assert "without room for a label" not in page


def test_write_report__crowded_labels(tmp_path: Path) -> None:
    labels = [f"a village called {i:03d}" for i in range(150)]
    page = page_of(tmp_path, dirichlet(150, 2), labels)
    left_out = re.search(r"without room for a label: (\d+)\.", page)
    assert left_out is not None
    in_figure = len(re.findall(r">a village called \d+</text>", page))
    assert 40 < in_figure == 150 - int(left_out[1])
    assert "The 100 largest of 150 groups." in page


def test_write_report__thins_out_a_large_cohort(tmp_path: Path) -> None:
    page = page_of(tmp_path, dirichlet(9_000, 30))
    assert "4,000 of 9,000 people are shown, evenly spaced in this order." in page
    assert len(page.encode()) < 500_000


def test_write_report__nobody_has_calls(tmp_path: Path) -> None:
    shares = np.full((3, 2), np.nan, np.float32)
    page = page_of(
        tmp_path, shares, log_likelihood=0.0, observed_genotypes=0, qc_steps=[]
    )
    assert "Nobody in this store has a called genotype" in page
    assert "per called genotype</dt><dd>none</dd>" in page
    assert "no record of quality control" in page
    check_tags(page)


def test_write_report__without_optional_attrs(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(5, 2))
    result = store.Store.open(ancestry, "ancestry", writable=True)
    for name in ("qc_steps", "log_likelihood_trace", "source", "provenance"):
        del result._group.attrs[name]
    report.write_report(ancestry, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<h1>Ancestry report</h1>" in page
    assert "There were no rounds" in page
    check_tags(page)


@pytest.mark.parametrize(
    ("trace", "text"),
    [
        ([], "There were no rounds"),
        ([-5.0], "did not rise in 1 round."),
        ([-5.0, -5.0], "did not rise in 2 rounds."),
        ([-6.0, -5.0], "after each of 2 rounds"),
        ([-6.0, -5.0, -7.0], "after each of 3 rounds"),
    ],
)
def test_write_report__short_traces(
    tmp_path: Path, trace: list[float], text: str
) -> None:
    page = page_of(tmp_path, dirichlet(5, 2), log_likelihood_trace=trace)
    assert text in page
    assert page.count('<svg role="img"') == (2 if "after" in text else 1)


def add_fit_check(path: Path, flagged: np.ndarray) -> None:
    """A check of everybody against everybody, in which the flagged correlate."""
    result = store.Store.open(path, "ancestry", writable=True)
    pairs = 0.25 * np.outer(flagged, flagged).astype(np.float32)
    np.fill_diagonal(pairs, np.nan)
    values = {
        "sample_poorly_described": flagged,
        "reference_sample": np.arange(len(flagged)),
        "reference_residual_correlation": pairs,
    }
    store.write_all(result, schema.OPTIONAL_ANCESTRY, values)
    result.set_attrs(
        fit_check={
            "n_references": len(flagged),
            "threshold": 0.02,
            "n_poorly_described": int(flagged.sum()),
        }
    )


@pytest.mark.parametrize("labels", [["a", "b"] * 10, None])
def test_write_report__people_who_are_not_described(
    tmp_path: Path, labels: list[str] | None
) -> None:
    shares = np.zeros((20, 2), np.float32)
    shares[np.arange(20), np.arange(20) % 2] = 1
    path = write_ancestry(tmp_path / "ancestry.zarr", shares, labels)
    add_fit_check(path, np.arange(20) % 4 == 1)
    report.write_report(path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "5 of 20 people are not described by these 2 populations" in page
    assert "PERSON" not in page
    rows = rows_of(page)
    second = "b" if labels else "mostly 2"
    assert [second, "10", "5"] in rows
    if labels:
        # Of the 90 pairs, 20 are of two who are flagged.
        assert ["b", "10", "0.000", f"{0.25 * 20 / 90:.3f}"] in rows
    else:
        assert ["mostly 2, not described", "5", "0.000", "0.000", "0.250"] in rows
    check_tags(page)


def test_write_report__everybody_is_described(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(20, 1))
    add_fit_check(path, np.zeros(20, bool))
    report.write_report(path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Nobody of 20 people was found whom the one population does not" in page
    for misleading in ("0 of 20", "says who", "ancestors whom the populations lack."):
        assert misleading not in page
    check_tags(page)


def test_write_report__one_person_is_not_described(tmp_path: Path) -> None:
    path = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(20, 2))
    add_fit_check(path, np.arange(20) == 7)
    report.write_report(path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "1 of 20 people is not described by these 2 populations" in page
    assert "this person, who has ancestors" in page


@pytest.mark.parametrize("n_refused", [0, 1, 2])
def test_write_report__marks_refused_points(tmp_path: Path, n_refused: int) -> None:
    trace = [-9.0, -5.0, -7.0, -4.0, -4.5, -3.0]
    refused = [False, False, n_refused > 0, False, n_refused > 1, False]
    page = page_of(
        tmp_path,
        dirichlet(5, 2),
        log_likelihood_trace=trace,
        log_likelihood_refused=refused,
    )
    words = {1: "Crosses: 1 point that", 2: "Crosses: 2 points that"}
    assert all((text in page) == (n == n_refused) for n, text in words.items())
    # A cross is drawn in a colour of its own, once for each point.
    drawn = page.count(f"stroke: {figures.PALETTE[3].lower()}")
    assert (drawn > 0) == (n_refused > 0)


@pytest.mark.parametrize(
    ("pairs", "text"), [(1, "1 first-degree pair,"), (0, "0 first-degree pairs,")]
)
def test_write_report__counts_pairs_of_relatives(
    tmp_path: Path, pairs: int, text: str
) -> None:
    found = {"first_degree_pairs": pairs, "second_degree_pairs": 2}
    assert text in page_of(tmp_path, dirichlet(5, 2), relatives=found)


def test_write_report__refuses_missing_folder(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(2, 2))
    with pytest.raises(InputError, match="folder .*none does not exist; make it first"):
        report.write_report(ancestry, tmp_path / "none" / "report.html")


def test_write_report__refuses_folder(tmp_path: Path) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(2, 2))
    with pytest.raises(InputError, match="is a folder; name a file to write"):
        report.write_report(ancestry, tmp_path)


def test_write_report__reports_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ancestry = write_ancestry(tmp_path / "ancestry.zarr", dirichlet(2, 2))

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"report\.html cannot be written \(No space"):
        report.write_report(ancestry, tmp_path / "report.html")


def test_write_report__refuses_other_store(tmp_path: Path) -> None:
    store.Store.create(tmp_path / "model.zarr", "model").finish()
    with pytest.raises(InputError, match="is not a streamixture ancestry store"):
        report.write_report(tmp_path / "model.zarr", tmp_path / "report.html")
