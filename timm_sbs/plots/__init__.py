"""Pictures of artifacts and training runs.

May import ``common``, ``predictor`` and ``artifact``. Needs the 'plots' extra.
"""
