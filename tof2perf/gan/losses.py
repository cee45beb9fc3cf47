"""The three terms of the training objective: adversarial, L1 and a differentiable SSIM."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SSIM_WINDOWS = ("uniform", "gaussian")


def adversarial(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross-entropy between the discriminator's logits and one answer for all patches.

    Isola et al. 2017 (arXiv:1611.07004), equation 1. The generator's step asks for ``real=True`` on generated
    volumes, the non-saturating form of Goodfellow et al. 2014 (arXiv:1406.2661).

    Args:
        logits: discriminator output before any sigmoid, any shape.
        real: the answer that is right for every patch.

    Returns:
        Mean over patches, a scalar in nats. At logits of zero (the discriminator cannot tell) it is log 2.
    """
    # log(1 + exp(-x)) is the cross-entropy of sigmoid(x) with the answer 1, without the overflow of taking both steps.
    return F.softplus(-logits if real else logits).mean()


def l1(generated: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over all voxels, in the unit of the volumes (for [-1, 1] volumes between 0 and 2)."""
    return F.l1_loss(generated, target)


def ssim(
    first: Tensor,
    second: Tensor,
    *,
    data_range: float,
    window: str = "uniform",
) -> Tensor:
    """Structural similarity of volumes, differentiable, equal to scikit-image's ``structural_similarity``.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861) with the constants K1 = 0.01 and K2 = 0.03. The uniform window is
    7 x 7 x 7 voxels with the sample covariance; the Gaussian one has sigma 1.5, is cut at radius 5 and uses the
    population covariance, as Wang et al. do. Both are means over the voxels whose window lies inside the volume.
    The windows are separable: along each axis the volume is multiplied with a banded matrix, which costs three matrix
    products however large the window, on any device and in any precision.

    Args:
        first, second: volumes (batch, channels, x, y, z) of the same shape, every axis at least as long as the window.
            The gradient is that of the first.
        data_range: difference between the largest and the smallest possible value (2 for [-1, 1]), never guessed.
        window: "uniform" (7 voxels) or "gaussian" (11 voxels).

    Returns:
        Mean structural similarity, a scalar of at most 1, which only equal volumes reach.

    Raises:
        ValueError: unknown window, different shapes, an axis shorter than the window, or a second volume that wants a
            gradient.
    """
    weights, correction = _window(window)
    if first.shape != second.shape:
        raise ValueError(f"SSIM compares volumes of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    if min(first.shape[2:]) < len(weights):
        raise ValueError(
            f"SSIM's {window} window spans {len(weights)} voxels, an axis of {tuple(first.shape[2:])} is shorter: "
            "set the SSIM weight to 0 or train on a larger grid"
        )
    if second.requires_grad:
        raise ValueError("SSIM has a gradient for its first volume alone: give the generated one first")
    return _Similarity.apply(first, second, weights, correction, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2)


class _Similarity(torch.autograd.Function):
    """Mean SSIM, and its gradient in closed form while the moments are at hand.

    Left to autograd, some twenty volumes would be kept until the backward pass; this keeps one. The derivative of a
    window's mean with respect to a voxel is the window's weight, so the derivatives by the three moments that depend
    on the first volume (its mean, its mean square and its mean product with the second) go back through the transposed
    window.
    """

    @staticmethod
    def forward(
        context: Any, first: Tensor, second: Tensor, weights: tuple[float, ...], correction: float, c1: float, c2: float
    ) -> Tensor:
        # SSIM needs the two variances only as their sum, so four moments suffice where the formula shows five.
        moments = torch.stack([first, second, first.square().addcmul_(second, second), first * second])
        mean1, mean2, squares, products = _smooth(moments, weights)
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
            back = _smooth(torch.stack([by_mean, by_squares, by_products]), weights, transposed=True)
            context.save_for_backward((back[0] + 2 * first * back[1] + second * back[2]) / similarity.numel())
        return similarity.mean()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * context.saved_tensors[0], None, None, None, None, None


def _window(window: str) -> tuple[tuple[float, ...], float]:
    """One-dimensional weights of a window and the factor that turns its covariance into the one SSIM uses."""
    if window == "uniform":
        return (1 / 7,) * 7, 7**3 / (7**3 - 1)
    if window == "gaussian":
        offsets = torch.arange(-5, 6, dtype=torch.float64)
        weights = torch.exp(-0.5 * (offsets / 1.5) ** 2)
        return tuple((weights / weights.sum()).tolist()), 1.0
    raise ValueError(f"unknown SSIM window {window!r}, known: {', '.join(SSIM_WINDOWS)}")


def _smooth(volumes: Tensor, weights: tuple[float, ...], *, transposed: bool = False) -> Tensor:
    """Weighted means along the last three axes, kept only where the whole window lies inside the volume.

    ``transposed`` is the adjoint: values at those places are handed back to the voxels of their windows.
    """
    grown = len(weights) - 1 if transposed else 0
    bands = [_band(length + grown, weights, volumes.dtype, volumes.device) for length in volumes.shape[-3:]]
    along_x, along_y, along_z = (band.T.contiguous() for band in bands) if transposed else bands
    smooth = volumes @ along_z.T
    smooth = along_y @ smooth
    return (along_x @ smooth.flatten(-2)).unflatten(-1, smooth.shape[-2:])


def _band(length: int, weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix (length - w + 1, length) whose row i holds the weights from column i on."""
    valid = length - len(weights) + 1
    band = torch.zeros(valid, length, dtype=torch.float64)
    for offset, weight in enumerate(weights):
        band.diagonal(offset)[:valid] = weight
    return band.to(device=device, dtype=dtype)
