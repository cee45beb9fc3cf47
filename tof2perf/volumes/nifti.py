"""Read, inspect and write NIfTI images."""

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.analyze import AnalyzeHeader
from nibabel.spatialimages import SpatialImage

from tof2perf.system.files import write_bytes

GZIP_WINDOW = 16 + zlib.MAX_WBITS  # tells zlib to write a gzip header
IN_MASK = 0.5  # a mask's voxels are those above it: interpolation leaves values between 0 and 1, arithmetic 7e-15
VOXEL_MM = (0.05, 50.0)  # voxels smaller or larger than this along every axis are not in mm (assumption)
FORMS_MM = 2.0  # distance of a corner between qform and sform: beyond a rounding error, a tool changed only one
PERSONAL = re.compile(
    r"\w\^\w"  # a name as DICOM writes it
    r"|\b(19|20)\d\d[-./]?(0[1-9]|1[0-2])[-./]?(0[1-9]|[12]\d|3[01])\b"  # a date, year first
    r"|\b(0?[1-9]|[12]\d|3[01])[-./](0?[1-9]|1[0-2])[-./](19|20)\d\d\b"  # a date, day first
    r"|\b(patient|name|birth|born|dob|mrn|sex|age)\b",
    re.IGNORECASE,
)
DICOM_EXTENSION = 2  # code of a header extension that holds DICOM attributes


class CohortError(ValueError):
    """Something is wrong with a patient's file; the message names the file and the remedy in one line.

    Attributes:
        finding: the same in parts, where it was found by a rule.
    """

    finding: "Finding | None" = None


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file and what to do; ``fatal`` if the file cannot be used."""

    path: Path
    problem: str
    remedy: str
    fatal: bool = True

    def error(self) -> CohortError:
        """Return the finding as an exception."""
        error = CohortError(f"{self.path}: {self.problem}; {self.remedy}")
        error.finding = self
        return error


def read_volume(path: Path, *, ndim: int = 3, constant: bool = False, orientation: str = "") -> nib.Nifti1Image:
    """Read one image that can be used.

    Args:
        path: NIfTI file.
        ndim: number of dimensions it must have (3 for a volume, 4 for a DSC series).
        constant: whether all voxels may be equal, as in an empty mask.
        orientation: as for :func:`inspect`.

    Returns:
        Image with float32 data in memory, so that scaling is applied and the file is read once.

    Raises:
        CohortError: the first fatal finding of :func:`inspect`.
    """
    image, findings = inspect(path, ndim=ndim, constant=constant, orientation=orientation)
    if image is None:
        raise next(finding for finding in findings if finding.fatal).error()
    return image


def read_mask(path: Path, *, orientation: str = "") -> nib.Nifti1Image:
    """Read a mask as float32 0 and 1 by the rule of :func:`in_mask`; it may be empty. Raises as :func:`read_volume`."""
    image = read_volume(path, constant=True, orientation=orientation)
    return nib.Nifti1Image(in_mask(image).astype(np.float32), image.affine)


def in_mask(image: nib.Nifti1Image) -> np.ndarray:
    """Return the voxels of a mask as bool: those above 0.5, whatever the values of its labels."""
    return np.asarray(image.dataobj) > IN_MASK


def inspect(
    path: Path, *, ndim: int = 3, constant: bool = False, orientation: str = ""
) -> tuple[nib.Nifti1Image | None, list[Finding]]:
    """Read an image and report all that is wrong with it.

    Args:
        path: NIfTI file.
        ndim: number of dimensions it must have.
        constant: whether all voxels may be equal, as in an empty mask.
        orientation: where the first, second and third axis point, such as ``RAS`` (right, anterior, superior), for an
            image whose header does not say it.

    Returns:
        The image with float32 data in memory, None if a finding is fatal; and the findings.
    """
    path = Path(path)
    if (absence := find_absence(path)) is not None:
        return None, [absence]
    try:
        image: Any = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise ValueError("no volume but a surface or a track")
        kind = image.get_data_dtype()
        if kind.kind == "c":
            return None, [Finding(path, "complex values, no intensities", "export the magnitude")]
        if kind.fields:
            return None, [Finding(path, "colours (RGB), no intensities", "export the values that the colours show")]
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # nibabel, gzip and zlib raise many types for one fact: the file cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, [Finding(path, f"cannot be read ({reason})", "it is damaged or cut off, export it again")]
    affine = image.affine
    if orientation and _has_no_orientation(image) and data.ndim >= 3:
        affine = _stated_affine(image, orientation)
    findings = [*_find_texts(path, image), *_find_values(path, data, ndim, constant)]
    if data.ndim >= 3:
        findings += _find_position(path, image, affine, orientation)
    fatal = any(finding.fatal for finding in findings)
    return (None if fatal else nib.Nifti1Image(data, affine)), findings


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the images whose path in a folder matches a pattern, sorted."""
    found = sorted(path for path in folder.glob(pattern) if path.name.endswith((".nii", ".nii.gz")))
    return [path for path in found if not path.is_dir()]


