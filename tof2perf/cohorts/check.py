"""Check all of a user's data before hours are spent on them: every problem, with the file and what to do.

``make check DATA=FOLDER`` (``python -m tof2perf.cohorts.check --data FOLDER --profile P``) reads every image once and
prints one table. An error makes a patient unusable, or the whole cohort; a note only asks for attention.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine

from tof2perf.cohorts import intake, layout, map_values, workspace
from tof2perf.cohorts.participants import SPLITS, read_table
from tof2perf.cohorts.splits import TABLE, given_splits, listed_patients
from tof2perf.cohorts.workspace import Workspace
from tof2perf.perfusion.dsc import TYPICAL_CBV
from tof2perf.perfusion.series import prepare_series
from tof2perf.profiles import CohortProfile, ProfileError, load_profile
from tof2perf.system.files import digest, write_table
from tof2perf.system.workers import side_by_side
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import CohortError, Finding, in_mask

SMALLEST_OVERLAP = 0.5  # of the input's field of view must lie in that of the maps, as preprocessing asks of the brain
ON_HEAD = 0.7  # of a brain mask must lie on the head, of a lesion on the maps (assumption)
MASKS = ("brain", "lesion")

Files = dict[str, Path]  # of one patient, by role; images likewise
Images = dict[str, nib.Nifti1Image]


@dataclass(frozen=True)
class Problem:
    """One row of the table; ``fatal`` if the patient cannot be used."""

    cohort: str
    patient: str
    file: str
    problem: str
    remedy: str
    fatal: bool = True


class Report(NamedTuple):
    """What one patient's files say.

    Attributes:
        findings: all but those on the unit of a map.
        units: findings on the unit of a map, by map.
        digests: of each image's voxels, by role, to find one image under two names.
        tops: 95th percentile of the positive values, by map.
    """

    findings: list[Finding]
    units: dict[str, list[Finding]]
    digests: dict[str, str]
    tops: dict[str, float]


def check_cohort(folder: Path, name: str, cohort: CohortProfile, *, jobs: int | None = None) -> list[Problem]:
    """Read a cohort and collect its problems.

    Args:
        folder: the user's BIDS folder; it is only read.
        name: of the cohort.
        cohort: what its patients must have.
        jobs: worker processes; all available cores by default.

    Returns:
        Problems in the order of patients; empty if there is none.
    """

    def problem(patient: str, finding: Finding) -> Problem:
        path = finding.path
        where = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        return Problem(name, patient, where, finding.problem, finding.remedy, finding.fatal)

    if unreadable := [problem("all", finding) for finding in _caught(read_table, folder)]:
        return unreadable
    table = read_table(folder)
    patients = listed_patients(folder, table)
    problems = [problem(*found) for found in _check_table(folder, table, patients)]
    work = functools.partial(check_patient, folder, cohort=cohort)
    reports = dict(zip(patients, side_by_side(work, patients, title=f"check {name}", jobs=jobs), strict=True))
    # A map whose scale is wrong in all patients is a fault of the cohort, not of the few that are beyond any brain.
    tops = {key: [report.tops[key] for report in reports.values() if key in report.tops] for key in cohort.maps}
    scale = map_values.find_scale({key: values for key, values in tops.items() if values})
    problems += [problem("all", finding) for finding in scale.values()]
    if any(layout.has_relative_maps(folder, patient) for patient in patients):
        message = f"CBF and CBV made of series are relative: scaled so that the median CBV is {TYPICAL_CBV} ml/100 g"
        remedy = "write the ArterialCalibration of your sequence into dsc.json, or give the maps"
        problems.append(problem("all", Finding(Path("dsc.json"), message, remedy, fatal=False)))
    first: dict[tuple[str, str], str] = {}
    for patient, report in reports.items():
        units = [finding for key, found in report.units.items() if key not in scale for finding in found]
        problems += [problem(patient, finding) for finding in [*report.findings, *units]]
        twins = {role: first.setdefault((role, digest), patient) for role, digest in report.digests.items()}
        same = [role for role, other in twins.items() if other != patient]
        if same:
            message = f"the same image as {twins[same[0]]} has ({', '.join(same)})"
            remedy = "one of them is a copy: give the right file, or drop one"
            problems.append(Problem(name, patient, "", message, remedy))
    unusable = {entry.patient for entry in problems if entry.fatal}
    people = {layout.subject(patient) for patient in patients if patient not in unusable}
    if len(people) < len(SPLITS):
        remedy = "three are needed at least, one for each split"
        problems.append(Problem(name, "all", "", f"{len(people)} usable patients", remedy))
    return problems


def check_patient(folder: Path, patient: str, cohort: CohortProfile) -> Report:
    """Read all of one patient's images."""
    files = layout.find_files(folder, patient, cohort)
    findings = [*layout.find_missing(folder, patient, cohort), *_find_unused(folder, patient, cohort)]
    from_series = not files.keys() & set(cohort.maps)
    images: Images = {}
    digests: dict[str, str] = {}
    for role, path in files.items():
        if role == "dsc" and not from_series and "dscref" in files:
            continue  # nothing is made of it
        image, found = nifti.inspect(path, ndim=4 if role == "dsc" else 3, constant=role in MASKS)
        findings += found
        if image is not None:
            images[role] = image
            if role not in MASKS:
                data = np.ascontiguousarray(image.dataobj)
                digests[role] = digest(str(data.shape).encode() + data.tobytes())
    maps = {key: images[key] for key in cohort.maps if key in images}
    units = {key: map_values.find_unit(key, np.asarray(image.dataobj), files[key]) for key, image in maps.items()}
    if "dsc" in images and from_series:
        findings += _check_series(files["dsc"], images["dsc"], cohort)
    if maps:
        findings += nifti.find_other_grids(maps, files)
    findings += [*_check_positions(files, images, maps), *_check_masks(files, images, maps)]
    tops = {key: map_values.top(np.asarray(image.dataobj)) for key, image in maps.items()}
    return Report(list(dict.fromkeys(findings)), units, digests, tops)


