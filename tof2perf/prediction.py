"""One scan: from any TOF and trained weights to perfusion maps in physical units, on the TOF's own grid."""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from tqdm.auto import tqdm

from tof2perf import __version__
from tof2perf.gan.devices import choose_device
from tof2perf.gan.inference import generate_maps, load_generator
from tof2perf.gan.weights import read_header
from tof2perf.maps import MAPS, chosen_maps, get_map
from tof2perf.preprocessing.preprocess import PreparedTof, prepare_tof, scale_input
from tof2perf.preprocessing.skullstrip import choose_method
from tof2perf.preprocessing.training_range import RECORD, describe, read_record, unlike
from tof2perf.profiles import PreprocessingProfile, ProfileError, load_profile
from tof2perf.system.files import WriteError, locked, write_json
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import write_volume

RESEARCH_USE = "Research use only. Made by a neural network, not measured: not for diagnosis or treatment."


class PredictionError(ValueError):
    """A prediction that cannot be made; the message says what is wrong and what to do, in one line."""


@dataclass(frozen=True)
class Model:
    """One generator on disk.

    Attributes:
        folder: holds ``generator.safetensors``.
        maps: those wanted of it.
    """

    folder: Path
    maps: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The weights."""
        return self.folder / "generator.safetensors"


@dataclass(frozen=True)
class Prediction:
    """What was written.

    Attributes:
        paths: NIfTI files by name: the maps, and ``mask``, the brain.
        warnings: why the maps deserve doubt, one sentence each.
        label: what the weights were trained on.
    """

    paths: dict[str, Path]
    warnings: list[str]
    label: str


def predict(
    tof: Path,
    weights: Path,
    out: Path,
    *,
    cohort_name: str = "",
    maps: Sequence[str] = tuple(MAPS),
    brain_mask: Path | None = None,
    profile: str = "",
    device: str = "cpu",
    progress: bool = True,
) -> Prediction:
    """Generate perfusion maps of one TOF and write them with a sidecar each.

    All maps are made before the first is moved into ``out``: a prediction that fails leaves nothing there.

    Args:
        tof: NIfTI volume of any orientation, voxel size and data type; only read.
        weights: folder of one model, or one that holds ``<cohort>_<map>`` (``results/<run>/models``).
        out: folder for ``<name>_desc-generated_<map>.nii.gz`` with ``.json``, and the brain as ``..._mask.nii.gz``.
        cohort_name: whose models, where ``weights`` holds those of several cohorts.
        maps: names of the maps.
        brain_mask: brain in the TOF's world space; without it the skull is stripped as in training.
        profile: prepares the TOF as this profile says; needed only for weights that do not say how it was done.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        progress: show a progress bar.

    Raises:
        PredictionError: weights that cannot be found, or do not say how to prepare a TOF.
        CohortError: an unusable TOF or mask, or an unreadable record of the training TOFs.
        WriteError: another run at work in ``out``, or a full disk.
        WeightsError: damaged weights.
        ProfileError: unknown profile.
    """
    out, stem = Path(out), _stem(Path(tof))
    models = find_models(Path(weights), cohort_name=cohort_name, maps=maps)
    record = find_record(models[0].folder)
    settings = _settings(models[0].folder, record, profile)
    paths = {"tof": Path(tof)} | ({"brain": Path(brain_mask)} if brain_mask else {})
    intensity = record["intensity"] if record else "n4"
    method = choose_method("given" if "brain" in paths else settings.skull_strip, paths, magnetic=intensity == "n4")
    if method == "maps":
        raise PredictionError(f"{tof}: no tool here finds the brain in such an image; give its mask with --brain")
    for path in paths.values():
        if path.resolve().parent == out.resolve() and path.name.startswith(f"{stem}_desc-generated_"):
            raise PredictionError(f"{path}: would be overwritten; choose another folder for the maps")
    images = {name: nifti.read_volume(path) for name, path in paths.items()}
    original = images["tof"]
    bar = functools.partial(tqdm, total=2 + len(models), desc="skull and bias", disable=not progress)
    with locked(out), _staging(out) as staging, bar() as steps:
        prepared = prepare_tof(
            nib.as_closest_canonical(original),
            settings=settings,
            method=method,
            given=images.get("brain"),
            intensity=intensity,
            source=paths["tof"],
        )
        steps.update()
        values = scale_input(prepared.values, prepared.mask, intensity=intensity)
        label = _label(models[0].folder, record)
        warnings = [*_doubts(record, method), *unlike(_describe(prepared, values, original), record)]
        for warning in warnings:
            if progress:
                steps.write(f"warning: {warning}", file=sys.stderr)
        facts: dict[str, Any] = {
            "ResearchUse": RESEARCH_USE,
            "Sources": [path.name for path in paths.values()],
            "SourcesSHA256": [_sha256(path) for path in paths.values()],
            "SkullStripping": method,
            "TrainedOn": label,
            "Warnings": warnings,
            "GeneratedBy": [{"Name": "tof2perf", "Version": __version__}],
        }
        made = {}
        for model in models:
            steps.set_description(", ".join(model.maps))
            generator = load_generator(model.folder, device=choose_device(device))
            facts["Weights"] = {"Model": model.folder.name, "SHA256": _sha256(model.path)}
            for name, volume in generate_maps(generator, values, prepared.mask, model.maps).items():
                made[name] = staging / f"{stem}_desc-generated_{name}.nii.gz"
                write_volume(made[name], _onto_tof(volume, prepared, original), original.affine)
                write_json(_sidecar(made[name]), _map_facts(name) | facts)
            del generator  # a full-size one takes most of a gigabyte: never two at a time
            steps.update()
        steps.set_description("writing")
        made["mask"] = staging / f"{stem}_desc-generated_mask.nii.gz"
        write_volume(made["mask"], _onto_tof(prepared.mask, prepared, original) > 0, original.affine)
        steps.update()
        for path in sorted(staging.iterdir()):
            os.replace(path, out / path.name)
    return Prediction({name: out / path.name for name, path in made.items()}, warnings, label)


# --- the weights -----------------------------------------------------------------------------------------------------


def find_models(weights: Path, *, cohort_name: str = "", maps: Sequence[str] = tuple(MAPS)) -> list[Model]:
    """Find the generators that make the wanted maps: one each, or one of all.

    Raises:
        PredictionError: none, several cohorts to choose from, or not all of the maps.
        ValueError: an unknown map.
    """
    for name in maps:
        get_map(name)
    if not weights.is_dir():
        raise PredictionError(f"{weights}: no such folder; give that of a model, or results/<run>/models")
    if (weights / "generator.safetensors").is_file():
        made = [entry.name for entry in chosen_maps(read_header(weights / "generator.safetensors")["map"])]
        if chosen := tuple(name for name in maps if name in made):
            return [Model(weights, chosen)]
        raise PredictionError(f"{weights}: makes {', '.join(made)} alone; ask for it, or give another model")
    found = sorted(path.parent.name for path in weights.glob("*_*/generator.safetensors"))
    cohorts = sorted({name.rpartition("_")[0] for name in found})
    if not cohorts:
        raise PredictionError(f"{weights}: holds no <cohort>_<map>/generator.safetensors; train models first")
    if cohort_name not in cohorts and (cohort_name or len(cohorts) > 1):
        wanted = f"has no models of '{cohort_name}'" if cohort_name else "has models of several cohorts"
        raise PredictionError(f"{weights}: {wanted}; choose a cohort: {', '.join(cohorts)}")
    cohort_name = cohort_name or cohorts[0]
    missing = [name for name in maps if f"{cohort_name}_{name}" not in found]
    if not missing:
        return [Model(weights / f"{cohort_name}_{name}", (name,)) for name in maps]
    if f"{cohort_name}_all" in found:
        return [Model(weights / f"{cohort_name}_all", tuple(maps))]
    raise PredictionError(f"{weights}: has no {cohort_name}_{missing[0]}; train it, or name the maps that you want")


def find_record(model: Path) -> dict[str, Any] | None:
    """What preprocessing wrote of the training TOFs: beside the weights, or in the run's own folder; None if nowhere.

    Raises:
        CohortError: a record that cannot be read.
    """
    places = [model / RECORD]
    if (run := _run(model)) is not None:
        root, name = run
        places.append(root / "data" / "preprocessed" / name / model.name.rpartition("_")[0] / RECORD)
    return next((read_record(path) for path in places if path.is_file()), None)


def _settings(model: Path, record: dict[str, Any] | None, profile: str) -> PreprocessingProfile:
    """How the training TOFs were prepared; without a record, as the profile says after which the run is named."""
    if profile:
        return load_profile(profile).preprocessing
    if record is not None:
        return record["settings"]
    run = _run(model)
    for name in (run[1], run[1].partition("-")[0]) if run else ():
        try:
            return load_profile(name).preprocessing
        except ProfileError:
            continue
    raise PredictionError(
        f"{model}: no {RECORD} says how the training TOFs were prepared; name the profile of the training"
    )


def _run(model: Path) -> tuple[Path, str] | None:
    """Root and run of a model that lies where training put it, ``<root>/results/<run>/models/<cohort>_<map>``."""
    path = Path(os.path.abspath(model))  # as it is called: a link to results stands where its data stand
    *_, results, run, models, _ = ("", "", "", *path.parts)
    return (path.parents[3], run) if (results, models) == ("results", "models") else None


def _label(model: Path, record: dict[str, Any] | None) -> str:
    run = record["run"] if record else (_run(model) or ("", "unknown"))[1]
    return f"{record['source'] if record else 'source not recorded'}, run {run}, {model.name.rpartition('_')[0]}"


# --- is the input like the training data? ----------------------------------------------------------------------------


def _doubts(record: dict[str, Any] | None, method: str) -> list[str]:
    if record is None:
        return ["these weights do not say what their training data were like: the TOF could not be compared with them"]
    found = []
    if record["source"].startswith("simulated"):
        found.append(
            "the weights learned from simulated patients: what they make of a real scan is a demonstration only"
        )
    if record["skull_strip"] and method not in record["skull_strip"]:
        found.append(f"the brain was found otherwise ({method}) than for training ({', '.join(record['skull_strip'])})")
    return found


def _describe(prepared: PreparedTof, values: np.ndarray, original: nib.Nifti1Image) -> dict[str, float]:
    volume = float(prepared.brain.sum()) * space.voxel_ml(prepared.corrected)
    return describe(values, prepared.mask, prepared.affine, original=original.affine, brain_ml=volume)


# --- what is written -------------------------------------------------------------------------------------------------


def _onto_tof(volume: np.ndarray, prepared: PreparedTof, original: nib.Nifti1Image) -> np.ndarray:
    """Bring a volume from the network's grid to the TOF's own voxels and its own order of axes, 0 outside the brain."""
    values, inside = space.resize_masked(volume, prepared.mask, prepared.brain.shape)
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(original.affine))
    return apply_orientation(np.where(inside & prepared.brain, values, np.float32(0)), back)


def _map_facts(name: str) -> dict[str, Any]:
    entry = get_map(name)
    return {"Description": f"{entry.label} generated from a TOF-MRA", "Units": entry.unit, "Range": list(entry.bounds)}


def _stem(path: Path) -> str:
    """Name of the outputs, the TOF's without what says that it is a TOF.

    >>> _stem(Path("sub-0001_acq-tof_angio.nii.gz")), _stem(Path("7_TOF.nii")), _stem(Path("scan.nii.gz"))
    ('sub-0001_acq-tof', '7', 'scan')
    """
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    start, _, suffix = name.rpartition("_")
    return start if start and suffix.lower() in ("angio", "tof") else name


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A hidden folder in ``out``, which is ours alone, for what is not complete; it goes whatever happens."""
    for leftover in out.glob(".generating-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".generating-") as folder:
            yield Path(folder)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(f"{out}: cannot be written to ({error.strerror}); choose another folder") from None
