"""Volumes in world space: the rigid motion between two of them, resampling through it, and resizing."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.affines import from_matvec, voxel_sizes
from nibabel.processing import resample_from_to
from scipy import ndimage, sparse

METRIC_MARGIN_MM = 10.0  # co-registration also looks just outside the brain: its outline tells more than its inside
LARGEST_BRAIN_ML = 2500.0  # no head is larger (assumption; the largest brains measured have about 2,000 ml)
NO_HEAD = "no head is that large: check voxel sizes and order of the axes"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # nibabel's world axes against those of ITK


def register(
    fixed: nib.Nifti1Image, brain: np.ndarray, moving: nib.Nifti1Image, *, mm: float
) -> tuple[np.ndarray, float]:
    """Find the rigid motion between two volumes by mutual information (Mattes 2003, doi 10.1109/TMI.2003.809072).

    Every coarse voxel in and around the brain enters the metric, so that no random sampling is involved. The volumes
    keep their skulls: the dark skull outlines the brain where it is, a mask where it was thought to be (a deepbet mask
    shifted the result by 0.6 mm).

    Args:
        fixed: volume (x, y, z), bias-corrected, with its skull.
        brain: boolean mask of its brain (x, y, z).
        moving: volume in the same scanner space, of any contrast.
        mm: voxel size to work at.

    Returns:
        World matrix (4, 4), RAS mm, that takes a point of ``fixed`` to where it lies in ``moving``; and the mutual
        information reached (nats).

    Raises:
        RuntimeError: the volumes do not overlap.
    """
    values = np.asarray(fixed.dataobj, dtype=np.float32)
    shape = coarse_shape(fixed, mm)
    grid = resized_affine(fixed, shape)
    # The brightest per cent are vessels in a TOF: clipped, or they would stretch the bins of the histogram.
    clipped = resize(np.minimum(values, np.percentile(values[brain], 99)), shape)
    inside = resize(brain, shape) > 0.5
    near = ndimage.distance_transform_edt(~inside, sampling=voxel_sizes(grid)) < METRIC_MARGIN_MM

    motion = sitk.Euler3DTransform()
    centre = nib.affines.apply_affine(RAS_TO_LPS @ grid, np.argwhere(inside).mean(axis=0))
    motion.SetCenter(centre.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricFixedMask(to_itk(near, grid))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=0.005, numberOfIterations=60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0])  # mm: both volumes are brought to about one sharpness
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(motion, inPlace=True)
    method.Execute(to_itk(clipped, grid), to_itk(np.asarray(moving.dataobj, dtype=np.float32), moving.affine))

    matrix = from_matvec(np.reshape(motion.GetMatrix(), (3, 3)), motion.TransformPoint((0.0, 0.0, 0.0)))
    return RAS_TO_LPS @ matrix @ RAS_TO_LPS, -float(method.GetMetricValue())


def resample(image: nib.Nifti1Image, grid: nib.Nifti1Image, motion: np.ndarray | None = None) -> np.ndarray:
    """Interpolate ``image`` linearly at the voxels of ``grid``; 0 outside its field of view.

    Args:
        image: volume to look values up in.
        grid: image whose shape (x, y, z) and affine define where.
        motion: world matrix (4, 4), RAS mm, from the grid's space to that of ``image``; none by default.

    Returns:
        float32 array of the grid's shape.
    """
    affine = image.affine if motion is None else np.linalg.inv(motion) @ image.affine
    source = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), affine)
    return resample_from_to(source, (grid.shape, grid.affine), order=1).get_fdata(dtype=np.float32)


def resample_masked(
    images: dict[str, nib.Nifti1Image], support: np.ndarray, grid: nib.Nifti1Image, motion: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Interpolate volumes that are valid inside ``support`` only, so that the 0 around it does not bleed into its rim.

    Volume and support are interpolated alike and divided (normalised convolution: Knutsson 1993,
    doi 10.1109/CVPR.1993.341081).

    Args:
        images: volumes on one grid.
        support: boolean mask on that grid.
        grid: image that defines the target grid.
        motion: as in :func:`resample`.

    Returns:
        The volumes on the target grid, 0 outside the support; and the support there (boolean).
    """
    affine = next(iter(images.values())).affine
    weight = resample(nib.Nifti1Image(support.astype(np.float32), affine), grid, motion)
    inside = weight > 0.5
    found = {}
    for name, image in images.items():
        total = resample(nib.Nifti1Image(np.where(support, image.dataobj, 0).astype(np.float32), affine), grid, motion)
        found[name] = np.divide(total, weight, out=np.zeros_like(total), where=inside)
    return found, inside


def resize(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Give a volume (x, y, z) another ``shape`` over the same field of view.

    Along an axis that shrinks, each voxel is the mean of what it covers: vessels are thinner than a voxel, and picking
    points would lose them. Along an axis that grows, values are interpolated linearly.

    >>> resize(np.array([0.0, 2.0, 4.0, 6.0]).reshape(4, 1, 1), (2, 1, 1)).ravel().tolist()
    [1.0, 5.0]
    """
    result = np.asarray(values, dtype=np.float32)
    for axis, size in enumerate(shape):
        lines = np.moveaxis(result, axis, 0)
        # A sparse product always sums in the same order, whatever the number of threads.
        resized = _axis_weights(lines.shape[0], size) @ lines.reshape(lines.shape[0], -1)
        result = np.moveaxis(resized.reshape(size, *lines.shape[1:]), 0, axis)
    return np.ascontiguousarray(result)


def resize_masked(values: np.ndarray, mask: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Resize a volume by what lies inside ``mask`` only, so that nothing bleeds in across its edge.

    Returns:
        Values (0 outside the mask) and the mask, whose voxels lay in it by more than half.
    """
    weight = resize(mask, shape)
    inside = weight > 0.5
    total = resize(np.where(mask, values, 0), shape)
    return np.divide(total, weight, out=np.zeros_like(total), where=inside), inside


def resized_affine(image: nib.Nifti1Image, shape: Sequence[int]) -> np.ndarray:
    """Affine (4, 4) of the grid of ``shape`` that fills the field of view of ``image``."""
    scale = np.divide(image.shape, shape)
    return image.affine @ from_matvec(np.diag(scale), (scale - 1) / 2)


def coarse_shape(image: nib.Nifti1Image, mm: float) -> tuple[int, ...]:
    """Shape of a grid over the same field of view with voxels of about ``mm``, never finer than the image itself."""
    extent = np.multiply(image.shape, voxel_sizes(image.affine))
    return tuple(int(n) for n in np.clip(np.round(extent / mm), 1, image.shape))


def voxel_ml(image: nib.Nifti1Image) -> float:
    """Volume of one voxel in ml."""
    return abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000


def to_itk(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Turn an array (x, y, z) with a RAS affine into a SimpleITK image."""
    values = values.astype(np.uint8) if values.dtype == bool else values
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _axis_weights(old: int, new: int) -> sparse.csr_array:
    """Matrix (new, old) whose rows sum to 1."""
    if new < old:
        edges = np.linspace(0, old, new + 1)
        left = np.maximum(edges[:-1, None], np.arange(old))
        right = np.minimum(edges[1:, None], np.arange(1, old + 1))
        weights = np.maximum(right - left, 0) * (new / old)
    else:
        centre = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        weights = np.maximum(1 - np.abs(centre[:, None] - np.arange(old)), 0)
    return sparse.csr_array(weights.astype(np.float32))
