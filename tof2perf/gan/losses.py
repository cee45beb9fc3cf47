"""The three terms of the training objective: adversarial, L1 and a differentiable SSIM."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

WINDOW = 7  # voxels a side of the window in which SSIM compares, as in scikit-image


def adversarial(logits: Tensor, *, real: bool) -> Tensor:
    """Compute the binary cross-entropy between the discriminator's logits and one answer for all patches.

    Isola et al. 2017 (arXiv:1611.07004), equation 1. The generator's step uses ``real=True`` for generated volumes,
    the non-saturating form of Goodfellow et al. 2014 (arXiv:1406.2661).

    Args:
        logits: discriminator output before any sigmoid, any shape.
        real: the right answer for every patch.

    Returns:
        Mean over patches, a scalar in nats. At logits of zero (the discriminator cannot tell) it is log 2.
    """
    # log(1 + exp(-x)) is the cross-entropy of sigmoid(x) with the answer 1, without the overflow of taking both steps.
    return F.softplus(-logits if real else logits).mean()


def l1(generated: Tensor, target: Tensor) -> Tensor:
    """Average the absolute difference over all voxels, in the unit of the volumes ([-1, 1]: between 0 and 2)."""
    return F.l1_loss(generated, target)


def ssim(first: Tensor, second: Tensor, *, data_range: float) -> Tensor:
    """Compute the structural similarity of volumes, differentiable, equal to scikit-image's.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861) with the constants K1 = 0.01 and K2 = 0.03, a uniform window of
    7 x 7 x 7 voxels and the sample covariance; the mean over the voxels whose window is inside the volume. The window
    is separable: along each axis the volume is multiplied with a banded matrix, on any device and in any precision.

    Args:
        first, second: volumes (batch, channels, x, y, z) of the same shape, every axis at least as long as the window.
            The gradient is that of the first.
        data_range: difference between the largest and the smallest possible value (2 for [-1, 1]), never guessed.

    Returns:
        Mean structural similarity, a scalar of at most 1, which only equal volumes reach.

    Raises:
        ValueError: different shapes, an axis shorter than the window, or a second volume that needs a gradient.
    """
    if first.shape != second.shape:
        raise ValueError(f"SSIM compares volumes of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    if min(first.shape[2:]) < WINDOW:
        raise ValueError(
            f"SSIM's window spans {WINDOW} voxels, an axis of {tuple(first.shape[2:])} is shorter: "
            "set the SSIM weight to 0 or train on a larger grid"
        )
    if second.requires_grad:
        raise ValueError("SSIM has a gradient for its first volume alone: give the generated one first")
    return _Similarity.apply(first, second, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2)


class _Similarity(torch.autograd.Function):
    """Mean SSIM, and its gradient in closed form while the moments are at hand.

    Autograd would keep some twenty volumes until the backward pass; this keeps one. The derivative of a window's mean
    with respect to a voxel is the window's weight. So the derivatives by the three moments that depend on the first
    volume (its mean, its mean square, its mean product with the second) go back through the transposed window.
    """

    @staticmethod
    def forward(context: Any, first: Tensor, second: Tensor, c1: float, c2: float) -> Tensor:
        correction = WINDOW**3 / (WINDOW**3 - 1)  # from the population to the sample covariance
        # SSIM needs the two variances only as their sum, so four moments suffice where the formula shows five.
        moments = torch.stack([first, second, first.square().addcmul_(second, second), first * second])
        mean1, mean2, squares, products = _smooth(moments)
        mean_product = mean1 * mean2
        mean_squares = mean1.square().addcmul_(mean2, mean2)
        below_luminance = mean_squares + c1
        below_structure = correction * (squares - mean_squares) + c2
        luminance = (2 * mean_product + c1) / below_luminance
        structure = (2 * correction * (products - mean_product) + c2) / below_structure
        similarity = luminance * structure
        if first.requires_grad:
            by_luminance, by_structure = structure / below_luminance, luminance / below_structure
            by_mean = 2 * (
                by_luminance * (mean2 - mean1 * luminance) - correction * by_structure * (mean2 - mean1 * structure)
            )
            by_squares = -correction * by_structure * structure
            by_products = 2 * correction * by_structure
            back = _smooth(torch.stack([by_mean, by_squares, by_products]), transposed=True)
            context.save_for_backward((back[0] + 2 * first * back[1] + second * back[2]) / similarity.numel())
        return similarity.mean()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * context.saved_tensors[0], None, None, None


def _smooth(volumes: Tensor, *, transposed: bool = False) -> Tensor:
    """Means over windows along the last three axes, kept only where the whole window is inside the volume.

    ``transposed`` is the adjoint: it hands the values at those places back to the voxels of their windows.
    """
    grown = WINDOW - 1 if transposed else 0
    bands = [_band(length + grown, volumes.dtype, volumes.device) for length in volumes.shape[-3:]]
    along_x, along_y, along_z = (band.T.contiguous() for band in bands) if transposed else bands
    smooth = volumes @ along_z.T
    smooth = along_y @ smooth
    return (along_x @ smooth.flatten(-2)).unflatten(-1, smooth.shape[-2:])


def _band(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix (length - 6, length): row i averages the 7 values from column i on."""
    band = torch.zeros(length - WINDOW + 1, length, dtype=torch.float64)
    for offset in range(WINDOW):
        band.diagonal(offset)[: len(band)] = 1 / WINDOW
    return band.to(device=device, dtype=dtype)
