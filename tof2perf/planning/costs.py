"""What every step of a run costs: its work, memory and disk, from rates, arithmetic and the numbers of a profile."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tof2perf.cohorts.layout import list_patients
from tof2perf.cohorts.participants import SPLITS
from tof2perf.cohorts.workspace import Workspace, read_dropped
from tof2perf.maps import MAPS
from tof2perf.planning.arithmetic import Arithmetic, count
from tof2perf.planning.rates import Rates, RatesError
from tof2perf.profiles import Profile, run_cohorts
from tof2perf.volumes.nifti import CohortError

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PAIR_BYTES = 4 + 4 + 1  # of a voxel of TOF, map and mask, which training holds in memory
# Bytes a weight. In a step: weight, gradient, two moments, and the best epoch's. While a checkpoint is written: weight,
# moments and the best epoch's, once as tensors, once as bytes, once as the file's content.
STEP_BYTES, CHECKPOINT_BYTES = 20, 48
STORED_BYTES = 4  # a weight on disk; a checkpoint has four such numbers a weight
KINDS = ("simulate", "preprocess", "train", "evaluate", "dice", "pages")


@dataclass(frozen=True)
class Site:
    """The machine, or machines, that a plan is for.

    Attributes:
        cores: processor cores in all.
        jobs: steps at once, as ``make -j``.
        devices: GPUs that train one model each; 0 if cores train.
        rate: operations a second of one device in a training step, in place of the measured; None for that.
    """

    cores: int
    jobs: int
    devices: int = 0
    rate: float | None = None


@dataclass(frozen=True)
class Phase:
    """A part of a step: how long it takes if it gets all it can use, and what that is (cores, devices)."""

    seconds: float
    cores: float
    devices: float = 0.0


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name, kind: as in ``make status``, and what it is counted under.
        after: names of the steps before it.
        phases: one after another.
        memory_gb: of its largest process; ``processes`` of them run at once.
        device_gb: memory of a GPU.
        disk_gb, files: what it leaves.
    """

    name: str
    kind: str
    after: tuple[str, ...]
    phases: tuple[Phase, ...]
    memory_gb: float
    processes: int = 1
    device_gb: float = 0.0
    disk_gb: float = 0.0
    files: int = 0

    @property
    def seconds(self) -> float:
        """With everything it can use."""
        return math.fsum(phase.seconds for phase in self.phases)

    @property
    def core_seconds(self) -> float:
        """Work of processors."""
        return math.fsum(phase.seconds * phase.cores for phase in self.phases if not phase.devices)

    @property
    def device_seconds(self) -> float:
        """Work of GPUs."""
        return math.fsum(phase.seconds * phase.devices for phase in self.phases)


def patients(profile: Profile, data: str = "", *, root: Path = Path()) -> dict[str, dict[str, int]]:
    """Patients of a run by cohort and split; of own data counted in the folder, where nothing is opened but tables.

    Raises:
        ProfileError: a cohort that the profile does not know, or none.
        CohortError: a cohort without patients.
    """
    found = {}
    for name in run_cohorts(profile.cohorts, data=data, name=f"profile {profile.name}"):
        shares = {split: getattr(profile.cohorts[name], split) for split in SPLITS}
        if not data:
            found[name] = shares
            continue
        here = Workspace(profile.name, root, data)
        left_out = read_dropped(here.dropped, name)
        held = [patient for patient in list_patients(here.cohort(name)) if patient not in left_out]
        if len(held) < len(SPLITS):
            raise CohortError(f"{here.cohort(name)}: {len(held)} patients; each of the three splits needs one")
        table = here.cohort(name) / "participants.tsv"
        frame = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False) if table.is_file() else pd.DataFrame()
        if {"participant_id", "split"} <= set(frame) and frame.split.isin(SPLITS).all():
            given = frame[~frame.participant_id.isin(left_out)].split.value_counts()
            found[name] = {split: int(given.get(split, 0)) for split in SPLITS}
        else:
            found[name] = share_out(len(held), shares)
    return found


def share_out(number: int, shares: dict[str, int]) -> dict[str, int]:
    """Whole patients in given proportions, at least one each.

    >>> share_out(10, {"train": 4, "validation": 1, "test": 3})
    {'train': 5, 'validation': 1, 'test': 4}
    """
    found = {split: max(1, round(number * share / sum(shares.values()))) for split, share in shares.items()}
    largest = max(found, key=lambda split: found[split])
    found[largest] += number - sum(found.values())
    return found


