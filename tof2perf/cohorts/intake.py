"""Complete a cohort of one's own: link what its folder holds, and make what it lacks beside the links, never in it.

Only the input (TOF-MRA or another) and the maps are needed. A DSC series stands in for absent maps, splits are drawn
where none are given. The completed cohort is a BIDS folder like any other: preprocessing reads it as a simulated one.
"""

import functools
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd

from tof2perf.cohorts import layout
from tof2perf.cohorts.made_from import fingerprint, is_made
from tof2perf.cohorts.map_values import find_unit
from tof2perf.cohorts.participants import SPLITS, patients_in, read_table
from tof2perf.cohorts.splits import draw_splits, given_splits, listed_patients, strata
from tof2perf.maps import MAPS
from tof2perf.perfusion.dsc import TYPICAL_CBV, analyse_series
from tof2perf.perfusion.series import choose_time, prepare_series
from tof2perf.profiles import CohortProfile, PerfusionProfile
from tof2perf.system.files import link, write_json, write_text
from tof2perf.system.workers import side_by_side
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import Finding, write_volume

# The part of each map that counts in a reference made of maps: artefacts above it would hide the brain (assumption).
BRIGHTEST = 98.0
NO_SERIES = "give the maps or leave the patient out"


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
        for finding in layout.find_missing(folder, patient, cohort):
            raise finding.error()
    keep = {layout.subject(patient) for patient in patients}
    for stale in [*target.glob("sub-*"), *target.glob("derivatives/*/sub-*")]:  # of patients who are gone
        if stale.name not in keep:
            shutil.rmtree(stale)
    work = functools.partial(complete_patient, folder, target=target, cohort=cohort, threshold_s=threshold_s)
    late_ml = dict(zip(patients, side_by_side(work, patients, title="intake", jobs=jobs), strict=True))
    splits = given_splits(table, patients)
    origin = "given" if splits else "made"
    if not splits:
        people = draw_splits(strata(table, patients, late_ml), cohort=cohort, seed=seed)
        splits = {patient: people[layout.subject(patient)] for patient in patients}
    rows = {"participant_id": patients, "split": [splits[name] for name in patients], "split_source": origin}
    completed = pd.DataFrame(rows)
    text = completed.to_csv(sep="\t", index=False, lineterminator="\n")
    if (description := folder / "dataset_description.json").is_file():
        link(description, target / description.name)  # simulated patients that were exported stay marked as such
    if not (path := target / "participants.tsv").is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    for split in SPLITS:
        patients_in(target, split)
    return completed.set_index("participant_id")


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
    for role, place in places.items():
        if role not in files and place.is_symlink():
            place.unlink()  # given to an earlier run, taken away since
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
    tmax = nifti.read_volume(layout.file_path(target, patient, "tmax"))
    return float(np.count_nonzero(np.asarray(tmax.dataobj) > threshold_s) * space.voxel_ml(tmax))


# --- what is made -----------------------------------------------------------------------------------------------------


class Protocol(NamedTuple):
    """How a DSC series was acquired."""

    tr: float  # s
    te: float  # s
    calibration: float | None  # arterial calibration, see perfusion.dsc.analyse_series; None makes CBF and CBV relative


def read_protocol(series: Path, cohort: CohortProfile) -> Protocol:
    """Find the protocol of a DSC series: TR and TE in its sidecar, then its header, then the profile.

    Raises:
        CohortError: a time is given nowhere or differs between sidecar and header, or a value is not plausible.
    """
    known, own = layout.read_sidecar(series), layout.sidecar_path(series).name
    header: Any = nib.load(series).header
    zoom, unit = float(header.get_zooms()[3]), header.get_xyzt_units()[1]
    # A header without a unit holds 0 or 1 where nothing was written.
    stated = zoom / {"msec": 1e3, "usec": 1e6}.get(unit, 1.0) if unit != "unknown" or zoom not in (0, 1) else None
    calibration = known.get("ArterialCalibration")
    try:
        in_header = {"the header": None if stated is None else round(stated, 4)}
        tr = choose_time("RepetitionTime", {own: known.get("RepetitionTime")} | in_header, cohort.repetition_time_s)
        te = choose_time("EchoTime", {own: known.get("EchoTime")}, cohort.echo_time_s)
        if calibration is not None and not (isinstance(calibration, int | float) and 0 < calibration <= 10):
            raise ValueError(f"ArterialCalibration is {calibration!r} in {own}: it must lie between 0 and 10")
    except ValueError as error:
        raise Finding(series, str(error), f"RepetitionTime and EchoTime, in s, belong into {own}").error() from None
    return Protocol(tr, te, calibration)


