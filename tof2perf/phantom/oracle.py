"""Predict the most that a TOF can tell: maps from what it shows of a simulated patient, all else average.

The oracle knows the phantom's physics, the anatomy, the arterial tree and every stenosis or occlusion that the TOF
shows. It does not know how good the patient's collaterals are, the level of flow and volume, the shape of the bolus,
the noise, or an artery that opened again before the TOF. It is a ceiling: what a perfect reader of the TOF could
predict. Its maps pass the same simulated scan, without noise and movement, and the same analysis as the patient's own,
because a measured Tmax is not the true one. Only the evaluation of predictor ``oracle`` reads them.
"""

import dataclasses
from pathlib import Path

import numpy as np

from tof2perf.cohorts.participants import patients_in, read_participants
from tof2perf.phantom.bolus import average_bolus
from tof2perf.phantom.disease import COLLATERAL_START_S, Disease
from tof2perf.phantom.haemodynamics import true_perfusion
from tof2perf.phantom.patient import (
    PREBOLUS_FRAMES,
    Patient,
    draw_patient,
    patient_seed,
    patient_stream,
    scan_dsc,
)
from tof2perf.profiles import CohortProfile, DiseaseProfile, PhantomProfile
from tof2perf.system.workers import side_by_side
from tof2perf.volumes.nifti import write_volume


def seen_disease(disease: Disease, profile: DiseaseProfile) -> Disease:
    """Reduce a disease to what a reader of the TOF can see.

    Args:
        disease: the patient's.
        profile: the cohort's distributions.

    Returns:
        The lesions that the TOF shows. The volume of hypoperfused tissue, which the collaterals decide, is the median
        of the site; the delay at the rim of a territory is the mean.
    """
    shown = tuple(lesion for lesion in disease.lesions if lesion.visible)
    usual_ml = profile.hypoperfused_ml[shown[0].site] if shown else 0.0
    return Disease(disease.course, shown, usual_ml, float(np.mean(COLLATERAL_START_S)))


def oracle_maps(
    patient: Patient, *, cohort: CohortProfile, phantom: PhantomProfile, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Make the five maps (x, y, z) in physical units that follow from what the TOF shows, and their affine.

    The head lies where it lay for the TOF, so the maps need no co-registration.

    Args:
        patient: what is true.
        cohort: protocol and analysis.
        phantom: grids.
        rng: places the blood of the vessels inside their voxels.
    """
    simulation = cohort.simulation
    disease = seen_disease(patient.disease, simulation.disease)
    expected = dataclasses.replace(
        patient,
        disease=disease,
        perfusion=true_perfusion(patient.head, patient.tree, disease, rng=None),
        bolus=average_bolus(prebolus_s=PREBOLUS_FRAMES * simulation.repetition_time_s),
        poses=np.repeat(np.eye(4)[None], simulation.frames, axis=0),
    )
    still = dataclasses.replace(cohort, perfusion=dataclasses.replace(simulation.perfusion, motion_correction=False))
    noiseless = dataclasses.replace(phantom, dsc_snr=np.inf)
    _, _, maps = scan_dsc(expected, cohort=still, phantom=noiseless, rng=rng)
    return maps, expected.grids(phantom)[1]


def write_oracles(
    target: Path, folder: Path, name: str, *, cohort: CohortProfile, phantom: PhantomProfile, seed: int, jobs: int = -1
) -> list[str]:
    """Write the oracle's maps of the test patients of a simulated cohort.

    Args:
        target: folder of the oracle's maps.
        folder: the cohort's BIDS folder.
        name: the cohort's name.
        cohort: protocol, disease and analysis.
        phantom: grids.
        seed: the profile's, from which the patients were drawn.
        jobs: processes, -1 for all cores.

    Returns:
        The patients.
    """
    everyone = read_participants(folder).index.tolist()
    patients = patients_in(folder, "test")

    def write(patient: str) -> None:
        rng = patient_stream(patient_seed(seed, name, everyone.index(patient)))
        drawn = draw_patient(cohort=cohort, phantom=phantom, rng=rng)
        maps, affine = oracle_maps(drawn, cohort=cohort, phantom=phantom, rng=rng)
        for key, values in maps.items():
            write_volume(target / f"{patient}_{key}.nii.gz", values, affine)

    side_by_side(write, patients, title=f"oracle {name}", jobs=jobs)
    return patients
