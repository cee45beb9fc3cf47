"""Studies around the paper: ``ablations`` (one switch at a time) and ``hyperparameters`` (Optuna).

A profile and preprocessed volumes go in; tables come out. ``score`` scores a generator on the validation split.
Their pages in notebooks/explore run them. Begin with ``ablations``.
"""
