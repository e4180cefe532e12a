"""A folder of static files that classifies photographs with an artifact, in any browser.

May import ``common`` and ``artifact``.
"""
