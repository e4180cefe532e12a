"""``python -m timm_sbs`` is ``timm-sbs``."""
import sys

from timm_sbs.cli.main import main

sys.exit(main())
