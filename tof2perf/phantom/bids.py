"""What a simulated cohort says about itself, as BIDS metadata: descriptions, columns, sidecars and what is not BIDS."""

from pathlib import Path
from typing import Any

from tof2perf import __version__
from tof2perf.cohorts import layout
from tof2perf.maps import MAPS
from tof2perf.perfusion.dsc import KAPPA
from tof2perf.phantom.protocol import AGE_BANDS, dsc_sidecar, get_protocol, tof_sidecar
from tof2perf.profiles import CohortProfile, PhantomProfile
from tof2perf.system.files import write_json, write_text

BIDS_VERSION = "1.10.0"
LICENCE = "CC-BY-4.0"
COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "simulated patient; nobody was scanned"},
    "split": {
        "Description": "split of the study; the same in every run",
        "Levels": {
            "train": "weights are fitted to it",
            "validation": "the best epoch is chosen by it",
            "test": "reported, never used before",
        },
    },
    "age_band": {
        "Description": "age as drawn from the distribution of the disease; neither anatomy nor perfusion depends on it",
        "Levels": {band: f"{band} years" for band in AGE_BANDS},
    },
    "site": {
        "Description": "study of the paper whose scan protocol is simulated; no patient was scanned there",
        "Levels": {
            "Heidelberg": "Heidelberg University Hospital, acute stroke",
            "Berlin": "Charité - Universitätsmedizin Berlin, PEGASUS, chronic steno-occlusive disease",
        },
    },
    "disease": {
        "Description": "kind of vascular disease that is simulated",
        "Levels": {"acute": "acute occlusion of an artery", "chronic": "chronic stenosis or occlusion"},
    },
    "occlusion_site": {
        "Description": "artery that is blocked or narrowed: ICA, ICA top, M1, M2, A2, P1, distal (beyond M2) or none"
    },
    "side": {
        "Description": "side of the disease",
        "Levels": {"left": "left", "right": "right", "bilateral": "both sides", "none": "no disease"},
    },
    "degree": {"Description": "share of the diameter that is narrowed, 1 being an occlusion", "Units": "1"},
    "visible": {
        "Description": "whether the TOF can show the lesion",
        "Levels": {"yes": "yes", "no": "open again, too distal, or no lesion"},
    },
    "collateral_grade": {
        "Description": "speed of the pial collaterals, by the delay that they add to the territory of a blocked artery",
        "Levels": {"good": "short delay", "moderate": "medium delay", "poor": "long delay"},
    },
}

# How the maps came about, in words.
METHODS = {
    "bcsvd": "block-circulant SVD",
    "osvd": "block-circulant SVD, threshold by oscillation index",
    "parametric": "parametric deconvolution, Tmax is the arrival of the bolus",
}
AIFS = {"automatic": "found automatically", "contralateral M2": "placed in M2 of the less diseased side"}

# What the truth holds beside the names and units of the five maps.
TRUTH = {
    "cbf": "blood flow",
    "cbv": "blood volume",
    "mtt": "mean transit time, 60 CBV / CBF",
    "tmax": "time at which the dispersed residue function peaks",
    "delay": "arrival of the bolus after that at the inlets of the arterial tree",
    "supply": "share of the healthy flow that arrives from upstream",
    "lesion": "true Tmax above 6 s",
    "brain": "brain on the grid of the TOF",
}
TRUTH_UNITS = {"cbf": "ml/100 g/min", "cbv": "ml/100 g", "mtt": "s", "tmax": "s", "delay": "s"}

RAW_IGNORED = """\
# BIDS has no suffix for DSC series yet (perf/ knows arterial spin labelling alone): the series and its sidecar.
sub-*/perf/sub-*_dsc.nii.gz
sub-*/perf/sub-*_dsc.json
"""
DSC_IGNORED = "\n".join(
    [
        "# BIDS has no suffixes for perfusion maps or for the reference volume of a DSC series yet. The JSON files",
        "# give unit and origin of each map; they hold for every patient by inheritance.",
        "sub-*/perf/sub-*_desc-ref_dscref.nii.gz",
        *(pattern for name in MAPS for pattern in (f"sub-*/perf/sub-*_{name}.nii.gz", f"/{name}.json")),
        "",
    ]
)
TRUTH_IGNORED = "\n".join(
    [
        "# What the phantom knows, under names of its own: read by tests alone, not meant for BIDS tools.",
        *(pattern for name in TRUTH for pattern in (f"sub-*/sub-*_desc-true_{name}.nii.gz", f"/desc-true_{name}.json")),
        "# How the head moved between the scans, and the patient's row of participants.tsv.",
        "sub-*/sub-*_desc-true_motion.json",
        "sub-*/sub-*_desc-true_record.json",
        "",
    ]
)

