from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from estimator.acceleration import Evaluation, Point, Search, advance, propose
from pipeline import checkpoint

SEARCH = Search(tolerance=1e-3, n_secants=3)


def _random_point(seed: int) -> Point:
    rng = np.random.default_rng(seed)
    ancestry = rng.dirichlet([1.0, 1.0, 1.0], 6).astype(np.float32)
    return Point(ancestry, rng.uniform(0.1, 0.9, (3, 9)).astype(np.float32))


def _evaluate(number: int, point: Point, log_likelihood: float) -> Evaluation:
    """A map that moves every point a third of the way to the same place."""
    goal = _random_point(99)
    third = np.float32(1 / 3)
    mapped = Point(*(x + third * (g - x) for x, g in zip(point, goal, strict=True)))
    # What makes the map of each round a little different, as a real one is.
    noise = _random_point(1_000 + number).frequencies * np.float32(1e-3)
    mapped = mapped._replace(frequencies=mapped.frequencies + noise)
    relaxed = mapped._replace(ancestry=point.ancestry)
    return Evaluation(number, point, mapped, relaxed, log_likelihood)


def _search(folder: Path, log_likelihoods: list[float]) -> tuple[Search, Point]:
    """Run some rounds as a fit does, saving each."""
    search, point = SEARCH, _random_point(0)
    checkpoint.save_point(folder, checkpoint.point_name(0), point)
    for number, log_likelihood in enumerate(log_likelihoods):
        evaluation = _evaluate(number, point, log_likelihood)
        search = advance(search, evaluation)
        point = propose(search)
        checkpoint.save_search(folder, search, evaluation, point)
    return search, point


def _assert_same(left: Point, right: Point) -> None:
    for a, b in zip(left, right, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


RISING = [-100.0, -50.0, -25.0, -12.0, -6.0, -3.0]
HISTORIES = {
    "one round": RISING[:1],
    "two rounds": RISING[:2],
    "more than the secants": RISING,
    "a fall": [-100.0, -50.0, -60.0],
    "two falls": [-100.0, -50.0, -60.0, -70.0],
    "a fall, then a rise": [-100.0, -50.0, -60.0, -40.0, -30.0],
    "no number": [-100.0, -50.0, float("nan")],
    "a calm round": [-100.0, -50.0, -50.0 + 1e-4],
    "a fall within the tolerance": [-100.0, -50.0, -50.0 - 1e-4],
    "converged": [-100.0, -50.0, -50.0 + 1e-4, -50.0 + 2e-4],
}


@pytest.mark.parametrize("log_likelihoods", HISTORIES.values(), ids=HISTORIES)
def test_load_search__proposes_the_same_next_point(tmp_path, log_likelihoods):
    search, point = _search(tmp_path, log_likelihoods)
    loaded = checkpoint.load_search(tmp_path, SEARCH)
    assert loaded is not None
    continued, round_number = loaded
    assert round_number == len(log_likelihoods)
    stored = checkpoint.load_point(tmp_path, checkpoint.point_name(round_number))
    _assert_same(stored, point)
    _assert_same(propose(continued), point)
    assert continued.converged == search.converged
    assert (continued.refusals, continued.calm_rounds, continued.radius) == (
        search.refusals,
        search.calm_rounds,
        search.radius,
    )
    assert continued.best is not None
    assert search.best is not None
    assert continued.best.round_number == search.best.round_number
    assert continued.best.log_likelihood == search.best.log_likelihood


@pytest.mark.parametrize("stopped_after", [1, 2, 4])
def test_load_search__a_search_that_was_stopped_goes_the_same_way(
    tmp_path, stopped_after
):
    whole, end = _search(tmp_path / "whole", RISING)
    _search(tmp_path / "cut", RISING[:stopped_after])
    loaded = checkpoint.load_search(tmp_path / "cut", SEARCH)
    assert loaded is not None
    search, number = loaded
    point = checkpoint.load_point(tmp_path / "cut", checkpoint.point_name(number))
    for number in range(stopped_after, len(RISING)):
        evaluation = _evaluate(number, point, RISING[number])
        search = advance(search, evaluation)
        point = propose(search)
        checkpoint.save_search(tmp_path / "cut", search, evaluation, point)
    _assert_same(point, end)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == names
    for name in names:
        content = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "cut" / name).read_bytes() == content
    assert checkpoint.load_trace(tmp_path / "cut") == RISING


def test_load_search__takes_its_settings_from_the_caller(tmp_path):
    _search(tmp_path, RISING)
    loaded = checkpoint.load_search(tmp_path, Search(tolerance=9.0, n_secants=1))
    assert loaded is not None
    assert (loaded[0].tolerance, loaded[0].n_secants) == (9.0, 1)


