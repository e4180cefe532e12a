"""Images: data sets, batches that a resumed run continues exactly, synthetic images, and measurements on images.

May import ``common``.
"""
