"""trainer.stopping: what ends a run after its step, and what ends it at once."""

import signal

import pytest

from trainer import stopping
from trainer.stopping import SIGNALS, Stopped, StopSignals


@pytest.fixture
def signals():
    with StopSignals() as signals:
        signals.deferred = True
        yield signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_again_at_once_changes_nothing(signals, number, capsys):
    for _ in range(3):
        signal.raise_signal(number)
    assert signals.asked == number
    assert capsys.readouterr().err.count("stopping after this step") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_a_cluster_repeats_never_costs_the_checkpoint(signals, number, monkeypatch):
    monkeypatch.setattr(stopping, "_ECHO_S", 0.0)
    signal.raise_signal(number)
    signal.raise_signal(number)
    assert signals.asked == number


@pytest.mark.parametrize("first", SIGNALS)
def test_ctrl_c_after_a_while_ends_at_once_what_was_asked_to_end(signals, first, monkeypatch):
    monkeypatch.setattr(stopping, "_ECHO_S", 0.0)
    signal.raise_signal(first)
    with pytest.raises(Stopped, match="SIGINT"):
        signal.raise_signal(signal.SIGINT)
    assert signals.asked == first


def test_what_is_not_deferred_ends_at_once(signals):
    signals.deferred = False
    with pytest.raises(Stopped, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
