"""From the weights of a network to what a predictor generates, and back: which weights, tokens, orderings, encoding,
the perceptron, and the generator that puts them together.

May import ``common``.
"""
