"""Cohorts as BIDS folders: where a file lies and how it is checked and read."""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile, looks_like_cohort, run_cohorts

DROPPED = ("cohort", "participant_id", "problem")  # columns of the list of patients that a check leaves out
SPLITS = ("train", "validation", "test")


class CohortError(ValueError):
    """Something is wrong with a patient's file; the message names the file and the remedy in one line."""


@dataclass(frozen=True)
class Workspace:
    """Where one run reads and writes.

    Attributes:
        profile: the profile's name.
        root: folder that holds ``data/`` and ``results/``.
        data: folder with the user's own cohorts (one BIDS folder each); empty for the simulated cohorts.
    """

    profile: str
    root: Path | str
    data: str = ""

    @property
    def run(self) -> str:
        """Name of the results folder; own data never share a folder with simulated ones."""
        return f"{self.profile}-{Path(self.data).resolve().name}" if self.data else self.profile

    @property
    def results(self) -> Path:
        """Folder of everything this run computes."""
        return Path(self.root) / "results" / self.run

    def cohort(self, cohort: str) -> Path:
        """BIDS folder of a cohort."""
        base = Path(self.data) if self.data else Path(self.root) / "data" / "simulated" / self.profile
        return base / cohort

    def cohorts(self, known: dict[str, CohortProfile]) -> list[str]:
        """The cohorts of this run among those of the profile, see :func:`tof2perf.profiles.run_cohorts`."""
        return run_cohorts(known, data=str(self.data), name=f"profile {self.profile}")

    def models(self, known: dict[str, CohortProfile]) -> list[tuple[str, str]]:
        """Every model of this run as (cohort, map)."""
        return [(cohort, name) for cohort in self.cohorts(known) for name in known[cohort].maps]

    def has(self, cohort: str) -> bool:
        """Whether the user's folder, or the simulation, holds a cohort."""
        return self.cohort(cohort).is_dir()

    def intake(self, cohort: str) -> Path:
        """Folder in which a cohort of the user's is completed: links to what is given, and what had to be made."""
        return Path(self.root) / "data" / "intake" / self.run / cohort

    @property
    def dropped(self) -> Path:
        """List of the patients that a check leaves out; it lies outside the user's folder."""
        return Path(self.root) / "data" / "intake" / self.run / "dropped.tsv"

    def oracle(self, cohort: str) -> Path:
        """Folder of the oracle's maps of a simulated cohort; there is none for own data."""
        return Path(self.root) / "data" / "oracle" / self.profile / cohort

    def preprocessed(self, cohort: str) -> Path:
        """Folder of a cohort's preprocessed volumes on the profile's grid."""
        return Path(self.root) / "data" / "preprocessed" / self.run / cohort

    def model(self, cohort: str, map_name: str) -> Path:
        """Folder of one trained model."""
        return self.results / "models" / f"{cohort}_{map_name}"

    def predictions(self, cohort: str) -> Path:
        """Folder of a cohort's generated maps."""
        return self.results / "predictions" / cohort

    def prediction_path(self, cohort: str, patient: str, map_name: str) -> Path:
        """One generated map."""
        return self.predictions(cohort) / f"{patient}_{map_name}.nii.gz"

    def metrics(self, cohort: str, map_name: str) -> Path:
        """Per-patient metrics of one model."""
        return self.results / "metrics" / f"{cohort}_{map_name}.csv"

    def relative(self, cohort: str, map_name: str) -> Path:
        """Per-patient measures of one model that set the map's scale aside."""
        return self.results / "metrics" / f"{cohort}_{map_name}_relative.csv"

    @property
    def rating(self) -> Path:
        """Folder of the export for a blinded rating."""
        return self.results / "rating"

    @property
    def rated(self) -> Path:
        """Folder that a rater drops edited masks into; it belongs to the user, and no step clears it."""
        return Path(self.root) / "data" / "rating" / self.run

    @property
    def tables(self) -> Path:
        """Folder of tables."""
        return self.results / "tables"

    @property
    def figures(self) -> Path:
        """Folder of figures."""
        return self.results / "figures"

    def label(self, cohort: str | None = None) -> str:
        """What every table, figure and page must carry: the source of the data and the profile.

        Args:
            cohort: the one that is shown; all of the run by default.
        """
        folders = [self.cohort(cohort)] if cohort else self._held()
        # What is partly simulated begins with that word, and so bears the tag.
        sources = sorted({source(folder) for folder in folders}, key=lambda name: not name.startswith("sim"))
        return f"{' and '.join(sources)}, profile {self.profile}"

    def _held(self) -> list[Path]:
        """Every cohort that is described or holds patients; their folder itself if there is none."""
        base = self.cohort("")
        described = {path.parent for path in base.glob("*/dataset_description.json")}
        return sorted(described | {entry for entry in base.glob("*") if looks_like_cohort(entry)}) or [base]


