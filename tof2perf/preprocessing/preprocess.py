"""Preprocessing as in the paper: skull stripping, N4, co-registration, one common grid. Originals are only read."""

import functools
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK as sitk
from nibabel.affines import apply_affine

from tof2perf.cohorts import layout, workspace
from tof2perf.cohorts.made_from import fingerprint, is_made
from tof2perf.cohorts.map_values import where_measured
from tof2perf.cohorts.participants import read_participants
from tof2perf.maps import TOF_BOUNDS, denormalise, normalise
from tof2perf.preprocessing import skullstrip
from tof2perf.preprocessing.training_range import record_inputs
from tof2perf.profiles import CohortProfile, PreprocessingProfile
from tof2perf.system.files import locked, write_bytes, write_json, write_table, write_text
from tof2perf.system.workers import side_by_side
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import Finding, write_volume

N4_ITERATIONS = (20, 20, 10)  # one entry a level of the spline pyramid; fixed, so that cost and result do not wander
FARTHEST_MM, FARTHEST_DEG = 40.0, 45.0  # a head in a coil cannot move farther between two scans (assumption)
SMALLEST_COVERAGE = 0.5  # of the TOF's brain must be covered by the maps (assumption)

Quality = dict[str, str | float]


class PreparedTof(NamedTuple):
    """A TOF as the networks want it, but for its unit.

    Attributes:
        corrected: bias-corrected, skull included, at its own resolution.
        brain: boolean mask of the same shape.
        values: brain (x, y, z) on the grid of the network, 0 outside ``mask``, in the units of the original.
        mask: boolean mask on that grid.
        affine: of that grid, (4, 4).
    """

    corrected: nib.Nifti1Image
    brain: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def preprocess_cohort(
    cohort_folder: Path,
    out_folder: Path,
    *,
    cohort: CohortProfile,
    settings: PreprocessingProfile,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Preprocess all patients of a cohort in parallel; those already done with the same inputs are left alone.

    Args:
        cohort_folder: BIDS folder to read.
        out_folder: folder for the preprocessed volumes, ``qc.csv``, a copy of ``participants.tsv``, and what
            :func:`tof2perf.preprocessing.training_range.record_inputs` records of the training patients.
        cohort: see :func:`preprocess_patient`, as is ``settings``.
        settings: of the profile.
        jobs: worker processes, one thread each; all available cores by default. Results do not depend on it.

    Returns:
        One row of quality control a patient, indexed by ``participant_id`` in the order of ``participants.tsv``.

    Raises:
        CohortError: the first patient who cannot be preprocessed. Missing files are found before any work starts.
        WriteError: another run is at work in ``out_folder``, or there is no room.
    """
    cohort_folder, out_folder = Path(cohort_folder), Path(out_folder)
    participants = read_participants(cohort_folder)
    patients = participants.index
    for patient in patients:
        _require_files(cohort_folder, patient, cohort)
    work = functools.partial(preprocess_patient, cohort_folder, out_folder=out_folder, cohort=cohort, settings=settings)
    with locked(out_folder):
        table = pd.DataFrame(side_by_side(work, patients, title="patients", jobs=jobs), index=patients)
        trained = patients[participants.split == "train"]
        record_inputs(
            out_folder,
            {name: layout.file_path(cohort_folder, name, cohort.input) for name in trained},
            settings=settings,
            source=workspace.source(cohort_folder),
            intensity=cohort.intensity,
            quality=table,
        )
        write_table(out_folder / "qc.csv", table, index=True)
        write_bytes(out_folder / "participants.tsv", (cohort_folder / "participants.tsv").read_bytes())
    return table


def preprocess_patient(
    cohort_folder: Path, patient: str, out_folder: Path, *, cohort: CohortProfile, settings: PreprocessingProfile
) -> Quality:
    """Bring one patient's TOF and maps onto the profile's grid: the TOF's field of view in ``settings.shape`` voxels.

    Writes ``tof`` (the input, in medians of the patient's own brain), ``mask``, the maps (physical units) and, if
    given, ``lesion``. All are 0 outside the mask, which holds the voxels that are brain in the TOF and covered by the
    maps; where a map is below 0 it holds no data. The quality control is written last, with the rigid transform found
    (``tof_to_dsc_mm``, 4 x 4, to a nanometre), and marks a patient as complete.

    Args:
        cohort_folder: BIDS folder to read.
        patient: ``sub-XXXX``.
        out_folder: folder to write to.
        cohort: which ``input`` and ``maps`` to read. ``intensity``: with ``n4``, bias is corrected and values are
            divided by the median inside the brain; a window (low, high), for inputs with a unit such as CT, is mapped
            linearly onto the range that the network sees. ``registration``: ``rigid``, or ``none`` where the maps lie
            in the input's space already.
        settings: ``shape`` of the grid; ``skull_strip``, see :func:`tof2perf.preprocessing.skullstrip.choose_method`;
            ``n4_mm`` and ``registration_mm``, the voxel sizes at which bias field and head motion are estimated.

    Returns:
        Method used (``skull_strip``); ``brain_ml`` in the TOF; motion between TOF and DSC (``rotation_deg``, and
        ``translation_mm`` of the brain's centre); ``mutual_information`` (nats; 0 if no motion was sought);
        ``coverage``, the part of the TOF's brain for which there are maps.

    Raises:
        CohortError: a missing or unusable file. Nothing is written then.
    """
    maps, intensity = cohort.maps, cohort.intensity
    paths = _require_files(cohort_folder, patient, cohort)
    method = skullstrip.choose_method(settings.skull_strip, paths, magnetic=intensity == "n4")
    tools = {name: version(name) for name in ("SimpleITK", "deepbet", "scipy", "torch")}
    choices = [list(paths), asdict(settings), method, intensity, cohort.registration, tools]
    digest = fingerprint(__name__, paths.values(), *choices)
    # Hidden, so that it is no result: a comment in this code makes no other patients, and retrains nothing.
    record, key = out_folder / f"{patient}_qc.json", out_folder / f".{patient}_made-from"
    names = ("tof", "mask", *maps, *(["lesion"] if "lesion" in paths else []))
    outputs = {name: layout.preprocessed_path(out_folder, patient, name) for name in names}
    if is_made(key, digest, [record, *outputs.values()]):
        quality = json.loads(record.read_text(encoding="utf-8"))
        return {name: value for name, value in quality.items() if name not in ("participant_id", "tof_to_dsc_mm")}

    # The order of storage is settled once, here; from now on only world positions count.
    readers = dict.fromkeys(paths, nifti.read_volume) | dict.fromkeys(("brain", "lesion"), nifti.read_mask)
    images = {name: nib.as_closest_canonical(readers[name](path)) for name, path in paths.items()}
    for finding in nifti.find_other_grids({name: images[name] for name in maps}, paths):
        raise finding.error()
    support = where_measured([np.asarray(images[name].dataobj) for name in maps])
    if method == "maps":
        images["brain"] = nib.Nifti1Image(support.astype(np.float32), images[maps[0]].affine)
    tof, brain, values, mask, affine = prepare_tof(
        images["tof"],
        settings=settings,
        method=method,
        given=images.get("brain"),
        intensity=intensity,
        source=paths["tof"],
    )
    motion, information = np.eye(4), 0.0
    try:
        if cohort.registration == "rigid":
            motion, information = space.register(tof, brain, images["dscref"], mm=settings.registration_mm)
    except RuntimeError:  # ITK's word for volumes that do not overlap
        remedy = "check that both affines are in one scanner space"
        raise Finding(paths["dscref"], "cannot be aligned with the TOF", remedy).error() from None
    centre = apply_affine(tof.affine, np.argwhere(brain).mean(axis=0))
    moved_mm = float(np.linalg.norm(apply_affine(motion, centre) - centre))
    turned_deg = float(np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))))
    if moved_mm > FARTHEST_MM or turned_deg > FARTHEST_DEG:
        message = f"aligned with the TOF by {moved_mm:.0f} mm and {turned_deg:.0f} degrees, as no head moves"
        raise Finding(paths["dscref"], message, "check both affines and the order of the axes").error()

    grid = nib.Nifti1Image(values, affine)
    arrays, covered = space.resample_masked({name: images[name] for name in maps}, support, grid, motion)
    coverage = float((mask & covered).sum() / max(mask.sum(), 1))
    if coverage < SMALLEST_COVERAGE:
        message = f"the maps cover {coverage:.0%} of the brain in the TOF"
        raise Finding(paths[maps[0]], message, "check both affines, the masks and the maps' background").error()
    mask &= covered
    arrays = {"tof": scale_input(values, mask, intensity=intensity), "mask": mask} | arrays
    if "lesion" in paths:
        arrays["lesion"] = space.resample(images["lesion"], grid, motion) > 0.5

    key.unlink(missing_ok=True)  # while volumes are being replaced, the patient counts as not done
    for name, array in arrays.items():
        write_volume(outputs[name], np.where(mask, array, array.dtype.type(0)), grid.affine)
    quality = {
        "skull_strip": method,
        "brain_ml": round(float(brain.sum()) * space.voxel_ml(tof), 1),
        "rotation_deg": round(turned_deg, 3),
        "translation_mm": round(moved_mm, 3),
        "mutual_information": round(information, 4),
        "coverage": round(coverage, 4),
    }
    write_json(record, {"participant_id": patient, **quality, "tof_to_dsc_mm": np.round(motion, 6).tolist()})
    write_text(key, digest)
    return quality


def prepare_tof(
    tof: nib.Nifti1Image,
    *,
    settings: PreprocessingProfile,
    method: str,
    given: nib.Nifti1Image | None = None,
    intensity: str | tuple[float, float] = "n4",
    source: Path | str = "TOF",
) -> PreparedTof:
    """Take the skull and the bias field off a TOF and bring it onto the grid of the network.

    Training and prediction share these steps; what remains is :func:`scale_input`.

    Args:
        tof: volume (x, y, z) in closest canonical orientation.
        settings: as for :func:`preprocess_patient`.
        method: see :func:`tof2perf.preprocessing.skullstrip.strip_skull`.
        given: brain mask for the methods ``given`` and ``maps``.
        intensity: as for :func:`preprocess_patient`; a window needs no bias correction.
        source: file named in errors.

    Raises:
        CohortError: no brain was found.
    """
    brain = skullstrip.strip_skull(tof, method=method, given=given, source=source)
    corrected = correct_bias(tof, brain, mm=settings.n4_mm) if intensity == "n4" else tof
    values, mask = space.resize_masked(np.asarray(corrected.dataobj), brain, settings.shape)
    if not mask.any():
        message = f"its brain is smaller than a voxel of {settings.shape}"
        raise Finding(Path(source), message, "check its affine").error()
    return PreparedTof(corrected, brain, values, mask, space.resized_affine(corrected, settings.shape))


def scale_input(values: np.ndarray, mask: np.ndarray, *, intensity: str | tuple[float, float]) -> np.ndarray:
    """Bring a prepared input (x, y, z) to the range that the networks see: see :func:`preprocess_patient`."""
    if isinstance(intensity, str):
        return values / np.median(values[mask])
    return denormalise(normalise(values, intensity), TOF_BOUNDS).astype(np.float32)


def correct_bias(tof: nib.Nifti1Image, brain: np.ndarray, *, mm: float) -> nib.Nifti1Image:
    """Divide a TOF by its smooth intensity bias: N4 (Tustison 2010, doi 10.1109/TMI.2010.2046908).

    Args:
        tof: volume (x, y, z).
        brain: boolean mask (x, y, z) in which the field is estimated.
        mm: voxel size for the estimate; the correction is applied at full resolution.

    Returns:
        Corrected volume (x, y, z), in the units of the original.
    """
    values = np.asarray(tof.dataobj, dtype=np.float32)
    # N4 takes logarithms, and vessels are not bias: zeros and the brightest per cent are clipped.
    middle, bright = np.percentile(values[brain], (50, 99))
    usual = np.clip(values, 0.01 * middle, bright)
    shape = space.coarse_shape(tof, mm)
    coarse, mask = space.resize_masked(usual, brain, shape)
    grid = space.resized_affine(tof, shape)
    image = space.to_itk(np.where(mask, coarse, np.float32(middle)), grid)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    # The filters inside N4 take the global number of threads, and with it their order of summation.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        n4.SetNumberOfThreads(1)
        n4.Execute(image, space.to_itk(mask, grid))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    return nib.Nifti1Image(values * np.exp(-space.resize(field, values.shape)), tof.affine)


def _require_files(folder: Path, patient: str, cohort: CohortProfile) -> dict[str, Path]:
    """Return a patient's files by role, masks where they are given; links are followed: errors name the original."""
    for finding in layout.find_missing(folder, patient, cohort, completed=True):
        raise finding.error()
    files = layout.find_files(folder, patient, cohort)
    return {role: path.resolve() for role, path in files.items() if role != "dsc"}