def test_load_search__of_nothing_is_none(tmp_path):
    assert checkpoint.load_search(tmp_path / "none", SEARCH) is None
    assert checkpoint.load_trace(tmp_path / "none") == []


def test_load_search__the_first_point_alone_is_no_search(tmp_path):
    checkpoint.save_point(tmp_path, checkpoint.point_name(0), _random_point(0))
    assert checkpoint.load_search(tmp_path, SEARCH) is None


def _rounds_on_disk(folder: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"point": set(), "mapped": set(), "relaxed": set()}
    for path in folder.glob("*.npy"):
        kind, number, _ = path.name.split("-")
        found[kind].add(int(number))
    return found


def test_save_search__deletes_files_of_rounds_that_were_dropped(tmp_path):
    search, _ = _search(tmp_path, RISING)
    kept = {evaluation.round_number for evaluation in search.history}
    assert kept == {2, 3, 4, 5}
    ends = {"mapped": kept, "relaxed": kept}
    assert _rounds_on_disk(tmp_path) == {"point": {*kept, 6}, **ends}
    assert len(list(tmp_path.glob("*.npy"))) == 2 * (len(kept) * 3 + 1)


def test_save_search__deletes_a_refused_round_but_not_the_best(tmp_path):
    _search(tmp_path, [-100.0, -50.0, -60.0, -70.0])
    ends = {"mapped": {1}, "relaxed": {1}}
    assert _rounds_on_disk(tmp_path) == {"point": {1, 4}, **ends}


def test_save_search__leaves_other_files_alone(tmp_path):
    checkpoint.save_point(tmp_path, "start", _random_point(0))
    _search(tmp_path, RISING)
    _assert_same(checkpoint.load_point(tmp_path, "start"), _random_point(0))


def test_save_search__a_round_cut_short_before_its_state_is_done_again(tmp_path):
    _, point = _search(tmp_path, RISING[:2])
    # What a run killed between the files of a round and search.json leaves.
    checkpoint.save_point(tmp_path, "mapped-00002", _random_point(5))
    checkpoint.save_point(tmp_path, checkpoint.point_name(3), _random_point(6))
    loaded = checkpoint.load_search(tmp_path, SEARCH)
    assert loaded is not None
    assert loaded[1] == 2
    _assert_same(propose(loaded[0]), point)
    assert checkpoint.load_trace(tmp_path) == RISING[:2]


def test_save_point__is_read_by_slices(tmp_path):
    point = _random_point(3)
    checkpoint.save_point(tmp_path, "fitted", point)
    path = checkpoint.ancestry_path(tmp_path, "fitted")
    for rows in ([2, 3], [0, 1, 4, 2], [3], []):
        found = checkpoint.load_rows(path, np.array(rows, np.intp))
        np.testing.assert_array_equal(found, point.ancestry[rows])
    found = checkpoint.load_array(checkpoint.frequencies_path(tmp_path, "fitted"))
    np.testing.assert_array_equal(found, point.frequencies)
    assert not list(tmp_path.glob("*.partial"))


def _state(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    nested = {0: rng.random((3, 2)).astype(np.float32), 1: rng.random(())}
    return {"weights": nested, "point": _random_point(seed), "step": np.int32(seed)}


def test_state_file__gives_back_every_bit(tmp_path):
    file = checkpoint.StateFile(tmp_path / "state.npz")
    assert file.load(_state(0)) is None
    for seed in (1, 2):
        file.save(_state(seed))
        found = checkpoint.StateFile(tmp_path / "state.npz").load(_state(0))
        assert found is not None
        jax.tree.map(np.testing.assert_array_equal, found, _state(seed))
        assert isinstance(found["point"], Point)
        assert found["weights"][0].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_state_file__is_whole_whenever_its_writer_is_killed(tmp_path, monkeypatch):
    file = checkpoint.StateFile(tmp_path / "state.npz")
    file.save(_state(1))

    def write_half(stream: Any, *_: Any) -> None:
        stream.write(b"PK")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", write_half)
        with pytest.raises(KeyboardInterrupt):
            file.save(_state(2))
    found = file.load(_state(0))
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, found, _state(1))


class _Clock:
    """Time that passes by a tenth of a second each time it is looked at."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def test_save_if_due__takes_a_hundredth_of_the_time(tmp_path, monkeypatch):
    clock = _Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    file = checkpoint.StateFile(tmp_path / "state.npz")
    file.save(_state(0))
    saved = []
    for second in range(1, 101):
        clock.now += 1.0
        file.save_if_due(_state(second))
        found = file.load(_state(0))
        assert found is not None
        saved.append(int(found["step"]))
    # Each took a tenth of a second, so at least ten pass until the next.
    steps = sorted(set(saved) - {0})
    assert 8 <= len(steps) <= 10
    assert min(np.diff(steps)) >= 9
