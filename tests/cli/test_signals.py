"""Signals end a command by an exception, after the import in whose middle they come."""

import contextlib
import os
import signal
import sys
import time

import pytest

from infoprune.cli import main, signals
from infoprune.cli.signals import TerminatedError, ended_by_signals
from infoprune.errors import InputError

BUSY = """
import os, signal, time
os.kill(os.getpid(), signal.{name})
time.sleep(0.1)
done = True
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "interrupted_module.py"
    sys.modules.pop("interrupted_module", None)


def waits():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)


def importing(and_then):
    with ended_by_signals():
        import interrupted_module  # noqa: F401

        and_then()


@pytest.mark.parametrize(("name", "error"), [("SIGTERM", TerminatedError), ("SIGINT", KeyboardInterrupt)])
def test_an_import_is_finished_first(module, name, error):
    module.write_text(BUSY.format(name=name))
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(error):
        importing(waits)
    assert sys.modules["interrupted_module"].done
    assert signal.getsignal(getattr(signal, name)) is before


def test_an_import_without_end_is_broken_off(module, monkeypatch):
    monkeypatch.setattr(signals, "_PATIENCE", 0.1)
    module.write_text(BUSY.format(name="SIGTERM").replace("0.1", "30"))
    start = time.monotonic()
    with pytest.raises(TerminatedError):
        importing(waits)
    assert time.monotonic() - start < 30
    assert "interrupted_module" not in sys.modules


def test_a_second_signal_does_not_break_the_cleaning_up():
    cleaned = []

    def interrupted():
        with ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                waits()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                cleaned.append(True)

    with pytest.raises(TerminatedError):
        interrupted()
    assert cleaned


@pytest.mark.parametrize(("comes", "code", "said"), [(True, 143, "Interrupted: "), (False, 2, "Error: 'a' cannot be")])
def test_a_signal_inside_a_compiled_module_ends_the_command_as_elsewhere(monkeypatch, capsys, comes, code, said):
    def reads(**_):
        with contextlib.suppress(TerminatedError):  # as a module does that raises an error of its own
            if comes:
                os.kill(os.getpid(), signal.SIGTERM)
                waits()
        raise InputError("'a' cannot be read")

    monkeypatch.setattr(sys.modules["infoprune.cli.app"], "app", reads)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(said)
