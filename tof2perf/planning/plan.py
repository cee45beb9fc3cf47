"""Estimate hours, memory and disk of a run before it begins, within a factor of about 1.5.

``make plan PROFILE=paper`` scales measured steps to the profile's patients, voxels and arithmetic: the steps of a
finished run (its own, or ``FROM=results/laptop``), or else one patient and one training step that are timed here.
"""

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tof2perf.cohorts.layout import list_patients
from tof2perf.cohorts.participants import SPLITS
from tof2perf.cohorts.workspace import read_dropped
from tof2perf.maps import MAPS
from tof2perf.pipeline.graph import steps
from tof2perf.planning.arithmetic import Arithmetic, count
from tof2perf.profiles import Profile, ProfileError, load_profile, run_cohorts
from tof2perf.system.memory import peak_gb, total_bytes
from tof2perf.system.run import Run
from tof2perf.volumes.nifti import CohortError

KINDS = {"00": "simulate", "01": "preprocess", "02": "train", "03": "evaluate", "04": "evaluate"}  # all others: pages
START_S, BASE_GB = 4.0, 0.45  # start and imports of any step (measured on one core of an AMD EPYC)
# A voxel of the work that a co-registration does costs as much as so many voxels of the TOF (fitted to three profiles).
REGISTRATION = 33
# Bytes that training holds: a weight in a step (value, gradient, two moments, best epoch) or while a checkpoint is
# written; a value that leaves a layer; a voxel of TOF, map and mask with what reading them leaves behind (measured).
STEP_BYTES, CHECKPOINT_BYTES, ACTIVATION_BYTES, PAIR_BYTES = 20, 48, 9, 18
SAMPLE_OPERATIONS = 1e12  # a larger training step is timed on a smaller volume


class Size(NamedTuple):
    """One step and the sizes to which its cost is proportional."""

    name: str
    stage: str  # its kind, or "train, initialised" after a model of another cohort
    kind: str
    work: float  # voxels of all its patients, operations, or pages
    memory: float  # voxels or bytes of its largest process
    disk: float  # voxels, weights, or pages


class Rate(NamedTuple):
    """Cost of one kind of step for a unit of its sizes."""

    seconds: float
    memory_gb: float
    disk_gb: float


# Kinds that no sample times, on the machine of START_S: seconds and GB a voxel of the test patients, or a page.
ASSUMED = {"evaluate": Rate(3e-6, 0.9e-6, 1.7e-9), "pages": Rate(2.0, 0.9e-6, 1.5e-3)}


def patients(profile: Profile, data: str = "", *, root: Path = Path()) -> dict[str, dict[str, float]]:
    """Count the patients of a run by cohort and split; own data are divided in the profile's proportions.

    Raises:
        ProfileError: a cohort that the profile does not know, or none.
    """
    run, counts = Run(profile.name, root, data), {}
    for name in run_cohorts(profile.cohorts, data=data, name=f"profile {profile.name}"):
        shares = {split: getattr(profile.cohorts[name], split) for split in SPLITS}
        everyone = sum(shares.values())
        if data:
            everyone = len(list_patients(run.cohort(name))) - len(read_dropped(run.dropped, name))
        counts[name] = {split: everyone * share / sum(shares.values()) for split, share in shares.items()}
    return counts


def measure(run: Run, profile: Profile, counts: dict[str, dict[str, float]]) -> list[Size]:
    """Measure every step of ``make paper``; those of one stage run side by side, stages one after another."""
    phantom, voxels, tof = profile.phantom, math.prod(profile.preprocessing.shape), math.prod(profile.phantom.tof_shape)
    aligned = tof * math.prod(phantom.tof_voxel_mm) / profile.preprocessing.registration_mm**3
    cost = arithmetic(profile, profile.preprocessing.shape)
    held = max(CHECKPOINT_BYTES * cost.weights, STEP_BYTES * cost.weights + ACTIVATION_BYTES * cost.activations)
    sizes = []
    for step in steps(run, profile, counts):
        kind, name = KINDS.get(step.notebook[:2], "pages"), step.parameters.get("cohort", "")
        initialised = kind == "train" and any(before.startswith("02-") for before in step.after)
        stage = f"{kind}, initialised" if initialised else kind
        size: tuple[float, float, float] = (1, voxels, 1)
        split = counts.get(name, {})
        everyone, train, validation = sum(split.values()), split.get("train", 0), split.get("validation", 0)
        if kind == "simulate":
            scans = tof + math.prod(phantom.dsc_shape) * profile.cohorts[name].simulation.frames
            size = everyone * tof, tof, everyone * scans
        elif kind == "preprocess":
            volumes = 2 + len(profile.cohorts[name].maps)
            size = everyone * (tof + REGISTRATION * aligned), tof, everyone * voxels * volumes
        elif kind == "train":
            work = profile.epochs[name] * (train * sum(cost.step.values()) + validation * cost.forward)
            size = work, PAIR_BYTES * voxels * (train + validation) + held, cost.weights
        elif kind == "evaluate":
            size = split["test"] * voxels, voxels, split["test"] * voxels
        if not step.for_students:
            sizes.append(Size(step.name, stage, kind, *size))
    return sizes