def _make_maps(series: Path, patient: str, target: Path, cohort: CohortProfile, *, reference: bool) -> None:
    analysis = cohort.perfusion or PerfusionProfile(method="osvd", aif="automatic", motion_correction=True)
    analysis = replace(analysis, aif="automatic")  # nobody has placed another
    protocol = read_protocol(series, cohort)
    outputs = {name: layout.file_path(target, patient, name) for name in cohort.maps}
    if reference:
        outputs["dscref"] = layout.file_path(target, patient, "dscref")
    key = layout.file_path(target, patient, "dscref").with_name(f".{patient}_maps-made-from")
    digest = fingerprint(__name__, [series], list(outputs), asdict(analysis), *protocol)
    if is_made(key, digest, outputs.values()):
        return
    image = nifti.read_volume(series, ndim=4)
    x_mm, y_mm, z_mm = (float(size) for size in nib.affines.voxel_sizes(image.affine))
    try:
        made = analyse_series(
            np.asarray(image.dataobj),
            protocol.tr,
            protocol.te,
            (x_mm, y_mm, z_mm),
            analysis,
            calibration=protocol.calibration,
        )
    except ValueError as error:
        raise Finding(series, f"no maps can be made ({error})", NO_SERIES).error() from None
    for name in cohort.maps:
        for finding in find_unit(name, made.maps[name], series):
            if finding.fatal:
                raise Finding(series, f"the {name} map made of it has {finding.problem}", NO_SERIES).error()
    described = {
        "Description": f"made of the DSC series: {analysis.method}, automatic arterial input",
        "RepetitionTime": protocol.tr,
        "EchoTime": protocol.te,
        "FramesLeftOut": {str(frame): why for frame, why in made.left_out.items()},
    }
    if protocol.calibration is None:
        scaled = f"CBF and CBV are relative: scaled so that the median CBV is {TYPICAL_CBV} ml/100 g"
        described |= {"Scale": f"{scaled}, as an arterial calibration of {made.calibration:.3g} does"}
    else:
        described |= {"Scale": "absolute", "ArterialCalibration": protocol.calibration}
    for name, place in outputs.items():
        write_volume(place, made.reference if name == "dscref" else made.maps[name], image.affine)
        if name in MAPS:
            write_json(layout.sidecar_path(place), described | {"Units": MAPS[name].unit})
    write_text(key, digest)


def _make_reference(files: Mapping[str, Path], patient: str, target: Path, cohort: CohortProfile) -> None:
    place = layout.file_path(target, patient, "dscref")
    key = place.with_name(f".{patient}_dscref-made-from")
    maps = {name: files[name] for name in cohort.maps}
    sources = [files["dsc"]] if "dsc" in files else list(maps.values())
    if is_made(key, digest := fingerprint(__name__, sources, list(maps)), [place]):
        return
    if "dsc" in files:
        image = nifti.read_volume(files["dsc"], ndim=4)
        try:
            frames, _, baseline, _ = prepare_series(np.asarray(image.dataobj))
        except ValueError as error:
            raise Finding(files["dsc"], str(error), "give a reference volume or remove the series").error() from None
        reference, how = frames[..., slice(*baseline)].mean(axis=3), "mean of the DSC series before the bolus"
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