def stem(path: Path) -> str:
    """Return the name of an image without ``.nii`` or ``.nii.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def with_ending_of(path: Path, source: Path) -> Path:
    """Return ``path`` compressed or not as ``source`` is: readers go by the ending of a link's name."""
    return path.with_name(stem(path) + (".nii" if source.suffix == ".nii" else ".nii.gz"))


def find_absence(path: Path) -> Finding | None:
    """Report a file that is not there, or whose content was not fetched: a broken link, a git-annex or LFS pointer."""
    if path.is_symlink() and not path.exists():
        remedy = "fetch the content (git annex get, datalad get), or mend the link"
        return Finding(path, f"a broken link to {path.readlink()}", remedy)
    if not path.is_file():
        return Finding(path, "missing", "provide the file or leave the patient out of participants.tsv")
    if path.stat().st_size < 1000:  # a pointer is a line or three of text
        text = path.read_bytes()
        if text.startswith(b"version https://git-lfs"):
            return Finding(path, "a Git LFS pointer, not the image", "fetch the content: git lfs pull")
        if text.startswith(b"/annex/objects/"):
            return Finding(path, "a git-annex pointer, not the image", "fetch the content: git annex get")
    return None


def find_other_grids(images: Mapping[str, nib.Nifti1Image], paths: Mapping[str, Path]) -> list[Finding]:
    """Report the images that do not have the voxels of the first one at its positions, to a micrometre."""
    name, first = next(iter(images.items()))
    return [
        Finding(paths[other], f"not on the grid of the {name} map", "resample it to that grid")
        for other, image in images.items()
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=1e-3)
    ]


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
    # The same image gives the same bytes: the gzip header has no time and no name, and zlib always packs alike (ISA-L
    # is faster, but one image in three thousand came out a byte or two longer or shorter). Noise repeats nothing but
    # its zeros: looking for runs alone takes half the time and, within 4 %, the same room.
    pack = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW, zlib.DEF_MEM_LEVEL + 1, zlib.Z_RLE)
    write_bytes(path, pack.compress(raw.getvalue()) + pack.flush())


# --- rules ------------------------------------------------------------------------------------------------------------


def _find_values(path: Path, data: np.ndarray, ndim: int, constant: bool) -> Iterator[Finding]:
    if data.ndim != ndim:
        what = "a series, not a volume" if data.ndim > ndim else f"not {ndim}D"
        yield Finding(path, f"has {data.ndim} dimensions {data.shape}: {what}", f"export a single {ndim}D image")
    elif min(data.shape, default=0) < 2:
        yield Finding(path, f"{'x'.join(map(str, data.shape))} voxels", "export the whole volume")
    elif bad := np.count_nonzero(~np.isfinite(data)):
        yield Finding(path, f"{bad} voxels are NaN or infinite", "replace them with numbers, 0 outside the brain")
    elif not constant and data.min() == data.max():
        yield Finding(path, "all voxels are equal, an empty image", "export the file again")


