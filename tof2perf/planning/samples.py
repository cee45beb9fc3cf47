"""A few patients and training steps of one kind of step, timed in this process and in a temporary folder.

``python -m tof2perf.planning.samples KIND FOLDER COHORT LANE`` is what ``rates`` calls, in a process for each kind,
so that its largest memory can be read. Kinds follow one another in a folder: each uses what the one before it left.
Times of processors are processor time, which other work on the machine hardly changes; times of a GPU are the clock's.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tof2perf.profiles import NetworkProfile, Profile, load_profile
from tof2perf.system.memory import free_bytes, peak_gb, resident_gb

_REPOSITORY = Path(__file__).resolve().parents[2]

PATIENTS, PATIENTS_S = 3, 5.0  # patients of a lane are made until so many are, or so many seconds are spent
STEPS, STEPS_S = 12, 2.0  # training steps that are timed at one size: no more than this, unless they are quick
WARM_UP = 2  # steps before them, in which memory is asked for the first time
LONGEST_S = 15.0  # a size whose steps would take longer in all is not tried but calculated
GRID = 2**20  # voxels of the volumes on which evaluation is measured; larger ones are thinned
SMALLEST = 16  # voxels along an axis, below which networks and SSIM do not go
SHARE = 0.5  # of the free memory a training step may take while being measured
CROWD = 32  # pairs that are loaded to see what one takes


def _start(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float]:
    """A notebook of one line."""
    import resource

    import nbformat

    from tof2perf.pipeline.execution import run_notebook

    def spent() -> float:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    cell = nbformat.v4.new_code_cell("1 + 1", id="line")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "line.ipynb")
    run_notebook(folder / "line.ipynb", folder / "done.ipynb", parameters={}, failed=folder / "failed.ipynb")
    return {"seconds": spent()}  # of this whole process, which began as a step of a run does


def _simulate(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float]:
    """Patients of one cohort, and the oracle of one of them."""
    import pandas as pd

    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.phantom import metadata
    from tof2perf.phantom.head import load_template
    from tof2perf.phantom.oracle import write_oracles
    from tof2perf.phantom.patient import patient_seed, simulate_patient
    from tof2perf.system.files import write_table

    load_template()  # read once by a process, not by a patient
    opening = time.process_time()
    here, cohort = Workspace(sample.name, folder), sample.cohorts[name]
    setting: dict[str, Any] = {"cohort": cohort, "phantom": sample.phantom}
    target = here.cohort(name)
    metadata.write_descriptions(target, name, cohort=cohort)

    def make(number: int) -> None:
        # The seeds of a run: a patient of the second lane differs from those of the first.
        seed = patient_seed(sample.seed, name, number)
        simulate_patient(target, f"sub-{number + 1:04d}", **setting, seed=seed)

    spent = _each(make)
    patients = [f"sub-{number + 1:04d}" for number in range(len(spent))]
    splits = ["test"] + ["train"] * (len(spent) - 1)
    gb, files = _on_disk(target)
    write_table(target / "participants.tsv", pd.DataFrame({"participant_id": patients, "split": splits}))
    began = time.process_time()
    write_oracles(here.oracle(name), target, name, **setting, seed=sample.seed, jobs=1)
    return {
        "open_s": opening,
        "seconds": math.fsum(spent) / len(spent),
        "gb": gb / len(spent),
        "files": files // len(spent),
        "oracle_s": time.process_time() - began,
        "oracle_gb": _on_disk(here.oracle(name))[0],
    }


def _preprocess(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float]:
    """The same patients; libraries start in the time of the first, which counts only if it is alone."""
    from tof2perf.cohorts.layout import list_patients
    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.preprocessing.preprocess import preprocess_patient

    opening = time.process_time()
    here = Workspace(sample.name, folder)
    patients = list_patients(here.cohort(name))
    target = folder / "full"

    def make(number: int) -> None:
        preprocess_patient(
            here.cohort(name), patients[number], target, cohort=sample.cohorts[name], settings=sample.preprocessing
        )

    spent = _each(make, most=len(patients))
    gb, files = _on_disk(target)
    _thin(sample, folder, name)
    usual = math.fsum(spent[1:]) / (len(spent) - 1) if len(spent) > 1 else spent[0]
    return {
        "open_s": opening + max(spent[0] - usual, 0.0),
        "seconds": usual,
        "gb_per_voxel": gb / len(spent) / math.prod(sample.preprocessing.shape),
        "files": files // len(spent),
    }


def _train(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float | str]:
    """Reading, training steps at growing sizes, validation, and a checkpoint."""
    import torch

    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.gan.devices import keep_freed_memory, make_fabric
    from tof2perf.gan.networks import UNetGenerator
    from tof2perf.gan.pairs import PairDataset
    from tof2perf.gan.pix2pix import Pix2Pix
    from tof2perf.gan.training import SMALL, validate
    from tof2perf.gan.weights import write_tensors
    from tof2perf.planning.arithmetic import count

    imports = time.process_time()
    here = Workspace("sample", folder)
    pairs_folder = here.preprocessed(name)
    pairs = PairDataset(pairs_folder, ["sub-0001", "sub-0002"], "tmax")
    # Small volumes leave gaps in memory, so what a pair takes is measured on many.
    more, before, began = max(2, 2**21 // pairs.tofs[0].numel()), resident_gb(), time.process_time()
    crowd = PairDataset(pairs_folder, ["sub-0003"] * min(more, CROWD), "tmax")
    read = (time.process_time() - began) / len(crowd) / pairs.tofs[0].numel()
    pair_bytes = (resident_gb() - before) * 1e9 / len(crowd) / pairs.tofs[0].numel()
    del crowd
    training = dataclasses.replace(sample.training, devices=1, batch=1)
    fabric = make_fabric(training)
    device = fabric.device.type
    # Of a GPU the clock counts, and one lane alone uses it.
    clock = time.process_time if device == "cpu" else time.perf_counter
    found: dict[str, float | str] = {"device": device, "imports_s": imports, "read_s": read, "pair_bytes": pair_bytes}
    if device != "cpu" and lane:
        return found
    found["device_name"] = torch.cuda.get_device_name() if device == "cuda" else device
    if device == "cpu" and math.prod(sample.preprocessing.shape) <= SMALL:  # as the profile's own size would
        keep_freed_memory()
    measured: list[tuple[float, float]] = []  # operations and seconds of a step
    held: list[tuple[float, float]] = []  # values that leave layers, and bytes
    for shape, network in _sizes(sample):
        costs = count(
            network,
            shape,
            adversarial=training.adversarial_weight > 0,
            recompute=training.checkpoint_activations,
        )
        operations = sum(costs.step.values())
        if measured:
            expected = operations / measured[-1][0] * measured[-1][1] * (WARM_UP + 2)
            needed = 16 * costs.weights + 8 * costs.activations
            if expected > LONGEST_S or (device == "cpu" and needed > SHARE * free_bytes()):
                break
        model = Pix2Pix(network, training, seed=1, fabric=fabric)
        noise = torch.Generator().manual_seed(0)
        tof, target = (torch.rand((2, 1, 1, *shape), generator=noise) * 2 - 1).to(fabric.device)
        spent: list[float] = []
        for turn in range(WARM_UP + STEPS):
            began = clock()
            model.step(tof, target, rate=1.0)
            spent += [clock() - began] if turn >= WARM_UP else []
            if len(spent) >= 2 and math.fsum(spent) > STEPS_S:
                break
        measured.append((operations, sorted(spent)[len(spent) // 2]))
        # Weights, gradients and two moments take 16 bytes a weight.
        if device == "cuda":
            allocated = torch.cuda.max_memory_allocated() - 16 * costs.weights
            found["device_activation_bytes"] = max(allocated, 0) / costs.activations
        held.append((costs.activations, peak_gb() * 1e9 - 16 * costs.weights))
        timed = network
    found["step_rate"], found["step_s"] = _line(measured)
    values, base_bytes = _line(held)
    found["activation_bytes"], found["train_base_gb"] = (1 / values if device == "cpu" else 0.0), base_bytes / 1e9
    forward = count(timed, tuple(pairs.tofs[0].shape[1:])).forward
    began = clock()
    validate(model.generator, pairs, "tmax", fabric=fabric)
    found["validate_rate"] = len(pairs) * forward / (clock() - began)
    began = time.process_time()
    write_tensors(folder / "checkpoint", model.state(), {})
    found["checkpoint_s"] = (time.process_time() - began) / (folder / "checkpoint").stat().st_size
    (folder / "checkpoint").unlink()
    # What evaluation needs: a generator that has learned nothing, as deep as the thinned volumes allow.
    network = thinned_network(sample)
    generator = UNetGenerator.from_profile(network)
    header = {"map": "tmax", "cohort": name, "network": dataclasses.asdict(network)}
    write_tensors(here.model(name, "tmax") / "generator.safetensors", generator.state_dict(), header)
    return found


def _evaluate(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float]:
    """The cells of the notebooks themselves, on one test patient and a generator that has learned nothing."""
    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.gan.inference import generate, load_generator
    from tof2perf.gan.pairs import load_pair
    from tof2perf.planning.arithmetic import count

    here, network = Workspace("sample", folder), thinned_network(sample)
    tof, _, mask, _ = load_pair(here.preprocessed(name), "sub-0001", "tmax")
    given = {"profile": str(folder / "sample.yaml"), "root": str(folder), "cohort": name}
    evaluation = _cells("03-evaluate", given, again=("baselines", "predictions"))
    peak = peak_gb()
    generator = load_generator(here.model(name, "tmax"))
    weights_gb = 4e-9 * sum(weight.numel() for weight in generator.parameters())
    generate(generator, tof, mask, "tmax")
    began = time.process_time()
    generate(generator, tof, mask, "tmax")
    infer = time.process_time() - began
    dice = _cells("04-dice", given, again=("segmentation", "overlap"))
    patient = dice.again["segmentation"] + dice.again["overlap"]
    return {
        "evaluate_start_s": max(evaluation.first_s - math.fsum(evaluation.again.values()), 0.0),
        "evaluate_s": max(evaluation.again["predictions"] - infer, 0.0) / tof.size,
        "infer_rate": count(network, tof.shape).forward / infer,
        "baseline_s": evaluation.again["baselines"] / tof.size,
        "dice_s": patient / tof.size,
        "dice_start_s": max(dice.first_s - patient, 0.0),
        "evaluate_base_gb": evaluation.imported_gb,
        "prediction_gb": here.prediction_path(name, "sub-0001", "tmax").stat().st_size / 1e9 / tof.size,
        "bytes_per_voxel": max(peak - evaluation.imported_gb - weights_gb, 0.0) * 1e9 / tof.size,
    }


def _page(sample: Profile, folder: Path, name: str, lane: int) -> dict[str, float]:
    """The cells of a page of figures, its imports included."""
    voxels = math.prod(length >> halvings(sample) for length in sample.preprocessing.shape)
    page = _cells("06-figure1", {"profile": str(folder / "sample.yaml"), "root": str(folder), "cohort": name})
    return {
        "seconds": page.first_s,
        "base_gb": page.imported_gb,
        "bytes_per_voxel": max(peak_gb() - page.imported_gb, 0.0) * 1e9 / voxels,
    }


KINDS: dict[str, Callable[[Profile, Path, str, int], dict[str, Any]]] = {
    "start": _start,
    "simulate": _simulate,
    "preprocess": _preprocess,
    "train": _train,
    "evaluate": _evaluate,
    "page": _page,
}


def _each(make: Callable[[int], None], *, most: int = PATIENTS) -> list[float]:
    """Processor seconds of one patient after another, until there are enough."""
    spent: list[float] = []
    while len(spent) < most and math.fsum(spent) < PATIENTS_S:
        began = time.process_time()
        make(len(spent))
        spent.append(time.process_time() - began)
    return spent


class _Cells(NamedTuple):
    """Processor seconds of a notebook: all cells once; some of them a second time, when nothing has to be loaded any
    more; and the memory after its imports."""

    first_s: float
    again: dict[str, float]
    imported_gb: float


def _cells(notebook: str, parameters: dict[str, str], *, again: Sequence[str] = ()) -> _Cells:
    """Run a notebook's code cells in this process, those named in ``again`` twice."""
    from tof2perf.pipeline.fingerprints import read_notebook

    os.chdir(_REPOSITORY / "notebooks")
    names: dict[str, Any] = {}
    first, imported = 0.0, 0.0
    repeated: dict[str, float] = {}
    for cell in read_notebook(_REPOSITORY / "notebooks" / f"{notebook}.ipynb").code:
        for turn in range(1 + (cell.name in again)):
            began = time.process_time()
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(cell.source, f"{notebook}, cell {cell.name}", "exec"), names)
            spent = time.process_time() - began
            first += 0.0 if turn else spent
            repeated |= {cell.name: spent} if turn else {}
        if "parameters" in cell.tags:
            names |= parameters
        if cell.name == "imports":
            imported = peak_gb()
    return _Cells(first, repeated, imported)


