"""The scan protocols of the paper's two studies, as BIDS fields, and what is drawn of a patient beside the physics.

The paper's values stand where it states them; what it does not state is left out, never filled in. Grid, timing and
number of frames are those of the profile, as simulated.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tof2perf.phantom import scanner
from tof2perf.profiles import CohortProfile, PhantomProfile

AGE_BANDS = {"18-39": 18, "40-49": 40, "50-59": 50, "60-69": 60, "70-79": 70, "80+": 80}  # first year of each
AGE_LIMITS = (18.0, 100.0)
AGE_STREAM = 0xA6E  # own branch of a patient's entropy: what is drawn here never moves what the physics draws


@dataclass(frozen=True)
class Protocol:
    """What the paper states of one of its two studies, and how old patients of that kind are.

    Attributes:
        site: where the study was made; only its protocol is simulated.
        age: mean and standard deviation in years.
        dsc: fields of the DSC sidecar that the profile does not know.
        published: the published DSC protocol as it stands, for comparison with what was simulated.
    """

    site: str
    age: tuple[float, float]
    dsc: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)


# Methods of the paper, "Data and Pre-processing". It gives no ages; these are assumptions. Acute: near the median and
# the quartiles (68; 57 and 77 years) of five trials of thrombectomy, doi 10.1016/S0140-6736(16)00163-X. Chronic: near
# the mean (69 years) of a trial of carotid stenosis, doi 10.1056/NEJMoa0912321.
PROTOCOLS = {
    "acute": Protocol(
        site="Heidelberg",
        age=(68.0, 14.0),
        dsc={
            "ManufacturersModelName": "Magnetom Verio, TIM Trio or Magnetom Prisma",  # for whom which is not stated
            "FlipAngle": scanner.DSC_FLIP_DEG,
            "PulseSequenceDetails": "T2*-weighted gradient-echo EPI with fat suppression",
            "ContrastBolusAgent": "gadolinium-based, standard dose of 0.1 mmol/kg",
        },
        published={
            "RepetitionTime": 2.22,
            "EchoTime": 0.036,
            "FieldOfView": [240, 240],
            "MatrixSize": [128, 128],
            "NumberOfSlices": "25 to 27",
            "SliceThickness": 5,
            "NumberOfVolumes": "50 to 75, at least 8 before the bolus",
        },
    ),
    "chronic": Protocol(
        site="Berlin",
        age=(69.0, 9.0),
        dsc={
            "ManufacturersModelName": "Magnetom Trio",  # stated for the TOF
            "PulseSequenceDetails": "single-shot FID-EPI",
            "ContrastBolusAgent": "Gadovist (gadobutrol, 1 mmol/ml)",
            "ContrastBolusVolume": 5,
        },
        published={
            "RepetitionTime": 1.39,
            "EchoTime": 0.029,
            "AcquisitionVoxelSize": [1.8, 1.8, 5],
            "NumberOfVolumes": 80,
            "AcquisitionTime": "1:54 min",
        },
    ),
}
PUBLISHED_TOF = {
    "AcquisitionVoxelSize": [0.5, 0.5, 0.7],
    "MatrixSize": [312, 384, 127],
    "AcquisitionTime": "3:50 min",
    "RepetitionTimeExcitation": 0.022,
    "EchoTime": 0.00386,
    "FlipAngle": 18,
}


def get_protocol(course: str) -> Protocol:
    """The study of the paper whose patients have a disease of this course.

    Raises:
        ValueError: neither ``acute`` nor ``chronic``.
    """
    if course not in PROTOCOLS:
        raise ValueError(f"unknown course '{course}' of a disease: choose {' or '.join(PROTOCOLS)}")
    return PROTOCOLS[course]


def draw_participant(course: str, seed: tuple[int, ...]) -> dict[str, object]:
    """Draw what the physics does not need to know of a patient: age band and site.

    Args:
        course: ``acute`` or ``chronic``.
        seed: entropy of this patient alone; a branch of it is used, so that all else stays as it is.

    Returns:
        The columns ``age_band`` and ``site`` of ``participants.tsv``.
    """
    protocol = get_protocol(course)
    rng = np.random.default_rng((*seed, AGE_STREAM))
    age = -1.0
    while not AGE_LIMITS[0] <= age < AGE_LIMITS[1]:
        age = rng.normal(*protocol.age)
    band = [name for name, first in AGE_BANDS.items() if age >= first][-1]
    return {"age_band": band, "site": protocol.site}


def tof_sidecar(cohort: CohortProfile, phantom: PhantomProfile) -> dict[str, Any]:
    """Sidecar of a TOF: BIDS fields of what was simulated, and the published protocol beside it."""
    return _common(cohort) | {
        "ManufacturersModelName": "Magnetom Trio",
        "ReceiveCoilName": "12-channel head coil",
        "PulseSequenceType": "3D time-of-flight angiography",
        "PulseSequenceDetails": f"simulated: spoiled gradient echo, inflow into {scanner.SLABS} slabs",
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "MRAcquisitionType": "3D",
        "RepetitionTimeExcitation": scanner.TOF_TR_S,
        "EchoTime": scanner.TOF_TE_S,
        "FlipAngle": scanner.TOF_FLIP_DEG,
        "AcquisitionVoxelSize": list(phantom.tof_voxel_mm),
        "PublishedProtocol": PUBLISHED_TOF,
    }


def dsc_sidecar(cohort: CohortProfile, phantom: PhantomProfile) -> dict[str, Any]:
    """Sidecar of a DSC series: BIDS fields of what was simulated, contrast agent, and the published protocol."""
    protocol = get_protocol(cohort.simulation.disease.course)
    return (
        _common(cohort)
        | protocol.dsc
        | {
            "PulseSequenceType": "Gradient Echo EPI",
            "ScanningSequence": ["GR", "EP"],
            "MRAcquisitionType": "2D",
            "RepetitionTime": cohort.repetition_time_s,
            "EchoTime": cohort.echo_time_s,
            "AcquisitionVoxelSize": list(phantom.dsc_voxel_mm),
            "NumberOfVolumes": cohort.frames,
            "ContrastBolusIngredient": "GADOLINIUM",
            "ContrastFlowRate": 5,  # ml/s
            "PublishedProtocol": protocol.published,
        }
    )


def _common(cohort: CohortProfile) -> dict[str, Any]:
    """What both scans share. The institution says that there was none, so that no file passes for a patient's."""
    protocol = get_protocol(cohort.simulation.disease.course)
    return {
        "Simulated": True,
        "InstitutionName": f"none: simulated with the protocol of {protocol.site}",
        "Manufacturer": "Siemens Healthcare",
        "MagneticFieldStrength": 3,
        "NonlinearGradientCorrection": False,
    }
