"""Modules that the phases train: the predictor through all weights, and the network around it."""