def plan_steps(
    profile: Profile, rates: Rates, site: Site, counts: dict[str, dict[str, int]], *, simulated: bool = True
) -> list[Step]:
    """Every step of ``make paper`` with its cost, upstream first, in the order of the Makefile.

    Args:
        profile: sizes, epochs and settings.
        rates: measured, with the same phantom.
        site: where it is to run.
        counts: patients by cohort and split.
        simulated: whether the cohorts are made, or the user's own.
    """
    training = profile.training
    shape = profile.preprocessing.shape
    voxels = math.prod(shape)
    arithmetic = count(
        profile.network,
        shape,
        maps=len(MAPS) if profile.together else 1,
        adversarial=training.adversarial_weight > 0,
        recompute=training.checkpoint_activations,
    )
    start = Phase(rates.start_s + rates.imports_s, 1)
    steps: list[Step] = []
    for name, split in counts.items():
        everyone = sum(split.values())
        workers = min(site.cores, everyone)
        if simulated:
            each = rates.simulate_open_s + everyone / workers * rates.simulate_s[name]
            each += split["test"] / workers * rates.oracle_s[name]
            steps.append(
                Step(
                    f"00-simulate-{name}",
                    "simulate",
                    (),
                    (start, Phase(each, workers)),
                    rates.simulate_gb,
                    workers,
                    disk_gb=everyone * rates.simulated_gb[name] + split["test"] * rates.oracle_gb[name],
                    files=everyone * rates.simulated_files + split["test"] * len(profile.cohorts[name].maps),
                )
            )
    for name, split in counts.items():
        everyone = sum(split.values())
        workers = min(site.cores, everyone)
        each = rates.preprocess_open_s + everyone / workers * rates.preprocess_s
        steps.append(
            Step(
                f"01-preprocess-{name}",
                "preprocess",
                (f"00-simulate-{name}",) if simulated else (),
                (start, Phase(each, workers), Phase(everyone * voxels * rates.read_s, 1)),
                rates.preprocess_gb,
                workers,
                disk_gb=everyone * voxels * rates.preprocessed_gb,
                files=everyone * rates.preprocessed_files,
            )
        )
    for name in sorted(counts, key=lambda name: name in profile.initialise_from):
        twin = profile.initialise_from.get(name)
        maps = profile.cohorts[name].maps
        for model in ("all",) if profile.together else maps:
            before = (f"02-train-{twin}-{model}",) if twin in counts else ()
            steps.append(_training(profile, rates, site, arithmetic, (name, model), counts[name], before, start))
        for entry in maps:
            model = f"02-train-{name}-{'all' if profile.together else entry}"
            steps.append(_evaluation(profile, rates, arithmetic, (name, entry), counts[name], model))
    return steps + _pages(profile, rates, counts, start)


