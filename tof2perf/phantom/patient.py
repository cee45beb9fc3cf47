"""Simulate one patient: anatomy, arteries, disease, both scans, and the maps of the series."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.perfusion.dsc import analyse_series
from tof2perf.phantom import metadata, scanner
from tof2perf.phantom.bolus import ARTERIAL_CALIBRATION, Bolus, draw_bolus
from tof2perf.phantom.disease import Disease, draw_disease
from tof2perf.phantom.haemodynamics import GM_CBF, LATE_S, WM_CBF, Perfusion, true_perfusion
from tof2perf.phantom.head import Head, load_template, make_head
from tof2perf.phantom.vessels import Tree, grow_tree
from tof2perf.profiles import CohortProfile, PhantomProfile
from tof2perf.system.codebase import code_digest
from tof2perf.system.files import digest, write_json, write_text
from tof2perf.volumes.nifti import write_volume

PREBOLUS_FRAMES = 8  # the paper: at least eight
TOF_CENTRE_MM, DSC_CENTRE_MM = (0.0, -18.0, -2.0), (0.0, -18.0, 8.0)  # where the scans are centred, template mm
SIDES = ("left", "right")


@dataclass(frozen=True)
class Patient:
    """What is true of a simulated patient."""

    head: Head
    tree: Tree
    disease: Disease
    perfusion: Perfusion
    bolus: Bolus
    poses: np.ndarray  # (frames, 4, 4) takes scanner mm at the TOF to scanner mm at each frame of the DSC

    def grids(self, phantom: PhantomProfile) -> tuple[np.ndarray, np.ndarray]:
        """Affines (4, 4) of the TOF and of the DSC series."""
        centres = self.head.to_scanner(np.array([TOF_CENTRE_MM, DSC_CENTRE_MM]))
        tof = scanner.grid_affine(phantom.tof_shape, phantom.tof_voxel_mm, centres[0])
        return tof, scanner.grid_affine(phantom.dsc_shape, phantom.dsc_voxel_mm, centres[1])


def draw_patient(
    *, cohort: CohortProfile, phantom: PhantomProfile, rng: np.random.Generator, disease: Disease | None = None
) -> Patient:
    """Draw a patient: head, arteries, disease, perfusion, bolus and the movement between the scans.

    Args:
        cohort: protocol and disease.
        phantom: grids and noise.
        rng: source of all randomness.
        disease: takes the place of the drawn one; all else stays as it is.
    """
    simulation = cohort.simulation
    head = make_head(spacing_mm=phantom.head_mm, rng=rng)
    template = load_template()
    demand = (GM_CBF * template.gm + WM_CBF * template.wm).ravel()
    chosen = rng.choice(demand.size, phantom.branching_points, p=demand / demand.sum(dtype=float))
    voxels = np.stack(np.unravel_index(chosen, template.gm.shape), axis=1) + rng.uniform(-0.5, 0.5, (len(chosen), 3))
    tissue = voxels @ template.affine[:3, :3].T + template.affine[:3, 3]
    tree = grow_tree(tissue=tissue, towards_csf=template.towards_csf, rng=rng)
    drawn = draw_disease(tree, simulation.disease, rng=rng)
    disease = drawn if disease is None else disease
    # Streams of their own: how many numbers a disease takes decides nothing else.
    perfusion_rng, bolus_rng, motion_rng = rng.spawn(3)
    perfusion = true_perfusion(head, tree, disease, rng=perfusion_rng)
    bolus = draw_bolus(prebolus_s=PREBOLUS_FRAMES * simulation.repetition_time_s, rng=bolus_rng)
    centre = head.to_scanner(np.array([TOF_CENTRE_MM]))[0]
    angles = motion_rng.uniform(-1, 1, 3) * phantom.max_rotation_deg
    shift = motion_rng.uniform(-1, 1, 3) * phantom.max_translation_mm
    poses = np.repeat(rigid(angles, shift, centre)[None], simulation.frames, axis=0)
    # People lie still until they feel the contrast agent, then may stir at any frame (assumption).
    felt = int(np.ceil(bolus.arrival_s / simulation.repetition_time_s))
    for frame in motion_rng.integers(felt, simulation.frames, motion_rng.poisson(simulation.head_moves)):
        move = rigid(motion_rng.normal(0, phantom.move_deg, 3), motion_rng.normal(0, phantom.move_mm, 3), centre)
        poses[frame:] = move @ poses[frame:]
    return Patient(head, tree, disease, perfusion, bolus, poses)


def patient_seed(seed: int, cohort: str, number: int) -> tuple[int, int, int]:
    """Return the entropy of one patient: from the profile's seed, the cohort's name and the patient's number from 0."""
    return seed, int(digest(cohort)[:8], 16), number


