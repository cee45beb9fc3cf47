"""What simulating one patient costs on one core: ``pytest tests/bench/bench_phantom.py``, not part of the tests.

Goals: 1.5 s for a patient of the profile laptop, 30 s and 3 GB for one of the profile paper; nothing is asserted of
them. A process of its own makes the patients of a profile, so that its peak of memory is theirs.
"""

import json
import os
import subprocess
import sys

import pytest

MAKE = """
import json, resource, sys, tempfile, time
from pathlib import Path
from tof2perf.phantom.head import load_template
from tof2perf.phantom.patient import simulate_patient
from tof2perf.profiles import load_profile

profile, name, rounds = load_profile(sys.argv[1]), sys.argv[2], int(sys.argv[3])
load_template()  # read once by a process, not by a patient
with tempfile.TemporaryDirectory() as folder:
    spent = []
    for number in range(rounds):
        start, used = time.perf_counter(), time.process_time()
        setting = {"cohort": profile.cohorts[name], "phantom": profile.phantom, "seed": (1, 2, number)}
        simulate_patient(Path(folder), f"sub-{number:04d}", **setting)
        spent.append((time.perf_counter() - start, time.process_time() - used))
if sys.platform == "linux":  # where ru_maxrss knows also what the process that started this one had in memory
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
print(json.dumps({"seconds": spent, "peak_gb": peak}))
"""


@pytest.mark.parametrize(("profile", "rounds"), [("laptop", 6), ("paper", 1)])
@pytest.mark.parametrize("cohort", ["acute", "pegasus"])
def test_one_patient(benchmark, capsys, profile, cohort, rounds):
    one = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-c", MAKE, profile, cohort, str(rounds)]

    def make() -> dict:
        done = subprocess.run(command, env=one, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    found = benchmark.pedantic(make, rounds=1)
    wall, used = (sorted(values)[len(values) // 2] for values in zip(*found["seconds"], strict=True))
    benchmark.extra_info.update(seconds=wall, processor_seconds=used, peak_gb=found["peak_gb"], patients=rounds)
    with capsys.disabled():
        print(f"\n{profile}, {cohort}: {wall:.2f} s a patient ({used:.2f} s processor), peak {found['peak_gb']:.2f} GB")
    assert len(found["seconds"]) == rounds
