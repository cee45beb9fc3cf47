"""Simulated patients as a BIDS cohort: anatomy, arteries, disease, both scans, and the maps of the series."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from tof2perf import cohort as files
from tof2perf import dsc
from tof2perf.maps import MAPS
from tof2perf.phantom import bids, scanner
from tof2perf.phantom.anatomy import Head, load_template, make_head
from tof2perf.phantom.bolus import ARTERIAL_CALIBRATION, Bolus, draw_bolus
from tof2perf.phantom.disease import Disease, draw_disease
from tof2perf.phantom.perfusion import GM_CBF, WM_CBF, Perfusion, true_perfusion
from tof2perf.phantom.protocol import draw_participant
from tof2perf.phantom.vessels import Tree, grow_tree
from tof2perf.profiles import CohortProfile, PhantomProfile

PREBOLUS_FRAMES = 8  # the paper: at least eight
TOF_CENTRE_MM, DSC_CENTRE_MM = (0.0, -18.0, -2.0), (0.0, -18.0, 8.0)  # where the scans are centred, template mm
LESION_S = 6.0  # true Tmax from which tissue counts as lesion


@dataclass(frozen=True)
class Patient:
    """What is true of a simulated patient."""

    head: Head
    tree: Tree
    disease: Disease
    perfusion: Perfusion
    bolus: Bolus
    motion: np.ndarray  # (4, 4) takes scanner mm at the TOF to scanner mm at the DSC


def draw_patient(*, cohort: CohortProfile, phantom: PhantomProfile, rng: np.random.Generator) -> Patient:
    """Draw a patient: head, arteries, disease, perfusion, bolus and the movement between the scans."""
    head = make_head(spacing_mm=phantom.head_mm, rng=rng)
    template = load_template()
    demand = (GM_CBF * template.gm + WM_CBF * template.wm).ravel()
    chosen = rng.choice(demand.size, phantom.branching_points, p=demand / demand.sum(dtype=float))
    voxels = np.stack(np.unravel_index(chosen, template.gm.shape), axis=1) + rng.uniform(-0.5, 0.5, (len(chosen), 3))
    tree = grow_tree(tissue=voxels @ template.affine[:3, :3].T + template.affine[:3, 3], rng=rng)
    disease = draw_disease(tree, kind=cohort.disease, rng=rng)
    perfusion = true_perfusion(head, tree, disease, rng=rng)
    bolus = draw_bolus(prebolus_s=PREBOLUS_FRAMES * cohort.repetition_time_s, rng=rng)
    centre = head.to_scanner(np.array([TOF_CENTRE_MM]))[0]
    angles = rng.uniform(-1, 1, 3) * phantom.max_rotation_deg
    shift = rng.uniform(-1, 1, 3) * phantom.max_translation_mm
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    motion[:3, 3] = centre + shift - motion[:3, :3] @ centre  # heads turn about their middle
    return Patient(head, tree, disease, perfusion, bolus, motion)


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
    record_path = folder / "derivatives" / "truth" / name / f"{name}_desc-true_record.json"
    recipe = _recipe(cohort, phantom, seed)
    if record_path.is_file():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        if record["recipe"] == recipe:
            return record["participant"]
        record_path.unlink()

    rng = np.random.default_rng(seed)
    patient = draw_patient(cohort=cohort, phantom=phantom, rng=rng)
    centres = patient.head.to_scanner(np.array([TOF_CENTRE_MM, DSC_CENTRE_MM]))
    tof_affine = scanner.grid_affine(phantom.tof_shape, phantom.tof_voxel_mm, centres[0])
    dsc_affine = scanner.grid_affine(phantom.dsc_shape, phantom.dsc_voxel_mm, centres[1])
    tr, te = cohort.repetition_time_s, cohort.echo_time_s
    parts = patient.head, patient.tree, patient.disease
    tof = scanner.acquire_tof(*parts, affine=tof_affine, shape=phantom.tof_shape, snr=phantom.tof_snr, rng=rng)
    series = scanner.acquire_dsc(
        *parts,
        patient.perfusion,
        patient.bolus,
        motion=patient.motion,
        affine=dsc_affine,
        shape=phantom.dsc_shape,
        tr=tr,
        te=te,
        frames=cohort.frames,
        snr=phantom.dsc_snr,
        rng=rng,
    )
    reference, maps = perfusion_of_series(series, tr=tr, te=te)

    files.write_volume(files.tof_path(folder, name), tof, tof_affine)
    files.write_volume(files.dsc_path(folder, name), series, dsc_affine, repetition_time_s=tr)
    bids.write_sidecars(folder, name, cohort=cohort, phantom=phantom)
    files.write_volume(files.dscref_path(folder, name), reference, dsc_affine)
    for key, values in maps.items():
        files.write_volume(files.map_path(folder, name, key), values, dsc_affine)
    _write_truth(folder, name, patient, tof_affine, dsc_affine, phantom)

    first = patient.disease.lesions[0] if patient.disease.lesions else None
    participant = draw_participant(cohort.disease, seed) | {
        "disease": patient.disease.kind,
        "occlusion_site": first.site if first else "none",
        "side": "bilateral" if len(patient.disease.lesions) > 1 else first.side if first else "none",
        "degree": round(first.degree, 2) if first else 0.0,
        "visible": "yes" if first and first.visible and first.site != "distal" else "no",
        "collateral_grade": patient.disease.collateral_grade,
    }
    files.write_json(record_path, {"recipe": recipe, "participant": participant})
    return participant


def perfusion_of_series(series: np.ndarray, *, tr: float, te: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Post-process a simulated series as a scanner's console would.

    The arterial input is found automatically. Its amplitude is divided by the arterial calibration, which a console
    knows for its sequence: without it CBF and CBV would have no absolute scale.

    Args:
        series: (x, y, z, time).
        tr, te: s.

    Returns:
        Reference volume (mean before the bolus) and the five maps (x, y, z) in physical units.
    """
    mean = series.mean(axis=3)
    mask = mean > 0.3 * np.percentile(mean, 98)
    labels, _ = ndimage.label(ndimage.binary_opening(mask))
    mask = ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)
    curves = dsc.signal_to_concentration(series[mask], te=te)
    first, stop = dsc.find_baseline(series[mask].mean(axis=0))
    aif, _ = dsc.find_aif(curves, tr=tr)
    maps = dsc.perfusion_maps(series, tr, te, mask=mask, aif=aif / ARTERIAL_CALIBRATION)
    return series[..., first:stop].mean(axis=3), maps


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
    splits = [split for split in files.SPLITS for _ in range(getattr(cohort, split))]
    names = [f"sub-{number:04d}" for number in range(1, len(splits) + 1)]
    entropy = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    bids.write_descriptions(folder, name, disease=cohort.disease)
    work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(simulate_patient)(folder, patient, cohort=cohort, phantom=phantom, seed=(seed, entropy, number))
        for number, patient in enumerate(names)
    )
    rows = list(tqdm(work, total=len(names), desc=f"simulate {name}", unit="patient"))
    frame = pd.DataFrame(rows)
    frame.insert(0, "split", splits)
    frame.insert(0, "participant_id", names)
    files.write_table(folder / "participants.tsv", frame)
    return frame.set_index("participant_id")


