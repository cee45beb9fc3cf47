"""Where a patient's files lie in a BIDS cohort.

A patient is ``sub-XXXX``, or ``sub-XXXX_ses-YY`` if there are several sessions: each session is a sample of its own.
"""

import json
import os
from pathlib import Path
from typing import Any

from tof2perf.profiles import CohortProfile
from tof2perf.volumes.nifti import Finding


def list_patients(folder: Path) -> list[str]:
    """Return all patients that have a folder, in or beside the derivatives, one entry a session."""
    found = set()
    for base in (folder, *(folder / "derivatives").glob("*")):
        for person in base.glob("sub-*"):
            sessions = [entry.name for entry in person.glob("ses-*") if entry.is_dir()]
            found |= {f"{person.name}_{session}" for session in sessions} or (
                {person.name} if person.is_dir() else set()
            )
    # A person whose images lie in sessions has no others, whatever empty folders there are.
    return sorted(name for name in found if "_" in name or not any(other.startswith(f"{name}_") for other in found))


def subject(patient: str) -> str:
    """The person: ``sub-XXXX`` of ``sub-XXXX_ses-YY``."""
    return patient.partition("_")[0]


def existing(path: Path) -> Path:
    """Return the file, or the same without compression where only that exists; a broken link counts as a file."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    return plain if not os.path.lexists(path) and os.path.lexists(plain) else path


def _place(folder: Path, patient: str) -> Path:
    return folder.joinpath(*patient.split("_"))


def input_path(folder: Path, patient: str, modality: str = "tof") -> Path:
    """The network's input: the native TOF-MRA, or ``sub-XXXX_<modality>`` for another.

    A TOF may also be called ``sub-XXXX_angio`` where that is the patient's only angiogram.
    """
    anat = _place(folder, patient) / "anat"
    suffix = {"tof": "acq-tof_angio"}.get(modality, modality)
    path = existing(anat / f"{patient}_{suffix}.nii.gz")
    if modality == "tof" and not os.path.lexists(path):
        found = sorted(anat.glob(f"{patient}*_angio.nii*"))
        if len(found) == 1 and found[0].name in (f"{patient}_angio.nii", f"{patient}_angio.nii.gz"):
            return found[0]
    return path


def tof_path(folder: Path, patient: str) -> Path:
    """The native TOF-MRA."""
    return input_path(folder, patient)


def dsc_path(folder: Path, patient: str) -> Path:
    """The DSC series (x, y, z, time)."""
    return existing(_place(folder, patient) / "perf" / f"{patient}_dsc.nii.gz")


def dscref_path(folder: Path, patient: str) -> Path:
    """The DSC reference volume that is co-registered with the TOF."""
    return existing(_place(folder / "derivatives" / "dsc", patient) / "perf" / f"{patient}_desc-ref_dscref.nii.gz")


def map_path(folder: Path, patient: str, map_name: str) -> Path:
    """One perfusion map in physical units on the DSC grid."""
    return existing(_place(folder / "derivatives" / "dsc", patient) / "perf" / f"{patient}_{map_name}.nii.gz")


def brain_mask_path(folder: Path, patient: str) -> Path:
    """A given brain mask on the TOF grid (optional)."""
    return existing(_place(folder / "derivatives" / "masks", patient) / "anat" / f"{patient}_desc-brain_mask.nii.gz")


def lesion_mask_path(folder: Path, patient: str) -> Path:
    """A manual mask of the hypoperfused lesion, on any grid in the space of the maps (optional)."""
    return existing(_place(folder / "derivatives" / "lesions", patient) / "perf" / f"{patient}_desc-manual_mask.nii.gz")


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
    return {
        "tof": input_path(folder, patient, cohort.input),
        **{name: map_path(folder, patient, name) for name in cohort.maps},
        "dsc": dsc_path(folder, patient),
        "dscref": dscref_path(folder, patient),
        "brain": brain_mask_path(folder, patient),
        "lesion": lesion_mask_path(folder, patient),
    }


def find_files(folder: Path, patient: str, cohort: CohortProfile) -> dict[str, Path]:
    """Return the files that a patient has, compressed or not, by role as in :func:`file_paths`; links may be broken."""
    return {role: path for role, path in file_paths(folder, patient, cohort).items() if os.path.lexists(path)}


def sidecar_path(series: Path) -> Path:
    """Where the times of a DSC series are given: ``sub-XXXX_dsc.json`` beside it."""
    return series.with_name(series.name.partition(".")[0] + ".json")


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
    series, given = dsc_path(folder, patient), map_path(folder, patient, "tmax")
    return series.is_file() and not given.is_file() and "ArterialCalibration" not in read_sidecar(series)
