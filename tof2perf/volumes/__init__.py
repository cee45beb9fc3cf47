"""Images on disk and in space, for every room.

``nifti`` reads, checks and writes images; ``space`` registers and resamples them; ``hemispheres`` finds the mid-plane
and mirrors a volume.
"""
