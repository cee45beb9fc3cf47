"""The 3D pix2pix GAN: a U-Net that turns a TOF into a perfusion map, and a PatchGAN that judges it.

Preprocessed volumes go in; trained weights and generated maps come out. Read in this order: ``networks`` (both
networks), ``losses`` (adversarial, L1, SSIM), ``pix2pix`` (one training step), ``pairs`` (the training data),
``training`` (epochs and checkpoints), ``inference`` (weights to a map). ``convolutions``, ``devices`` and ``weights``
make it fast and portable.
"""
