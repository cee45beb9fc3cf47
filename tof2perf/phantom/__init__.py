"""Simulate patients: an arterial occlusion that the TOF shows and that causes the perfusion deficit.

A protocol and a seed go in; TOF, DSC series, maps and ground truth of a patient come out. Read ``head`` (tissue),
``vessels`` (arteries), ``disease`` (where a lesion is drawn), ``haemodynamics`` (true perfusion), ``bolus`` and
``scanner`` (signals), then ``patient`` and ``cohort``, which join them; ``metadata`` describes a cohort as BIDS asks.
``oracle`` predicts with perfect knowledge of the arteries.
"""
