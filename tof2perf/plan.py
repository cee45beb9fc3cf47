"""What a run will take, told before it: patients, steps, disk, memory and hours, here or on other machines.

``make plan PROFILE=paper`` times a few patients and training steps (:mod:`tof2perf.rates`), multiplies by the
arithmetic of the networks and the numbers of the profile, and lets the steps run on paper, as many at once as make.
``make plan PROFILE=paper DEVICES=10 RATE=40`` plans for ten devices elsewhere.
"""

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tof2perf.arithmetic import Arithmetic, count
from tof2perf.cohort import SPLITS, CohortError, Workspace, list_patients, read_dropped
from tof2perf.profiles import Profile, ProfileError, load_profile, run_cohorts
from tof2perf.rates import Rates, RatesError, measure, memory_bytes

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PAIR_BYTES = 4 + 4 + 1  # of a voxel of TOF, map and mask, which training holds in memory
# Bytes a weight. In a step: weight, gradient, two moments, and the best epoch's. While a checkpoint is written: weight,
# moments and the best epoch's, once as tensors, once as bytes, once as the file's content.
STEP_BYTES, CHECKPOINT_BYTES = 20, 48
STORED_BYTES = 4  # a weight on disk; a checkpoint has four such numbers a weight
ROOM = 0.9  # of memory and disk that a run may take before it is warned about
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


@dataclass(frozen=True)
class Schedule:
    """When every step begins and ends, in seconds, and the most memory of all that runs at one time."""

    spans: dict[str, tuple[float, float]]
    memory_gb: float
    device_gb: float = 0.0
    end: float = field(default=0.0)

    def seconds(self, name: str) -> float:
        """How long a step takes beside the others."""
        return self.spans[name][1] - self.spans[name][0]


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
        adversarial=training.adversarial_weight > 0,
        recompute=training.checkpoint_activations,
    )
    start = Phase(rates.start_s + rates.imports_s, 1)
    steps: list[Step] = []
    for name, split in counts.items():
        everyone = sum(split.values())
        workers = min(site.cores, everyone)
        opening = workers * rates.imports_s  # every worker process imports the package
        if simulated:
            work = everyone * rates.simulate_s[name] + split["test"] * rates.oracle_s[name] + opening
            steps.append(
                Step(
                    f"00-simulate-{name}",
                    "simulate",
                    (),
                    (start, Phase(work / workers, workers)),
                    rates.simulate_gb,
                    workers,
                    disk_gb=everyone * rates.simulated_gb[name] + split["test"] * rates.oracle_gb[name],
                    files=everyone * rates.simulated_files + split["test"] * len(profile.cohorts[name].maps),
                )
            )
    for name, split in counts.items():
        everyone = sum(split.values())
        workers = min(site.cores, everyone)
        work = everyone * rates.preprocess_s + workers * rates.imports_s
        steps.append(
            Step(
                f"01-preprocess-{name}",
                "preprocess",
                (f"00-simulate-{name}",) if simulated else (),
                (start, Phase(work / workers, workers), Phase(everyone * voxels * rates.read_s, 1)),
                rates.preprocess_gb,
                workers,
                disk_gb=everyone * voxels * rates.preprocessed_gb,
                files=everyone * rates.preprocessed_files,
            )
        )
    for name in sorted(counts, key=lambda name: name in profile.initialise_from):
        twin = profile.initialise_from.get(name)
        for map_name in profile.cohorts[name].maps:
            before = (f"02-train-{twin}-{map_name}",) if twin in counts else ()
            steps += _model(profile, rates, site, arithmetic, (name, map_name), counts[name], before, start)
    return steps + _pages(profile, rates, counts, start)


