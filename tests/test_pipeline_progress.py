import logging

import rich.console
from dask.diagnostics import ProgressBar

from pipeline import progress


def test_track__writes_log_lines_without_a_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="pipeline.progress")
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    with progress.track("fitting", 3) as work:
        work.advance(note="log-likelihood -7.00")
        work.advance(2)
    assert [record.getMessage().strip() for record in caplog.records] == [
        "fitting",
        "fitting: 1 of 3 log-likelihood -7.00",
        "fitting: 3 of 3",
    ]


def test_track__without_a_total(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="pipeline.progress")
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    with progress.track("fitting") as work:
        work.advance(note="-7.00")
    assert caplog.records[-1].getMessage() == "fitting: 1 -7.00"


def test_track__log_lines_keep_their_distance(caplog):
    caplog.set_level(logging.INFO, logger="pipeline.progress")
    with progress.track("fitting", 1_000) as work:
        for _ in range(1_000):
            work.advance()
    assert len(caplog.records) == 1


def test_track__shows_a_bar_on_a_terminal(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, logger="pipeline.progress")
    console = rich.console.Console

    def terminal(**options: bool) -> rich.console.Console:
        return console(force_terminal=True, width=120, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rich.console, "Console", terminal)
    with progress.track("fitting", 4) as work:
        work.advance(3, note="log-likelihood -7.00")
    captured = capsys.readouterr()
    assert "fitting  log-likelihood -7.00" in captured.err
    assert "3/4" in captured.err
    assert captured.out == ""
    assert not caplog.records


def test_track__is_a_bar_of_text_where_dask_draws_one(caplog, capsys):
    with ProgressBar(minimum=1e9), progress.track("fitting", 4) as work:
        work.advance(1)
        work.advance(3, note="log-likelihood -7.00")
    captured = capsys.readouterr()
    *_, last = captured.out.rstrip("\n").split("\r")
    assert last.startswith("fitting: [" + 40 * "#" + "] | 100% | ")
    assert last.endswith("s log-likelihood -7.00")
    assert captured.out.endswith("\n")
    with progress.track("fitting", 4) as work:
        work.advance(4)
    assert capsys.readouterr().out == ""


def test_track__is_a_bar_of_text_in_a_notebook(capsys, monkeypatch):
    console = rich.console.Console

    def notebook(**options: bool) -> rich.console.Console:
        return console(force_jupyter=True, width=120, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rich.console, "Console", notebook)
    with progress.track("fitting") as work:
        work.advance(7)
    assert capsys.readouterr().out.split("\r")[-1].startswith("fitting: 7 done | ")
