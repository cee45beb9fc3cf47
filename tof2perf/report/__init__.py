"""Results for readers: ``book`` (the site of all pages), ``tables`` (numbers in prose) and ``verification`` (a run
against the stored reference).

A results folder goes in; pages, tables and a verdict come out.
"""
