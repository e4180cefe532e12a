"""The trainer, with the small network of the tests, in a process that kills itself.

    python tests/killing.py STEPS FLAGS...

runs it with these flags until so many optimization steps of all phases are done.
"""
import itertools
import os
import signal
import sys
from typing import Any

import resnet8  # noqa: F401  registers the network

from timm_sbs.train import main
from timm_sbs.training.run import Run


def die_after(steps: int) -> None:
    done, step_done = itertools.count(1), Run.step_done

    def counted(run: Run, *step: Any) -> None:
        step_done(run, *step)
        if next(done) == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    Run.step_done = counted


if __name__ == '__main__':
    die_after(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
