"""The version of the package, which results, cards and errors name."""
__all__ = ['__version__']

__version__ = '0.1.0'
