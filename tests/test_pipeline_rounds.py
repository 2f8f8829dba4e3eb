"""The end of a round: sums are given up while it waits, and all of P is stepped."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from estimator.acceleration import Point
from estimator.basis import Models
from estimator.tiling import tile_variants, untile_variants
from pipeline import checkpoint, rounds, steps
from pipeline.plan import Rows
from pipeline.rounds import ShardTask
from pipeline.steps import Share, Sums
from pipeline.stream import ShardKey

K, N_VARIANTS = 2, 5_000


class _Done:
    """A future that is done."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Cluster:
    """Does what it is told at once."""

    def submit(self, function: Any, *args: Any, worker: str | None = None) -> _Done:
        return _Done(function(*(a.value if isinstance(a, _Done) else a for a in args)))

    def spread(self, n_tasks: int) -> list[str | None]:
        return [None] * n_tasks

    def results(self, futures: list[_Done]) -> list[Any]:
        return [future.value for future in futures]


def _sums(seed: int) -> Sums:
    rng = np.random.default_rng(seed)
    n_pairs = K * (K + 1) // 2
    hessian = np.zeros((n_pairs, N_VARIANTS), np.float32)
    hessian[np.triu_indices(K)[0] == np.triu_indices(K)[1]] = 50
    gradient = rng.normal(size=(K, N_VARIANTS)).astype(np.float32)
    return Sums(
        -float(seed),
        np.asarray(tile_variants(jnp.asarray(gradient), 256, fill=0.0)),
        np.asarray(tile_variants(jnp.asarray(hessian), 256, fill=0.0)),
    )


def _frequencies(folder: Path) -> tuple[Any, np.ndarray]:
    """P of the variants, and the file that it is in."""
    shape = (K, N_VARIANTS)
    p = np.random.default_rng(0).uniform(0.2, 0.8, shape).astype(np.float32)
    checkpoint.save_point(folder, "point", Point(np.empty((0, K), np.float32), p))
    return checkpoint.frequencies_path(folder, "point"), p


def test_add_sums__adds_every_field():
    total = steps.add_sums(_sums(1), _sums(2))
    assert total.log_likelihood == -3
    for added, one, other in zip(total[1:], _sums(1)[1:], _sums(2)[1:], strict=True):
        np.testing.assert_array_equal(added, one + other)


@pytest.mark.parametrize("per_part", [1_024, 2_048, 1_000_000])
def test_step_variants__steps_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_part: int
):
    monkeypatch.setattr(steps, "STEP_VARIANTS", per_part)
    path, p = _frequencies(tmp_path)
    cluster: Any = _Cluster()
    total: Any = _Done(_sums(1))
    stepped = steps.step_variants(cluster, total, path, N_VARIANTS)
    # Without correlations in its Hessian each frequency goes its own way.
    gradient = untile_variants(jnp.asarray(_sums(1).gradient), N_VARIANTS)
    np.testing.assert_allclose(stepped, p + np.asarray(gradient) / 50, atol=1e-6)


@pytest.mark.parametrize("per_part", [1_024, 2_048, 1_000_000])
def test_relax_variants__takes_the_same_sample_however_the_variants_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_part: int
):
    monkeypatch.setattr(steps, "STEP_VARIANTS", per_part)
    monkeypatch.setattr(steps, "SAMPLE_VARIANTS", 700)
    monkeypatch.setattr(steps, "_LEAST_SAMPLE", 1)
    path, p = _frequencies(tmp_path)
    cluster: Any = _Cluster()
    shares = [
        steps.relax_variants(_sums(1), path, part)[1]
        for part, _ in steps.spread_parts(cluster, N_VARIANTS)
    ]
    sampled = np.concatenate([share.sample.position for share in shares], axis=1)
    np.testing.assert_array_equal(sampled, p[:, ::8])
    assert len(shares) == max(-(-N_VARIANTS // per_part), 1)
    whole = steps.Part(0, 1, N_VARIANTS)
    expected = steps.relax_variants(_sums(1), path, whole)[1].pull
    total = np.sum([share.pull for share in shares], axis=0)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-4)


def test_move_variants__in_the_old_basis_is_the_plain_step(tmp_path: Path):
    path, _ = _frequencies(tmp_path)
    whole = steps.Part(0, 1, N_VARIANTS)
    plain, _ = steps.relax_variants(_sums(1), path, whole)
    moved = steps.move_variants(_sums(1), path, whole, np.eye(K))
    np.testing.assert_array_equal(moved, plain)


def test_find_basis__weighs_samples_by_what_they_stand_for(tmp_path: Path):
    rng = np.random.default_rng(3)
    n_pairs = K * (K + 1) // 2

    def share(n: int, position: np.ndarray) -> Share:
        column = np.array([[30.0], [0.0], [30.0]], np.float32)
        hessian = np.tile(column, (1, n))
        assert hessian.shape == (n_pairs, n)
        gradient = rng.normal(size=(K, n)).astype(np.float32) * 9
        models = Models(position, gradient, hessian, np.zeros(n, bool))
        return Share(np.zeros((K, K)), models)

    q = rng.dirichlet([1.0] * K, 40).T.astype(np.float32)
    p = rng.uniform(0.001, 0.999, (K, 60)).astype(np.float32)
    people, variants = share(40, q), share(60, p)
    # A pull of zero everywhere is a maximum, however large the cohort.
    file = tmp_path / "models.npz"
    chosen = steps.find_basis([[people]], [variants], (4_000, 6_000), 0.4, file)
    np.testing.assert_allclose(chosen, np.eye(K), atol=1e-9)
    # People are kept for the error of the populations.
    for one, other in zip(checkpoint.load_people(file), people.sample, strict=True):
        np.testing.assert_array_equal(one, other)


class _Spread:
    """Workers as `Cluster.spread` names them."""

    def __init__(self, workers: list[str]) -> None:
        self.workers = workers

    def spread(self, n_tasks: int) -> list[str]:
        n = len(self.workers)
        return [self.workers[i * n // n_tasks] for i in range(n_tasks)]


def _shards(folder: Path, n: int) -> list[ShardTask]:
    rows = [Rows(10 * i, 10 * (i + 1)) for i in range(n)]
    return [ShardTask(ShardKey(folder, "", each), each, 100, 0) for each in rows]


@pytest.mark.parametrize("workers", ["a", "ab", "abc"])
def test_assign__gives_each_worker_its_neighbours_and_what_comes_next(
    tmp_path: Path, workers: str
):
    shards = _shards(tmp_path, 25)
    cluster: Any = _Spread(list(workers))
    placed = rounds.assign(shards, cluster)
    assert [shard for batch, _ in placed for shard in batch.shards] == shards
    assert 1 < max(len(batch.shards) for batch, _ in placed) <= rounds.BATCH_SHARDS
    for worker in workers:
        own = [batch for batch, name in placed if name == worker]
        following = [batch.shards[0].key for batch in [*own[1:], own[0]]]
        assert [batch.upcoming for batch in own] == following


def test_assign__reads_nothing_ahead_of_the_only_shard(tmp_path: Path):
    cluster: Any = _Spread(["a"])
    ((batch, _),) = rounds.assign(_shards(tmp_path, 1), cluster)
    assert batch.upcoming is None
