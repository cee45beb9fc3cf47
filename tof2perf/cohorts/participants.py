"""The table of a cohort's patients, ``participants.tsv``, and the split of each."""

from pathlib import Path
from typing import Any

import pandas as pd

from tof2perf.volumes.nifti import CohortError, Finding

SPLITS = ("train", "validation", "test")


def read_table(folder: Path, *, dtype: Any = str) -> pd.DataFrame | None:
    """Read ``participants.tsv``, None if there is none.

    Args:
        folder: of the cohort.
        dtype: of the columns, as pandas takes it; text by default.

    Raises:
        CohortError: it cannot be read, or has no column ``participant_id``.
    """
    path = Path(folder) / "participants.tsv"
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, sep="\t", dtype=dtype, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise Finding(path, f"cannot be read ({str(error).splitlines()[0]})", "save it as UTF-8 text").error() from None
    if "participant_id" not in table:
        first = str(table.columns[0])
        other = next((f", values are separated by '{mark}'" for mark in ";," if mark in first), "")
        remedy = "separate the values by tabulators" if other else "add it, values separated by tabulators"
        raise Finding(path, f"no column 'participant_id'{other}", remedy).error()
    return table


def read_participants(folder: Path) -> pd.DataFrame:
    """Read ``participants.tsv`` of a cohort whose splits are settled.

    Returns:
        One row a patient, indexed by ``participant_id``, with at least the column ``split``.

    Raises:
        CohortError: missing file, missing column, a patient listed twice, or an unknown split.
    """
    path = folder / "participants.tsv"
    frame = read_table(folder, dtype={"participant_id": str})
    if frame is None:
        raise CohortError(f"{path}: missing; simulate or preprocess the cohort first, or check the folder's name")
    if "split" not in frame:
        raise CohortError(f"{path}: no column 'split'; add it (split is one of {', '.join(SPLITS)})")
    doubled = frame.participant_id[frame.participant_id.duplicated()].tolist()
    if doubled:
        raise CohortError(f"{path}: {doubled[0]} is listed more than once; keep one row a patient")
    unknown = frame[~frame.split.isin(SPLITS)]
    if len(unknown):
        patient, split = unknown.iloc[0][["participant_id", "split"]]
        raise CohortError(f"{path}: {patient} has split '{split}'; use one of {', '.join(SPLITS)}")
    return frame.set_index("participant_id")


def patients_in(folder: Path, split: str) -> list[str]:
    """Return the patients of one split, in the order of ``participants.tsv``.

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
