"""Pieces of work that are marked, in this process and in several."""

import functools
import os
import signal
from pathlib import Path

import pytest

from pipeline import pieces
from pipeline.errors import ClusterError, InputError


def note(folder: Path, number: int) -> None:
    with (folder / f"did {number}").open("a") as file:
        file.write(f"{os.getpid()}\n")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number: int) -> None:
    with pieces.listening():
        os.write(2, b"noise\n[E::cause] first\n[E::cause] second\n")
        raise ValueError(f"piece {number}\nis bad")


@pytest.mark.parametrize("n_workers", [0, 2])
def test_complete__does_what_is_not_marked(tmp_path, n_workers):
    marks = tmp_path / "marks"
    marks.mkdir()
    (marks / "1").touch()
    pieces.complete(functools.partial(note, tmp_path), 4, marks, n_workers)
    did = sorted(path.name for path in tmp_path.glob("did *"))
    assert did == ["did 0", "did 2", "did 3"]
    assert sorted(path.name for path in marks.iterdir()) == ["0", "1", "2", "3"]
    processes = {path.read_text().strip() for path in tmp_path.glob("did *")}
    assert (str(os.getpid()) in processes) == (n_workers == 0)


def test_complete__a_process_that_dies_is_an_error(tmp_path):
    with pytest.raises(ClusterError, match="process of the import died.*fewer --work"):
        pieces.complete(die, 3, tmp_path / "marks", 2)
    assert list((tmp_path / "marks").iterdir()) == []


@pytest.mark.parametrize("n_workers", [0, 2])
def test_complete__an_error_carries_the_first_cause_on_stderr(
    tmp_path, capfd, n_workers
):
    with pytest.raises(pieces.LibraryError) as caught:
        pieces.complete(refuse, 2, tmp_path / "marks", n_workers)
    assert str(caught.value) in {f"piece {n} is bad: [E::cause] first" for n in (0, 1)}
    assert capfd.readouterr().err == ""


def test_listening__lets_bad_input_and_full_disks_pass():
    with pytest.raises(InputError, match="bad"), pieces.listening():
        raise InputError("bad")
    with pytest.raises(OSError, match="full"), pieces.listening():
        raise OSError(28, "full")
