"""Read, check and write NIfTI images."""

import io
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from tof2perf.system.files import write_bytes

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # tells zlib to write a gzip header


class CohortError(ValueError):
    """Something is wrong with a patient's file; the message names the file and the remedy in one line."""


def read_volume(path: Path, *, ndim: int = 3) -> nib.Nifti1Image:
    """Read and check one image.

    Args:
        path: NIfTI file.
        ndim: number of dimensions it must have (3 for a volume, 4 for a DSC series).

    Returns:
        Image with float32 data in memory, so that scaling is applied and the file is read once.

    Raises:
        CohortError: missing or truncated file, wrong dimensions, NaN or infinite values, a constant volume, or a
            singular affine.
    """
    path = Path(path)
    if not path.is_file():
        raise CohortError(f"{path}: missing; provide the file or leave the patient out of participants.tsv")
    try:
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise ValueError("no volume but a surface or a track")
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # nibabel, gzip and zlib raise many types for one fact: the file cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CohortError(f"{path}: cannot be read ({reason}); export the file again") from None
    if data.ndim != ndim:
        raise CohortError(
            f"{path}: has {data.ndim} dimensions {data.shape}, expected {ndim}; export a single {ndim}D image"
        )
    if not np.isfinite(data).all():
        raise CohortError(
            f"{path}: {np.count_nonzero(~np.isfinite(data))} voxels are NaN or infinite; replace them with numbers"
        )
    if data.size == 0 or data.min() == data.max():
        raise CohortError(f"{path}: all voxels are equal, an empty image; export the file again")
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise CohortError(f"{path}: its affine is singular, positions are undefined; repair sform and qform")
    return nib.Nifti1Image(data, image.affine)


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, *, repetition_time_s: float | None = None) -> None:
    """Write an image as NIfTI (.nii.gz or .nii): masks as uint8, int16 as it is, all else as float32; mm and s."""
    kinds = {"b": np.uint8, "u": np.uint8, "i": np.int16}
    image = nib.Nifti1Image(np.asarray(array, dtype=kinds.get(np.asarray(array).dtype.kind, np.float32)), affine)
    image.header.set_xyzt_units("mm", "sec")
    if repetition_time_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], repetition_time_s))
    raw = io.BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=raw), "header": nib.FileHolder(fileobj=raw)})
    if Path(path).suffix == ".nii":
        return write_bytes(path, raw.getvalue())
    # The same image gives the same bytes: the gzip header has no time and no name, and zlib always packs alike (ISA-L,
    # faster still, does not: one image in three thousand came out a byte or two longer or shorter than before). Noise
    # repeats nothing but its zeros: to look for runs alone takes half the time and, within 4 %, the same room.
    pack = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW, zlib.DEF_MEM_LEVEL + 1, zlib.Z_RLE)
    write_bytes(path, pack.compress(raw.getvalue()) + pack.flush())
