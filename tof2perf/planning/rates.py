"""What the steps of a run cost on this machine: rates from a few patients and training steps.

Two lanes measure side by side where there are two cores, because in a run all cores are busy too.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tof2perf.planning.samples import KINDS
from tof2perf.profiles import Profile, ProfileError


class RatesError(RuntimeError):
    """A measurement failed; one line that says which and what the program said."""


@dataclass(frozen=True)
class Rates:
    """Seconds are of one core unless they are said to be the device's; GB are 1e9 bytes.

    Attributes:
        machine, profile: where, and at which sizes, this was measured.
        threads: of one training.
        start_s: a notebook's start (papermill, kernel); ``imports_s``: of the package, in every process.
        page_s: a page of figures, its imports included.
        simulate_open_s, preprocess_open_s: what each worker process does before its first patient.
        simulate_s, oracle_s: a patient, by cohort.
        simulated_gb, simulated_files, oracle_gb: a patient on disk, by cohort.
        preprocess_s: a patient; ``preprocessed_gb``: on disk for a voxel of the grid, all files of a patient;
            ``preprocessed_files``.
        read_s: loading a pair for training, for a voxel of the grid.
        pair_bytes: memory of such a pair, for a voxel.
        step_rate: operations a second in a training step; ``step_s``: of the device, in each step besides.
        validate_rate: operations a second of the forward pass, comparison included.
        device: cpu, cuda or mps.
        checkpoint_s: writing a byte.
        evaluate_start_s: of an evaluation, before its first patient.
        evaluate_s: of one map of a test patient, for a voxel; ``infer_rate``: operations a second of the network there.
        baseline_s: reading a training patient for the baselines, for a voxel.
        dice_s: a test patient's lesions, for a voxel; ``dice_start_s`` what the page takes besides.
        prediction_gb: a map on disk, for a voxel.
        train_base_gb, evaluate_base_gb, page_base_gb: memory of such a process before the first volume.
        simulate_gb, preprocess_gb: memory of one process.
        activation_bytes: memory of a training step for a value that leaves a layer.
        evaluate_bytes, page_bytes: memory of an evaluation or a page for a voxel.
        device_activation_bytes: the same on a GPU, in its own memory; 0 without one.
    """

    machine: str
    profile: str
    threads: int
    start_s: float
    imports_s: float
    page_s: float
    simulate_open_s: float
    preprocess_open_s: float
    simulate_s: dict[str, float]
    oracle_s: dict[str, float]
    simulated_gb: dict[str, float]
    simulated_files: int
    oracle_gb: dict[str, float]
    preprocess_s: float
    preprocessed_gb: float
    preprocessed_files: int
    read_s: float
    pair_bytes: float
    step_rate: float
    step_s: float
    validate_rate: float
    device: str
    checkpoint_s: float
    evaluate_start_s: float
    evaluate_s: float
    infer_rate: float
    baseline_s: float
    dice_s: float
    dice_start_s: float
    prediction_gb: float
    train_base_gb: float
    evaluate_base_gb: float
    page_base_gb: float
    simulate_gb: float
    preprocess_gb: float
    activation_bytes: float
    evaluate_bytes: float
    page_bytes: float
    device_activation_bytes: float


def measure(profile: Profile, *, cores: int) -> Rates:
    """Time a few patients and training steps of a profile.

    Args:
        profile: whose sizes are taken.
        cores: of this machine.

    Raises:
        ProfileError: no cohort of the profile can be simulated, so there is no patient to time.
        RatesError: a measurement failed.
    """
    simulated = [name for name, cohort in profile.cohorts.items() if cohort.simulated]
    if not simulated:
        raise ProfileError(f"profile {profile.name}: no cohort can be simulated, so nothing can be timed; add one")
    threads = max(1, cores // 5)
    lanes = min(2, cores)
    names = [simulated[lane % len(simulated)] for lane in range(lanes)]
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
        str(threads),
    )
    environment |= {"MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), *sys.path])}
    with tempfile.TemporaryDirectory(prefix="tof2perf-plan-") as scratch, ThreadPoolExecutor(lanes) as pool:
        folders = [Path(scratch) / str(lane) for lane in range(lanes)]
        for folder in folders:
            folder.mkdir()
            content = json.loads(json.dumps(dataclasses.asdict(profile))) | {"name": "sample"}
            (folder / "sample.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

        def lane(number: int) -> dict[str, dict]:
            return {kind: _alone(kind, folders[number], names[number], number, environment) for kind in KINDS}

        found = list(pool.map(lane, range(lanes)))
    return _together(found, names, profile, threads)


_REPOSITORY = Path(__file__).resolve().parents[2]


def _alone(kind: str, folder: Path, name: str, lane: int, environment: dict[str, str]) -> dict[str, Any]:
    """One kind of step in a process of its own."""
    command = [sys.executable, "-m", "tof2perf.planning.samples", kind, str(folder), name, str(lane)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        place = next((line for line in reversed(lines) if line.startswith("File ")), "")
        last = f"{lines[-1]} ({place})" if place else lines[-1]
        raise RatesError(f"timing '{kind}' failed: {last}; free memory and disk, or give --rates of another machine")
    return json.loads(done.stdout.splitlines()[-1])


def _together(found: list[dict[str, dict]], names: list[str], profile: Profile, threads: int) -> Rates:
    """Means over the lanes; a cohort that no lane had gets those of the first."""

    def mean(kind: str, key: str) -> float:
        values = [lane[kind][key] for lane in found if lane[kind].get(key) is not None]
        return math.fsum(values) / len(values) if values else 0.0

    def most(kind: str) -> float:
        return max(lane[kind]["peak_gb"] for lane in found)

    def by_cohort(key: str) -> dict[str, float]:
        own = {name: lane["simulate"][key] for name, lane in reversed(list(zip(names, found, strict=True)))}
        every = (name for name, cohort in profile.cohorts.items() if cohort.simulated)
        return {name: own.get(name, found[0]["simulate"][key]) for name in every}

    training = found[0]["train"]
    return Rates(
        machine=f"{_processor()}, {os.cpu_count()} cores"
        + (f", {training['device_name']}" if training["device"] != "cpu" else ""),
        profile=profile.name,
        threads=threads,
        start_s=mean("start", "seconds"),
        imports_s=mean("train", "imports_s"),
        page_s=mean("page", "seconds"),
        simulate_open_s=mean("simulate", "open_s"),
        preprocess_open_s=mean("preprocess", "open_s"),
        simulate_s=by_cohort("seconds"),
        oracle_s=by_cohort("oracle_s"),
        simulated_gb=by_cohort("gb"),
        simulated_files=max(lane["simulate"]["files"] for lane in found),
        oracle_gb=by_cohort("oracle_gb"),
        preprocess_s=mean("preprocess", "seconds"),
        preprocessed_gb=mean("preprocess", "gb_per_voxel"),
        preprocessed_files=int(mean("preprocess", "files")),
        read_s=mean("train", "read_s"),
        pair_bytes=mean("train", "pair_bytes"),
        step_rate=mean("train", "step_rate"),
        step_s=mean("train", "step_s"),
        validate_rate=mean("train", "validate_rate"),
        device=training["device"],
        checkpoint_s=mean("train", "checkpoint_s"),
        evaluate_start_s=mean("evaluate", "evaluate_start_s"),
        evaluate_s=mean("evaluate", "evaluate_s"),
        infer_rate=mean("evaluate", "infer_rate"),
        baseline_s=mean("evaluate", "baseline_s"),
        dice_s=mean("evaluate", "dice_s"),
        dice_start_s=mean("evaluate", "dice_start_s"),
        prediction_gb=mean("evaluate", "prediction_gb"),
        train_base_gb=mean("train", "train_base_gb"),
        evaluate_base_gb=mean("evaluate", "evaluate_base_gb"),
        page_base_gb=mean("page", "base_gb"),
        simulate_gb=most("simulate"),
        preprocess_gb=most("preprocess"),
        activation_bytes=mean("train", "activation_bytes"),
        evaluate_bytes=mean("evaluate", "bytes_per_voxel"),
        page_bytes=mean("page", "bytes_per_voxel"),
        device_activation_bytes=mean("train", "device_activation_bytes"),
    )


def read_rates(path: Path, profile: str) -> Rates:
    """What :func:`tof2perf.planning.rates.measure` found earlier.

    Raises:
        RatesError: no such file, not of this version, or measured at the sizes of another profile.
    """
    try:
        rates = Rates(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RatesError(f"{path}: cannot be read ({error}); measure again with --save") from None
    if rates.profile != profile:
        raise RatesError(f"{path}: measured at the sizes of profile {rates.profile}; measure {profile} with --save")
    return rates


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(": ")[2]
    return platform.processor() or platform.machine()