def source(folder: Path) -> str:
    """``simulated cohort``, or ``own data NAME``: the name in ``dataset_description.json`` or else the folder's.

    Raises:
        CohortError: there is no such cohort, or its description is unreadable.
    """
    path = folder / "dataset_description.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        generators = [entry.get("Name") for entry in description.get("GeneratedBy", [])]
    except FileNotFoundError:
        if not looks_like_cohort(folder):
            raise CohortError(
                f"{path}: missing; simulate the cohort first or give DATA=FOLDER with BIDS cohorts"
            ) from None
        description, generators = {}, []
    except (ValueError, AttributeError) as error:
        raise CohortError(f"{path}: not valid JSON ({error}); repair or restore the file") from None
    if "tof2perf.phantom" in generators:
        return "simulated cohort"
    return f"own data {description.get('Name') or folder.resolve().parent.name}"


# --- where a file lies ------------------------------------------------------------------------------------------------


# A patient is ``sub-XXXX``, or ``sub-XXXX_ses-YY`` if there are several sessions: each is a sample of its own.


def subject(patient: str) -> str:
    """The person: ``sub-XXXX`` of ``sub-XXXX_ses-YY``."""
    return patient.partition("_")[0]


def list_patients(folder: Path) -> list[str]:
    """Everyone who has a folder, in or beside the derivatives, one entry a session."""
    found = set()
    for base in (folder, *(folder / "derivatives").glob("*")):
        for person in base.glob("sub-*"):
            sessions = [entry.name for entry in person.glob("ses-*") if entry.is_dir()]
            found |= {f"{person.name}_{session}" for session in sessions} or (
                {person.name} if person.is_dir() else set()
            )
    # Someone whose images lie in sessions has no others, whatever empty folders there are.
    return sorted(name for name in found if "_" in name or not any(other.startswith(f"{name}_") for other in found))


def existing(path: Path) -> Path:
    """The file, or the same without compression where only that exists."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    return plain if not path.exists() and plain.exists() else path


def _place(folder: Path, patient: str) -> Path:
    return folder.joinpath(*patient.split("_"))


def input_path(folder: Path, patient: str, modality: str = "tof") -> Path:
    """The network's input: the native TOF-MRA, or ``sub-XXXX_<modality>`` for another."""
    suffix = {"tof": "acq-tof_angio"}.get(modality, modality)
    return existing(_place(folder, patient) / "anat" / f"{patient}_{suffix}.nii.gz")


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
    """The phantom's ground truth: a volume, or ``motion`` (JSON). Read by tests only, never downstream."""
    suffix = ".json" if name == "motion" else ".nii.gz"
    return folder / "derivatives" / "truth" / patient / f"{patient}_desc-true_{name}{suffix}"


def preprocessed_path(folder: Path, patient: str, name: str) -> Path:
    """A preprocessed volume on the profile's grid: ``tof``, ``mask`` or a map's name."""
    return folder / f"{patient}_{name}.nii.gz"


# --- reading and checking ---------------------------------------------------------------------------------------------


def read_participants(folder: Path) -> pd.DataFrame:
    """Read ``participants.tsv``.

    Returns:
        One row a patient, indexed by ``participant_id``, with at least the column ``split``.

    Raises:
        CohortError: missing file, missing column, a patient listed twice, or an unknown split.
    """
    path = folder / "participants.tsv"
    if not path.is_file():
        raise CohortError(f"{path}: missing; simulate or preprocess the cohort first, or check the folder's name")
    frame = pd.read_csv(path, sep="\t", dtype={"participant_id": str}, keep_default_na=False)
    for column in ("participant_id", "split"):
        if column not in frame:
            raise CohortError(f"{path}: no column '{column}'; add it (split is one of {', '.join(SPLITS)})")
    doubled = frame.participant_id[frame.participant_id.duplicated()].tolist()
    if doubled:
        raise CohortError(f"{path}: {doubled[0]} is listed more than once; keep one row a patient")
    unknown = frame[~frame.split.isin(SPLITS)]
    if len(unknown):
        patient, split = unknown.iloc[0][["participant_id", "split"]]
        raise CohortError(f"{path}: {patient} has split '{split}'; use one of {', '.join(SPLITS)}")
    return frame.set_index("participant_id")


def participants(folder: Path, split: str) -> list[str]:
    """The patients of one split, in the order of ``participants.tsv``.

    Raises:
        CohortError: unknown split, or a split without patients.
    """
    if split not in SPLITS:
        raise CohortError(f"unknown split '{split}': choose one of {', '.join(SPLITS)}")
    frame = read_participants(folder)
    chosen = frame.index[frame.split == split].tolist()
    if not chosen:
        raise CohortError(f"{folder / 'participants.tsv'}: split '{split}' has no patients; assign some to it")
    return chosen


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


def read_dropped(path: Path, cohort: str) -> dict[str, str]:
    """The patients of a cohort that a check leaves out, with the problem; empty without a list."""
    if not Path(path).is_file():
        return {}
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return dict(frame[frame.cohort == cohort][["participant_id", "problem"]].itertuples(index=False, name=None))


def require_maps(folder: Path, patient: str, maps: tuple[str, ...] = tuple(MAPS)) -> None:
    """Check that a patient's maps exist before anything is computed.

    Raises:
        CohortError: naming the first missing file.
    """
    for name in maps:
        if not map_path(folder, patient, name).is_file():
            raise CohortError(
                f"{map_path(folder, patient, name)}: {patient} has no {name} map; provide it or drop the patient"
            )
