"""Checkpoints of the fit and of the training: all that a resume needs.

Each round of the fit has the point it evaluated, that point's map and its relaxation,
as three pairs of .npy files that workers open by slices, and the models that chose its
basis, in an .npz file. A small JSON file, written last, says which rounds the search
still refers to; files of other rounds are deleted. A state of training is one .npz
file, rewritten every so often.
"""

import contextlib
import io
import json
from fnmatch import fnmatch
from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from estimator.acceleration import Evaluation, Point, Search
from estimator.basis import Models
from pipeline import provenance
from pipeline.location import Location, read_range, replacing

Tree = TypeVar("Tree")

# Most of a training's time that is spent on writing its state.
WRITING_SHARE = 0.01

_STATE = "search.json"
# numpy pads a header to 64 bytes, and that of a matrix fits into 128.
_HEADER_BYTES = 128


def ancestry_path(folder: Location, name: str) -> Location:
    """File of a point's Q."""
    return folder / f"{name}-ancestry.npy"


def frequencies_path(folder: Location, name: str) -> Location:
    """File of a point's P."""
    return folder / f"{name}-frequencies.npy"


def point_name(round_number: int) -> str:
    """Name of the point that a round evaluates."""
    return f"point-{round_number:05d}"


def people_path(folder: Location, round_number: int) -> Location:
    """File of the models of people that chose a round's basis."""
    return folder / f"models-{round_number:05d}-sample.npz"


def _mapped_name(round_number: int) -> str:
    return f"mapped-{round_number:05d}"


def _relaxed_name(round_number: int) -> str:
    return f"relaxed-{round_number:05d}"


def save_point(folder: Location, name: str, point: Point) -> None:
    """Write a point for the workers to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, values in (
        (ancestry_path(folder, name), point.ancestry),
        (frequencies_path(folder, name), point.frequencies),
    ):
        with replacing(path) as file:
            np.save(file, np.ascontiguousarray(values), allow_pickle=False)


def load_point(folder: Location, name: str) -> Point:
    """Read a point."""
    return Point(
        load_array(ancestry_path(folder, name)),
        load_array(frequencies_path(folder, name)),
    )


def save_people(path: Location, people: Models) -> None:
    """Write the models of people that chose a round's basis."""
    with replacing(path) as file:
        np.savez(file, *people)


def load_people(path: Location) -> Models:
    """Read the models of people that chose a round's basis."""
    with path.open("rb") as file:
        saved = np.load(file, allow_pickle=False)
        return Models(*(saved[f"arr_{i}"] for i in range(len(Models._fields))))


def load_array(path: Location) -> npt.NDArray[np.float32]:
    """Read a whole .npy file."""
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


def load_rows(path: Location, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    """Read some rows of a .npy file, each run of neighbours at once.

    Parameters
    ----------
    path
        The file, of a matrix in C order.
    rows
        Rows in the order wanted.
    """
    header = io.BytesIO(read_range(path, 0, _HEADER_BYTES))
    np.lib.format.read_magic(header)
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(header)
    assert not by_column, f"{path} is in Fortran order"
    width = dtype.itemsize * shape[1]
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = [run for run in np.split(rows, ends) if run.size]
    data = b"".join(
        read_range(
            path,
            header.tell() + int(run[0]) * width,
            header.tell() + (int(run[-1]) + 1) * width,
        )
        for run in runs
    )
    return np.frombuffer(data, dtype).reshape(len(rows), shape[1])


def save_search(
    folder: Location, search: Search, evaluation: Evaluation, next_point: Point
) -> None:
    """Make a finished round permanent, with the point of the next one."""
    save_point(folder, _mapped_name(evaluation.round_number), evaluation.mapped)
    save_point(folder, _relaxed_name(evaluation.round_number), evaluation.relaxed)
    save_point(folder, point_name(evaluation.round_number + 1), next_point)
    assert search.best is not None, "a round was evaluated"
    rounds = {e.round_number: e.log_likelihood for e in (*search.history, search.best)}
    state = {
        "next_round": evaluation.round_number + 1,
        "history": [e.round_number for e in search.history],
        "best": search.best.round_number,
        "log_likelihoods": {str(number): value for number, value in rounds.items()},
        "refusals": search.refusals,
        "calm_rounds": search.calm_rounds,
        "radius": search.radius,
        "trace": [*load_trace(folder), evaluation.log_likelihood],
    }
    provenance.write_json(folder / _STATE, state)
    _delete_others(folder, {*rounds, evaluation.round_number + 1})


def load_trace(folder: Location) -> list[float]:
    """Log-likelihood of every round so far."""
    return _load_state(folder).get("trace", [])


def _load_state(folder: Location) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / _STATE).read_text())
    return {}


def load_search(folder: Location, search: Search) -> tuple[Search, int] | None:
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
            load_point(folder, _relaxed_name(number)),
            state["log_likelihoods"][str(number)],
        )

    history = tuple(evaluation(number) for number in state["history"])
    continued = Search(
        tolerance=search.tolerance,
        n_secants=search.n_secants,
        history=history,
        best=evaluation(state["best"]),
        refusals=state["refusals"],
        calm_rounds=state["calm_rounds"],
        radius=state["radius"],
    )
    return continued, state["next_round"]


def _delete_others(folder: Location, rounds: set[int]) -> None:
    for path in folder.iterdir():
        if fnmatch(path.name, "*-?????-*.np[yz]"):
            if int(path.name.split("-")[1]) not in rounds:
                path.unlink()


class StateFile:
    """A state of training in one file, which is either whole or absent.

    Parameters
    ----------
    path
        The file; its folder exists.
    """

    def __init__(self, path: Location) -> None:
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
        with self._path.open("rb") as file:
            saved = np.load(file, allow_pickle=False)
            leaves = [saved[f"arr_{i}"] for i in range(len(nodes))]
        return jax.tree.unflatten(structure, leaves)

    def save(self, state: Any) -> None:
        """Write a tree of arrays in place of the one that is there."""
        watch = provenance.Stopwatch()
        with replacing(self._path) as file:
            np.savez(file, *jax.tree.leaves(state))
        self._cost_seconds = watch.seconds
        self._since_saved = provenance.Stopwatch()

    def save_if_due(self, state: Any) -> None:
        """Write a tree of arrays, unless that would take too much of the time."""
        if self._since_saved.seconds * WRITING_SHARE >= self._cost_seconds:
            self.save(state)