def _model(
    profile: Profile,
    rates: Rates,
    site: Site,
    arithmetic: Arithmetic,
    model: tuple[str, str],
    split: dict[str, int],
    before: tuple[str, ...],
    start: Phase,
) -> list[Step]:
    """Training and evaluation of one model."""
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
    data_gb = held * voxels * max(PAIR_BYTES, rates.pair_bytes) / 1e9
    weights_gb = arithmetic.weights / 1e9
    values_gb = rates.activation_bytes * arithmetic.activations / 1e9
    on_device = 16 * weights_gb + rates.device_activation_bytes * arithmetic.activations / 1e9
    memory = rates.train_base_gb + data_gb
    memory += max(CHECKPOINT_BYTES * weights_gb, (STEP_BYTES * weights_gb + values_gb) * (not site.devices))
    volume_gb = rates.evaluate_bytes * voxels / 1e9
    reading = split["train"] * voxels * rates.baseline_s
    testing = split["test"] * (voxels * rates.evaluate_s + arithmetic.forward / rates.infer_rate)
    loading = Phase(held * voxels * rates.read_s, 1)
    return [
        Step(
            f"02-train-{label}",
            "train",
            (f"01-preprocess-{name}", *before),
            (start, loading, epochs),
            memory,
            device_gb=on_device if site.devices else 0.0,
            disk_gb=STORED_BYTES * weights_gb,
            files=5,
        ),
        Step(
            f"03-evaluate-{label}",
            "evaluate",
            (f"01-preprocess-{name}", f"02-train-{label}"),
            (Phase(rates.start_s + rates.evaluate_start_s + reading + testing, 1),),
            rates.evaluate_base_gb + 4 * arithmetic.generator_weights / 1e9 + volume_gb + split["train"] * voxels / 1e9,
            disk_gb=split["test"] * voxels * rates.prediction_gb,
            files=split["test"] + 2,
        ),
    ]


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
    gb = rates.evaluate_base_gb + 4 * voxels * 10 / 1e9
    return [Step("04-dice", "dice", after, (Phase(dice, 1),), gb)] + [
        Step(name, "pages", ("04-dice",), (Phase(page, 1),), gb) for name in names if name != "04-dice"
    ]


def run_on_paper(steps: Sequence[Step], site: Site) -> Schedule:
    """Let the steps run, ``site.jobs`` at once in the order given; cores and devices are shared by whoever runs.

    A phase gets its share of what is there: with twice as many threads as cores everything takes twice as long.
    """
    waiting = list(steps)
    running: dict[str, tuple[Step, int, float]] = {}  # phase, and seconds left of it
    began: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    now = most = most_device = 0.0
    while waiting or running:
        for step in [step for step in waiting if all(name in spans for name in step.after)]:
            if len(running) < site.jobs:
                waiting.remove(step)
                running[step.name], began[step.name] = (step, 0, step.phases[0].seconds), now
        most = max(most, math.fsum(step.memory_gb * step.processes for step, _, _ in running.values()))
        phases = {name: step.phases[phase] for name, (step, phase, _) in running.items()}
        cores = math.fsum(phase.cores for phase in phases.values())
        devices = math.fsum(phase.devices for phase in phases.values())
        if site.devices:
            sharing = max(1, math.ceil(devices / site.devices))
            most_device = max(most_device, sharing * max(step.device_gb for step, _, _ in running.values()))
        speed = {
            name: min(1.0, site.cores / cores, site.devices / devices if phase.devices else 1.0)
            for name, phase in phases.items()
        }
        soonest = min(left / speed[name] for name, (_, _, left) in running.items())
        now += soonest
        for name, (step, phase, left) in list(running.items()):
            left -= soonest * speed[name]
            if left > 1e-9 * max(1.0, now):
                running[name] = (step, phase, left)
            elif phase + 1 < len(step.phases):
                running[name] = (step, phase + 1, step.phases[phase + 1].seconds)
            else:
                del running[name]
                spans[name] = (began[name], now)
    return Schedule(spans, most, most_device, now)


def critical_path(steps: Sequence[Step]) -> list[Step]:
    """The chain of steps that takes longest even if there were room for all at once."""
    chains: dict[str, tuple[float, list[Step]]] = {}
    for step in steps:
        seconds, chain = max((chains[name] for name in step.after), default=(0.0, []), key=lambda entry: entry[0])
        chains[step.name] = (seconds + step.seconds, [*chain, step])
    return max(chains.values(), key=lambda entry: entry[0])[1]


