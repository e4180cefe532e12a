"""What a run tells while it works: a bar where somebody sees it, a line now and then where nobody does."""
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

__all__ = ['INTERVAL', 'LOGGER_NAME', 'Progress', 'messages', 'silence', 'say', 'warn']

LOGGER_NAME = 'timm_sbs'
INTERVAL = 30.  # seconds between two lines
_silent = False


class _Messages(logging.Handler):
    """Prints messages as they are, without tearing a bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(re.sub(r'^\[RANK 0\] ', '', self.format(record)))  # which accelerate puts before all that it logs


@contextmanager
def messages() -> Iterator[None]:
    """What the package says within the block is printed, once; where the caller has given it a handler, that has it."""
    logger = logging.getLogger(LOGGER_NAME)
    if logger.handlers:
        yield
        return
    handler, level, propagate = _Messages(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # else who has set up logging for all hears everything twice
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def silence() -> Iterator[None]:
    """No bars, and nothing but warnings, within the block."""
    global _silent
    logger = logging.getLogger(LOGGER_NAME)
    level, before = logger.level, _silent
    logger.setLevel(logging.WARNING)
    _silent = True
    try:
        with messages():
            yield
    finally:
        logger.setLevel(level)
        _silent = before


def _log(text: str, accelerator: Any, level: int = logging.INFO) -> None:
    if accelerator is None:
        logging.getLogger(LOGGER_NAME).log(level, text)
    else:
        from accelerate.logging import get_logger  # of the main process alone

        get_logger(LOGGER_NAME).log(level, text)


def say(accelerator: Any, text: str) -> None:
    """Tell something once for all processes, through accelerate's logging."""
    _log(text, accelerator)


def warn(accelerator: Any, text: str) -> None:
    """As :func:`say`, but also where a run is to be quiet."""
    _log(f'warning: {text}', accelerator, logging.WARNING)


class Progress:
    """Progress of a loop: tqdm's bar on a terminal; elsewhere a line every 30 seconds.

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
            quiet: bool = False,
    ) -> None:
        """
        Args:
            total: Units of work; None if it is not known.
            name: Of the work.
            unit: What is counted.
            initial: Units that were done before.
            accelerator: Whose main process alone tells; None: this process does.
            leave: Whether the bar stays when all is done.
            quiet: Say nothing at all.
        """
        quiet = quiet or _silent or (accelerator is not None and not accelerator.is_main_process)
        self._bar = tqdm(
            total=total, initial=initial, desc=name, unit=unit, leave=leave, unit_scale=(total or 0) > 100_000,
            disable=True if quiet else None)
        self._lines = self._bar.disable and not quiet
        self._name, self._unit, self._total, self._accelerator = name, unit, total, accelerator
        self._start = self._done = initial
        self._began = self._told = time.monotonic()
        self._figures = ''

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """So many units more are done."""
        self._bar.update(count)
        self._done += count
        if self._lines and time.monotonic() - self._told >= INTERVAL:
            self._told = time.monotonic()
            _log(self._line(), self._accelerator)

    def show(self, **figures: str) -> None:
        """Figures to stand beside the bar, or in the next line."""
        self._bar.set_postfix(figures)
        self._figures = ''.join(f', {name} {value}' for name, value in figures.items())

    def _line(self) -> str:
        done, total = self._done, self._total
        ending = 'es' if self._unit.endswith('ch') else 's'
        text = f'{self._name}: {done:,}' + (f' of {total:,}' if total else '') + f' {self._unit}{ending}{self._figures}'
        if total and done > self._start:
            left = (time.monotonic() - self._began) / (done - self._start) * (total - done)
            text += f', {left / 60:.0f} min left' if left >= 90 else f', {left:.0f} s left'
        return text