def _training(
    profile: Profile,
    rates: Rates,
    site: Site,
    arithmetic: Arithmetic,
    model: tuple[str, str],
    split: dict[str, int],
    before: tuple[str, ...],
    start: Phase,
) -> Step:
    """Training of one model."""
    name, label = model[0], "-".join(model)
    training, voxels = profile.training, math.prod(profile.preprocessing.shape)
    held = split["train"] + split["validation"]
    # Several devices share a batch, and therefore an epoch.
    batches = math.ceil(split["train"] / training.batch)
    learning = batches * training.batch * sum(arithmetic.step.values()) / (site.rate or rates.step_rate)
    validating = split["validation"] * arithmetic.forward / (site.rate or rates.validate_rate)
    each = batches * (0.0 if site.rate else rates.step_s)
    saving = 4 * STORED_BYTES * arithmetic.weights * rates.checkpoint_s
    seconds = profile.epochs[name] * ((learning + validating) / training.devices + each + saving)
    threads = max(1, site.cores // 5)  # as the Makefile gives a training
    epochs = Phase(seconds, 1, training.devices) if site.devices else Phase(seconds / threads, threads)
    more = 4 * (len(MAPS) - 1) if profile.together else 0  # the other maps of a pair, float32
    data_gb = held * voxels * (max(PAIR_BYTES, rates.pair_bytes) + more) / 1e9
    weights_gb = arithmetic.weights / 1e9
    values_gb = rates.activation_bytes * arithmetic.activations / 1e9
    on_device = 16 * weights_gb + rates.device_activation_bytes * arithmetic.activations / 1e9
    memory = rates.train_base_gb + data_gb
    memory += max(CHECKPOINT_BYTES * weights_gb, (STEP_BYTES * weights_gb + values_gb) * (not site.devices))
    return Step(
        f"02-train-{label}",
        "train",
        (f"01-preprocess-{name}", *before),
        (start, Phase(held * voxels * rates.read_s, 1), epochs),
        memory,
        device_gb=on_device if site.devices else 0.0,
        disk_gb=STORED_BYTES * weights_gb,
        files=5,
    )


def _evaluation(
    profile: Profile, rates: Rates, arithmetic: Arithmetic, of: tuple[str, str], split: dict[str, int], model: str
) -> Step:
    """Evaluation of one map, given by cohort and name, from the model that makes it."""
    voxels = math.prod(profile.preprocessing.shape)
    reading = split["train"] * voxels * rates.baseline_s
    testing = split["test"] * (voxels * rates.evaluate_s + arithmetic.forward / rates.infer_rate)
    weights_gb, volume_gb = 4 * arithmetic.generator_weights / 1e9, rates.evaluate_bytes * voxels / 1e9
    return Step(
        f"03-evaluate-{'-'.join(of)}",
        "evaluate",
        (f"01-preprocess-{of[0]}", model),
        (Phase(rates.start_s + rates.evaluate_start_s + reading + testing, 1),),
        rates.evaluate_base_gb + weights_gb + volume_gb + split["train"] * voxels / 1e9,
        disk_gb=split["test"] * voxels * rates.prediction_gb,
        files=split["test"] + 2,
    )


def _pages(profile: Profile, rates: Rates, counts: dict[str, dict[str, int]], start: Phase) -> list[Step]:
    """Lesions, tables and figures: the notebooks from 04 on, of which each runs once, when all models are evaluated."""
    first = "acute" if "acute" in counts else next(iter(counts))
    after = tuple(f"03-evaluate-{name}-{entry}" for name in counts for entry in profile.cohorts[name].maps)
    lacking = {"10-appendix4"} if "pegasus" not in counts else set()
    lacking |= {"08-figure3"} if len(profile.cohorts[first].maps) == 1 else set()
    voxels = math.prod(profile.preprocessing.shape)
    dice = rates.start_s + rates.dice_start_s + counts[first]["test"] * voxels * rates.dice_s
    page = rates.start_s + rates.page_s
    names = sorted(path.stem for path in NOTEBOOKS.glob("[01][0-9]-*.ipynb") if path.stem[:2] >= "04")
    names = [name for name in names if name not in lacking]
    gb = rates.page_base_gb + rates.page_bytes * voxels / 1e9
    return [Step("04-dice", "dice", after, (Phase(dice, 1),), gb)] + [
        Step(name, "pages", ("04-dice",), (Phase(page, 1),), gb) for name in names if name != "04-dice"
    ]


def enlarged(counts: dict[str, dict[str, int]], number: int) -> dict[str, dict[str, int]]:
    """So many patients in all, in the same proportions."""
    everyone = sum(sum(split.values()) for split in counts.values())
    return {name: share_out(round(number * sum(split.values()) / everyone), split) for name, split in counts.items()}


def choose_site(
    rates: Rates,
    *,
    cores: int | None = None,
    devices: int | None = None,
    rate: float | None = None,
    jobs: int | None = None,
) -> Site:
    """The machines that a plan is for: this one, unless said otherwise.

    Args:
        rates: measured here.
        cores: of processors.
        devices: that train models.
        rate: TFLOP/s of one device.
        jobs: steps at once.

    Raises:
        RatesError: devices of unknown speed.
    """
    if devices and not rate and rates.device == "cpu":
        raise RatesError(f"{devices} devices: no GPU was timed here; say how fast one is, RATE=40 for 40 TFLOP/s")
    if devices is None:
        devices = 1 if rate else _devices(rates)
    cores = cores or available_cores()
    return Site(cores, jobs or max(cores, devices), devices, rate * 1e12 if rate else None)


def _devices(rates: Rates) -> int:
    if rates.device == "cpu":
        return 0
    import torch

    return max(1, torch.cuda.device_count())


def available_cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1
