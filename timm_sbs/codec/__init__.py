"""Numbers to bytes and back: rounding, the bits of each layer, entropy coding, permutations, the tensors of a file.

May import ``common`` and ``predictor``.
"""
