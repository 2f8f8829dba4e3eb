"""The end of a round: sums are given up while it waits, and all of P is stepped."""

import weakref
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from estimator.acceleration import Point
from estimator.likelihood import tile_variants
from estimator.relaxation import newton_frequencies
from pipeline import checkpoint, rounds
from pipeline.rounds import Sums


class _Done:
    """A future that is done."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Cluster:
    """Does what it is told at once, and notes which sums somebody still refers to."""

    def __init__(self) -> None:
        self.sums: list[weakref.ref[_Done]] = []
        self.alive_while_waiting = 0

    def submit(self, function: Any, *args: Any, worker: str | None = None) -> _Done:
        return _Done(function(*(a.value if isinstance(a, _Done) else a for a in args)))

    def add(self, function: Any, parts: list[_Done]) -> _Done:
        self.sums = [weakref.ref(part) for part in parts]
        total = parts[0].value
        for part in parts[1:]:
            total = function(total, part.value)
        return _Done(total)

    def spread(self, n_tasks: int) -> list[str | None]:
        return [None] * n_tasks

    def result(self, future: _Done) -> Any:
        self.alive_while_waiting += sum(each() is not None for each in self.sums)
        return future.value


def _sums(n_people: int, n_variants: int, k: int, seed: int) -> Sums:
    rng = np.random.default_rng(seed)
    n_pairs = k * (k + 1) // 2
    hessian = np.zeros((n_pairs, n_variants), np.float32)
    hessian[np.triu_indices(k)[0] == np.triu_indices(k)[1]] = 50
    gradient = rng.normal(size=(k, n_variants)).astype(np.float32)
    return Sums(
        rng.dirichlet(np.ones(k), n_people).astype(np.float32),
        -float(n_people),
        np.asarray(tile_variants(jnp.asarray(gradient), 256, fill=0.0)),
        np.asarray(tile_variants(jnp.asarray(hessian), 256, fill=0.0)),
    )


@pytest.mark.parametrize("per_part", [1_024, 2_048, 1_000_000])
def test_finish_round__gives_up_the_sums_and_steps_every_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_part: int
):
    k, n_variants = 2, 5_000
    monkeypatch.setattr(rounds, "STEP_VARIANTS", per_part)
    p = np.random.default_rng(0).uniform(0.2, 0.8, (k, n_variants)).astype(np.float32)
    q = np.empty((0, k), np.float32)
    checkpoint.save_point(tmp_path, "point", Point(q, p))
    cluster: Any = _Cluster()
    done: Any = [_Done(_sums(10, n_variants, k, seed)) for seed in range(3)]
    point, log_likelihood = rounds.finish_round(
        cluster,
        done,
        checkpoint.frequencies_path(tmp_path, "point"),
        n_variants,
    )
    assert cluster.alive_while_waiting == 0
    assert log_likelihood == -30
    assert point.ancestry.shape == (30, k)
    parts = [_sums(10, n_variants, k, seed) for seed in range(3)]
    gradient = sum(np.asarray(_untiled(s.gradient, n_variants)) for s in parts)
    hessian = sum(np.asarray(_untiled(s.hessian, n_variants)) for s in parts)
    expected = newton_frequencies(*map(jnp.asarray, (p, gradient, hessian)))
    np.testing.assert_allclose(point.frequencies, expected, atol=1e-6)


def _untiled(tiles: np.ndarray, n_variants: int) -> np.ndarray:
    return tiles.transpose(2, 0, 3, 1).reshape(tiles.shape[2], -1)[:, :n_variants]