def arithmetic(profile: Profile, shape: tuple[int, ...]) -> Arithmetic:
    """Count one training step of a profile on a volume of ``shape`` voxels."""
    maps, training = len(MAPS) if profile.together else 1, profile.training
    options = {"adversarial": training.adversarial_weight > 0, "recompute": training.checkpoint_activations}
    return count(profile.network, shape, maps=maps, **options)


def rates_of_run(results: Path) -> dict[str, Rate]:
    """Read the cost of each kind of step from the stamps of a finished run.

    Make runs as many steps at once as there are cores, so the seconds of a step are taken for core seconds.

    Raises:
        CohortError: the run is not finished, or not of simulated cohorts.
    """
    if not (results / "manifest.json").is_file():
        raise CohortError(f"{results}: no finished run; give a folder below results that has a manifest.json")
    profile = load_profile(json.loads((results / "manifest.json").read_text(encoding="utf-8"))["profile"])
    run = Run(profile.name, results.parents[1])
    if results.name != run.name:
        raise CohortError(f"{results}: a run of own data; give one of simulated cohorts, whose patients are known")
    sizes, rates = measure(run, profile, patients(profile)), {}
    for kind in {size.kind for size in sizes}:
        of_kind = [size for size in sizes if size.kind == kind]
        stamps = [json.loads(run.stamp(size.name).read_text(encoding="utf-8")) for size in of_kind]
        seconds = math.fsum(max(stamp["seconds"] - START_S, 0.1 * stamp["seconds"]) for stamp in stamps)
        memory = max(max(stamp["peak_memory_gb"] for stamp in stamps) - BASE_GB, 0.0)
        written = sum(written for stamp in stamps for _, written, *_ in stamp["outputs"].values())
        work, disk = math.fsum(size.work for size in of_kind), math.fsum(size.disk for size in of_kind)
        rates[kind] = Rate(seconds / work, memory / max(size.memory for size in of_kind), written / 1e9 / disk)
    return rates


def time_sample(profile: Profile) -> dict[str, Rate]:
    """Time one patient and one training step, each in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as process:
        return process.submit(_patient, profile).result() | process.submit(_training, profile).result() | ASSUMED


def _patient(profile: Profile) -> dict[str, Rate]:
    """Simulate and preprocess a patient twice; the second time nothing has to be loaded any more."""
    from tof2perf.phantom.patient import simulate_patient
    from tof2perf.preprocessing.preprocess import preprocess_patient

    name, cohort = next((name, cohort) for name, cohort in profile.cohorts.items() if cohort.simulated)
    simulate, preprocess, *_ = measure(Run(profile.name, ""), profile, {name: dict.fromkeys(SPLITS, 1 / 3)})
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            scans, prepared = Path(folder, "scans"), Path(folder, "prepared")
            began = time.process_time()
            simulate_patient(scans, "sub-0001", cohort=cohort, phantom=profile.phantom, seed=(profile.seed,))
            between = time.process_time()
            preprocess_patient(scans, "sub-0001", prepared, cohort=cohort, settings=profile.preprocessing)
            ended = time.process_time()
            gb = [sum(p.stat().st_size for p in each.rglob("*") if p.is_file()) / 1e9 for each in (scans, prepared)]
    memory = max(peak_gb() - BASE_GB, 0.0) / simulate.memory
    return {
        "simulate": Rate((between - began) / simulate.work, memory, gb[0] / simulate.disk),
        "preprocess": Rate((ended - between) / preprocess.work, memory, gb[1] / preprocess.disk),
    }


def _training(profile: Profile) -> dict[str, Rate]:
    """Time training steps on a processor core or on this machine's GPU."""
    import torch

    from tof2perf.gan.devices import make_fabric
    from tof2perf.gan.pix2pix import Pix2Pix

    shape, training = profile.preprocessing.shape, dataclasses.replace(profile.training, devices=1, batch=1)
    while (operations := sum(arithmetic(profile, shape).step.values())) > SAMPLE_OPERATIONS:
        shape = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    maps, fabric = len(MAPS) if profile.together else 1, make_fabric(training)
    clock = time.process_time if fabric.device.type == "cpu" else time.perf_counter
    model = Pix2Pix(profile.network, training, maps=maps, seed=1, fabric=fabric)
    volumes = torch.rand(1, 1 + maps, *shape, device=fabric.device)
    times = [clock()]
    for _ in range(4):
        model.step(volumes[:, :1], volumes[:, 1:], rate=1.0)
        times.append(clock())
    fastest = min(end - start for start, end in itertools.pairwise(times))
    return {"train": Rate(fastest / operations, 1e-9, 4e-9)}  # sizes are in bytes, and in weights of four bytes


