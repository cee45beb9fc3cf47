"""From a DSC series to the perfusion maps Tmax, CBF, CBV, MTT and TTP.

A series (x, y, z, time) goes in; maps in physical units come out. Begin with ``dsc`` (``analyse_series``: signal to
concentration, deconvolution, the five maps). ``series`` finds head and baseline, ``head_motion`` corrects motion
between frames, ``arterial`` finds the arterial input function, ``parametric`` fits the residue function.
"""
