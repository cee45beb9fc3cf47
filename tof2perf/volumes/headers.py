"""One image file, looked at closely: can it be read, where does it lie, what does its header give away."""

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

Finding = tuple[str, str, bool]  # problem, remedy, and whether the file cannot be used

FORMS_MM = 2.0  # distance of a corner between qform and sform: beyond a rounding error, a tool changed only one
PERSONAL = re.compile(
    r"\w\^\w"  # a name as DICOM writes it
    r"|\b(19|20)\d\d[-./]?(0[1-9]|1[0-2])[-./]?(0[1-9]|[12]\d|3[01])\b"  # a date, year first
    r"|\b(0?[1-9]|[12]\d|3[01])[-./](0?[1-9]|1[0-2])[-./](19|20)\d\d\b"  # a date, day first
    r"|\b(patient|name|birth|born|dob|mrn|sex|age)\b",
    re.IGNORECASE,
)
DICOM_EXTENSION = 2  # code of a header extension that holds DICOM attributes


def read_image(path: Path, *, ndim: int = 3, constant: bool = False) -> tuple[nib.Nifti1Image | None, list[Finding]]:
    """Read an image and say all that is wrong with it.

    Args:
        path: NIfTI file.
        ndim: number of dimensions it must have.
        constant: whether all voxels may be equal, as in an empty mask.

    Returns:
        The image with float32 data in memory, None if it cannot be used at all; and the findings.
    """
    try:
        image: Any = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # nibabel, gzip and zlib raise many types for one fact: the file cannot be read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None, [(f"cannot be read ({reason})", "it is damaged or cut off; export it again", True)]
    found: list[Finding] = [(problem, remedy, False) for problem, remedy in personal_texts(image)]
    if data.ndim != ndim:
        what = "a series, not a volume" if data.ndim > ndim else f"not {ndim}D"
        return None, [*found, (f"{data.ndim} dimensions {data.shape}: {what}", f"export a single {ndim}D image", True)]
    if min(data.shape, default=0) < 2:
        return None, [*found, (f"{'x'.join(map(str, data.shape))} voxels", "export the whole volume", True)]
    bad = np.count_nonzero(~np.isfinite(data))
    if bad:
        found.append((f"{bad} voxels are NaN or infinite", "replace them with numbers, 0 outside the brain", True))
    elif not constant and data.min() == data.max():
        found.append(("all voxels are equal", "an empty image; export it again", True))
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        return None, [*found, ("its affine is singular: positions are undefined", "repair sform and qform", True)]
    distance, turned = form_distance_mm(image)
    if turned:
        found.append(("qform and sform disagree about left and right", "find out which is true, set both to it", True))
    elif distance > FORMS_MM:
        message = f"qform and sform disagree by {distance:.0f} mm"
        found.append((message, "find out which is true (the sform is used here), set both to it", True))
    unusable = any(fatal for _, _, fatal in found)
    return (None if unusable else nib.Nifti1Image(data, image.affine)), found


def form_distance_mm(image: nib.Nifti1Image) -> tuple[float, bool]:
    """How far qform and sform disagree: largest distance of a corner in mm, and whether left and right differ.

    Returns:
        0 and False where only one is set: then there is nothing to contradict it.
    """
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return 0.0, False
    (qform, qcode), (sform, scode) = header.get_qform(coded=True), header.get_sform(coded=True)
    if not (qcode and scode) or qform is None:
        return 0.0, False
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in image.shape[:3]]), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(apply_affine(qform, corners) - apply_affine(sform, corners), axis=1).max()
    turned = np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0
    return float(distance), bool(turned)


def personal_texts(image: nib.Nifti1Image) -> list[tuple[str, str]]:
    """Problem and remedy for each text in a header that could tell whose image it is.

    Free text is suspicious if it looks like a name or date; ``db_name``, which old software filled with the patient's
    name, and DICOM attributes always are. The text itself is not repeated.
    """
    remedy = "no result repeats it, but clear the field before you share the file"
    header, found = image.header, []
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header:
            text = header[field].item().decode("latin-1").strip("\0 ")
            if text and (field == "db_name" or PERSONAL.search(text)):
                found.append((f"header field {field} may identify the patient", remedy))
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        text = content.decode("latin-1", "replace") if isinstance(content, bytes) else str(content)
        if extension.get_code() == DICOM_EXTENSION or PERSONAL.search(text):
            found.append(("a header extension may identify the patient", remedy))
    return found