def patient_stream(seed: tuple[int, ...]) -> np.random.Generator:
    """Return the generator that makes one patient; SFC64 draws noise twice as fast as the default generator."""
    return np.random.Generator(np.random.SFC64(seed))


def rigid(angles_deg: np.ndarray, shift_mm: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    """Make the matrix (4, 4) of a turn about a centre and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = centre_mm + shift_mm - matrix[:3, :3] @ centre_mm
    return matrix


def simulate_patient(
    folder: Path, name: str, *, cohort: CohortProfile, phantom: PhantomProfile, seed: tuple[int, ...]
) -> dict[str, object]:
    """Simulate one patient and write all files of the cohort contract.

    Args:
        folder: the cohort's BIDS folder.
        name: ``sub-XXXX``.
        cohort: protocol and disease.
        phantom: grids and noise.
        seed: entropy of this patient alone, so that a patient does not depend on how many are made.

    Returns:
        The patient's row of ``participants.tsv`` without the split.
    """
    truth = folder / "derivatives" / "truth" / name
    # A hidden file is no result: a comment in this code makes the patient anew, but nothing after it.
    record, made_from = truth / f"{name}_desc-true_record.json", truth / f".{name}_made-from"
    recipe = _recipe(cohort, phantom, seed)
    with contextlib.suppress(OSError, ValueError):
        if made_from.read_text(encoding="utf-8") == recipe:
            return json.loads(record.read_text(encoding="utf-8"))["participant"]
    made_from.unlink(missing_ok=True)  # while files are being replaced, the patient counts as not done

    rng = patient_stream(seed)
    patient = draw_patient(cohort=cohort, phantom=phantom, rng=rng)
    tof_rng, dsc_rng = rng.spawn(2)
    tof = scan_tof(patient, phantom=phantom, rng=tof_rng)
    series, reference, maps = scan_dsc(patient, cohort=cohort, phantom=phantom, rng=dsc_rng)

    tof_affine, dsc_affine = patient.grids(phantom)
    write_volume(layout.file_path(folder, name, "tof"), tof, tof_affine)
    write_volume(layout.file_path(folder, name, "dsc"), series, dsc_affine, repetition_time_s=cohort.repetition_time_s)
    metadata.write_sidecars(folder, name, cohort=cohort, phantom=phantom)
    write_volume(layout.file_path(folder, name, "dscref"), reference, dsc_affine)
    for key, values in maps.items():
        write_volume(layout.file_path(folder, name, key), values, dsc_affine)
    _write_truth(folder, name, patient, phantom)

    lesions = patient.disease.lesions
    participant = metadata.draw_participant(patient.disease.course, seed) | {
        "disease": patient.disease.course,
        "occlusion_site": lesions[0].site if lesions else "none",
        "side": "bilateral" if len(lesions) > 1 else lesions[0].side if lesions else "none",
        "degree": round(lesions[0].degree, 2) if lesions else 0.0,
        "visible": "yes" if any(lesion.visible for lesion in lesions) else "no",
        "collateral_grade": patient.perfusion.collateral_grade,
    }
    write_json(record, {"participant": participant})
    write_text(made_from, recipe)
    return participant


def scan_tof(patient: Patient, *, phantom: PhantomProfile, rng: np.random.Generator) -> np.ndarray:
    """Acquire the patient's TOF-MRA: (x, y, z) int16, white matter near 200."""
    parts = patient.head, patient.tree, patient.disease
    affine, _ = patient.grids(phantom)
    settings = scanner.draw_settings(rng)
    return scanner.acquire_tof(
        *parts, affine=affine, shape=phantom.tof_shape, snr=phantom.tof_snr, settings=settings, rng=rng
    )


def scan_dsc(
    patient: Patient, *, cohort: CohortProfile, phantom: PhantomProfile, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Acquire the patient's DSC series and analyse it as the cohort's software would.

    Returns:
        Series (x, y, z, time) int16, reference volume (x, y, z), and the five maps (x, y, z) in physical units.
    """
    simulation, (_, affine) = cohort.simulation, patient.grids(phantom)
    tr, te, analysis = simulation.repetition_time_s, simulation.echo_time_s, simulation.perfusion
    series = scanner.acquire_dsc(
        patient.head,
        patient.tree,
        patient.disease,
        patient.perfusion,
        patient.bolus,
        poses=patient.poses,
        affine=affine,
        shape=phantom.dsc_shape,
        tr=tr,
        te=te,
        snr=phantom.dsc_snr,
        rng=rng,
    )
    artery = _contralateral_m2(patient, affine, phantom, rng) if analysis.aif == "contralateral M2" else None
    reference, maps, *_ = analyse_series(
        series, tr, te, phantom.dsc_voxel_mm, analysis, artery=artery, calibration=ARTERIAL_CALIBRATION
    )
    return series, reference, maps


def _contralateral_m2(
    patient: Patient, affine: np.ndarray, phantom: PhantomProfile, rng: np.random.Generator
) -> np.ndarray:
    """Find the share of DSC voxels (x, y, z) that is M2 on the less diseased side, where a rater looks for the AIF."""
    burden = {side: sum(lesion.degree for lesion in patient.disease.lesions if lesion.side == side) for side in SIDES}
    side = min(SIDES, key=lambda name: burden[name])
    tree, pose = patient.tree, patient.poses[0]
    trunk = np.concatenate([tree.trunk(f"{side} {name}") for name in ("M2 superior", "M2 inferior")])
    radius_mm = np.zeros(len(tree.parent))
    radius_mm[trunk] = tree.radius_mm[trunk]
    position = patient.head.to_scanner(tree.position) @ pose[:3, :3].T + pose[:3, 3]
    return scanner.draw_vessels(
        tree.parent, radius_mm, position=position, radius_mm=radius_mm, affine=affine, shape=phantom.dsc_shape, rng=rng
    )[0]


def _write_truth(folder: Path, name: str, patient: Patient, phantom: PhantomProfile) -> None:
    """Write what is true: brain on the TOF's grid, perfusion on the DSC's (in its frame), and the movement."""
    tof_affine, dsc_affine = patient.grids(phantom)
    brain = scanner.resample(patient.head.brain.astype(np.float32), patient.head.affine, tof_affine, phantom.tof_shape)
    write_volume(layout.truth_path(folder, name, "brain"), brain > 0.5, tof_affine)
    seen = np.linalg.inv(patient.poses[0]) @ dsc_affine
    truth = {key: getattr(patient.perfusion, key) for key in ("cbf", "cbv", "mtt", "delay", "supply")}
    truth["tmax"] = patient.perfusion.tmax()
    sigma = np.array(phantom.dsc_voxel_mm) / scanner.FWHM_PER_SIGMA / phantom.head_mm
    for key, values in truth.items():
        values = ndimage.gaussian_filter(values, sigma, truncate=3.0) if key in ("cbf", "cbv") else values
        on_grid = scanner.resample(values, patient.head.affine, seen, phantom.dsc_shape)
        write_volume(layout.truth_path(folder, name, key), on_grid, dsc_affine)
        if key == "tmax":
            write_volume(layout.truth_path(folder, name, "lesion"), on_grid > LATE_S, dsc_affine)
    record = {
        "tof_to_dsc_mm": patient.poses[0].tolist(),
        "moves_mm": (patient.poses @ np.linalg.inv(patient.poses[0])).tolist(),
        "bolus_arrival_s": patient.bolus.arrival_s,
    }
    write_json(layout.truth_path(folder, name, "motion"), record)


def _recipe(cohort: CohortProfile, phantom: PhantomProfile, seed: tuple[int, ...]) -> str:
    """Hash everything that makes a patient: code, protocol, grids and seed."""
    # A patient is the same in any split, and whatever own data of the cohort would need.
    return digest(repr((cohort.simulation, phantom, seed, tuple(MAPS.items()))) + code_digest(__name__))
