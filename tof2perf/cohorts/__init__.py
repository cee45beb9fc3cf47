"""Cohorts as BIDS folders: where files lie, which patients and splits there are, and how own data come in.

Begin with ``workspace`` (the folders of a run) and ``layout`` (the files of a patient). ``importers`` link foreign
folders, ``check`` reports every problem, ``intake`` completes what is missing, ``splits`` divides the patients,
``rating`` exports a blinded rating and ``toy`` makes a tiny cohort.
"""