README = """\
# Simulated cohort {name}

**Nobody was scanned. Nothing here is clinical data, and nothing may be reported as such.**

Each patient is a physics phantom: a head warped from the tissue maps of the ICBM 2009a template, a grown arterial tree,
an occlusion or stenosis, and two scans that follow from them, a native time-of-flight angiography (TOF) and a dynamic
susceptibility contrast (DSC) series. The protocol is the one of {site} in Kossen, Madai et al., "Redefining
Hemodynamic Imaging in Stroke". Voxel sizes and numbers of frames are those of the profile that was simulated;
`PublishedProtocol` in each sidecar tells what the paper states. What the paper does not state (serial numbers, coil
elements, dwell times) is left out.

- `sub-*/anat/*_acq-tof_angio.nii.gz`: TOF.
- `sub-*/perf/*_dsc.nii.gz`: DSC series. BIDS does not define it yet, so it stands in `.bidsignore`.
- `derivatives/dsc`: reference volume and five perfusion maps, computed from the series as a console would.
- `derivatives/truth`: what the phantom knows. For tests only; an analysis that reads it proves nothing.

A patient depends on the seed and on its own number, never on how many are made. Age bands are drawn from an assumed
distribution and influence nothing.

Licence: CC BY 4.0. The template is the McConnell Brain Imaging Centre's (Montreal Neurological Institute, McGill
University), under its own notice.
"""
DERIVATIVE_README = """\
# {title} of the simulated cohort {name}

Nobody was scanned; nothing here is clinical data. {text}

BIDS has no names for these files yet: they stand in `.bidsignore`, and the JSON files beside this one describe them.
"""


def write_sidecars(folder: Path, name: str, *, cohort: CohortProfile, phantom: PhantomProfile) -> None:
    """Write the JSON sidecars of a patient's TOF and DSC series.

    Args:
        folder: the cohort's BIDS folder.
        name: ``sub-XXXX``.
        cohort: timing of the series, and the disease, which chooses the published protocol.
        phantom: voxel sizes.
    """
    for path, content in (
        (layout.tof_path(folder, name), tof_sidecar(cohort, phantom)),
        (layout.dsc_path(folder, name), dsc_sidecar(cohort, phantom)),
    ):
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), content)


def write_descriptions(folder: Path, name: str, *, cohort: CohortProfile) -> None:
    """Write what belongs to a cohort as a whole: descriptions, columns, read-me files and what BIDS tools must ignore.

    Args:
        folder: the cohort's BIDS folder.
        name: the cohort's name.
        cohort: the disease, which chooses the published protocol, and the perfusion analysis.
    """
    simulation = cohort.simulation
    description = {
        "Name": f"simulated cohort {name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": LICENCE,
        "Authors": ["the tof2perf authors"],
        "Acknowledgements": "Tissue maps: ICBM 2009a, McConnell Brain Imaging Centre, Montreal Neurological Institute.",
        "HowToAcknowledge": "Cite the paper that the protocol is taken from and the software tof2perf.",
        "GeneratedBy": [
            {
                "Name": "tof2perf.phantom",
                "Version": __version__,
                "Description": "physics phantom; no person was scanned",
            }
        ],
        "SourceDatasets": [
            {
                "URL": "https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009",
                "Version": "ICBM 2009a, tissue maps as shipped with nilearn",
            }
        ],
    }
    write_json(folder / "dataset_description.json", description)
    write_json(folder / "participants.json", COLUMNS)
    write_text(folder / "README", README.format(name=name, site=get_protocol(simulation.disease.course).site))
    write_text(folder / ".bidsignore", RAW_IGNORED)

    analysis = (
        f"{METHODS[simulation.perfusion.method]}, arterial input {AIFS[simulation.perfusion.aif]}, head motion "
        + ("corrected" if simulation.perfusion.motion_correction else "not corrected")
    )
    derived = description | {"DatasetType": "derivative", "SourceDatasets": [{"URL": "../.."}]}
    for part, title, text, ignored in (
        ("dsc", "Perfusion maps", f"Made from the series: {analysis}.", DSC_IGNORED),
        ("truth", "Ground truth", "Read by tests alone, never by an analysis.", TRUTH_IGNORED),
    ):
        here = folder / "derivatives" / part
        write_json(here / "dataset_description.json", derived | {"Name": f"{description['Name']}: {title.lower()}"})
        write_text(here / "README", DERIVATIVE_README.format(title=title, name=name, text=text))
        write_text(here / ".bidsignore", ignored)
    for entry in MAPS.values():
        write_json(
            folder / "derivatives" / "dsc" / f"{entry.name}.json",
            {
                "Description": f"{entry.label} of the simulated series: {analysis}",
                "Units": entry.unit,
                "SkullStripped": True,
                "Simulated": True,
            }
            | ({"Kappa": KAPPA} if entry.name in ("cbf", "cbv") else {}),
        )
    for key, text in TRUTH.items():
        write_json(
            folder / "derivatives" / "truth" / f"desc-true_{key}.json",
            {"Description": f"true {text}", "Units": TRUTH_UNITS.get(key, "1"), "Simulated": True},
        )
