"""Artifacts of timm_sbs for non-commercial use alone: a folder each, which timm_sbs finds where this is installed."""
