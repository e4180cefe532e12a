"""Pictures of artifacts, training runs and photographs.

May import ``common``, ``predictor`` and ``artifact``. Needs the 'plots' extra.
"""