def predict(
    sizes: list[Size], rates: dict[str, Rate], *, cores: int, devices: int = 0, rate: float = 0.0
) -> pd.DataFrame:
    """Estimate every stage of a run on machines as fast as the one of the rates.

    Args:
        sizes: of the steps, from :func:`measure`.
        rates: cost of each kind of step.
        cores: processor cores, and steps at once.
        devices: GPUs that train one model each; 0 if cores train.
        rate: operations a second of one GPU; 0 for the rate that was measured.

    Returns:
        One row a stage: hours of work of cores and GPUs, ``hours`` from its start to its end, memory of the largest
        process and of all that run ``at once``, and the disk space of what it leaves.
    """
    rows = {}
    for stage in dict.fromkeys(size.stage for size in sizes):
        members = [size for size in sizes if size.stage == stage]
        kind, unit = members[0].kind, rates[members[0].kind]
        device, spread = kind == "train" and devices > 0, kind in ("simulate", "preprocess")
        seconds = [START_S + size.work * (1 / rate if device and rate else unit.seconds) for size in members]
        threads = {"simulate": cores, "preprocess": cores, "train": max(1, cores // 5)}.get(kind, 1)  # as the Makefile
        width, threads = (devices, 1) if device else (cores, threads)
        work, memory = math.fsum(seconds) / 3600, BASE_GB + max(size.memory for size in members) * unit.memory_gb
        rows[stage] = {
            "steps": len(members),
            "core hours": 0.0 if device else work,
            "GPU hours": work if device else 0.0,
            "hours": max(work / width, max(seconds) / 3600 / threads),
            "memory (GB)": memory,
            "at once (GB)": memory * min(width, len(members)) * (cores if spread else 1),
            "disk (GB)": math.fsum(size.disk for size in members) * unit.disk_gb,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def main(arguments: list[str] | None = None) -> int:
    """Command line for the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.planning.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", default="", help="own cohorts, whose patients are counted")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that data/ and results/ are written to")
    parser.add_argument("--from", dest="run", type=Path, help="finished run to scale from, a folder below results")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--devices", type=int, default=0, help="GPUs that train one model each")
    parser.add_argument("--rate", type=float, default=0.0, help="TFLOP/s that one GPU reaches in a training step")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        counts = patients(profile, options.data, root=options.root)
        run = Run(profile.name, options.root, options.data)
        given = options.run or (run.results if (run.results / "manifest.json").is_file() and not options.data else None)
        print(f"scaling {given}" if given else "timing a patient and a training step ...", file=sys.stderr, flush=True)
        rates = rates_of_run(given) if given else time_sample(profile)
    except (ProfileError, CohortError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sizes = measure(run, profile, counts)
    plan = predict(sizes, rates, cores=options.cores, devices=options.devices, rate=options.rate * 1e12)
    split = ", ".join(f"{name} {'/'.join(f'{n:.0f}' for n in split.values())}" for name, split in counts.items())
    print(f"{profile.name}: patients (train/validation/test) {split}\n\n{plan.to_markdown(floatfmt='.2f')}\n")
    free = shutil.disk_usage(next(folder for folder in options.root.resolve().parents if folder.exists())).free
    print(f"time: about {plan.hours.sum():.1f} hours on {options.cores} cores and {options.devices} GPUs")
    print(f"disk: {plan['disk (GB)'].sum():.1f} GB; free here: {free / 1e9:.1f} GB")
    print(f"memory: {plan['at once (GB)'].max():.1f} GB at once; this machine: {total_bytes() / 1e9:.1f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