def _thin(sample: Profile, folder: Path, name: str) -> None:
    """The first patient three times, one for each split, on a grid of no more than GRID voxels."""
    import numpy as np
    import pandas as pd

    from tof2perf.cohorts.layout import preprocessed_path
    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.system.files import write_table
    from tof2perf.volumes.nifti import read_volume, write_volume

    source, target = folder / "full", Workspace("sample", folder).preprocessed(name)
    every = 2 ** halvings(sample)
    splits = {"sub-0001": "test", "sub-0002": "train", "sub-0003": "validation"}
    for volume in ("tof", "mask", "tmax"):
        image = read_volume(preprocessed_path(source, "sub-0001", volume))
        values = np.asanyarray(image.dataobj)[::every, ::every, ::every]
        values = values > 0.5 if volume == "mask" else values
        for patient in splits:
            affine = image.affine @ np.diag([every, every, every, 1])
            write_volume(preprocessed_path(target, patient, volume), values, affine)
    frame = pd.DataFrame({"participant_id": splits.keys(), "split": splits.values()})
    write_table(target / "participants.tsv", frame)


def halvings(sample: Profile) -> int:
    """How often every other voxel must be left out along each axis, until no more than GRID are left."""
    return max(0, math.ceil(math.log2(math.prod(sample.preprocessing.shape) / GRID) / 3))


