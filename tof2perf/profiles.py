"""A profile: every number of a run that a person may want to change, read from YAML into frozen dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from tof2perf.maps import MAPS

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
class SimulationProfile:
    """What the phantom needs of a cohort, complete: the optional keys of the cohort, all of them given."""

    repetition_time_s: float
    echo_time_s: float
    frames: int
    head_moves: float
    perfusion: PerfusionProfile
    disease: DiseaseProfile


@dataclass(frozen=True)
class CohortProfile:
    """One cohort: its splits, what its patients were scanned with, and how it is simulated, if it ever is.

    The keys of the second half are needed by a cohort that is simulated, or whose maps are made from a DSC series.
    """

    train: int  # patients, if simulated; of own data without splits the shares in which they are divided
    validation: int
    test: int
    title: str = ""  # in tables; the cohort's name if empty
    input: str = "tof"  # tof, or the suffix of another input's file: cta is sub-X_cta.nii.gz
    intensity: str | tuple[float, float] = "n4"  # n4 and the brain's median, or a window
    measured_with: str = "DSC"  # what gave the maps, as printed
    registration: Literal["rigid", "none"] = "rigid"  # none: the maps lie in the input's space already
    maps: tuple[str, ...] = tuple(MAPS)
    repetition_time_s: float | None = None
    echo_time_s: float | None = None
    frames: int | None = None
    head_moves: float | None = None  # mean number of head movements in the series, after the contrast agent is injected
    perfusion: PerfusionProfile | None = None
    disease: DiseaseProfile | None = None

    @property
    def simulated(self) -> bool:
        """Whether the phantom can make this cohort."""
        return self.disease is not None

    @property
    def simulation(self) -> SimulationProfile:
        """The keys by which the phantom makes this cohort.

        Raises:
            ProfileError: one of them is missing.
        """
        if self.missing:
            name = f"cohort '{self.title}'" if self.title else "a cohort without a title"
            raise ProfileError(f"{name}: key '{self.missing[0]}' is missing; add it, the phantom needs it to simulate")
        return SimulationProfile(**{key.name: getattr(self, key.name) for key in dataclasses.fields(SimulationProfile)})

    @property
    def missing(self) -> list[str]:
        """The keys that a simulation would need and that are not given."""
        return [field.name for field in dataclasses.fields(SimulationProfile) if getattr(self, field.name) is None]

    @property
    def modality(self) -> str:
        """The input in short, as printed: ``TOF`` or ``CTA``."""
        return self.input.upper()

    @property
    def input_title(self) -> str:
        """The input in full: ``TOF-MRA`` or ``CTA``."""
        return "TOF-MRA" if self.input == "tof" else self.modality

    @property
    def intensity_title(self) -> str:
        """What the grey values of a preprocessed input are."""
        return f"{self.modality} / brain median" if self.intensity == "n4" else f"{self.modality}, windowed"


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
    skull_strip: Literal[
        "auto", "given", "synthstrip", "deepbet", "maps"
    ]  # auto: SynthStrip if installed, else deepbet
    n4_mm: float  # voxel size at which the bias field is estimated
    registration_mm: float  # voxel size at which head motion is estimated


@dataclass(frozen=True)
class NetworkProfile:
    """Size of generator and discriminator."""

    levels: int
    generator_filters: int
    discriminator_filters: int
    discriminator_layers: int
    input: Literal["tof", "tof+mirror"]  # with tof+mirror its left-right mirror is a second channel


@dataclass(frozen=True)
class TrainingProfile:
    """Objective, optimiser and where to compute."""

    objective: Literal["intended", "released"]  # released code: SSIM without gradient and two sigmoids
    generator_rate: float
    discriminator_rate: float
    betas: tuple[float, float]  # of Adam
    schedule: Literal["constant", "linear", "cosine"]  # of both rates
    decay_from: float  # share of the epochs after which the rates fall
    adversarial_weight: float
    l1_weight: float
    ssim_weight: float
    initial_spread: float  # standard deviation of the initial weights
    flip: bool  # mirror half of the patients left to right
    criterion: Literal["mae", "ssim"]  # best epoch on the validation split, among those with a falling rate
    batch: int  # patients a step, over all devices; a multiple of them
    precision: Literal["float32", "bfloat16"]  # of convolutions and matrix products; weights stay float32
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

    def rules(self) -> dict[str, float]:
        """Return the rules of :func:`tof2perf.metrics.lesions.segment` with the paper's threshold."""
        return {"threshold_s": self.lesion_threshold_s, "erosion_mm": self.erosion_mm, "minimum_ml": self.minimum_ml}


@dataclass(frozen=True)
class Profile:
    """One run: ``notebooks/profiles/<name>.yaml``."""

    name: str
    seed: int
    together: bool  # one generator makes all maps of a cohort at once; else each map has its own, as in the paper
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
    profile = build(Profile, content, f"profile {path.name}")
    if profile.name != path.stem:
        raise ProfileError(f"profile {path.name}: name is '{profile.name}'; give it the file's name, '{path.stem}'")
    for fault in _find_faults(profile):
        raise ProfileError(f"profile {path.name}: {fault}")
    return profile


