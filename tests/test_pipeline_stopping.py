"""Stop signals that something would swallow, or that come at an awkward moment."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from tests.dask_processes import ROOT

# What the shell finds as `streamixture`, as pip writes it.
ENTRY = tomllib.loads((Path(ROOT) / "pyproject.toml").read_text())["project"][
    "scripts"
]["streamixture"]
SCRIPT = "import sys; from {} import {}; sys.exit(main())".format(*ENTRY.split(":"))
COMMAND = """
import ctypes, gc, hashlib, os, signal, sys, threading, time, weakref
import click
from pipeline.launch import Group

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # The handler runs in here.
        pass

@click.group(cls=Group)
def main():
    pass

@main.command()
def work():
{body}
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        time.sleep(0.01)

main()
"""


def run(script: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": ROOT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "body",
    [
        "gc.callbacks.append(interrupt); gc.collect(); gc.callbacks.clear()",
        "type('Dying', (), {'__del__': interrupt})()",
        "class Held: pass\nheld = Held()\n"
        "link = weakref.ref(held, interrupt)\ndel held",
        "ctypes.CFUNCTYPE(None)(interrupt)()",
        "try:\n    interrupt()\nexcept BaseException:\n    pass",
        # What fails as it is cleaned up does not hide why.
        "try:\n    interrupt()\nfinally:\n    raise OSError(28, 'full')",
    ],
    ids=["gc", "del", "weakref", "ctypes", "except", "cleanup"],
)
def test_stop__is_obeyed_though_what_the_handler_raises_is_lost(body: str):
    script = COMMAND.format(body=textwrap.indent(body, "    "))
    started = time.monotonic()
    process = run(script, "work")
    _, errors = process.communicate(timeout=60)
    assert errors == "Error: stopped by SIGINT; run it again\n"
    assert process.returncode == 130
    assert time.monotonic() - started < 6


def _say_ready(body: str) -> str:
    return textwrap.indent(f"print('ready', flush=True)\n{body}", "    ")


def test_stop__ends_a_call_that_python_cannot_interrupt():
    body = "hashlib.pbkdf2_hmac('sha256', b'', b'', 30_000_000)"
    process = run(COMMAND.format(body=_say_ready(body)), "work")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 3
    assert (process.returncode, errors.count("\n")) == (143, 1)


def test_stop__a_second_signal_ends_at_once_what_cleans_up_for_long():
    body = "try:\n    time.sleep(60)\nfinally:\n    print('x', flush=True)\n"
    body += "    time.sleep(60)"
    process = run(COMMAND.format(body=_say_ready(body)), "work")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 1
    assert (process.returncode, errors.count("\n")) == (130, 1)


def test_stop__of_a_terminal_that_went_away_ends_it_too_but_not_with_nohup():
    process = run(COMMAND.format(body=_say_ready("time.sleep(1)")), "work")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[1].startswith("Error: stopped by SIGHUP")
    assert process.returncode == 129
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    body = _say_ready("time.sleep(0.5); return")
    process = run(ignoring + COMMAND.format(body=body), "work")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    process.communicate()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_stop__while_it_imports_is_one_line_in_the_format_asked_for(
    log_format: str, tmp_path: Path
):
    """By a `click` that takes long to import, and sends the signal."""
    stub = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "click.py").write_text(f"{stub}time.sleep(6)\n")
    path = f"{tmp_path}:{ROOT}"
    process = run(SCRIPT, "--log-format", log_format, "run", PYTHONPATH=path)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n")) == (130, 1)
    if log_format == "json":
        assert json.loads(errors)["exit_status"] == 130
    else:
        assert errors == "Error: stopped by SIGINT; run it again\n"


def test_stop__does_not_crash_where_an_extension_module_is_loaded(tmp_path: Path):
    """What an extension of C++ does when its initialisation is interrupted."""
    body = """
    import importlib.machinery as machinery
    class ExtensionFileLoader(machinery.ExtensionFileLoader):
        def exec_module(self, module=None):
            try:
                interrupt()
            except BaseException:
                os.abort()
    code = ExtensionFileLoader.exec_module.__code__
    name = "ExtensionFileLoader.exec_module"
    ExtensionFileLoader.exec_module.__code__ = code.replace(co_qualname=name)
    ExtensionFileLoader('x', 'x').exec_module()
    """
    process = run(COMMAND.format(body=body), "work")
    _, errors = process.communicate(timeout=60)
    assert errors == "Error: stopped by SIGINT; run it again\n"
    assert process.returncode == 130


def test_stop__leaves_no_process_that_the_command_started():
    body = """
    import subprocess
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    """
    process = run(COMMAND.format(body=body), "work")
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not child.is_running()
