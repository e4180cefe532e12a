#!/usr/bin/env python3
"""``accelerate launch train_sbs.py`` is ``timm-sbs train``: fit a predictor to the weights of a timm CNN."""
import sys

from timm_sbs.train import main

if __name__ == '__main__':
    sys.exit(main())