# --- parts of one patient ---------------------------------------------------------------------------------------------


def _check_series(path: Path, series: nib.Nifti1Image, cohort: CohortProfile) -> Iterator[Finding]:
    """Report a series of which no maps can be made, and the frames that would be left out."""
    yield from _caught(intake.read_protocol, path, cohort)
    try:
        left_out = prepare_series(np.asarray(series.dataobj)).left_out
    except ValueError as error:
        yield Finding(path, f"no maps can be made: {error}", intake.NO_SERIES)
        return
    if left_out:
        frames = ", ".join(f"{frame} ({why})" for frame, why in left_out.items())
        yield Finding(path, f"frames left out: {frames}", "look at them; nothing need be done", fatal=False)


def _check_positions(files: Files, images: Images, maps: Images) -> Iterator[Finding]:
    """Report maps, reference and series not in the scanner space of the input, or stored from another side."""
    if (tof := images.get("tof")) is None:
        return
    points = np.argwhere(np.ones((12, 12, 12))) * (np.subtract(tof.shape, 1) / 11)  # over the whole field of view
    for role in [*list(maps)[:1], *(role for role in ("dscref", "dsc") if role in images)]:
        overlap = _share_on(points, tof.affine, images[role])
        if overlap < SMALLEST_OVERLAP:
            message = f"far from the input: {overlap:.0%} of the input's field of view is covered"
            yield Finding(files[role], message, "export both in scanner coordinates, and check both affines")
        elif np.linalg.det(tof.affine[:3, :3]) * np.linalg.det(images[role].affine[:3, :3]) < 0:
            message = "left and right are stored the other way round than in the input"
            remedy = "both affines are honoured: look at one patient, in case a tool flipped voxels and not the affine"
            yield Finding(files[role], message, remedy, fatal=False)


def _check_masks(files: Files, images: Images, maps: Images) -> Iterator[Finding]:
    if "brain" in images and "tof" in images:
        tof, brain, inside = images["tof"], images["brain"], in_mask(images["brain"])
        if not inside.any():
            remedy = "draw it again, or remove it to have one made"
            yield Finding(files["brain"], "the brain mask is empty", remedy)
        elif (volume := inside.sum() * space.voxel_ml(brain)) > space.LARGEST_BRAIN_ML:
            yield Finding(files["brain"], f"a brain of {volume:,.0f} ml", space.NO_HEAD)
        elif (share := _share_on(np.argwhere(inside), brain.affine, tof, _head(tof))) < ON_HEAD:
            yield Finding(files["brain"], f"off the head: {share:.0%} of the mask lies on it", "check affine and size")
    if "lesion" in images and maps:
        lesion, inside = images["lesion"], in_mask(images["lesion"])
        first = next(iter(maps.values()))
        support = map_values.where_measured([np.asarray(m.dataobj) for m in maps.values() if m.shape == first.shape])
        voxels = np.argwhere(inside)
        if len(voxels) and (share := _share_on(voxels, lesion.affine, first, support)) < ON_HEAD:
            yield Finding(files["lesion"], f"off the maps: {share:.0%} of the lesion lies on them", "check its affine")


def _find_unused(folder: Path, patient: str, cohort: CohortProfile) -> Iterator[Finding]:
    places = layout.file_paths(folder, patient, cohort)
    remedy = f"not used; a cohort's files have the names of data/README.md, its input is {cohort.input}"
    for parent in sorted({path.parent for path in places.values()}):
        for path in nifti.list_images(parent):
            if path not in places.values():
                yield Finding(path, "an image that no name asks for", remedy, fatal=False)


