"""One scan: from any TOF and trained weights to perfusion maps in physical units, on the TOF's own grid."""

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from tqdm.auto import tqdm

from tof2perf import __version__
from tof2perf.gan.devices import choose_device
from tof2perf.gan.inference import generate_maps, load_generator
from tof2perf.gan.weights import read_tensors
from tof2perf.maps import MAPS, chosen_maps, get_map
from tof2perf.preprocessing.preprocess import PreparedTof, prepare_tof, scale_input
from tof2perf.preprocessing.skullstrip import choose_method
from tof2perf.preprocessing.training_range import RECORD, describe, read_record, unlike
from tof2perf.system.files import adding, file_digest, locked, write_json
from tof2perf.volumes import nifti, space
from tof2perf.volumes.nifti import write_volume

RESEARCH_USE = "Research use only. Made by a neural network, not measured: not for diagnosis or treatment."


class PredictionError(ValueError):
    """A prediction that cannot be made; the message says what is wrong and what to do, in one line."""


class Model(NamedTuple):
    """One generator on disk: the folder of ``generator.safetensors``, and the maps wanted of it."""

    folder: Path
    maps: tuple[str, ...]


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
    orientation: str = "",
    device: str = "cpu",
    progress: bool = True,
) -> Prediction:
    """Generate perfusion maps of one TOF and write them with a sidecar each.

    All maps are made before the first takes its name: a prediction that fails leaves nothing in ``out``.

    Args:
        tof: NIfTI volume of any orientation, voxel size and data type; only read.
        weights: folder of one model, or one that holds ``<cohort>_<map>`` (``results/<run>/models``).
        out: folder for ``<name>_desc-generated_<map>.nii.gz`` with ``.json``, and the brain as ``..._mask.nii.gz``.
        cohort_name: whose models, where ``weights`` holds those of several cohorts.
        maps: names of the maps.
        brain_mask: brain in the TOF's world space; without it the skull is stripped as in training.
        orientation: where the axes of TOF and mask point, such as ``RAS``, if their headers do not say it.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        progress: show a progress bar.

    Raises:
        PredictionError: weights that cannot be found, or do not say how to prepare a TOF.
        CohortError: an unusable TOF or mask, or an unreadable record of the training TOFs.
        WriteError: another run at work in ``out``, or a full disk.
        WeightsError: damaged weights.
        ValueError: a device that this machine does not have.
    """
    out, stem, computer = Path(out), _stem(Path(tof)), choose_device(device)
    models = find_models(Path(weights), cohort_name=cohort_name, maps=maps)
    record_path = models[0].folder / RECORD
    if not record_path.is_file():
        raise PredictionError(f"{record_path}: missing, it says how to prepare a TOF; copy it with the weights")
    record = read_record(record_path)
    paths = {"tof": Path(tof)} | ({"brain": Path(brain_mask)} if brain_mask else {})
    intensity, wanted = record["intensity"], "given" if brain_mask else record["settings"].skull_strip
    method = choose_method(wanted, paths, magnetic=intensity == "n4")
    if method == "maps":
        raise PredictionError(f"{tof}: no tool here finds the brain in such an image; give its mask with --brain")
    for path in paths.values():
        if path.resolve().parent == out.resolve() and path.name.startswith(f"{stem}_desc-generated_"):
            raise PredictionError(f"{path}: would be overwritten; choose another folder for the maps")
    original = nifti.read_volume(paths["tof"], orientation=orientation)
    brain = nifti.read_mask(paths["brain"], orientation=orientation) if brain_mask else None
    bar = functools.partial(tqdm, total=2 + len(models), desc="skull and bias", disable=not progress)
    with locked(out), adding(out) as parts, bar() as steps:
        prepared = prepare_tof(
            nib.as_closest_canonical(original),
            settings=record["settings"],
            method=method,
            given=brain,
            intensity=intensity,
            source=paths["tof"],
        )
        steps.update()
        values = scale_input(prepared.values, prepared.mask, intensity=intensity)
        label = f"{record['source']}, run {record['run']}, {models[0].folder.name.rpartition('_')[0]}"
        brain_ml = float(prepared.brain.sum()) * space.voxel_ml(prepared.corrected)
        found = describe(values, prepared.mask, prepared.affine, original=original.affine, brain_ml=brain_ml)
        warnings = [*_doubts(record, method), *unlike(found, record)]
        if orientation:
            warnings.append(f"the header does not say how the head lies: {orientation.upper()} was stated by hand")
        for warning in warnings:
            if progress:
                steps.write(f"warning: {warning}", file=sys.stderr)
        facts: dict[str, Any] = {
            "ResearchUse": RESEARCH_USE,
            "Sources": [path.name for path in paths.values()],
            "SourcesSHA256": [file_digest(path) for path in paths.values()],
            "SkullStripping": method,
            "TrainedOn": label,
            "Warnings": warnings,
            "GeneratedBy": [{"Name": "tof2perf", "Version": __version__}],
        }
        made = {}
        for model in models:
            steps.set_description(", ".join(model.maps))
            generator = load_generator(model.folder, device=computer)
            weights_digest = file_digest(model.folder / "generator.safetensors")
            facts["Weights"] = {"Model": model.folder.name, "SHA256": weights_digest}
            for name, volume in generate_maps(generator, values, prepared.mask, model.maps).items():
                entry, made[name] = MAPS[name], f"{stem}_desc-generated_{name}.nii.gz"
                about = {"Description": f"{entry.label} generated from a TOF-MRA", "Units": entry.unit}
                write_volume(parts / made[name], _onto_tof(volume, prepared, original), original.affine)
                write_json(parts / f"{stem}_desc-generated_{name}.json", about | {"Range": list(entry.bounds)} | facts)
            del generator  # a full-size one takes most of a gigabyte: never two at a time
            steps.update()
        steps.set_description("writing")
        made["mask"] = f"{stem}_desc-generated_mask.nii.gz"
        write_volume(parts / made["mask"], _onto_tof(prepared.mask, prepared, original) > 0, original.affine)
        steps.update()
    return Prediction({name: out / file for name, file in made.items()}, warnings, label)


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
        _, header = read_tensors(weights / "generator.safetensors")
        made = [entry.name for entry in chosen_maps(header["map"])]
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


# --- small parts -----------------------------------------------------------------------------------------------------


def _doubts(record: dict[str, Any], method: str) -> Iterator[str]:
    if record["source"].startswith("simulated"):
        yield "the weights learned from simulated patients: what they make of a real scan is a demonstration only"
    if record["skull_strip"] and method not in record["skull_strip"]:
        yield f"the brain was found otherwise ({method}) than for training ({', '.join(record['skull_strip'])})"


def _onto_tof(volume: np.ndarray, prepared: PreparedTof, original: nib.Nifti1Image) -> np.ndarray:
    """Bring a volume from the network's grid to the TOF's own voxels and its own order of axes, 0 outside the brain."""
    values, inside = space.resize_masked(volume, prepared.mask, prepared.brain.shape)
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(original.affine))
    return apply_orientation(np.where(inside & prepared.brain, values, np.float32(0)), back)


def _stem(path: Path) -> str:
    """Name of the outputs, the TOF's without what says that it is a TOF.

    >>> _stem(Path("sub-0001_acq-tof_angio.nii.gz")), _stem(Path("7_TOF.nii")), _stem(Path("scan.nii.gz"))
    ('sub-0001_acq-tof', '7', 'scan')
    """
    name = nifti.stem(path)
    start, _, suffix = name.rpartition("_")
    return start if start and suffix.lower() in ("angio", "tof") else name
