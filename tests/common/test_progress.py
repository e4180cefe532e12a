"""A bar on a terminal, a line every 30 seconds elsewhere, and messages once for all processes."""
import io
import logging
import sys

import pytest

from timm_sbs.common import progress as progress_module
from timm_sbs.common.distributed import make_accelerator
from timm_sbs.common.progress import INTERVAL, LOGGER_NAME, Progress, messages, say


@pytest.fixture()
def clock(monkeypatch):
    """Seconds that a test moves on itself."""
    now = [0.]
    monkeypatch.setattr(progress_module.time, 'monotonic', lambda: now[0])
    return now


@pytest.fixture()
def heard(caplog):
    caplog.set_level(logging.INFO, LOGGER_NAME)
    return caplog


def lines(heard):
    return [record.getMessage().removeprefix('[RANK 0] ') for record in heard.records]


@pytest.mark.parametrize('processes', [None, 'accelerate'])
def test_without_a_terminal_there_is_a_line_every_thirty_seconds(clock, heard, processes):
    accelerator = make_accelerator('no') if processes else None
    with Progress(1000, 'reconstruction', accelerator=accelerator) as progress:
        for step in range(100):
            clock[0] += 1
            progress.update()
            progress.show(error=f'{1 - step / 100:.2f}')
    assert lines(heard) == [
        'reconstruction: 30 of 1,000 steps, error 0.72, 16 min left',
        'reconstruction: 60 of 1,000 steps, error 0.42, 16 min left',
        'reconstruction: 90 of 1,000 steps, error 0.12, 15 min left']


def test_the_time_left_counts_from_where_a_run_was_resumed(clock, heard):
    with Progress(1000, 'distillation', 'image', initial=900) as progress:
        clock[0] += INTERVAL
        progress.update(50)
    assert lines(heard) == ['distillation: 950 of 1,000 images, 30 s left']


def test_short_work_and_quiet_work_say_nothing(clock, heard):
    with Progress(10, 'ordering') as progress:
        clock[0] += INTERVAL - 1
        progress.update(10)
    with Progress(10, 'ordering', quiet=True) as progress:
        clock[0] += 10 * INTERVAL
        progress.update(10)
    assert lines(heard) == []


def test_a_total_that_is_not_known(clock, heard):
    with Progress(None, 'validation', 'batch', leave=False) as progress:
        clock[0] += INTERVAL
        progress.update(7)
    assert lines(heard) == ['validation: 7 batches']


def test_on_a_terminal_there_is_a_bar_and_no_line(clock, heard, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    monkeypatch.setattr(progress_module.tqdm, '__init__', _with_file(progress_module.tqdm.__init__, shown))
    with Progress(3, 'reconstruction') as progress:
        for _ in range(3):
            clock[0] += INTERVAL
            progress.update()
            progress.show(error='0.1')
    assert '3/3' in shown.getvalue() and 'error=0.1' in shown.getvalue() and lines(heard) == []


def _with_file(init, file):
    return lambda self, *args, **kwargs: init(self, *args, **{**kwargs, 'file': file})


def test_messages_are_printed_as_they_are(capsys, monkeypatch):
    logger = logging.getLogger(LOGGER_NAME)
    monkeypatch.setattr(logger, 'handlers', [])
    logging.getLogger().handlers, before = [logging.StreamHandler(sys.stdout)], logging.getLogger().handlers
    try:
        with messages(), messages():
            say(make_accelerator('no'), 'two words')
            say(None, 'and more')
    finally:
        logging.getLogger().handlers = before
    assert capsys.readouterr().out == 'two words\nand more\n' and not logger.handlers and logger.propagate


def test_who_has_handlers_of_his_own_keeps_them(capsys, monkeypatch):
    logger, own = logging.getLogger(LOGGER_NAME), logging.NullHandler()
    monkeypatch.setattr(logger, 'handlers', [own])
    with messages():
        assert logger.handlers == [own]
