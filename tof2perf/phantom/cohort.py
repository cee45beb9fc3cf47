"""Simulate a cohort as a BIDS dataset: its patients, what describes it, and its splits."""

from pathlib import Path

import numpy as np
import pandas as pd

from tof2perf.cohorts.participants import SPLITS
from tof2perf.cohorts.splits import stratified_split
from tof2perf.phantom import metadata
from tof2perf.phantom.patient import patient_seed, simulate_patient
from tof2perf.profiles import CohortProfile, PhantomProfile
from tof2perf.system.files import write_table
from tof2perf.system.workers import side_by_side

SPLIT_STREAM = 0x5EED5  # a seed that no patient uses: larger than any patient's number


def simulate_cohort(
    folder: Path, name: str, *, cohort: CohortProfile, phantom: PhantomProfile, seed: int, jobs: int = -1
) -> pd.DataFrame:
    """Simulate a cohort as a BIDS dataset; patients that are complete already are kept.

    Args:
        folder: where to write.
        name: the cohort's name; part of the seed, so that cohorts differ.
        cohort: number of patients a split, protocol and disease.
        phantom: grids and noise.
        seed: the profile's.
        jobs: processes, -1 for all cores.

    Returns:
        ``participants.tsv`` as written, indexed by participant.
    """
    counts = {split: getattr(cohort, split) for split in SPLITS}
    names = [f"sub-{number:04d}" for number in range(1, sum(counts.values()) + 1)]
    metadata.write_descriptions(folder, name, cohort=cohort)

    def simulate(number: int) -> dict:
        stream = patient_seed(seed, name, number)
        return simulate_patient(folder, names[number], cohort=cohort, phantom=phantom, seed=stream)

    frame = pd.DataFrame(side_by_side(simulate, range(len(names)), title=f"simulate {name}", jobs=jobs))
    # By site, or a small test split would now and then hold mostly sites that training has hardly seen.
    rng = np.random.default_rng(patient_seed(seed, name, SPLIT_STREAM))
    frame.insert(0, "split", stratified_split(frame.occlusion_site, counts, rng=rng))
    frame.insert(0, "participant_id", names)
    write_table(folder / "participants.tsv", frame)
    return frame.set_index("participant_id")