def _find_position(path: Path, image: SpatialImage, affine: np.ndarray, orientation: str) -> Iterator[Finding]:
    unknown = _has_no_orientation(image)
    if unknown and not orientation:
        remedy = "convert it from DICOM again, or set the sform to what you know; which side is left is not guessed"
        yield Finding(path, "its orientation is unknown: qform_code and sform_code are 0", remedy)
        return
    if orientation and not unknown:
        yield Finding(path, "its header states an orientation", f"leave out the orientation {orientation}")
        return
    sizes = voxel_sizes(affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * sizes.prod():
        yield Finding(path, "its affine is singular, positions are undefined", "repair sform and qform")
    elif sizes.max() < VOXEL_MM[0]:
        yield Finding(path, f"voxels of {sizes.max():.2g} mm: its affine is in metres", "multiply the affine by 1000")
    elif sizes.min() > VOXEL_MM[1]:
        message = f"voxels of {sizes.min():.4g} mm: its affine is in micrometres"
        yield Finding(path, message, "divide the affine by 1000")
    yield from _find_conflict(path, image)


def _find_conflict(path: Path, image: SpatialImage) -> Iterator[Finding]:
    """Report qform and sform that disagree; where only one is set, there is nothing to contradict it."""
    if not isinstance(image.header, nib.Nifti1Header):
        return
    (qform, qcode), (sform, scode) = image.header.get_qform(coded=True), image.header.get_sform(coded=True)
    if not (qcode and scode) or qform is None:
        return
    corners = np.argwhere(np.ones((2, 2, 2))) * np.subtract(image.shape[:3], 1)
    distance = np.linalg.norm(apply_affine(qform, corners) - apply_affine(sform, corners), axis=1).max()
    turned = np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0
    if turned or distance > FORMS_MM:
        how = "about left and right" if turned else f"by {distance:.0f} mm"
        yield Finding(path, f"qform and sform disagree {how}", "find out which is true, set both to it")


def _has_no_orientation(image: SpatialImage) -> bool:
    """Whether a NIfTI has neither qform nor sform, or the format (Analyze) knows none."""
    if isinstance(image.header, nib.Nifti1Header):
        return not (int(image.header["qform_code"]) or int(image.header["sform_code"]))
    return isinstance(image.header, AnalyzeHeader)


def _stated_affine(image: SpatialImage, orientation: str) -> np.ndarray:
    """Affine of an image whose axes point as stated, with the middle of its field of view at 0 mm."""
    try:
        axes = nib.orientations.axcodes2ornt(tuple(orientation.upper()))
        if sorted(axes[:, 0]) != [0, 1, 2]:
            raise ValueError
    except (ValueError, IndexError):
        raise CohortError(f"unknown orientation '{orientation}'; give three letters such as RAS or LPS") from None
    linear = np.zeros((3, 3))
    for k, ((axis, sign), size) in enumerate(zip(axes, image.header.get_zooms()[:3], strict=True)):
        linear[int(axis), k] = sign * size
    return from_matvec(linear, -linear @ (np.subtract(image.shape[:3], 1) / 2))


def _find_texts(path: Path, image: SpatialImage) -> Iterator[Finding]:
    """Report texts in a header that could tell whose image it is.

    Free text is suspicious if it looks like a name or date; ``db_name``, which old software filled with the patient's
    name, and DICOM attributes always are. The text itself is not repeated.
    """
    remedy = "no result repeats it, but clear the field before you share the file"
    header: Any = image.header
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:
            text = header[field].item().decode("latin-1").strip("\0 ")
            if text and (field == "db_name" or PERSONAL.search(text)):
                yield Finding(path, f"header field {field} may identify the patient", remedy, fatal=False)
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        text = content.decode("latin-1", "replace") if isinstance(content, bytes) else str(content)
        if extension.get_code() == DICOM_EXTENSION or PERSONAL.search(text):
            yield Finding(path, "a header extension may identify the patient", remedy, fatal=False)
