"""Perfusion maps from time-of-flight angiography: the package behind the notebooks."""
