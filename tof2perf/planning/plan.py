"""What a run will take, told before it: patients, steps, disk, memory and hours, here or on other machines.

``make plan PROFILE=paper`` times a few patients and training steps (:mod:`tof2perf.planning.rates`), multiplies by the
arithmetic of the networks and the numbers of the profile, and lets the steps run on paper, as many at once as make.
``make plan PROFILE=paper DEVICES=10 RATE=40`` plans for ten devices elsewhere.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tof2perf.planning.arithmetic import count
from tof2perf.planning.costs import (
    KINDS,
    STORED_BYTES,
    Site,
    Step,
    available_cores,
    choose_site,
    enlarged,
    patients,
    plan_steps,
)
from tof2perf.planning.rates import RatesError, measure, read_rates
from tof2perf.profiles import Profile, ProfileError, load_profile
from tof2perf.system.files import write_table
from tof2perf.system.memory import total_bytes
from tof2perf.volumes.nifti import CohortError

ROOM = 0.9  # of memory and disk that a run may take before it is warned about


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
    memory = total_bytes() / 1e9
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


AGAINST = ["kind", "steps"] + [
    f"{what}, {which}" for what in ("seconds", "memory (GB)", "disk (GB)") for which in ("planned", "taken", "ratio")
]


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
    parser = argparse.ArgumentParser(prog="python -m tof2perf.planning.plan", description=__doc__.splitlines()[0])
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
    parser.add_argument("--save-against", type=Path, help="keep that comparison in this table")
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
        rates = measure(profile, cores=min(found.cores or available_cores(), available_cores()))
    if found.save:
        found.save.parent.mkdir(parents=True, exist_ok=True)
        found.save.write_text(json.dumps(dataclasses.asdict(rates), indent=1) + "\n", encoding="utf-8")
    site = choose_site(rates, cores=found.cores, devices=found.devices, rate=found.rate, jobs=found.jobs)
    steps = plan_steps(profile, rates, site, counts, simulated=not found.data)
    schedule = run_on_paper(steps, site)
    number = sum(sum(split.values()) for split in counts.values())
    cohorts = ", ".join(f"{name} {'/'.join(str(entry) for entry in split.values())}" for name, split in counts.items())
    print(f"{profile.name}: {number} patients (train/validation/test: {cohorts}), {len(steps)} steps")
    speed = "" if site.rate else f", {rates.step_rate / 1e9:.0f} GFLOP/s in a training on {rates.device}"
    print(f"timed on: {rates.machine}{speed}\n")
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
        compared = pd.DataFrame(against(found.against, steps, schedule), columns=AGAINST)
        print()
        print(text_table(AGAINST, compared.to_numpy().tolist()))
        if found.save_against:
            compared.insert(0, "run", profile.name)
            if found.save_against.is_file():
                others = pd.read_csv(found.save_against, dtype=str, keep_default_na=False)
                compared = pd.concat([others[others.run != profile.name], compared])
            write_table(found.save_against, compared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
