"""Head motion between the frames of a dynamic series."""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tof2perf.perfusion.series import finite

SMOOTHING_MM = 3.0  # standard deviation: linear interpolation and first-order gradients hold over such a distance
ITERATIONS = 12
ENOUGH_MM = 0.01  # a smaller last step ends the search of a frame
# A frame that lies nearer to the reference stays as it is: interpolation would cost more than it mends.
NEGLIGIBLE_MM = 0.1
MARGIN = 4  # voxels around the head: as far as smoothing and splines see
HEAD_MM = 70.0  # radius of a head: turns an angle into a distance


def motion_correct(
    signal: np.ndarray, *, voxel_mm: tuple[float, float, float], baseline: tuple[int, int], sample_mm: float = 7.0
) -> tuple[np.ndarray, np.ndarray]:
    """Align every frame rigidly to the mean of the frames before the bolus.

    Least squares by Gauss-Newton steps on smoothed frames (inverse compositional: Baker 2004,
    doi 10.1023/B:VISI.0000011205.11775.fd), so that the gradients belong to the reference and are computed once. The
    bolus darkens tissues and sides differently, which must not be taken for motion: any change of tone
    (a piecewise linear function of the reference's intensity) and the reference times each coordinate are fitted along
    with the six rigid parameters.

    Args:
        signal: (x, y, z, time).
        voxel_mm: voxel size in mm.
        baseline: (first, stop) frames of the reference, see :func:`tof2perf.perfusion.series.find_baseline`.
        sample_mm: distance of the voxels that enter the fit.

    Returns:
        float32 series whose head lies on the reference, interpolated by cubic splines: linear interpolation blurs the
        moved frames, and what that does at the edges of tissue would be taken for contrast agent. Air stays as it was.
        And matrices (time, 4, 4) in mm from the volume's centre, which take a point of the reference to where it lies
        in that frame.
    """
    signal = finite(signal, "signal")
    if signal.ndim != 4 or min(signal.shape[:3]) < 4:
        raise ValueError(f"signal {signal.shape}: motion correction needs (x, y, z, time) of at least 4 voxels a side")
    first, stop = baseline
    if not 0 <= first < stop <= signal.shape[3]:
        raise ValueError(f"baseline {baseline} does not lie in the {signal.shape[3]} frames: give (first, stop)")
    spacing = np.asarray(voxel_mm, dtype=float)
    centre = (np.array(signal.shape[:3]) - 1) / 2
    sigma = np.maximum(SMOOTHING_MM / spacing, 0.8)
    reference = ndimage.gaussian_filter(signal[..., first:stop].mean(axis=3), sigma)
    stride = np.maximum(1, np.round(sample_mm / spacing)).astype(int)
    bright = ndimage.binary_dilation(reference > 0.2 * np.percentile(reference, 98), iterations=2)
    points, to_motion = _prepare(reference, bright, spacing, centre, stride)
    # What lies further from the head than any filter reaches is left out.
    box = tuple(
        slice(max(part.start - MARGIN, 0), part.stop + MARGIN) for part in ndimage.find_objects(bright.astype(int))[0]
    )
    corner = np.array([part.start for part in box])
    frames = np.ascontiguousarray(np.moveaxis(signal[box], 3, 0))
    inside = bright[box]
    head = (np.argwhere(inside) + corner - centre) * spacing

    matrices = np.empty((signal.shape[3], 4, 4))
    matrix = np.eye(4)
    for frame, volume in enumerate(frames):
        smooth = ndimage.gaussian_filter(volume, sigma)
        matrix = matrices[frame] = _align(smooth, points, to_motion, spacing, centre - corner, matrix)
        if _distance_mm(matrix) >= NEGLIGIBLE_MM:
            where = (head @ matrix[:3, :3].T + matrix[:3, 3]) / spacing + centre - corner
            volume[inside] = ndimage.map_coordinates(volume, where.T, order=3, mode="mirror")
    corrected = signal.copy()
    corrected[box] = np.moveaxis(frames, 0, 3)
    return corrected, matrices


def _prepare(reference, bright, spacing, centre, stride):
    """Sample points (n, 3) in mm from the centre, and the matrix (6, n) from intensities there to shift and turn."""
    grid = np.zeros(reference.shape, dtype=bool)
    grid[tuple(slice(1, -1, step) for step in stride)] = True  # what lies on the border may have left the volume
    index = np.argwhere(bright & grid)
    points = (index - centre) * spacing
    at = tuple(index.T)
    slope = np.stack([part[at] for part in np.gradient(reference)], axis=1) / spacing
    level = reference[at] / np.percentile(reference[at], 99)
    knots = np.linspace(0, 1, 8)  # any continuous change of intensity: the weights of its values at these knots
    tones = np.maximum(0, 1 - np.abs(np.minimum(level, 1)[:, None] - knots) / knots[1])
    rigid = np.concatenate([slope, np.cross(points, slope)], axis=1)  # intensity per mm and per radian
    design = np.concatenate([rigid, tones, level[:, None], level[:, None] * points], axis=1)
    size = np.maximum(np.linalg.norm(design, axis=0), np.finfo(np.float32).tiny)
    return points, (np.linalg.pinv(design / size) / size[:, None])[:6]


def _align(volume, points, to_motion, spacing, centre, matrix):
    """The matrix (4, 4) that takes the reference to one smoothed frame, from that of the frame before."""
    for _ in range(ITERATIONS):
        where = (points @ matrix[:3, :3].T + matrix[:3, 3]) / spacing + centre
        seen = ndimage.map_coordinates(volume, where.T, order=1, mode="nearest")
        shift, turn = np.split(to_motion @ seen, 2)
        step = np.eye(4)
        step[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        step[:3, 3] = shift
        matrix = matrix @ np.linalg.inv(step)
        if _distance_mm(step) < ENOUGH_MM:
            break
    return matrix


def _distance_mm(matrix):
    """How far a rigid transform (4, 4) moves the surface of a head at most."""
    return np.linalg.norm(matrix[:3, 3]) + HEAD_MM * np.linalg.norm(Rotation.from_matrix(matrix[:3, :3]).as_rotvec())