# --- what is printed --------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds in the unit in which one speaks of them.

    >>> duration(42), duration(600), duration(7200), duration(864000)
    ('42 s', '10 min', '2.0 h', '10.0 days')
    """
    for limit, unit, name, digits in ((120, 1, "s", 0), (7200, 60, "min", 0), (172800, 3600, "h", 1)):
        if seconds < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86400:.1f} days"


def table(steps: Sequence[Step], schedule: Schedule) -> list[list[str]]:
    """Rows a kind of step, and all: steps, time of one, work of cores and devices, memory, disk."""
    rows = []
    for kind in (*KINDS, "all"):
        chosen = [step for step in steps if kind in (step.kind, "all")]
        if not chosen:
            continue
        longest = max(schedule.seconds(step.name) for step in chosen)
        device = math.fsum(step.device_seconds for step in chosen)
        rows.append(
            [
                kind,
                str(len(chosen)),
                duration(schedule.end if kind == "all" else longest),
                f"{math.fsum(step.core_seconds for step in chosen) / 3600:.2f}",
                f"{device / 3600:.2f}" if device else "",
                f"{max(step.memory_gb for step in chosen):.1f}",
                f"{math.fsum(step.disk_gb for step in chosen):.2f}",
                f"{sum(step.files for step in chosen):,}",
            ]
        )
    return rows


HEADER = ["kind", "steps", "longest", "core hours", "device hours", "largest process (GB)", "disk (GB)", "files"]


def checkpoints_gb(profile: Profile, site: Site, models: int) -> float:
    """What lies on the disk only while models train."""
    weights = count(profile.network, profile.preprocessing.shape).weights
    return min(site.jobs, models) * 4 * STORED_BYTES * weights / 1e9


def limits(
    profile: Profile, steps: Sequence[Step], schedule: Schedule, site: Site, *, root: Path, elsewhere: bool
) -> list[str]:
    """What will not fit, one sentence each; of machines elsewhere only what can be known here."""
    disk = math.fsum(step.disk_gb for step in steps)
    disk += checkpoints_gb(profile, site, sum(step.kind == "train" for step in steps))
    if elsewhere:
        return [f"needs {disk:.1f} GB of disk and {schedule.memory_gb:.1f} GB of memory for all that runs at once"]
    found = []
    place = next(folder for folder in (root.resolve(), *root.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if disk > ROOM * free:
        found.append(f"disk: needs {disk:.1f} GB, {place} has {free:.1f} GB free; give another ROOT")
    memory = memory_bytes() / 1e9
    if schedule.memory_gb > ROOM * memory:
        largest = max(step.memory_gb for step in steps)
        remedy = (
            f"run fewer steps at once, make -j{max(1, int(ROOM * memory / largest))}"
            if largest < ROOM * memory
            else "one step alone needs more than there is: take a smaller profile, or checkpoint_activations"
        )
        found.append(f"memory: {schedule.memory_gb:.1f} GB at once, this machine has {memory:.1f} GB; {remedy}")
    if site.devices:
        import torch

        if torch.cuda.is_available():
            own = torch.cuda.get_device_properties(0).total_memory / 1e9
            if schedule.device_gb > ROOM * own:
                found.append(
                    f"GPU: the models that share one need {schedule.device_gb:.1f} GB, it has {own:.1f} GB; run make "
                    f"-j{site.devices}, or set checkpoint_activations"
                )
    return found or [f"fits: {disk:.1f} GB of disk, {schedule.memory_gb:.1f} GB of memory at once"]


def against(folder: Path, steps: Sequence[Step], schedule: Schedule) -> list[list[str]]:
    """Predicted beside what a finished run took, by kind of step, from its stamps.

    Raises:
        CohortError: the folder has no stamps.
    """
    stamps = {}
    for path in sorted((folder / ".stamps").glob("*.json")):
        stamp = json.loads(path.read_text(encoding="utf-8"))
        stamps[stamp["step"]] = stamp
    if not stamps:
        raise CohortError(f"{folder}: no finished steps in .stamps; give a run's folder under results")
    rows = []
    for kind in KINDS:
        chosen = [step for step in steps if step.kind == kind and step.name in stamps]
        if not chosen:
            continue
        took = [stamps[step.name] for step in chosen]
        cells = [kind, f"{len(chosen)}"]
        pairs = [
            (math.fsum(schedule.seconds(step.name) for step in chosen), math.fsum(entry["seconds"] for entry in took)),
            (max(step.memory_gb for step in chosen), max(entry["peak_memory_gb"] for entry in took)),
            (
                math.fsum(step.disk_gb for step in chosen),
                math.fsum(size for entry in took for _, size, *_ in entry["outputs"].values()) / 1e9,
            ),
        ]
        for (predicted, measured), digits in zip(pairs, (0, 2, 3), strict=True):
            ratio = f"{predicted / measured:.2f}" if measured and predicted else ""
            cells += [f"{predicted:.{digits}f}", f"{measured:.{digits}f}", ratio]
        rows.append(cells)
    return rows


AGAINST = ["kind", "steps", "seconds planned", "taken", "ratio", "GB planned", "taken", "ratio"]
AGAINST += ["disk planned (GB)", "taken", "ratio"]


def text_table(header: list[str], rows: list[list[str]]) -> str:
    """A table for a terminal."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line for the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--data", default="", help="own cohorts, whose patients are counted")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that data/ and results/ would be written to")
    parser.add_argument("--cores", type=int, help="processor cores; those of this machine by default")
    parser.add_argument("--devices", type=int, help="GPUs, each of which trains one model; this machine's by default")
    parser.add_argument("--rate", type=float, help="TFLOP/s that one device reaches in a training step")
    parser.add_argument("--jobs", type=int, help="steps at once, as make -j; cores, or devices if more, by default")
    parser.add_argument("--patients", type=int, help="plan for so many patients instead, in the profile's proportions")
    parser.add_argument("--rates", type=Path, help="measured before, with --save")
    parser.add_argument("--save", type=Path, help="keep what is measured in this file")
    parser.add_argument("--against", type=Path, help="compare with a finished run, a folder under results")
    found = parser.parse_args(arguments)
    try:
        return _report(found)
    except (ProfileError, CohortError, RatesError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _report(found: argparse.Namespace) -> int:
    profile = load_profile(found.profile)
    counts = patients(profile, found.data, root=found.root)
    if found.patients:
        counts = enlarged(counts, found.patients)
    if found.rates:
        rates = read_rates(found.rates, profile.name)
    else:
        print("timing a few patients and training steps ...", file=sys.stderr, flush=True)
        rates = measure(profile, cores=min(found.cores or _cores(), _cores()))
    if found.save:
        found.save.parent.mkdir(parents=True, exist_ok=True)
        found.save.write_text(json.dumps(dataclasses.asdict(rates), indent=1) + "\n", encoding="utf-8")
    site = choose_site(rates, cores=found.cores, devices=found.devices, rate=found.rate, jobs=found.jobs)
    steps = plan_steps(profile, rates, site, counts, simulated=not found.data)
    schedule = run_on_paper(steps, site)
    number = sum(sum(split.values()) for split in counts.values())
    cohorts = ", ".join(f"{name} {'/'.join(str(entry) for entry in split.values())}" for name, split in counts.items())
    print(f"{profile.name}: {number} patients (train/validation/test: {cohorts}), {len(steps)} steps")
    print(f"timed on: {rates.machine}, {'' if site.rate else f'{rates.step_rate / 1e9:.0f} GFLOP/s in training'}\n")
    print(text_table(HEADER, table(steps, schedule)))
    where = (
        f"{site.devices} devices" + (f" of {site.rate / 1e12:g} TFLOP/s" if site.rate else "") if site.devices else ""
    )
    print(
        f"\n{duration(schedule.end)} on {site.cores} cores"
        + (f" and {where}" if where else "")
        + f", {site.jobs} at once"
    )
    chain = critical_path(steps)
    print(
        f"at least {duration(math.fsum(step.seconds for step in chain))}, however many: "
        + " > ".join(step.name for step in chain)
    )
    for line in limits(profile, steps, schedule, site, root=found.root, elsewhere=bool(found.rate)):
        print(line)
    if found.against:
        print()
        print(text_table(AGAINST, against(found.against, steps, schedule)))
    return 0


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
    cores = cores or _cores()
    return Site(cores, jobs or max(cores, devices), devices, rate * 1e12 if rate else None)


def _devices(rates: Rates) -> int:
    if rates.device == "cpu":
        return 0
    import torch

    return max(1, torch.cuda.device_count())


def _cores() -> int:
    return os.cpu_count() or 1


def read_rates(path: Path, profile: str) -> Rates:
    """What :func:`tof2perf.rates.measure` found earlier.

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


if __name__ == "__main__":
    sys.exit(main())
