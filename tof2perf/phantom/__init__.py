"""The physics phantom: a simulated patient whose occlusion is seen in the TOF and causes the perfusion deficit."""
