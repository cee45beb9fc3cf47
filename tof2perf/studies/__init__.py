"""Studies around the paper: ``ablations`` (one switch at a time) and ``hyperparameters`` (Optuna).

A profile and preprocessed volumes go in; tables come out. ``score`` judges a generator on the validation split.
"""
