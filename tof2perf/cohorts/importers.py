"""Link foreign folders into the layout that `make paper DATA=` reads: nothing is copied, nothing changed.

``python -m tof2perf import`` calls these functions. An import that was interrupted, or whose source has got more
patients, is called again: links that exist stay.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tof2perf.cohorts import layout
from tof2perf.cohorts.participants import read_table
from tof2perf.maps import MAPS
from tof2perf.system.files import link, write_bytes, write_json, write_table
from tof2perf.volumes.nifti import CohortError, find_absence, list_images, stem, with_ending_of

# Roles by the ending of a name. The paper's folders held TOF and maps; the others are read if they are there.
PAPER = {"TOF": "tof", **{name.upper(): name for name in MAPS}}
PAPER |= {"CTA": "cta", "DSC": "dsc", "DSCREF": "dscref", "BRAIN": "brain", "LESION": "lesion"}
PAPER_NAME = re.compile(rf"(?P<id>.+?)(_ses-(?P<session>[A-Za-z0-9]+))?_(?P<role>{'|'.join(PAPER)})", re.IGNORECASE)
ISLES_NAME = re.compile(
    r"sub-(?P<id>[A-Za-z0-9]+)_ses-0*(?P<session>\d+)_(?P<space>space-ncct_)?(?P<role>cta|tmax|cbf|cbv|mtt)",
    re.IGNORECASE,
)
ISLES = "isles24"

Found = dict[str, dict[str, Path]]  # patient -> role -> file


def import_paper_naming(source: Path, data: Path, *, cohort: str = "") -> dict[str, list[str]]:
    """Link folders in the paper's naming into cohorts.

    Args:
        source: folder with one folder a cohort, or the folder of one cohort.
        data: folder that becomes ``DATA``; never inside ``source``.
        cohort: name, if ``source`` is one cohort; that of the folder by default.

    Returns:
        Remarks by cohort: files that no name explains, patients who lack something.

    Raises:
        CohortError: no file follows the naming, or two patients would get one name.
    """
    source = Path(source)
    inside = {folder.name: folder for folder in sorted(source.glob("*")) if folder.is_dir() and list_images(folder)}
    folders = {cohort or source.resolve().name: source} if list_images(source) else inside
    if not folders:
        raise CohortError(f"{source}: no <id>_TOF.nii.gz here or one folder below; give the folder of the cohorts")
    remarks: dict[str, list[str]] = {}
    for name, folder in folders.items():
        found: Found = {}
        names: dict[str, str] = {}
        remarks[name] = []
        for path in list_images(folder):
            match = PAPER_NAME.fullmatch(stem(path))
            if match is None:
                remarks[name].append(f"{path.name}: no part of the paper's naming, not imported")
                continue
            patient = _label(match["id"])
            if names.setdefault(patient, match["id"]) != match["id"]:
                raise CohortError(f"{path}: '{match['id']}' and '{names[patient]}' both become {patient}; rename one")
            patient += f"_ses-{match['session']}" if match["session"] else ""
            remarks[name] += _take(found, patient, PAPER[match["role"].upper()], path)
        remarks[name] += _write_cohort(found, Path(data) / name, names=names, source=folder, name=name)
    return remarks


def import_isles24(source: Path, data: Path) -> dict[str, list[str]]:
    """Link ISLES'24 into the cohort ``isles24``: CT angiography and the maps in its space, of the first session.

    Files are recognised by their names: mirrors differ in folders (``rawdata``, ``ses-0001``, one folder
    for all). The lesion of the second session is an infarct days later, no hypoperfused tissue: it is left out.

    Args:
        source: folder of the dataset, anything above the patients.
        data: folder that becomes ``DATA``.

    Returns:
        Remarks by cohort.

    Raises:
        CohortError: no file follows the naming.
    """
    found: Found = {}
    first: dict[str, int] = {}
    names: dict[str, str] = {}
    remarks: list[str] = []
    matches = [(path, ISLES_NAME.fullmatch(stem(path))) for path in list_images(Path(source), "**/*.nii*")]
    known = [(path, match) for path, match in matches if match is not None]
    for _, match in sorted(known, key=lambda entry: int(entry[1]["session"])):
        first.setdefault(match["id"], int(match["session"]))
    for path, match in known:
        patient, role = _label(match["id"]), match["role"].lower()
        raw = role == "cta" and not match["space"] and "derivatives" not in path.parts
        if int(match["session"]) != first[match["id"]] or raw:  # as acquired, a CTA does not lie where the maps do
            continue
        names[patient] = f"sub-{match['id']}"
        remarks += _take(found, patient, role, path)
    if not found:
        raise CohortError(f"{source}: no sub-..._space-ncct_tmax.nii.gz below; give the folder of ISLES'24")
    remarks += _write_cohort(found, Path(data) / ISLES, names=names, source=Path(source), name="ISLES'24")
    return {ISLES: remarks}


def export_paper_naming(cohort: Path, target: Path) -> int:
    """Link a cohort's TOF and maps under the paper's naming, as an author's folder looks.

    Where the images come from goes along (``dataset_description.json``), so that simulated ones stay marked as such.

    Returns:
        Number of patients.
    """
    patients = layout.list_patients(Path(cohort))
    for patient in patients:
        for role in ("tof", *MAPS):
            path = layout.file_path(Path(cohort), patient, role)
            if path.is_file():
                place = Path(target) / f"{patient.removeprefix('sub-')}_{role.upper()}.nii.gz"
                link(path, with_ending_of(place, path))
    description = Path(cohort) / "dataset_description.json"
    if description.is_file():
        write_bytes(Path(target) / description.name, description.read_bytes())
    return len(patients)


# --- steps all importers share ----------------------------------------------------------------------------------------


def _label(name: str) -> str:
    """A BIDS label has letters and digits only."""
    return "sub-" + re.sub(r"[^A-Za-z0-9]", "", name.removeprefix("sub-"))


def _take(found: Found, patient: str, role: str, path: Path) -> list[str]:
    """Note a file; of two for one role the first stays, and a remark says so."""
    if (absence := find_absence(path)) is not None:
        raise absence.error()
    kept = found.setdefault(patient, {}).setdefault(role, path)
    return [] if kept == path else [f"{patient}: {path} is left out, {kept} has the same role"]


def _write_cohort(found: Found, target: Path, *, names: Mapping[str, str], source: Path, name: str) -> list[str]:
    """Link images and sidecars, describe the cohort, list its patients; return who lacks something.

    The source's own description is taken if it has one, which tells simulated from real. In ``participants.tsv``, rows
    that are there stay (splits may have been added), new patients follow.
    """
    for patient, roles in sorted(found.items()):
        for role, path in roles.items():
            place = with_ending_of(layout.file_path(target, patient, role), path)
            link(path, place)
            if (sidecar := layout.sidecar_path(path)).is_file():
                link(sidecar, layout.sidecar_path(place))
    given = source / "dataset_description.json"
    if given.is_file():
        write_bytes(target / given.name, given.read_bytes())
    elif not (target / given.name).is_file():
        write_json(target / given.name, {"Name": name, "BIDSVersion": "1.10.0"})
    people = list(dict.fromkeys(layout.subject(patient) for patient in sorted(found)))
    rows = pd.DataFrame({"participant_id": people, "source_id": [names[person] for person in people]})
    if (before := read_table(target)) is not None:
        rows = pd.concat([before, rows[~rows.participant_id.isin(before.participant_id)]]).fillna("")
    elif (more := read_table(source)) is not None:
        more["participant_id"] = more.participant_id.map(_label)
        rows = rows.merge(more.drop_duplicates("participant_id"), how="left", on="participant_id").fillna("")
    write_table(target / "participants.tsv", rows)
    without = [patient for patient, roles in sorted(found.items()) if not roles.keys() & {"tof", "cta"}]
    return [f"{patient}: no TOF or CTA where the maps are" for patient in without]
