"""Measures of agreement between a generated and a measured map.

Arrays in physical units go in; numbers with intervals come out. Begin with ``similarity`` (SSIM, PSNR, MAE, NRMSE),
then ``lesions`` (Tmax above a threshold), ``lesion_agreement`` (Dice, side, detection), ``baselines`` (what a generator
must beat) and ``statistics`` (intervals and tests). No module here knows a file or a profile.
"""
