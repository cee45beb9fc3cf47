"""Own data, completed: links to what a cohort's folder holds, and what it lacks made beside them, never in it.

Only the input (TOF-MRA or another) and the maps are needed. A DSC series stands in for absent maps, splits are drawn
where none are given. The completed cohort is a BIDS folder like any other: preprocessing reads it as a simulated one.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tof2perf.cohorts import layout
from tof2perf.cohorts.participants import SPLITS, patients_in
from tof2perf.cohorts.splits import draw_splits, given_splits, listed_patients, read_table, strata
from tof2perf.perfusion.dsc import analyse_series
from tof2perf.perfusion.series import find_baseline, head_mask
from tof2perf.profiles import CohortProfile, PerfusionProfile
from tof2perf.system.codebase import code_digest
from tof2perf.system.files import link, write_json, write_text
from tof2perf.system.workers import tied
from tof2perf.volumes import nifti
from tof2perf.volumes.nifti import CohortError, write_volume

# The part of each map that counts in a reference made of maps: artefacts above it would hide the brain (assumption).
BRIGHTEST = 98.0


@dataclass(frozen=True)
class Files:
    """What one patient has: paths that exist, by role. ``maps`` holds those of the cohort's maps that are given."""

    image: Path | None
    maps: dict[str, Path]
    series: Path | None
    reference: Path | None
    brain: Path | None
    lesion: Path | None


def find_files(folder: Path, patient: str, cohort: CohortProfile) -> Files:
    """Look for a patient's files in the user's folder, compressed or not."""

    def given(path: Path) -> Path | None:
        return path if path.is_file() else None

    maps = {name: given(layout.map_path(folder, patient, name)) for name in cohort.maps}
    return Files(
        image=given(layout.input_path(folder, patient, cohort.input)),
        maps={name: path for name, path in maps.items() if path is not None},
        series=given(layout.dsc_path(folder, patient)),
        reference=given(layout.dscref_path(folder, patient)),
        brain=given(layout.brain_mask_path(folder, patient)),
        lesion=given(layout.lesion_mask_path(folder, patient)),
    )


def take_in(
    folder: Path,
    target: Path,
    *,
    cohort: CohortProfile,
    seed: int,
    threshold_s: float,
    dropped: Collection[str] = (),
    jobs: int | None = None,
) -> pd.DataFrame:
    """Complete a cohort of the user's in a folder of the run.

    Args:
        folder: the user's BIDS folder; it is only read.
        target: folder of links and of what had to be made; what an earlier, interrupted call made is kept.
        cohort: which input and maps to look for, how maps are made of a series, and the shares of the splits.
        seed: draws the splits, where ``participants.tsv`` gives none.
        threshold_s: Tmax above which a voxel counts as late; its volume spreads patients over the splits where
            ``participants.tsv`` does not tell of their disease.
        dropped: patients to leave out.
        jobs: worker processes; all available cores by default.

    Returns:
        ``participants.tsv`` as written: ``split`` and ``split_source`` (given or made), indexed by ``participant_id``.

    Raises:
        CohortError: the first patient who cannot be used, or too few of them for three splits.
        WriteError: the folder cannot be written to, or holds a file where a link belongs.
    """
    folder, target = Path(folder), Path(target)
    table = read_table(folder)
    patients = [name for name in listed_patients(folder, table) if name not in dropped]
    for patient in patients:
        _require(folder, patient, find_files(folder, patient, cohort), cohort)
    keep = {layout.subject(patient) for patient in patients}
    for stale in [*target.glob("sub-*"), *target.glob("derivatives/*/sub-*")]:  # of patients who are gone
        if stale.name not in keep:
            shutil.rmtree(stale)
    work = joblib.delayed(complete_patient)
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator", **tied())
        results = pool(work(folder, patient, target, cohort=cohort, threshold_s=threshold_s) for patient in patients)
        late_ml = dict(zip(patients, tqdm(results, total=len(patients), desc="intake", mininterval=1.0), strict=True))
    splits = given_splits(table, patients)
    made = "given" if splits else "made"
    if not splits:
        people = draw_splits(strata(table, patients, late_ml), cohort=cohort, seed=seed)
        splits = {patient: people[layout.subject(patient)] for patient in patients}
    found = pd.DataFrame({"participant_id": patients, "split": [splits[name] for name in patients]})
    found["split_source"] = made
    text = found.to_csv(sep="\t", index=False, lineterminator="\n")
    if not (path := target / "participants.tsv").is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    for split in SPLITS:
        patients_in(target, split)
    return found.set_index("participant_id")


