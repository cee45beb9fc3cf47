"""How a run grows with patients, volume and filters: the tables of the book's page on scaling.

``python -m tof2perf.planning.scaling`` computes them from rates measured once (``--save`` of ``plan``), which lie
beside them in results/reference/scaling; a test checks that nothing is left to compute.
"""

import dataclasses
import math
import sys
from pathlib import Path

import pandas as pd

from tof2perf.planning.arithmetic import count
from tof2perf.planning.costs import STEP_BYTES, choose_site, enlarged, patients, plan_steps
from tof2perf.planning.plan import run_on_paper
from tof2perf.planning.rates import read_rates
from tof2perf.profiles import load_profile
from tof2perf.system.files import write_table

FOLDER = Path(__file__).resolve().parents[2] / "results" / "reference" / "scaling"
PROFILES = ("laptop", "workstation", "paper")
PATIENTS = (1000, 10000)  # beside the profile's own number
TFLOPS = 40.0  # of one GPU in a training step (assumption: a few per cent to a tenth of what such a GPU is sold for)
DEVICES, CORES = 10, 160  # of the cluster (assumption)
SIZES = (  # voxels, levels and first filters: laptop, workstation and paper, and what lies between and beyond
    ((64, 64, 32), 5, 16),
    ((128, 128, 64), 6, 16),
    ((128, 128, 64), 6, 32),
    ((256, 256, 128), 7, 32),
    ((256, 256, 128), 7, 64),
    ((256, 256, 128), 7, 128),
)


def by_patients() -> pd.DataFrame:
    """One row a profile and number of patients: work, disk, files and memory, and the time on a cluster."""
    rows = []
    for name in PROFILES:
        profile, rates = load_profile(name), read_rates(FOLDER / f"{name}.json", name)
        own = patients(profile)
        site = choose_site(rates, cores=CORES, devices=DEVICES, rate=TFLOPS)
        for number in (sum(sum(split.values()) for split in own.values()), *PATIENTS):
            steps = plan_steps(profile, rates, site, enlarged(own, number))
            of_kind = {kind: [step for step in steps if step.kind == kind] for kind in ("train", "evaluate")}
            rows.append(
                {
                    "profile": name,
                    "patients": number,
                    "devices": DEVICES,
                    "tflops": TFLOPS,
                    "cores": CORES,
                    "core_hours": math.fsum(step.core_seconds for step in steps) / 3600,
                    "device_hours": math.fsum(step.device_seconds for step in steps) / 3600,
                    "hours": run_on_paper(steps, site).end / 3600,
                    "simulated_gb": math.fsum(step.disk_gb for step in steps if step.kind == "simulate"),
                    "preprocessed_gb": math.fsum(step.disk_gb for step in steps if step.kind == "preprocess"),
                    "results_gb": math.fsum(step.disk_gb for kind in of_kind.values() for step in kind),
                    "files": sum(step.files for step in steps),
                    "train_memory_gb": max(step.memory_gb for step in of_kind["train"]),
                    "evaluate_memory_gb": max(step.memory_gb for step in of_kind["evaluate"]),
                    "evaluate_hours": max(step.seconds for step in of_kind["evaluate"]) / 3600,
                }
            )
    return pd.DataFrame(rows).round(4)


def by_size() -> pd.DataFrame:
    """One row a volume and number of filters: arithmetic, weights, memory of a step, and its time on one device."""
    profile = load_profile("paper")
    rates = read_rates(FOLDER / "paper.json", "paper")
    rows = []
    for shape, levels, filters in SIZES:
        network = dataclasses.replace(
            profile.network, levels=levels, generator_filters=filters, discriminator_filters=filters
        )
        found = count(network, shape)
        operations = sum(found.step.values())
        memory = STEP_BYTES * found.weights + rates.activation_bytes * found.activations
        rows.append(
            {
                "volume": "x".join(str(length) for length in shape),
                "filters": filters,
                "tflop": operations / 1e12,
                "weights_million": found.weights / 1e6,
                "step_gb": memory / 1e9,
                "core_seconds": operations / rates.step_rate,
                "tflops": TFLOPS,
                "device_seconds": operations / 1e12 / TFLOPS,
            }
        )
    return pd.DataFrame(rows).round(6)


TABLES = {"patients": by_patients, "size": by_size}


if __name__ == "__main__":
    for name, make in TABLES.items():
        write_table(FOLDER / f"{name}.csv", make())
    sys.exit(0)
