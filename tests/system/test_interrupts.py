"""Interruptions that wait."""

import signal

import pytest

from lecun_ablate.system import interrupts
from lecun_ablate.system.interrupts import held_back


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_waits_for_the_end_of_the_outermost_block(which):
    before = signal.signal(which, signal.default_int_handler)
    seen = []
    try:
        with pytest.raises(KeyboardInterrupt), held_back():
            with held_back():
                signal.raise_signal(which)
                seen.append("inner")
            seen.append("outer")
        assert seen == ["inner", "outer"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(which)
    finally:
        signal.signal(which, before)


def test_one_that_waits_for_long_is_not_put_off_twice(monkeypatch):
    """A server that is silent must not make a process that only kill -9 ends."""
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = []
    try:
        with pytest.raises(KeyboardInterrupt), held_back():
            signal.raise_signal(signal.SIGINT)
            seen.append("waits")
            signal.raise_signal(signal.SIGINT)
            seen.append("too long")
        assert seen == ["waits"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held_back():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_an_interruption_nothing_changes():
    before = signal.getsignal(signal.SIGINT)
    with held_back():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
