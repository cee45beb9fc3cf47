"""The table of a cohort's patients, ``participants.tsv``, and the split of each."""

from pathlib import Path

import pandas as pd

from tof2perf.volumes.nifti import CohortError

SPLITS = ("train", "validation", "test")


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


def patients_in(folder: Path, split: str) -> list[str]:
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
