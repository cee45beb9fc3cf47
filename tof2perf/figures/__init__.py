"""Drawing for the paper's figures: ``panels`` (sections and projections in true millimetres), ``networks``
(the boxes of Figure 1), ``sliders`` (interactive or static views).

Arrays with an affine go in; Matplotlib figures come out. Begin with ``panels``.
"""
