"""The steps of a run: which there are, which are stale and why, and how one is executed.

Begin with ``staleness`` (why a step is stale), which asks ``fingerprints`` what a notebook depends on. ``execution``
runs a notebook, ``launching`` gives it to a cluster, ``provenance`` records what a result was made with.
"""