def complete_patient(folder: Path, patient: str, target: Path, *, cohort: CohortProfile, threshold_s: float) -> float:
    """Link a patient's files and make the maps and the reference volume if they are absent.

    The reference is what co-registration aligns with the input. Without one it is the mean of the series before the
    bolus; without a series it is made of the maps, each divided by its 98th percentile, clipped there and averaged: in
    nine simulated patients that left 0.8 mm of 3.4 mm of head movement, single maps 0.7 to 3.4 mm, the true reference
    0.3 mm.

    Returns:
        Volume in ml of Tmax above ``threshold_s``.

    Raises:
        CohortError: a file that cannot be read or used.
    """
    found = find_files(folder, patient, cohort)
    places = {
        found.image: layout.input_path(target, patient, cohort.input),
        found.reference: layout.dscref_path(target, patient),
        found.brain: layout.brain_mask_path(target, patient),
        found.lesion: layout.lesion_mask_path(target, patient),
    } | {path: layout.map_path(target, patient, name) for name, path in found.maps.items()}
    for source, place in places.items():
        if source is not None:  # a link ends as its file does, or readers would take it for compressed
            plain = source.name.endswith(".nii")
            other, wanted = (place, _plain(place)) if plain else (_plain(place), place)
            other.unlink(missing_ok=True)
            if wanted.is_file() and not wanted.is_symlink() and wanted.stat().st_nlink == 1:
                wanted.unlink()  # made by an earlier run, now given
            link(source, wanted)
    if not found.maps and found.series is not None:
        _make_maps(found.series, patient, target, cohort, reference=found.reference is None)
    elif found.reference is None:
        _make_reference(found, patient, target, cohort)
    tmax = nifti.read_volume(layout.map_path(target, patient, "tmax"))
    late = np.count_nonzero(np.asarray(tmax.dataobj) > threshold_s)
    return float(late * abs(np.linalg.det(tmax.affine[:3, :3])) / 1000)


# --- what is made -----------------------------------------------------------------------------------------------------


def timing(series: Path, cohort: CohortProfile) -> tuple[float, float]:
    """Repetition and echo time (s) of a DSC series: its sidecar, the folder's ``dsc.json``, the profile, the header.

    Raises:
        CohortError: they stand nowhere.
    """
    known: dict[str, float] = {}
    own = series.with_name(series.name.partition(".")[0] + ".json")
    shared = next((parent / "dsc.json" for parent in series.parents if (parent / "dsc.json").is_file()), None)
    for path in (shared, own):
        if path is not None and path.is_file():
            try:
                known |= json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise CohortError(f"{path}: not valid JSON ({error}); repair the file") from None
    image: Any = nib.load(series)
    header = image.header
    zoom = float(header.get_zooms()[3]) / {"msec": 1e3, "usec": 1e6}.get(header.get_xyzt_units()[1], 1.0)
    tr = known.get("RepetitionTime") or cohort.repetition_time_s or zoom
    te = known.get("EchoTime") or cohort.echo_time_s
    if not isinstance(te, int | float) or not isinstance(tr, int | float) or not 0 < te < tr < 20:
        raise CohortError(
            f"{series}: repetition time {tr} and echo time {te} cannot be used; write RepetitionTime and EchoTime, "
            f"in s, into {own.name}"
        )
    return float(tr), float(te)


