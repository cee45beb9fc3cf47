"""Results for readers: a site of all pages, numbers in prose, and a verdict on a run.

A results folder goes in; pages, tables and a verdict come out. Begin with ``verification`` (a run against the stored
reference), whose tolerances ``spread`` measures. ``tables`` fills numbers into pages, ``book`` makes the site.
"""
