"""Compare what the pipeline found with what the phantom knows, for every patient of a profile.

Run after the cohorts are preprocessed: ``make truth`` prints a table and writes ``explore/truth.csv`` into the results.
"""

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tof2perf.cohorts import layout, workspace
from tof2perf.cohorts.participants import SPLITS, patients_in, read_participants
from tof2perf.metrics.lesion_agreement import dice
from tof2perf.preprocessing.skullstrip import choose_method, strip_skull
from tof2perf.profiles import load_profile
from tof2perf.system.files import write_table
from tof2perf.volumes import nifti


def main() -> None:
    """Print mean, SD and worst patient of every comparison, by cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--root", type=Path, default=Path("."))
    parser.add_argument("--split", choices=SPLITS, help="of these patients alone; all by default")
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    here = workspace.Workspace(profile.name, arguments.root)
    tables = []
    for name in here.cohorts(profile.cohorts):
        folder, done = here.cohort(name), here.preprocessed(name)
        patients = patients_in(folder, arguments.split) if arguments.split else read_participants(folder).index
        work = joblib.Parallel(n_jobs=-1, return_as="generator")(
            joblib.delayed(compare)(folder, done, patient, method=profile.preprocessing.skull_strip)
            for patient in patients
        )
        rows = list(tqdm(work, total=len(patients), desc=f"truth {name}", unit="patient"))
        table = pd.DataFrame(rows).agg(["mean", "std", "min", "max"]).T.round(3)
        print(f"\n{name}, {here.label(name)}, {len(patients)} patients\n{table.to_string()}")
        tables.append(table.rename_axis("quantity").reset_index().assign(cohort=name, source=here.label(name)))
    write_table(here.results / "explore" / "truth.csv", pd.concat(tables))


def compare(folder: Path, done: Path, patient: str, *, method: str) -> dict[str, float]:
    """Errors of one patient.

    Returns:
        Movement between the scans and what co-registration left of it (mm, mean over the brain); Dice of the skull
        strip; CBF and CBV found over true, and delay found minus true (s), in healthy grey and white matter.
    """

    def volume(path: Path) -> np.ndarray:
        return nifti.read_volume(path).get_fdata(dtype=np.float32)

    tof = nifti.read_volume(layout.file_path(folder, patient, "tof"))
    brain = volume(layout.truth_path(folder, patient, "brain")) > 0
    found = json.loads((done / f"{patient}_qc.json").read_text(encoding="utf-8"))["tof_to_dsc_mm"]
    motion = json.loads(layout.truth_path(folder, patient, "motion").read_text(encoding="utf-8"))["tof_to_dsc_mm"]
    points = np.argwhere(brain)[::97] @ tof.affine[:3, :3].T + tof.affine[:3, 3]
    paths = {"tof": layout.file_path(folder, patient, "tof")}
    stripped = strip_skull(tof, method=choose_method(method, paths), given=None, source=paths["tof"])

    maps = {name: volume(layout.file_path(folder, patient, name)) for name in ("cbf", "cbv", "tmax")}
    truth = {
        name: volume(layout.truth_path(folder, patient, name)) for name in ("cbf", "cbv", "tmax", "delay", "supply")
    }
    healthy = (truth["cbf"] > 12) & (truth["supply"] > 0.97) & (maps["cbf"] > 0)
    # The AIF is not measured at the inlet of the tree: a constant offset of delays is no error, its spread is.
    late = (maps["tmax"] - truth["delay"])[healthy]
    return {
        "motion_mm": displacement(points, np.array(motion), np.eye(4)),
        "registration_error_mm": displacement(points, np.array(motion), np.array(found)),
        "brain_dice": dice(stripped, brain),
        "cbf_ratio": float(maps["cbf"][healthy].mean() / truth["cbf"][healthy].mean()),
        "cbv_ratio": float(maps["cbv"][healthy].mean() / truth["cbv"][healthy].mean()),
        "cbf_correlation": float(np.corrcoef(maps["cbf"][healthy], truth["cbf"][healthy])[0, 1]),
        "tmax_minus_delay_s": float(late.mean()),
        "tmax_minus_delay_sd_s": float(late.std()),
        "lesion_dice": lesion_dice(maps["tmax"], truth["tmax"], (truth["cbf"] > 2) & (maps["cbf"] > 0)),
    }


def displacement(points: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance (mm) between where two transforms (4, 4) put points (n, 3)."""
    difference = one - other
    return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def lesion_dice(found: np.ndarray, true: np.ndarray, inside: np.ndarray) -> float:
    """Dice of measured and true Tmax > 6 s; NaN where the truth has no lesion of a ml or so."""
    lesion = (true > 6.0) & inside
    return dice((found > 6.0) & inside, lesion) if lesion.sum() > 20 else float("nan")


if __name__ == "__main__":
    main()
