"""Perfusion maps from time-of-flight angiography: the package behind the notebooks."""

__version__ = "0.1.0"
