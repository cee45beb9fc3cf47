"""Look at all of a person's data before hours are spent on them: every problem, with the file and what to do.

``make check DATA=FOLDER`` (``python -m tof2perf.cohorts.check --data FOLDER --profile P``) reads every image once and
prints one table. What makes a patient unusable is an error, what only deserves a look is a note.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine
from tqdm.auto import tqdm

from tof2perf.cohorts import intake, layout, workspace
from tof2perf.cohorts.participants import SPLITS
from tof2perf.cohorts.splits import given_splits, listed_patients, read_table
from tof2perf.cohorts.workspace import Workspace
from tof2perf.maps import MAPS
from tof2perf.profiles import CohortProfile, ProfileError, load_profile
from tof2perf.system.files import write_table
from tof2perf.system.workers import tied
from tof2perf.volumes import headers, space
from tof2perf.volumes.nifti import CohortError

# 95th percentile of a map's positive voxels that a brain can have, in its unit (assumption: wide, units differ by 100).
PLAUSIBLE = {"tmax": (0.2, 100.0), "cbf": (5.0, 1000.0), "cbv": (0.5, 100.0), "mtt": (0.5, 100.0), "ttp": (0.3, 200.0)}
FACTORS = {  # what to multiply by if the map came in another unit
    "s": {"ms": 1e-3, "min": 60.0},
    "ml/100 g/min": {"ml/g/min": 100.0, "ml/g/s": 6000.0},
    "ml/100 g": {"ml/g": 100.0},
}
FEWEST_FRAMES = 20  # of a DSC series: a bolus and what comes before it (assumption)
SMALLEST_OVERLAP = 0.5  # of the input's field of view must lie in that of the maps, as preprocessing asks of the brain
ON_HEAD = 0.7  # of a brain mask must lie on the head, of a lesion on the maps (assumption)
# Gain in Dice of the outlines by mirroring from which it is mentioned. Heads lie askew, which is what tells: of 60
# simulated patients none gained as they were, and 45 did when their maps were mirrored; a hint, no proof.
MIRRORED = 0.01
COARSE_MM = 6.0  # grid on which outlines are compared


@dataclass(frozen=True)
class Problem:
    """One row of the table; ``fatal`` if the patient cannot be used."""

    cohort: str
    patient: str
    file: str
    problem: str
    remedy: str
    fatal: bool = True


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
    try:
        table = read_table(folder)
    except CohortError as error:
        problem, _, remedy = str(error).partition("; ")
        return [Problem(name, "all", "participants.tsv", problem, remedy)]
    patients = listed_patients(folder, table)
    found = _check_table(folder, name, table, patients)
    work = joblib.delayed(check_patient)
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=jobs or joblib.cpu_count(), return_as="generator", **tied())
        results = pool(work(folder, name, patient, cohort) for patient in patients)
        looked = list(tqdm(results, total=len(patients), desc=f"check {name}", mininterval=1.0))
    first: dict[tuple[str, str], str] = {}
    for patient, (problems, contents) in zip(patients, looked, strict=True):
        found += problems
        twins = {role: first.setdefault((role, digest), patient) for role, digest in contents.items()}
        same = [role for role, other in twins.items() if other != patient]
        if same:
            message = f"the same image as {twins[same[0]]} has ({', '.join(same)})"
            found.append(Problem(name, patient, "", message, "one of them is a copy: give the right file, or drop one"))
    unusable = {entry.patient for entry in found if entry.fatal}
    people = {layout.subject(patient) for patient in patients if patient not in unusable}
    if len(people) < len(SPLITS):
        remedy = "three are needed at least, one for each split"
        found.append(Problem(name, "all", "", f"{len(people)} usable patients", remedy))
    return found


def check_patient(folder: Path, name: str, patient: str, cohort: CohortProfile) -> tuple[list[Problem], dict[str, str]]:
    """Read all of one patient's images.

    Returns:
        The problems, and a digest of each image's voxels by role, to find one image under two names.
    """
    found: list[Problem] = []
    digests: dict[str, str] = {}

    def report(path: Path | str, problem: str, remedy: str, *, fatal: bool = True) -> None:
        where = str(Path(path).relative_to(folder)) if isinstance(path, Path) else path
        found.append(Problem(name, patient, where, problem, remedy, fatal))

    def read(role: str, path: Path | None, ndim: int = 3, *, constant: bool = False) -> nib.Nifti1Image | None:
        if path is None:
            return None
        image, problems = headers.read_image(path, ndim=ndim, constant=constant)
        for problem, remedy, fatal in problems:
            report(path, problem, remedy, fatal=fatal)
        if image is not None and role != "brain" and role != "lesion":
            data = np.ascontiguousarray(image.dataobj)
            digests[role] = hashlib.sha256(str(data.shape).encode() + data.tobytes()).hexdigest()
        return image

    given = intake.find_files(folder, patient, cohort)
    image = read(cohort.input, given.image)
    if given.image is None:
        path = layout.input_path(folder, patient, cohort.input)
        report(path, f"no {cohort.modality}", "provide it, or leave the patient out")
    maps = {key: read(key, path) for key, path in given.maps.items()}
    usable = {key: volume for key, volume in maps.items() if volume is not None}
    missing = [key for key in cohort.maps if key not in given.maps]
    from_series = not given.maps and given.series is not None
    if missing and not from_series:
        path = layout.map_path(folder, patient, missing[0])
        remedy = "provide them, or remove all maps and give a DSC series" if given.maps else "provide them"
        report(path, f"no {', '.join(missing)}", remedy)
    for key, volume in usable.items():
        for problem, remedy in check_unit(key, np.asarray(volume.dataobj)):
            report(given.maps[key], problem, remedy)
    if given.series is not None and (from_series or given.reference is None):
        series = read("dsc", given.series, 4)
        if series is not None and from_series:
            _check_series(given.series, series, cohort, report)
    reference = read("dscref", given.reference)
    _check_extra(folder, patient, cohort, given, report)
    if usable:
        _check_grids(given, image, usable, reference, report)
    _check_masks(given, image, usable, read, report)
    return found, digests


def check_unit(name: str, values: np.ndarray) -> list[tuple[str, str]]:
    """Problem and remedy if a map's values belong to another unit than that of the registry.

    >>> check_unit("tmax", np.array([0.0, 2000.0, 8000.0]))[0][1]
    'multiply by 0.001'
    """
    positive = values[values > 0]
    if not positive.size:
        return [("no value is above 0", "export the map again")]
    top = float(np.percentile(positive, 95))
    low, high = PLAUSIBLE[name]
    if low <= top <= high:
        return []
    unit = MAPS[name].unit
    for other, factor in FACTORS[unit].items():
        if low <= top * factor <= high:
            return [(f"values up to {top:.3g}: looks like {other}, not {unit}", f"multiply by {factor:g}")]
    return [(f"values up to {top:.3g} are not {unit}", f"convert to {unit}; 95 % should lie in {low:g} to {high:g}")]


# --- parts of one patient ---------------------------------------------------------------------------------------------


def _check_series(path: Path, series: nib.Nifti1Image, cohort: CohortProfile, report: Any) -> None:
    if series.shape[3] < FEWEST_FRAMES:
        report(path, f"only {series.shape[3]} frames", f"maps need a whole bolus, {FEWEST_FRAMES} frames at least")
    try:
        intake.timing(path, cohort)
    except CohortError as error:
        problem, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        report(path, problem, remedy)


def _check_grids(
    given: intake.Files,
    image: nib.Nifti1Image | None,
    maps: dict[str, nib.Nifti1Image],
    reference: nib.Nifti1Image | None,
    report: Any,
) -> None:
    """Maps on one grid; maps, reference and input in one scanner space and, as far as can be told, on one side."""
    name, first = next(iter(maps.items()))
    for other, volume in maps.items():
        if volume.shape != first.shape or not np.allclose(volume.affine, first.affine, atol=1e-3):
            report(given.maps[other], f"not on the grid of the {name} map", "resample it to that grid")
    if image is None:
        return
    others = {given.maps[name]: first} | ({given.reference: reference} if reference is not None else {})
    for path, volume in others.items():
        overlap = _overlap(image, volume)
        if overlap < SMALLEST_OVERLAP:
            report(
                path,
                f"far from the input: {overlap:.0%} of the input's field of view is covered",
                "export both in scanner coordinates, and check both affines",
            )
            continue
        turned = [np.linalg.det(entry.affine[:3, :3]) < 0 for entry in (image, volume)]
        if turned[0] != turned[1]:
            report(
                path,
                "left and right are stored the other way round than in the input",
                "both affines are honoured; look at one patient, in case a tool flipped voxels and not the affine",
                fatal=False,
            )
        gain = _gain_by_mirroring(image, volume)
        if gain > MIRRORED:
            report(
                path,
                f"looks mirrored: the outlines agree better if it is flipped left to right (Dice +{gain:.2f})",
                "compare with the input by a known asymmetry; if so, repair voxels or affine",
                fatal=False,
            )


def _check_masks(
    given: intake.Files, image: nib.Nifti1Image | None, maps: dict[str, nib.Nifti1Image], read: Any, report: Any
) -> None:
    brain = read("brain", given.brain, constant=True)
    if brain is not None and image is not None and given.brain is not None:
        inside = np.asarray(brain.dataobj) > 0
        if not inside.any():
            report(given.brain, "the brain mask is empty", "draw it again, or remove it to have one made")
        elif (share := _share_on(brain, inside, image, _head(image))) < ON_HEAD:
            report(given.brain, f"off the head: {share:.0%} of the mask lies on it", "check its affine and its size")
    lesion = read("lesion", given.lesion, constant=True)
    if lesion is not None and maps and given.lesion is not None:
        inside = np.asarray(lesion.dataobj) > 0
        first = next(iter(maps.values()))
        support = np.any(
            [np.asarray(volume.dataobj) != 0 for volume in maps.values() if volume.shape == first.shape], 0
        )
        if inside.any() and (share := _share_on(lesion, inside, first, support)) < ON_HEAD:
            report(given.lesion, f"off the maps: {share:.0%} of the lesion lies on them", "check its affine")


def _check_extra(folder: Path, patient: str, cohort: CohortProfile, given: intake.Files, report: Any) -> None:
    used = {given.image, given.series, given.reference, given.brain, given.lesion, *given.maps.values()}
    places = {place(folder, patient).parent for place in (layout.dsc_path, layout.dscref_path)}
    places |= {layout.input_path(folder, patient).parent, layout.brain_mask_path(folder, patient).parent}
    places.add(layout.lesion_mask_path(folder, patient).parent)
    for place in sorted(places):
        for path in sorted([*place.glob("*.nii"), *place.glob("*.nii.gz")]):
            if path not in used:
                remedy = f"not used; a cohort's files have the names of data/README.md, its input is {cohort.input}"
                report(path, "an image that no name asks for", remedy, fatal=False)


def _head(image: nib.Nifti1Image) -> np.ndarray:
    """Voxels that are not air, of any modality (assumption: 15 % of the way from the darkest to the brightest)."""
    values = np.asarray(image.dataobj, dtype=np.float32)
    dark, bright = np.percentile(values, (2, 98))
    return values > dark + 0.15 * (bright - dark)


def _share_on(mask: nib.Nifti1Image, inside: np.ndarray, image: nib.Nifti1Image, wanted: np.ndarray) -> float:
    """Share of a mask's voxels (10,000 of them) whose position in another image is one of the wanted voxels."""
    points = np.argwhere(inside)
    points = points[:: max(len(points) // 10_000, 1)]
    index = np.round(apply_affine(np.linalg.inv(image.affine) @ mask.affine, points)).astype(int)
    held = np.all((index >= 0) & (index < image.shape[:3]), axis=1)
    hits = wanted[tuple(index[held].T)]
    return float(np.count_nonzero(hits)) / len(points)


def _overlap(image: nib.Nifti1Image, other: nib.Nifti1Image) -> float:
    """Share of the field of view of ``image`` that lies in that of ``other``."""
    axes = [np.linspace(0, size - 1, 12) for size in image.shape[:3]]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    index = apply_affine(np.linalg.inv(other.affine) @ image.affine, points)
    held = np.all((index >= -0.5) & (index <= np.subtract(other.shape[:3], 0.5)), axis=1)
    return float(held.mean())


def _gain_by_mirroring(image: nib.Nifti1Image, other: nib.Nifti1Image) -> float:
    """Dice of the outlines with ``other`` mirrored along its axis from left to right, minus Dice as it is."""
    shape = space.coarse_shape(image, COARSE_MM)
    head = space.resize(_head(image), shape) > 0.5
    grid = nib.Nifti1Image(head.astype(np.uint8), space.resized_affine(image, shape))
    outline = _head(other).astype(np.float32)
    axis = int(np.argmax(np.abs(nib.affines.apply_affine(other.affine, np.eye(3)) - other.affine[:3, 3])[:, 0]))
    dice = []
    for volume in (outline, np.flip(outline, axis)):
        there = space.resample(nib.Nifti1Image(volume, other.affine), grid) > 0.5
        both, total = int(np.count_nonzero(there & head)), int(np.count_nonzero(there) + np.count_nonzero(head))
        dice.append(2 * both / max(total, 1))
    return dice[1] - dice[0]


# --- the cohort as a whole --------------------------------------------------------------------------------------------


def _check_table(folder: Path, name: str, table: pd.DataFrame | None, patients: list[str]) -> list[Problem]:
    found = []
    try:
        workspace.source(folder)
    except CohortError as error:
        problem, _, remedy = str(error).partition("; ")
        found.append(Problem(name, "all", "dataset_description.json", problem, remedy))
    if table is None:
        return found
    there = layout.list_patients(folder)
    for patient in patients:
        if patient not in there:
            remedy = "remove the row, or provide the images"
            found.append(Problem(name, patient, "participants.tsv", "listed, but has no folder", remedy))
    for patient in there:
        if patient not in patients:
            remedy = "left out; add a row to use the patient"
            found.append(Problem(name, patient, "participants.tsv", "has a folder, but is not listed", remedy, False))
    for patient in patients:
        try:
            given_splits(table, [patient])
        except CohortError as error:
            problem, _, remedy = str(error).removeprefix("participants.tsv: ").partition("; ")
            found.append(Problem(name, patient, "participants.tsv", problem, remedy))
    people: dict[str, set[str]] = {}
    if "split" in table and not any(entry.fatal for entry in found):
        for patient, split in zip(table.participant_id, table.split, strict=True):
            people.setdefault(layout.subject(patient), set()).add(split)
        for person, splits in people.items():
            if len(splits) > 1:
                for patient in (entry for entry in patients if layout.subject(entry) == person):
                    message = f"{person} is in two splits ({', '.join(sorted(splits))})"
                    found.append(Problem(name, patient, "participants.tsv", message, "choose one of them"))
        empty = [split for split in SPLITS if not any(split in splits for splits in people.values())]
        if empty:
            remedy = "assign some, or remove the column to have splits drawn"
            found.append(Problem(name, "all", "participants.tsv", f"no patient in {', '.join(empty)}", remedy))
    return found


# --- command line -----------------------------------------------------------------------------------------------------


def format_table(problems: Iterable[Problem]) -> str:
    """The table as text: patient, file, problem, remedy; notes are marked as such."""
    head = ("patient", "file", "problem", "remedy")
    rows = [
        (f"{p.cohort}/{p.patient}", p.file or "–", p.problem if p.fatal else f"note: {p.problem}", p.remedy)
        for p in problems
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(3)]
    lines = [head, tuple("-" * width for width in [*widths, 6]), *rows]
    return "\n".join(
        " | ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in lines
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if every patient can be used, or with ``--drop`` if those that are left can."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.cohorts.check", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that holds the cohorts")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--root", default=".", help="folder that data/ and results/ are written to")
    parser.add_argument("--drop", action="store_true", help="leave out whom it cannot use, in the runs that follow")
    found = parser.parse_args(arguments)
    here = Workspace(found.profile, found.root, found.data)
    try:
        profile = load_profile(found.profile)
        cohorts = here.cohorts(profile.cohorts)
    except (ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    problems = [entry for name in cohorts for entry in check_cohort(here.cohort(name), name, profile.cohorts[name])]
    fatal = [entry for entry in problems if entry.fatal]
    if problems:
        print(format_table(problems))
    dropped = {(entry.cohort, entry.patient): entry for entry in reversed(fatal) if entry.patient != "all"}
    beyond = [entry for entry in fatal if entry.patient == "all"]
    total = sum(len(layout.list_patients(here.cohort(name))) for name in cohorts)
    print(f"{', '.join(cohorts)}: {total} patients, {len(dropped)} cannot be used, {len(problems) - len(fatal)} notes")
    if found.drop and dropped:
        rows = [(*key, f"{entry.file} {entry.problem}".strip()) for key, entry in sorted(dropped.items())]
        write_table(here.dropped, pd.DataFrame(rows, columns=list(workspace.DROPPED)))
        print(f"left out: {', '.join('/'.join(key) for key in sorted(dropped))}; the list is {here.dropped}")
    elif found.drop:
        here.dropped.unlink(missing_ok=True)
    elif here.dropped.is_file():
        print(f"{here.dropped} leaves patients out; check with DROP=1 again, or remove it, to change that")
    return 1 if beyond or (dropped and not found.drop) else 0


if __name__ == "__main__":
    sys.exit(main())
