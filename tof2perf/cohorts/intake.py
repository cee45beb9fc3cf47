"""Complete a cohort of one's own: link what its folder holds, and make what it lacks beside the links, never in it.

Only the input (TOF-MRA or another) and the maps are needed. A DSC series stands in for absent maps, splits are drawn
where none are given. The completed cohort is a BIDS folder like any other: preprocessing reads it as a simulated one.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tof2perf.cohorts import layout
from tof2perf.cohorts.made_from import fingerprint, is_made
from tof2perf.cohorts.participants import SPLITS, patients_in, read_table
from tof2perf.cohorts.splits import draw_splits, given_splits, listed_patients, strata
from tof2perf.perfusion.dsc import analyse_series
from tof2perf.perfusion.series import find_baseline, head_mask
from tof2perf.profiles import CohortProfile, PerfusionProfile
from tof2perf.system.files import link, write_json, write_text
from tof2perf.system.workers import one_thread_each, tied
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import Finding, write_volume

# The part of each map that counts in a reference made of maps: artefacts above it would hide the brain (assumption).
BRIGHTEST = 98.0


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
        for finding in find_missing(folder, patient, cohort):
            raise finding.error()
    keep = {layout.subject(patient) for patient in patients}
    for stale in [*target.glob("sub-*"), *target.glob("derivatives/*/sub-*")]:  # of patients who are gone
        if stale.name not in keep:
            shutil.rmtree(stale)
    work = joblib.delayed(complete_patient)
    with one_thread_each():
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
    if (description := folder / "dataset_description.json").is_file():
        link(description, target / description.name)  # simulated patients that were exported stay marked as such
    if not (path := target / "participants.tsv").is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    for split in SPLITS:
        patients_in(target, split)
    return found.set_index("participant_id")


def find_missing(folder: Path, patient: str, cohort: CohortProfile) -> Iterator[Finding]:
    """Report what a patient lacks: the input, maps (a DSC series stands in for all of them), the content of a file."""
    places, files = layout.file_paths(folder, patient, cohort), layout.find_files(folder, patient, cohort)
    if "tof" not in files:
        yield Finding(places["tof"], f"{patient} has no {cohort.modality}", "provide it, or leave the patient out")
    missing = [name for name in cohort.maps if name not in files]
    if missing and ("dsc" not in files or len(missing) < len(cohort.maps)):
        remedy = "provide it" if len(missing) == len(cohort.maps) else "provide it, or give a series and no maps"
        yield Finding(places[missing[0]], f"{patient} has no {', '.join(missing)} map", remedy)
    yield from filter(None, map(nifti.find_absence, files.values()))


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
    files = layout.find_files(folder, patient, cohort)
    places = layout.file_paths(target, patient, cohort)
    for role, source in files.items():
        if role == "dsc":
            continue
        wanted = nifti.with_ending_of(places[role], source)
        if places[role] != wanted:
            places[role].unlink(missing_ok=True)  # an earlier link with the other ending
        if wanted.is_file() and not wanted.is_symlink() and wanted.stat().st_nlink == 1:
            wanted.unlink()  # made by an earlier run, now given
        link(source, wanted)
    if "dsc" in files and not files.keys() & set(cohort.maps):
        _make_maps(files["dsc"], patient, target, cohort, reference="dscref" not in files)
    elif "dscref" not in files:
        _make_reference(files, patient, target, cohort)
    tmax = nifti.read_volume(layout.map_path(target, patient, "tmax"))
    return float(np.count_nonzero(np.asarray(tmax.dataobj) > threshold_s) * space.voxel_ml(tmax))


# --- what is made -----------------------------------------------------------------------------------------------------


def timing(series: Path, cohort: CohortProfile) -> tuple[float, float]:
    """Find TR and TE (s) of a DSC series: its sidecar, the folder's ``dsc.json``, the profile, the header.

    Raises:
        CohortError: they are given nowhere, or cannot be true.
    """
    known: dict[str, float] = {}
    own = series.with_name(series.name.partition(".")[0] + ".json")
    shared = next((parent / "dsc.json" for parent in series.parents if (parent / "dsc.json").is_file()), None)
    for path in (shared, own):
        if path is not None and path.is_file():
            try:
                known |= json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise Finding(path, f"not valid JSON ({error})", "repair the file").error() from None
    image: Any = nib.load(series)
    header = image.header
    zoom = float(header.get_zooms()[3]) / {"msec": 1e3, "usec": 1e6}.get(header.get_xyzt_units()[1], 1.0)
    tr = known.get("RepetitionTime") or cohort.repetition_time_s or zoom
    te = known.get("EchoTime") or cohort.echo_time_s
    if not isinstance(te, int | float) or not isinstance(tr, int | float) or not 0 < te < tr < 20:
        message = f"repetition time {tr} and echo time {te} cannot be used"
        raise Finding(series, message, f"write RepetitionTime and EchoTime, in s, into {own.name}").error()
    return float(tr), float(te)


def _make_maps(series: Path, patient: str, target: Path, cohort: CohortProfile, *, reference: bool) -> None:
    analysis = cohort.perfusion or PerfusionProfile(method="bcsvd", aif="automatic", motion_correction=True)
    tr, te = timing(series, cohort)
    names = [*cohort.maps, *(["dscref"] if reference else [])]
    outputs = {name: layout.map_path(target, patient, name) for name in cohort.maps}
    if reference:
        outputs["dscref"] = layout.dscref_path(target, patient)
    folder = layout.dscref_path(target, patient).parent
    key = folder / f".{patient}_maps-made-from"
    digest = fingerprint(__name__, [series], names, asdict(analysis), tr, te)
    if is_made(key, digest, outputs.values()):
        return
    image = nifti.read_volume(series, ndim=4)
    voxel_mm = tuple(float(size) for size in nib.affines.voxel_sizes(image.affine))
    try:
        before, maps, *_ = analyse_series(
            np.asarray(image.dataobj), tr, te, (voxel_mm[0], voxel_mm[1], voxel_mm[2]), analysis
        )
    except ValueError as error:
        remedy = "give the maps or leave the patient out"
        raise Finding(series, f"no maps can be made ({error})", remedy).error() from None
    for name, place in outputs.items():
        write_volume(place, before if name == "dscref" else maps[name], image.affine)
    how = f"made of the DSC series: {analysis.method}, automatic arterial input, TR {tr:g} s, TE {te:g} s"
    write_json(folder / f"{patient}_desc-made_maps.json", {"how": how})
    write_text(key, digest)


def _make_reference(files: Mapping[str, Path], patient: str, target: Path, cohort: CohortProfile) -> None:
    place = layout.dscref_path(target, patient)
    key = place.with_name(f".{patient}_dscref-made-from")
    maps = {name: files[name] for name in cohort.maps}
    sources = [files["dsc"]] if "dsc" in files else list(maps.values())
    if is_made(key, digest := fingerprint(__name__, sources, list(maps)), [place]):
        return
    if "dsc" in files:
        image = nifti.read_volume(files["dsc"], ndim=4)
        values = np.asarray(image.dataobj)
        try:
            first, stop = find_baseline(values[head_mask(values)].mean(axis=0))
        except ValueError as error:
            raise Finding(files["dsc"], str(error), "give a reference volume or remove the series").error() from None
        reference, how = values[..., first:stop].mean(axis=3), "mean of the DSC series before the bolus"
    else:
        images = {name: nifti.read_volume(path) for name, path in maps.items()}
        image = images["tmax"]
        for finding in nifti.find_other_grids(images, maps):
            raise finding.error()
        volumes = [np.maximum(np.asarray(other.dataobj), 0) for other in images.values()]
        volumes = [volume for volume in volumes if volume.any()]
        tops = [np.percentile(volume[volume > 0], BRIGHTEST) for volume in volumes]
        reference = np.mean([np.minimum(v / top, 1) for v, top in zip(volumes, tops, strict=True)], axis=0)
        how = f"mean of the maps {', '.join(images)}, each divided by its {BRIGHTEST:g}th percentile and clipped there"
    write_volume(place, reference, image.affine)
    write_json(place.with_name(f"{patient}_desc-made_dscref.json"), {"how": how})
    write_text(key, digest)