def get_cohort(profile: Profile, cohort: str) -> str:
    """Check a cohort's name against the profile.

    Raises:
        ProfileError: the profile has no such cohort.
    """
    if cohort not in profile.cohorts:
        raise ProfileError(f"unknown cohort '{cohort}': profile {profile.name} has {', '.join(profile.cohorts)}")
    return cohort


def looks_like_cohort(folder: Path) -> bool:
    """Whether a folder holds patients: ``participants.tsv``, or folders named ``sub-...``."""
    return (folder / "participants.tsv").is_file() or any(entry.is_dir() for entry in folder.glob("sub-*"))


def run_cohorts(cohorts: dict[str, CohortProfile], *, data: str = "", name: str = "the profile") -> list[str]:
    """Return the cohorts of one run, in the profile's order: the simulated ones, or those in the user's folder.

    Args:
        cohorts: of the profile.
        data: the user's folder, or empty.
        name: of the profile, for errors.

    Raises:
        ProfileError: the folder holds no cohort, or one that the profile does not know.
    """
    if not data:
        return [cohort for cohort, settings in cohorts.items() if settings.simulated]
    found = sorted(entry.name for entry in Path(data).iterdir() if entry.is_dir() and looks_like_cohort(entry))
    known = ", ".join(cohorts)
    unknown = [cohort for cohort in found if cohort not in cohorts]
    if unknown:
        raise ProfileError(
            f"DATA={data}: {name} knows no cohort '{unknown[0]}' (it has {known}); rename the folder, or add "
            "the cohort to the profile as notebooks/book/own-data.md describes"
        )
    if not found and looks_like_cohort(Path(data)):
        raise ProfileError(f"DATA={data}: this is the folder of one cohort; give its parent, and name it {known}")
    if not found:
        raise ProfileError(f"DATA={data}: no folder named {known} with patients in it; import your images first")
    return [cohort for cohort in cohorts if cohort in found]


def _find_faults(profile: Profile) -> Iterator[str]:
    """Report what would fail, or pass unnoticed, hours later: the key, the fault and the remedy."""
    for key in ("epochs", "initialise_from"):
        for name in getattr(profile, key):
            if name not in profile.cohorts:
                yield f"{key} names the unknown cohort '{name}'; add it to cohorts"
    batch, devices = profile.training.batch, profile.training.devices
    if batch < 1 or devices < 1 or batch % devices:
        yield f"training, batch: {batch} patients cannot be shared by {devices} devices; give a multiple of devices"
    if min(profile.epochs.values()) < 1:
        yield "epochs must be at least 1 for each cohort"
    for name, cohort in profile.cohorts.items():
        where, window, parent = f"cohorts, {name}", cohort.intensity, profile.initialise_from.get(name)
        if cohort.simulated and cohort.missing:
            yield f"{where}: key '{cohort.missing[0]}' is missing; a cohort with a disease is simulated and needs it"
        if not {"tmax"} <= set(cohort.maps) <= set(MAPS):
            yield f"{where}, maps: choose from {', '.join(MAPS)}; tmax must be one, it defines the lesions"
        if cohort.simulated and (cohort.maps != tuple(MAPS) or cohort.input != "tof"):
            yield f"{where}: a simulated cohort has a TOF and all maps; leave out input and maps, or disease"
        if window != "n4" and (isinstance(window, str) or not window[0] < window[1]):
            yield f"{where}, intensity: expected n4 or a window [low, high], found {window!r}"
        if min(cohort.train, cohort.validation, cohort.test) < 1:
            yield f"{where}: train, validation and test must each be at least 1"
        if name not in profile.epochs:
            yield f"epochs has no entry for cohort '{name}'; add one"
        if name not in profile.evaluation.deficit_threshold_s:
            yield f"evaluation, deficit_threshold_s has no entry for cohort '{name}'; add one"
        if profile.together and set(cohort.maps) != set(MAPS):
            yield f"{where}: together needs all of {', '.join(MAPS)}; take it out, or the cohort"
        from_scratch = profile.cohorts.keys() - profile.initialise_from.keys() - {name}
        if parent is not None and parent not in from_scratch:
            yield f"initialise_from, {name}: '{parent}' must be another cohort that starts from scratch"
        elif parent is not None and not set(cohort.maps) <= set(profile.cohorts[parent].maps):
            yield f"initialise_from, {name}: '{parent}' lacks some of its maps"


def build(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
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
        return kind(**{key: build(hints[key], entry, f"{where}, {key}") for key, entry in value.items()})
    if origin is Literal:
        _expect(value in arguments, where, f"one of {', '.join(arguments)}", value)
        return value
    if origin is dict:
        _expect(isinstance(value, dict), where, "a mapping", value)
        return {str(key): build(arguments[1], entry, f"{where}, {key}") for key, entry in value.items()}
    if origin is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        fits = isinstance(value, list) and length in (None, len(value))
        _expect(fits, where, f"a list of {length or 'values'}", value)
        kinds = [arguments[0]] * len(value) if length is None else arguments
        return tuple(build(part, entry, where) for part, entry in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        lists = [part for part in arguments if typing.get_origin(part) is tuple and isinstance(value, list)]
        return build([*lists, *arguments][0], value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), where, kind.__name__, value)
    return value


def _expect(holds: bool, where: str, expected: str, value: typing.Any) -> None:
    if not holds:
        raise ProfileError(f"{where}: expected {expected}, found {value!r}; correct the value")
