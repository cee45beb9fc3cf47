"""From a cohort's images to volumes on the profile's grid, ready for the network.

TOF, reference volume and maps go in; skull-stripped, co-registered and resampled volumes come out. Begin with
``preprocess``; ``skullstrip`` makes the brain mask and ``training_range`` records what the training inputs were like.
"""
