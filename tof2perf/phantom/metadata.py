"""Describe a simulated cohort in BIDS terms; the texts, columns and protocols are files in ``metadata/``.

In those files ``null`` and ``{name}`` mark what the profile decides. A sidecar holds the paper's values where the paper
states them (Methods, "Data and Pre-processing"); what it does not state is left out. For acute stroke the paper names
three scanner models, not which patient lay in which. It states the Magnetom Trio of chronic disease for the TOF.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tof2perf import __version__
from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.perfusion.dsc import KAPPA
from tof2perf.phantom import scanner
from tof2perf.profiles import CohortProfile, PhantomProfile
from tof2perf.system.files import write_json, write_text

SITES = {"acute": "Heidelberg", "chronic": "Berlin"}  # where the paper's study was made, by the course of the disease
# Mean and SD of the age in years. The paper gives no ages; these are assumptions. Acute: near the median and the
# quartiles (68; 57 and 77 years) of five trials of thrombectomy, doi 10.1016/S0140-6736(16)00163-X. Chronic: near the
# mean (69 years) of a trial of carotid stenosis, doi 10.1056/NEJMoa0912321.
AGES = {"acute": (68.0, 14.0), "chronic": (69.0, 9.0)}
AGE_LIMITS = (18.0, 100.0)
AGE_BANDS = {"18-39": 18, "40-49": 40, "50-59": 50, "60-69": 60, "70-79": 70, "80+": 80}  # first year of each
AGE_STREAM = 0xA6E  # own branch of a patient's entropy: what is drawn here never moves what the physics draws

METHODS = {
    "bcsvd": "block-circulant SVD",
    "osvd": "block-circulant SVD, threshold by oscillation index",
    "parametric": "parametric deconvolution, Tmax is the arrival of the bolus",
}
AIFS = {"automatic": "found automatically", "contralateral M2": "placed in M2 of the less diseased side"}


def write_descriptions(folder: Path, name: str, *, cohort: CohortProfile) -> None:
    """Write what describes a cohort as a whole: descriptions, columns, README files and lists of files to ignore.

    Args:
        folder: the cohort's BIDS folder.
        name: the cohort's name.
        cohort: the disease, which chooses the published protocol, and the perfusion analysis.
    """
    simulation = cohort.simulation
    title = f"simulated cohort {name}"
    description = _read_json("dataset_description.json") | {"Name": title}
    description["GeneratedBy"][0]["Version"] = __version__
    write_json(folder / "dataset_description.json", description)
    write_text(folder / "participants.json", _read("participants.json"))
    write_text(folder / "README", _read("README").format(name=name, site=SITES[simulation.disease.course]))
    write_text(folder / ".bidsignore", _read("bidsignore"))

    corrected = "corrected" if simulation.perfusion.motion_correction else "not corrected"
    analysis = f"{METHODS[simulation.perfusion.method]}, arterial input {AIFS[simulation.perfusion.aif]}"
    analysis = f"{analysis}, head motion {corrected}"
    derived = description | {"DatasetType": "derivative", "SourceDatasets": [{"URL": "../.."}]}
    for part, kind, text in (
        ("dsc", "Perfusion maps", f"Made from the series: {analysis}."),
        ("truth", "Ground truth", "Read by tests and by pages that explain, never by an analysis."),
    ):
        target = folder / "derivatives" / part
        write_json(target / "dataset_description.json", derived | {"Name": f"{title}: {kind.lower()}"})
        write_text(target / "README", _read("README_derivative").format(title=kind, name=name, text=text))
        write_text(target / ".bidsignore", _read(f"bidsignore_{part}"))
    for perfusion_map in MAPS.values():
        sidecar = {
            "Description": f"{perfusion_map.label} of the simulated series: {analysis}",
            "Units": perfusion_map.unit,
            "SkullStripped": True,
            "Simulated": True,
        }
        scale = {"Kappa": KAPPA} if perfusion_map.name in ("cbf", "cbv") else {}
        write_json(folder / "derivatives" / "dsc" / f"{perfusion_map.name}.json", sidecar | scale)
    for key, sidecar in _read_json("truth.json").items():
        write_json(folder / "derivatives" / "truth" / f"desc-true_{key}.json", sidecar)


def write_sidecars(folder: Path, patient: str, *, cohort: CohortProfile, phantom: PhantomProfile) -> None:
    """Write the JSON sidecars of a patient's TOF and DSC series."""
    for image, sidecar in (
        (layout.file_path(folder, patient, "tof"), tof_sidecar(cohort, phantom)),
        (layout.file_path(folder, patient, "dsc"), dsc_sidecar(cohort, phantom)),
    ):
        write_json(image.with_name(image.name.replace(".nii.gz", ".json")), sidecar)


def tof_sidecar(cohort: CohortProfile, phantom: PhantomProfile) -> dict[str, Any]:
    """BIDS fields of a simulated TOF, with the published protocol beside them."""
    return _read_json("tof.json") | {
        "InstitutionName": _institution(cohort),
        "PulseSequenceDetails": f"simulated: spoiled gradient echo, inflow into {scanner.SLABS} slabs",
        "RepetitionTimeExcitation": scanner.TOF_TR_S,
        "EchoTime": scanner.TOF_TE_S,
        "FlipAngle": scanner.TOF_FLIP_DEG,
        "AcquisitionVoxelSize": list(phantom.tof_voxel_mm),
    }


def dsc_sidecar(cohort: CohortProfile, phantom: PhantomProfile) -> dict[str, Any]:
    """BIDS fields of a simulated DSC series, with contrast agent and published protocol."""
    return _read_json(f"dsc_{cohort.simulation.disease.course}.json") | {
        "InstitutionName": _institution(cohort),
        "RepetitionTime": cohort.repetition_time_s,
        "EchoTime": cohort.echo_time_s,
        "AcquisitionVoxelSize": list(phantom.dsc_voxel_mm),
        "NumberOfVolumes": cohort.frames,
    }


def draw_participant(course: str, seed: tuple[int, ...]) -> dict[str, object]:
    """Draw what the physics does not need to know of a patient: age band and site.

    Args:
        course: ``acute`` or ``chronic``.
        seed: entropy of this patient alone; a branch of it is used, so that all else stays as it is.

    Returns:
        The columns ``age_band`` and ``site`` of ``participants.tsv``.

    Raises:
        ValueError: neither ``acute`` nor ``chronic``.
    """
    if course not in SITES:
        raise ValueError(f"unknown course '{course}' of a disease: choose {' or '.join(SITES)}")
    rng = np.random.default_rng((*seed, AGE_STREAM))
    age = -1.0
    while not AGE_LIMITS[0] <= age < AGE_LIMITS[1]:
        age = rng.normal(*AGES[course])
    band = [name for name, first in AGE_BANDS.items() if age >= first][-1]
    return {"age_band": band, "site": SITES[course]}


def _institution(cohort: CohortProfile) -> str:
    """State that no institution made these images, so that no file passes for a patient's."""
    return f"none: simulated with the protocol of {SITES[cohort.simulation.disease.course]}"


@cache
def _read(name: str) -> str:
    return (Path(__file__).with_suffix("") / name).read_text(encoding="utf-8")


def _read_json(name: str) -> dict[str, Any]:
    return json.loads(_read(name))
