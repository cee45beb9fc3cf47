"""Where one run reads and writes, and whose images it shows."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tof2perf.cohorts.layout import has_relative_maps, list_patients, preprocessed_path
from tof2perf.cohorts.participants import patients_in
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile, looks_like_cohort, run_cohorts
from tof2perf.system.run import Run
from tof2perf.volumes.nifti import Finding, read_volume

DROPPED = ("cohort", "participant_id", "problem")  # columns of the list of patients that a check leaves out


@dataclass(frozen=True)
class Workspace(Run):
    """The folders of one run, and what lies in them; ``profile``, ``root`` and ``data`` are those of :class:`Run`."""

    def cohorts(self, known: dict[str, CohortProfile]) -> list[str]:
        """The cohorts of this run among those of the profile, see :func:`tof2perf.profiles.run_cohorts`."""
        return run_cohorts(known, data=str(self.data), name=f"profile {self.profile}")

    def models(self, known: dict[str, CohortProfile]) -> list[tuple[str, str]]:
        """Every model of this run as (cohort, map)."""
        return [(cohort, name) for cohort in self.cohorts(known) for name in known[cohort].maps]

    def intake(self, cohort: str) -> Path:
        """Folder in which a cohort of the user's is completed: links to what is given, and what had to be made."""
        return Path(self.root) / "data" / "intake" / self.name / cohort

    def oracle(self, cohort: str) -> Path:
        """Folder of the oracle's maps of a simulated cohort; there is none for own data."""
        return Path(self.root) / "data" / "oracle" / self.profile / cohort

    def preprocessed(self, cohort: str) -> Path:
        """Folder of a cohort's preprocessed volumes on the profile's grid."""
        return Path(self.root) / "data" / "preprocessed" / self.name / cohort

    def model(self, cohort: str, map_name: str) -> Path:
        """Folder of one trained model."""
        return self.results / "models" / f"{cohort}_{map_name}"

    def predictions(self, cohort: str) -> Path:
        """Folder of a cohort's generated maps."""
        return self.results / "predictions" / cohort

    def prediction_path(self, cohort: str, patient: str, map_name: str) -> Path:
        """One generated map."""
        return self.predictions(cohort) / f"{patient}_{map_name}.nii.gz"

    def prediction(self, cohort: str, patient: str, map_name: str) -> np.ndarray:
        """Read one generated map (x, y, z), float32, in its unit; 0 outside the brain."""
        return read_volume(self.prediction_path(cohort, patient, map_name)).get_fdata(dtype=np.float32)

    def training_volumes(self, cohort: str, name: str) -> Iterator[np.ndarray]:
        """Read the training patients' preprocessed volumes one by one, maps clipped to the range the networks see.

        Args:
            cohort: the cohort's name.
            name: a map, ``tof`` or ``mask``.

        Returns:
            Iterator of (x, y, z) float32 arrays.
        """
        folder = self.preprocessed(cohort)
        low, high = MAPS[name].bounds if name in MAPS else (-np.inf, np.inf)
        for patient in patients_in(folder, "train"):
            yield read_volume(preprocessed_path(folder, patient, name)).get_fdata(dtype=np.float32).clip(low, high)

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
        base = self.cohort(cohort or "")
        folders = [base]
        if not cohort:
            described = {path.parent for path in base.glob("*/dataset_description.json")}
            held = [entry for entry in sorted(base.glob("*")) if entry in described or looks_like_cohort(entry)]
            folders = held or [base]
        # What is partly simulated begins with that word, and so bears the tag.
        sources = sorted({source(folder) for folder in folders}, key=lambda name: not name.startswith("sim"))
        return f"{' and '.join(sources)}, profile {self.profile}"


def source(folder: Path) -> str:
    """``simulated cohort``, or ``own data NAME``: the name in ``dataset_description.json`` or else the folder's.

    Says so if CBF and CBV of some patients are relative.

    Raises:
        CohortError: there is no such cohort, or its description is unreadable.
    """
    path = folder / "dataset_description.json"
    if not path.is_file() and not looks_like_cohort(folder):
        raise Finding(path, "missing", "simulate the cohort first or give DATA=FOLDER with BIDS cohorts").error()
    try:
        description = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        generators = [entry.get("Name") for entry in description.get("GeneratedBy", [])]
    except (ValueError, AttributeError) as error:
        raise Finding(path, f"not valid JSON ({error})", "repair or restore the file").error() from None
    if "tof2perf.phantom" in generators:
        return "simulated cohort"
    relative = any(has_relative_maps(folder, patient) for patient in list_patients(folder))
    name = description.get("Name") or folder.resolve().parent.name
    return f"own data {name}" + (", CBF and CBV relative" if relative else "")


def read_dropped(path: Path, cohort: str) -> dict[str, str]:
    """The patients of a cohort that a check leaves out, with the problem; empty without a list."""
    if not Path(path).is_file():
        return {}
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return dict(frame[frame.cohort == cohort][["participant_id", "problem"]].itertuples(index=False, name=None))
