"""What a run says while it works: a bar on a terminal, a line every 30 seconds elsewhere, and messages, once for all
processes."""
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from timm_sbs.common.errors import printable

__all__ = ['INTERVAL', 'LOGGER', 'Progress', 'messages', 'say', 'warn']

LOGGER = logging.getLogger('timm_sbs')
INTERVAL = 30.  # seconds between two lines


class _Printer(logging.Handler):
    """Prints messages without tearing a bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


@contextmanager
def messages(quiet: bool = False) -> Iterator[None]:
    """Print what the package says within the block, unless the caller has given its logger a handler.

    Args:
        quiet: Suppress bars and all messages but warnings, whoever prints them.
    """
    printer, level, propagate = _Printer(), LOGGER.level, LOGGER.propagate
    if not LOGGER.handlers:
        LOGGER.addHandler(printer)
        LOGGER.propagate = False  # else a program with logging of its own says everything twice
        if level == logging.NOTSET:
            LOGGER.setLevel(logging.INFO)
    if quiet:
        LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.removeHandler(printer)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


def say(accelerator: Any, text: str, level: int = logging.INFO) -> None:
    """Log a message, once for all processes."""
    if accelerator is None or accelerator.is_main_process:
        LOGGER.log(level, printable(text))


def warn(accelerator: Any, text: str) -> None:
    """Log a warning, once for all processes."""
    say(accelerator, f'warning: {text}', logging.WARNING)


class Progress:
    """Progress of a loop: tqdm's bar on a terminal, elsewhere a line every 30 seconds with the time left; nothing where
    the package's logger has a level above INFO.

    Args:
        total: Units of work; None if it is not known.
        name: Of the work.
        unit: What is counted.
        initial: Units that were done before.
        accelerator: Only its main process says something; None: this process does.
        leave: Whether the bar stays when all is done.

    Example:
        >>> with Progress(1000, 'reconstruction', accelerator=accelerator) as progress:
        ...     for step in range(1000):
        ...         progress.update()
        ...         progress.show(error='0.12')
    """

    def __init__(
            self,
            total: int | None,
            name: str,
            unit: str = 'step',
            initial: int = 0,
            accelerator: Any = None,
            leave: bool = True,
    ) -> None:
        hidden = LOGGER.level > logging.INFO or not (accelerator is None or accelerator.is_main_process)
        self._bar = tqdm(
            total=total, initial=initial, desc=name, unit=unit, leave=leave, unit_scale=(total or 0) > 100_000,
            disable=hidden or None)  # None: where there is no terminal
        self._lines = self._bar.disable and not hidden
        self._name, self._unit, self._total = name, unit + ('es' if unit.endswith('ch') else 's'), total
        self._first = self._done = initial
        self._started = self._last_line = time.monotonic()
        self._figures = ''

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """So many units more are done."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._lines and now - self._last_line >= INTERVAL:
            self._last_line = now
            LOGGER.info(self._line(now - self._started))

    def restart(self, name: str) -> None:
        """Count from 0 again, under another name."""
        self._bar.reset()
        self._bar.set_description(name)
        self._name, self._first, self._done, self._started = name, 0, 0, time.monotonic()

    def show(self, **figures: str) -> None:
        """Figures beside the bar, or in the next line."""
        self._bar.set_postfix(figures)
        self._figures = ''.join(f', {name} {value}' for name, value in figures.items())

    def _line(self, seconds: float) -> str:
        of = f' of {self._total:,}' if self._total else ''
        text = f'{self._name}: {self._done:,}{of} {self._unit}{self._figures}'
        if self._total and self._done > self._first:
            left = seconds / (self._done - self._first) * (self._total - self._done)
            text += f', {left / 60:.0f} min left' if left >= 90 else f', {left:.0f} s left'
        return text
