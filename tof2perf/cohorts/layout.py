"""Where a patient's files lie in a BIDS cohort.

A patient is ``sub-XXXX``, or ``sub-XXXX_ses-YY`` if there are several sessions: each session is a sample of its own.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile
from tof2perf.volumes.nifti import Finding, find_absence, list_images, stem

PLACES = {  # role -> folder of the cohort, kind of data, suffix
    "tof": ("", "anat", "acq-tof_angio"),
    "dsc": ("", "perf", "dsc"),
    "dscref": ("derivatives/dsc", "perf", "desc-ref_dscref"),
    **{name: ("derivatives/dsc", "perf", name) for name in MAPS},
    "brain": ("derivatives/masks", "anat", "desc-brain_mask"),
    "lesion": ("derivatives/lesions", "perf", "desc-manual_mask"),
}


def list_patients(folder: Path) -> list[str]:
    """Return all patients that have a folder, in or beside the derivatives, one entry a session."""
    found = set()
    for base in (folder, *(folder / "derivatives").glob("*")):
        for person in filter(Path.is_dir, base.glob("sub-*")):
            sessions = [entry.name for entry in person.glob("ses-*") if entry.is_dir()]
            found |= {f"{person.name}_{session}" for session in sessions} or {person.name}
    # A person whose images lie in sessions has no others, whatever empty folders there are.
    return sorted(name for name in found if "_" in name or not any(other.startswith(f"{name}_") for other in found))


def subject(patient: str) -> str:
    """The person: ``sub-XXXX`` of ``sub-XXXX_ses-YY``."""
    return patient.partition("_")[0]


def file_path(folder: Path, patient: str, role: str) -> Path:
    """Return where a file of a patient is, or else belongs; it may be uncompressed, or a broken link.

    A TOF may also be called ``sub-XXXX_angio`` where that is the patient's only angiogram.

    Args:
        folder: of the cohort.
        patient: ``sub-XXXX`` or ``sub-XXXX_ses-YY``.
        role: ``tof``, the native TOF-MRA, or the suffix of another input; ``dsc``, the series (x, y, z, time);
            ``dscref``, the DSC reference volume that is co-registered with the TOF; a map, in physical units on the DSC
            grid; ``brain``, a given mask on the TOF grid; ``lesion``, a manual mask of the hypoperfused lesion, on any
            grid in the space of the maps.
    """
    base, kind, suffix = PLACES.get(role, ("", "anat", role))
    path = folder.joinpath(base, *patient.split("_"), kind, f"{patient}_{suffix}.nii.gz")
    if os.path.lexists(path):
        return path
    found = list_images(path.parent, f"{patient}*_angio.nii*") if role == "tof" else []
    if [stem(image) for image in found] == [f"{patient}_angio"]:
        return found[0]
    plain = path.with_suffix("")
    return plain if os.path.lexists(plain) else path


def truth_path(folder: Path, patient: str, name: str) -> Path:
    """The phantom's ground truth: a volume, or ``motion`` (JSON). No step of the paper reads it."""
    suffix = ".json" if name == "motion" else ".nii.gz"
    return folder / "derivatives" / "truth" / patient / f"{patient}_desc-true_{name}{suffix}"


def preprocessed_path(folder: Path, patient: str, name: str) -> Path:
    """A preprocessed volume on the profile's grid: ``tof``, ``mask`` or a map's name."""
    return folder / f"{patient}_{name}.nii.gz"


def file_paths(folder: Path, patient: str, cohort: CohortProfile) -> dict[str, Path]:
    """Return where each file of a patient belongs, by role.

    Roles are ``tof`` (the input, whatever it is), the maps, ``dsc``, ``dscref``, ``brain`` and ``lesion``.
    """
    roles = (*cohort.maps, "dsc", "dscref", "brain", "lesion")
    return {role: file_path(folder, patient, cohort.input if role == "tof" else role) for role in ("tof", *roles)}


def find_files(folder: Path, patient: str, cohort: CohortProfile) -> dict[str, Path]:
    """Return the files that a patient has, compressed or not, by role as in :func:`file_paths`; links may be broken."""
    return {role: path for role, path in file_paths(folder, patient, cohort).items() if os.path.lexists(path)}


def find_missing(folder: Path, patient: str, cohort: CohortProfile, *, completed: bool = False) -> Iterator[Finding]:
    """Report what a patient lacks: the input, maps, the content of a file; in a completed cohort also the reference.

    Before a cohort is completed, a DSC series stands in for all maps.
    """
    places, files = file_paths(folder, patient, cohort), find_files(folder, patient, cohort)
    if completed:
        files.pop("dsc", None)
    missing = [name for name in cohort.maps if name not in files]
    if "tof" not in files:
        yield Finding(places["tof"], f"{patient} has no {cohort.modality}", "provide it, or leave the patient out")
    if missing and ("dsc" not in files or len(missing) < len(cohort.maps)):
        remedy = "provide it" if len(missing) == len(cohort.maps) else "provide it, or give a series and no maps"
        yield Finding(places[missing[0]], f"{patient} has no {', '.join(missing)} map", remedy)
    if completed and "dscref" not in files:
        yield Finding(places["dscref"], f"{patient} has no reference volume", "provide it, or leave the patient out")
    yield from filter(None, map(find_absence, files.values()))


def sidecar_path(image: Path) -> Path:
    """Where an image is described, the times of a DSC series for example: ``sub-XXXX_dsc.json`` beside it."""
    return image.with_name(stem(image) + ".json")


def read_sidecar(series: Path) -> dict[str, Any]:
    """Read the sidecar of a DSC series; what it leaves out is taken from a ``dsc.json`` in a folder above.

    Raises:
        CohortError: a sidecar is not valid JSON.
    """
    known: dict[str, Any] = {}
    shared = next((parent / "dsc.json" for parent in series.parents if (parent / "dsc.json").is_file()), None)
    for path in (shared, sidecar_path(series)):
        if path is not None and path.is_file():
            try:
                known |= json.loads(path.read_text(encoding="utf-8"))
            except (TypeError, ValueError) as error:
                raise Finding(path, f"not valid JSON ({error})", "repair the file").error() from None
    return known


def has_relative_maps(folder: Path, patient: str) -> bool:
    """Whether CBF and CBV of a patient are relative: made of a series without an arterial calibration."""
    series, given = (file_path(folder, patient, role) for role in ("dsc", "tmax"))
    return series.is_file() and not given.is_file() and "ArterialCalibration" not in read_sidecar(series)
