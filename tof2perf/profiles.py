"""A profile: every number of a run that a person may want to change, read from YAML into frozen dataclasses."""

import dataclasses
import types
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "notebooks" / "profiles"


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the profile, the key and the remedy in one line."""


@dataclass(frozen=True)
class DiseaseProfile:
    """Distributions from which the phantom draws a patient's disease of the arteries; laptop.yaml has their sources."""

    course: str  # acute, or chronic: vessels have had years to widen
    sites: dict[str, float]  # share of the patients by site of the first lesion; "none" for no lesion
    bilateral: float  # share of the patients with a lesion on the other side as well
    occluded: float  # share of the lesions that are occlusions; the others are stenoses
    stenosis: tuple[float, float]  # range of their narrowing of the diameter, 0 to 1
    hypoperfused_ml: dict[str, float]  # median volume of tissue with Tmax above 6 s, by site
    hypoperfused_spread: float  # standard deviation of its logarithm
    good_collaterals: float  # share of the patients whose collaterals prevent a deficit


@dataclass(frozen=True)
class PerfusionProfile:
    """How the DSC series of a cohort become maps."""

    method: str  # bcsvd, osvd or parametric
    aif: str  # automatic, or contralateral M2: in voxels of that artery, as a rater would place it
    motion_correction: bool


@dataclass(frozen=True)
class CohortProfile:
    """Patients, disease, DSC protocol and perfusion analysis of one simulated cohort."""

    train: int
    validation: int
    test: int
    repetition_time_s: float
    echo_time_s: float
    frames: int
    head_moves: float  # mean number of head movements during the series, after the contrast agent is injected
    perfusion: PerfusionProfile
    disease: DiseaseProfile


@dataclass(frozen=True)
class PhantomProfile:
    """Acquisition grids and noise of the simulated scanner, the same for both cohorts."""

    tof_shape: tuple[int, int, int]
    tof_voxel_mm: tuple[float, float, float]
    dsc_shape: tuple[int, int, int]
    dsc_voxel_mm: tuple[float, float, float]
    tof_snr: float  # brain signal over noise SD in one voxel
    dsc_snr: float  # baseline signal over noise SD in one voxel and frame
    head_mm: float  # voxel size of the head from which both scans are sampled
    branching_points: int  # tissue points the arterial tree grows towards; about half become end branches
    max_rotation_deg: float  # head motion between TOF and DSC, each axis
    max_translation_mm: float
    move_deg: float  # standard deviation of one head movement during the DSC series, each axis
    move_mm: float


@dataclass(frozen=True)
class PreprocessingProfile:
    """Skull stripping, bias correction, co-registration and the grid of the network."""

    shape: tuple[int, int, int]
    skull_strip: str  # auto (SynthStrip if installed, else deepbet), or one of them, or given
    n4_mm: float  # voxel size at which the bias field is estimated
    registration_mm: float  # voxel size at which head motion is estimated


@dataclass(frozen=True)
class NetworkProfile:
    """Size of generator and discriminator."""

    levels: int
    generator_filters: int
    discriminator_filters: int
    discriminator_layers: int
    input: str  # tof, or tof+mirror: the left-right mirror as a second channel


@dataclass(frozen=True)
class TrainingProfile:
    """Objective, optimiser and where to compute."""

    objective: str  # intended, or released: SSIM without gradient and two sigmoids, as in the released code
    generator_rate: float
    discriminator_rate: float
    betas: tuple[float, float]  # of Adam
    schedule: str  # of both rates: constant, linear or cosine
    decay_from: float  # share of the epochs after which the rates fall
    adversarial_weight: float
    l1_weight: float
    ssim_weight: float
    ssim_window: str  # uniform or gaussian
    initial_spread: float  # standard deviation of the initial weights
    flip: bool  # mirror half of the patients left to right
    criterion: str  # best epoch on the validation split, by mae or ssim, among those with a falling rate
    batch: int  # patients a step, over all devices
    precision: str  # float32 or bfloat16 (of convolutions and matrix products; weights stay float32)
    checkpoint_activations: bool  # compute them again in the backward pass: less memory, more time
    device: str  # auto, cpu, cuda or mps
    devices: int  # how many of them train one model together


@dataclass(frozen=True)
class EvaluationProfile:
    """Lesion definition and statistics."""

    lesion_threshold_s: float
    deficit_threshold_s: dict[str, float]  # region in which maps of a cohort are compared; its own meaning of Tmax
    erosion_mm: float
    minimum_ml: float
    bootstrap: int


@dataclass(frozen=True)
class Profile:
    """One run: ``notebooks/profiles/<name>.yaml``."""

    name: str
    seed: int
    cohorts: dict[str, CohortProfile]
    phantom: PhantomProfile
    preprocessing: PreprocessingProfile
    network: NetworkProfile
    training: TrainingProfile
    epochs: dict[str, int]
    initialise_from: dict[str, str]
    evaluation: EvaluationProfile


def load_profile(name: str | Path) -> Profile:
    """Read a profile by name (``smoke``, ``laptop``, ...) or from a YAML file.

    Raises:
        ProfileError: unknown profile, unknown or missing key, or a value of the wrong type.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(entry.stem for entry in FOLDER.glob("*.yaml")))
        raise ProfileError(f"unknown profile '{name}': choose one of {known}, or give the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ProfileError(f"profile {path}: not valid YAML ({str(error).splitlines()[0]}); correct the file") from None
    profile = _build(Profile, content, f"profile {path.name}")
    if profile.name != path.stem:
        raise ProfileError(f"profile {path.name}: name is '{profile.name}'; give it the file's name, '{path.stem}'")
    for key in ("epochs", "initialise_from"):
        for cohort in getattr(profile, key):
            if cohort not in profile.cohorts:
                raise ProfileError(f"profile {path.name}: {key} names the unknown cohort '{cohort}'; add it to cohorts")
    return profile


def get_cohort(profile: Profile, cohort: str) -> str:
    """Check a cohort's name against the profile.

    Raises:
        ProfileError: the profile has no such cohort.
    """
    if cohort not in profile.cohorts:
        raise ProfileError(f"unknown cohort '{cohort}': profile {profile.name} has {', '.join(profile.cohorts)}")
    return cohort


def _build(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """Turn parsed YAML into the annotated type, strictly: nothing is guessed and nothing is ignored."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _expect(isinstance(value, dict), where, "a mapping", value)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        hints = typing.get_type_hints(kind)
        for key in value:
            if key not in fields:
                raise ProfileError(f"{where}: unknown key '{key}'; known are {', '.join(fields)}")
        for key, field in fields.items():
            if key not in value and field.default is dataclasses.MISSING:
                raise ProfileError(f"{where}: key '{key}' is missing; add it (see laptop.yaml)")
        return kind(**{key: _build(hints[key], entry, f"{where}, {key}") for key, entry in value.items()})
    if origin is dict:
        _expect(isinstance(value, dict), where, "a mapping", value)
        return {str(key): _build(arguments[1], entry, f"{where}, {key}") for key, entry in value.items()}
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        _expect(
            isinstance(value, list) and length in (None, len(value)), where, f"a list of {length or 'values'}", value
        )
        kinds = [arguments[0]] * len(value) if length is None else arguments
        return tuple(_build(part, entry, where) for part, entry in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _build(arguments[0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), where, kind.__name__, value)
    return value


def _expect(holds: bool, where: str, expected: str, value: typing.Any) -> None:
    if not holds:
        raise ProfileError(f"{where}: expected {expected}, found {value!r}; correct the value")
