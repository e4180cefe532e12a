"""The ``timm-sbs`` command and its demo.

May import all packages.
"""
