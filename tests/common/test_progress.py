"""A bar on a terminal, a line every 30 seconds elsewhere, and messages once for all processes."""
import io
import logging
import sys
import time
from types import SimpleNamespace

import pytest

from timm_sbs.common.progress import INTERVAL, LOGGER, Progress, messages, say, warn


@pytest.fixture()
def clock(monkeypatch):
    """Seconds that a test moves on itself."""
    now = [0.]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    return now


@pytest.fixture()
def heard(caplog):
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def test_without_a_terminal_there_is_a_line_every_thirty_seconds(clock, heard):
    with Progress(1000, 'reconstruction') as progress:
        for step in range(100):
            clock[0] += 1
            progress.update()
            progress.show(error=f'{1 - step / 100:.2f}')
    assert heard.messages == [
        'reconstruction: 30 of 1,000 steps, error 0.72, 16 min left',
        'reconstruction: 60 of 1,000 steps, error 0.42, 16 min left',
        'reconstruction: 90 of 1,000 steps, error 0.12, 15 min left']


@pytest.mark.parametrize('total, unit, initial, line', [
    (1000, 'image', 900, ['work: 950 of 1,000 images, 30 s left']), (None, 'batch', 0, ['work: 50 batches'])])
def test_the_time_left_counts_from_where_a_run_was_resumed(clock, heard, total, unit, initial, line):
    with Progress(total, 'work', unit, initial) as progress:
        clock[0] += INTERVAL
        progress.update(50)
    assert heard.messages == line


def test_one_process_speaks_for_all(clock, heard):
    for main in (False, True):
        accelerator = SimpleNamespace(is_main_process=main)
        with Progress(10, 'work', accelerator=accelerator) as progress:
            clock[0] += INTERVAL
            progress.update(10)
        say(accelerator, 'words')
        warn(accelerator, 'more')
    assert heard.messages == ['work: 10 of 10 steps, 0 s left', 'words', 'warning: more']


def test_on_a_terminal_there_is_a_bar_and_no_line_and_quiet_suppresses_both(clock, heard, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, 'stderr', shown := Terminal())

    def work():
        with Progress(3, 'reconstruction') as progress:
            for _ in range(3):
                clock[0] += INTERVAL
                progress.update()
                progress.show(error='0.1')
        say(None, 'words')

    with messages(quiet=True):
        work()
    assert shown.getvalue() == '' and heard.messages == []
    work()
    assert '3/3' in shown.getvalue() and 'error=0.1' in shown.getvalue() and heard.messages == ['words']


def test_messages_are_printed_once_unless_the_caller_has_a_handler(capsys, monkeypatch):
    monkeypatch.setattr(LOGGER, 'handlers', [])
    monkeypatch.setattr(logging.getLogger(), 'handlers', [logging.StreamHandler(sys.stdout)])
    with messages(), messages():
        say(None, 'two words')
    assert capsys.readouterr().out == 'two words\n' and not LOGGER.handlers and LOGGER.propagate
    monkeypatch.setattr(LOGGER, 'handlers', [own := logging.NullHandler()])
    with messages():
        assert LOGGER.handlers == [own]