def _write_truth(
    folder: Path, name: str, patient: Patient, tof_affine: np.ndarray, dsc_affine: np.ndarray, phantom: PhantomProfile
) -> None:
    """Keep what is true: brain on the TOF's grid, perfusion on the DSC's (in its frame), and the movement."""
    brain = scanner.resample(patient.head.brain.astype(np.float32), patient.head.affine, tof_affine, phantom.tof_shape)
    files.write_volume(files.truth_path(folder, name, "brain"), brain > 0.5, tof_affine)
    seen = np.linalg.inv(patient.motion) @ dsc_affine
    truth = {key: getattr(patient.perfusion, key) for key in ("cbf", "cbv", "mtt", "delay", "supply")}
    truth["tmax"] = patient.perfusion.tmax()
    for key, values in truth.items():
        on_grid = scanner.resample(values, patient.head.affine, seen, phantom.dsc_shape)
        files.write_volume(files.truth_path(folder, name, key), on_grid, dsc_affine)
        if key == "tmax":
            files.write_volume(files.truth_path(folder, name, "lesion"), on_grid > LESION_S, dsc_affine)
    motion = {"tof_to_dsc_mm": patient.motion.tolist(), "bolus_arrival_s": patient.bolus.arrival_s}
    files.write_json(files.truth_path(folder, name, "motion"), motion)


def _recipe(cohort: CohortProfile, phantom: PhantomProfile, seed: tuple[int, ...]) -> str:
    """Digest of everything that makes a patient: code, protocol, grids and seed."""
    digest = hashlib.sha256(
        repr((cohort.disease, cohort.repetition_time_s, cohort.echo_time_s, cohort.frames)).encode()
    )
    digest.update(repr((phantom, seed, tuple(MAPS.items()))).encode())
    package = Path(__file__).resolve().parent
    analysis = (package.parent / name for name in ("dsc.py", "arterial.py"))
    for source in (*sorted(package.glob("*.py")), *analysis):
        digest.update(source.read_bytes())
    return digest.hexdigest()