def _make_maps(series: Path, patient: str, target: Path, cohort: CohortProfile, *, reference: bool) -> None:
    analysis = cohort.perfusion or PerfusionProfile(method="bcsvd", aif="automatic", motion_correction=True)
    tr, te = timing(series, cohort)
    names = [*cohort.maps, *(["dscref"] if reference else [])]
    outputs = {name: layout.map_path(target, patient, name) for name in cohort.maps}
    if reference:
        outputs["dscref"] = layout.dscref_path(target, patient)
    record = layout.dscref_path(target, patient).with_name(f"{patient}_desc-made_maps.json")
    if _is_made(record, key := _key([series], names, asdict(analysis), tr, te), outputs):
        return
    image = nifti.read_volume(series, ndim=4)
    voxel_mm = tuple(float(size) for size in nib.affines.voxel_sizes(image.affine))
    try:
        before, maps = analyse_series(
            np.asarray(image.dataobj), tr, te, (voxel_mm[0], voxel_mm[1], voxel_mm[2]), analysis
        )
    except ValueError as error:
        raise CohortError(f"{series}: no maps can be made ({error}); give the maps or leave the patient out") from None
    for name, place in outputs.items():
        write_volume(place, before if name == "dscref" else maps[name], image.affine)
    how = f"made of the DSC series: {analysis.method}, automatic arterial input, TR {tr:g} s, TE {te:g} s"
    write_json(record, {"how": how, "key": key})


def _make_reference(found: Files, patient: str, target: Path, cohort: CohortProfile) -> None:
    place = layout.dscref_path(target, patient)
    record = place.with_name(f"{patient}_desc-made_dscref.json")
    sources = [found.series] if found.series is not None else list(found.maps.values())
    if _is_made(record, key := _key(sources, list(cohort.maps)), {"dscref": place}):
        return
    if found.series is not None:
        image = nifti.read_volume(found.series, ndim=4)
        values = np.asarray(image.dataobj)
        try:
            first, stop = find_baseline(values[head_mask(values)].mean(axis=0))
        except ValueError as error:
            raise CohortError(f"{found.series}: {error}; give a reference volume or remove the series") from None
        reference, how = values[..., first:stop].mean(axis=3), "mean of the DSC series before the bolus"
    else:
        images = {name: nifti.read_volume(path) for name, path in found.maps.items()}
        image = images["tmax"]
        for name, other in images.items():
            if other.shape != image.shape or not np.allclose(other.affine, image.affine, atol=1e-3):
                raise CohortError(f"{found.maps[name]}: not on the grid of the tmax map; resample it to that grid")
        volumes = [np.maximum(np.asarray(other.dataobj), 0) for other in images.values()]
        volumes = [volume for volume in volumes if volume.any()]
        tops = [np.percentile(volume[volume > 0], BRIGHTEST) for volume in volumes]
        reference = np.mean([np.minimum(v / top, 1) for v, top in zip(volumes, tops, strict=True)], axis=0)
        how = f"mean of the maps {', '.join(images)}, each divided by its {BRIGHTEST:g}th percentile and clipped there"
    write_volume(place, reference, image.affine)
    write_json(record, {"how": how, "key": key})


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz"))


def _key(sources: list[Path], *settings: object) -> str:
    """Fingerprint of what something is made of: files, settings and the code that makes it."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    total.update(code_digest(__name__).encode())
    for path in sources:
        with Path(path).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _is_made(record: Path, key: str, outputs: Mapping[str, Path]) -> bool:
    try:
        made = json.loads(record.read_text(encoding="utf-8")).get("key") == key
    except (OSError, ValueError):
        return False
    return made and all(path.is_file() and not path.is_symlink() for path in outputs.values())


def _require(folder: Path, patient: str, found: Files, cohort: CohortProfile) -> None:
    """What must be there before anything is computed."""
    if found.image is None:
        path = layout.input_path(folder, patient, cohort.input)
        raise CohortError(f"{path}: {patient} has no {cohort.modality}; provide it, or leave the patient out")
    missing = [name for name in cohort.maps if name not in found.maps]
    if missing and (found.maps or found.series is None):
        path = layout.map_path(folder, patient, missing[0])
        raise CohortError(f"{path}: {patient} has no {missing[0]} map; provide it, or leave the patient out")