def thinned_network(sample: Profile) -> NetworkProfile:
    """The profile's network, less deep by the levels for which a thinned volume is too small."""
    return dataclasses.replace(sample.network, levels=sample.network.levels - halvings(sample))


def _sizes(sample: Profile) -> list[tuple[tuple[int, ...], NetworkProfile]]:
    """Volumes and networks from small to the profile's own, each twice the one before along every axis."""
    found = []
    for halved in reversed(range(sample.network.levels - 1)):
        shape = tuple(length >> halved for length in sample.preprocessing.shape)
        if halved and min(shape) < SMALLEST:
            continue
        widths = ("generator_filters", "discriminator_filters")
        filters = {key: max(1, getattr(sample.network, key) >> halved) for key in widths}
        found.append((shape, dataclasses.replace(sample.network, levels=sample.network.levels - halved, **filters)))
    return found


def _line(measured: list[tuple[float, float]]) -> tuple[float, float]:
    """A straight line through the two largest sizes, here operations (or values) against seconds (or bytes).

    Returns:
        Operations a second, and seconds besides; of one size alone there are none besides.
    """
    operations, seconds = measured[-1]
    if len(measured) > 1:
        less, sooner = measured[-2]
        if seconds > sooner:
            rate = (operations - less) / (seconds - sooner)
            if seconds >= operations / rate:
                return rate, seconds - operations / rate
    return operations / seconds, 0.0


def _on_disk(folder: Path) -> tuple[float, int]:
    """GB and number of the patients' files in a folder; a cohort has few others."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and "sub-" in str(path)]
    return math.fsum(sizes) / 1e9, len(sizes)


def main(arguments: list[str] | None = None) -> int:
    """One kind of step in this process, for :func:`measure`: KIND FOLDER COHORT LANE."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.planning.rates", description=main.__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cohort")
    parser.add_argument("lane", type=int)
    found = parser.parse_args(arguments)
    sample = load_profile(found.folder / "sample.yaml")
    timed = KINDS[found.kind](sample, found.folder, found.cohort, found.lane)
    print(json.dumps(timed | {"peak_gb": peak_gb()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