def _head(image: nib.Nifti1Image) -> np.ndarray:
    """Voxels that are not air, of any modality (assumption: 15 % of the way from the darkest to the brightest)."""
    values = np.asarray(image.dataobj, dtype=np.float32)
    dark, bright = np.percentile(values, (2, 98))
    return values > dark + 0.15 * (bright - dark)


def _share_on(
    voxels: np.ndarray, affine: np.ndarray, image: nib.Nifti1Image, wanted: np.ndarray | None = None
) -> float:
    """Share of voxels (n, 3), at most 20,000 of them, that lie in another image, on its ``wanted`` voxels if given."""
    voxels = voxels[:: max(len(voxels) // 10_000, 1)]
    index = np.round(apply_affine(np.linalg.inv(image.affine) @ affine, voxels)).astype(int)
    held = np.all((index >= 0) & (index < image.shape[:3]), axis=1)
    hits = held if wanted is None else wanted[tuple(index[held].T)]
    return float(np.count_nonzero(hits)) / len(voxels)


# --- the cohort as a whole --------------------------------------------------------------------------------------------


def _check_table(folder: Path, table: pd.DataFrame | None, patients: list[str]) -> Iterator[tuple[str, Finding]]:
    """Report what is wrong with the description, the list of patients and the splits: patient (or all) and finding."""
    for finding in _caught(workspace.source, folder):
        yield "all", finding
    if table is None:
        return
    there = layout.list_patients(folder)
    for patient in patients:
        if patient not in there:
            yield patient, Finding(TABLE, "listed, but has no folder", "remove the row, or provide the images")
        for finding in _caught(given_splits, table, [patient]):
            yield patient, finding
    for patient in there:
        if patient not in patients:
            remedy = "left out; add a row to use the patient"
            yield patient, Finding(TABLE, "has a folder, but is not listed", remedy, fatal=False)
    if "split" in table and (empty := [split for split in SPLITS if split not in set(table.split)]):
        remedy = "assign some, or remove the column to have splits drawn"
        yield "all", Finding(TABLE, f"no patient in {', '.join(empty)}", remedy)


def _caught(function: Callable, *arguments: object) -> Iterator[Finding]:
    """Report the error that a reader raises, if it does."""
    try:
        function(*arguments)
    except CohortError as error:
        yield error.finding or Finding(Path(), str(error), "")


# --- command line -----------------------------------------------------------------------------------------------------


def format_table(problems: Iterable[Problem]) -> str:
    """Return the table as text: patient, file, problem, remedy; notes are marked as such."""
    rows = [
        (f"{p.cohort}/{p.patient}", p.file or "–", p.problem if p.fatal else f"note: {p.problem}", p.remedy)
        for p in problems
    ]
    return pd.DataFrame(rows, columns=["patient", "file", "problem", "remedy"]).to_markdown(index=False)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if every patient can be used, or with ``--drop`` if those that are left can."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.cohorts.check", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds the cohorts")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--root", default=".", help="folder that data/ and results/ are written to")
    parser.add_argument("--drop", action="store_true", help="leave out of later runs the patients that cannot be used")
    options = parser.parse_args(arguments)
    run = Workspace(options.profile, options.root, options.data)
    try:
        profile = load_profile(options.profile)
        cohorts = run.cohorts(profile.cohorts)
    except (ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    problems = [entry for name in cohorts for entry in check_cohort(run.cohort(name), name, profile.cohorts[name])]
    fatal = [entry for entry in problems if entry.fatal]
    if problems:
        print(format_table(problems))
    dropped = {(entry.cohort, entry.patient): entry for entry in reversed(fatal) if entry.patient != "all"}
    beyond = [entry for entry in fatal if entry.patient == "all"]
    total = sum(len(layout.list_patients(run.cohort(name))) for name in cohorts)
    print(f"{', '.join(cohorts)}: {total} patients, {len(dropped)} cannot be used, {len(problems) - len(fatal)} notes")
    if options.drop and dropped:
        rows = [(*key, f"{entry.file} {entry.problem}".strip()) for key, entry in sorted(dropped.items())]
        write_table(run.dropped, pd.DataFrame(rows, columns=list(workspace.DROPPED)))
        print(f"left out: {', '.join('/'.join(key) for key in sorted(dropped))}; the list is {run.dropped}")
    elif options.drop:
        run.dropped.unlink(missing_ok=True)
    elif run.dropped.is_file():
        print(f"{run.dropped} leaves patients out; check with DROP=1 again, or remove it, to change that")
    return 1 if beyond or (dropped and not options.drop) else 0


if __name__ == "__main__":
    sys.exit(main())
