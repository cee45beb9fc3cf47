"""The steps of a run: which there are, which are stale and why, and how one is executed.

Begin with ``graph`` (the list of steps), then ``staleness`` (why a step is stale), which asks ``fingerprints`` what a
notebook depends on. ``steps`` runs a step, ``execution`` its notebook, ``launching`` gives it to a cluster, and
``provenance`` records what a result was made with.
"""
