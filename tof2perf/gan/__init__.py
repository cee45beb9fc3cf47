"""The 3D pix2pix GAN: a U-Net that turns a TOF into a perfusion map, and a PatchGAN that judges it.

Preprocessed volumes go in; trained weights and generated maps come out. Read in this order: ``networks`` (both
networks), ``losses`` (adversarial, L1, SSIM), ``pix2pix`` (one training step), ``pairs`` (the training data),
``training`` (epochs, best epoch, checkpoint), ``inference`` (from weights to a map). The rest can wait:
``convolutions`` (faster layers, same results), ``devices`` (GPU, several processes), ``weights`` (files).
"""
