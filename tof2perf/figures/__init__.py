"""Drawing for the paper's figures: ``panels`` (sections and projections in true millimetres), ``networks``
(the layers that Figure 1 shows), ``sliders`` (interactive or static views).

Arrays with an affine go in; Matplotlib figures come out. The charts themselves are drawn in the notebooks. Begin with
``panels``.
"""
