"""The artifact, in a folder, inside the package, or on the Hub: save, load, generate, export, describe, push.

May import ``common``, ``predictor``, ``codec`` and ``onnx``.
"""
