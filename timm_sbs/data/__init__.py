"""Images: folders, batches that a resumed run takes up where it was, synthetic images, and accuracy on them.

May import ``common``.
"""
