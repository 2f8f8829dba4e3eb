"""Checkpoints of the fit and of the training: all that a resume needs.

Each round of the fit has the point it evaluated and that point's map, as two pairs of
.npy files that workers open by slices. A small JSON file, written last, says which
rounds the search still refers to; files of other rounds are deleted. A state of
training is one .npz file, rewritten every so often.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from estimator.acceleration import Evaluation, Point, Search
from pipeline import provenance

Tree = TypeVar("Tree")

# Most of a training's time that is spent on writing its state.
WRITING_SHARE = 0.01

_STATE = "search.json"


def ancestry_path(folder: Path, name: str) -> Path:
    """File of a point's Q."""
    return folder / f"{name}-ancestry.npy"


def frequencies_path(folder: Path, name: str) -> Path:
    """File of a point's P."""
    return folder / f"{name}-frequencies.npy"


def point_name(round_number: int) -> str:
    """Name of the point that a round evaluates."""
    return f"point-{round_number:05d}"


def _mapped_name(round_number: int) -> str:
    return f"mapped-{round_number:05d}"


def save_point(folder: Path, name: str, point: Point) -> None:
    """Write a point for the workers to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, values in (
        (ancestry_path(folder, name), point.ancestry),
        (frequencies_path(folder, name), point.frequencies),
    ):
        with provenance.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, values, allow_pickle=False)


def load_point(folder: Path, name: str) -> Point:
    """Read a point."""
    return Point(
        np.load(ancestry_path(folder, name), allow_pickle=False),
        np.load(frequencies_path(folder, name), allow_pickle=False),
    )


def save_search(
    folder: Path, search: Search, evaluation: Evaluation, next_point: Point
) -> None:
    """Make a finished round permanent, with the point of the next one."""
    save_point(folder, _mapped_name(evaluation.round_number), evaluation.mapped)
    save_point(folder, point_name(evaluation.round_number + 1), next_point)
    assert search.best is not None, "a round was evaluated"
    rounds = {e.round_number: e.log_likelihood for e in (*search.history, search.best)}
    state = {
        "next_round": evaluation.round_number + 1,
        "history": [e.round_number for e in search.history],
        "best": search.best.round_number,
        "log_likelihoods": {str(number): value for number, value in rounds.items()},
        "halvings": search.halvings,
        "calm_rounds": search.calm_rounds,
        "trace": [*load_trace(folder), evaluation.log_likelihood],
    }
    provenance.write_json(folder / _STATE, state)
    _delete_others(folder, {*rounds, evaluation.round_number + 1})


def load_trace(folder: Path) -> list[float]:
    """Log-likelihood of every round so far."""
    return _load_state(folder).get("trace", [])


def _load_state(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / _STATE).read_text())
    return {}


def load_search(folder: Path, search: Search) -> tuple[Search, int] | None:
    """Continue a search where its files left it; None if there are none.

    Returns
    -------
    The search and the number of the round to evaluate next.
    """
    state = _load_state(folder)
    if not state:
        return None

    def evaluation(number: int) -> Evaluation:
        return Evaluation(
            number,
            load_point(folder, point_name(number)),
            load_point(folder, _mapped_name(number)),
            state["log_likelihoods"][str(number)],
        )

    history = tuple(evaluation(number) for number in state["history"])
    continued = Search(
        tolerance=search.tolerance,
        n_secants=search.n_secants,
        history=history,
        best=evaluation(state["best"]),
        halvings=state["halvings"],
        calm_rounds=state["calm_rounds"],
    )
    return continued, state["next_round"]


def _delete_others(folder: Path, rounds: set[int]) -> None:
    for path in folder.glob("*-?????-*.npy"):
        if int(path.name.split("-")[1]) not in rounds:
            path.unlink()


class StateFile:
    """A state of training in one file, which is either whole or absent.

    Parameters
    ----------
    path
        The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cost_seconds = 0.0
        self._since_saved = provenance.Stopwatch()

    def load(self, like: Tree) -> Tree | None:
        """Read the state, bit for bit as it was saved; None if there is none.

        Parameters
        ----------
        like
            Any tree with the nodes of the one that was saved.
        """
        if not self._path.exists():
            return None
        nodes, structure = jax.tree.flatten(like)
        with np.load(self._path, allow_pickle=False) as file:
            leaves = [file[f"arr_{i}"] for i in range(len(nodes))]
        return jax.tree.unflatten(structure, leaves)

    def save(self, state: Any) -> None:
        """Write a tree of arrays in place of the one that is there."""
        watch = provenance.Stopwatch()
        with (
            provenance.atomic_path(self._path) as temporary,
            open(temporary, "wb") as file,
        ):
            np.savez(file, *jax.tree.leaves(state))
        self._cost_seconds = watch.seconds
        self._since_saved = provenance.Stopwatch()

    def save_if_due(self, state: Any) -> None:
        """Write a tree of arrays, unless that would take too much of the time."""
        if self._since_saved.seconds * WRITING_SHARE >= self._cost_seconds:
            self.save(state)
