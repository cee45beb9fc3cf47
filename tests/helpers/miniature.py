"""The paper in miniature: a checkout of the working tree of its own, and make called in it as a person would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tof2perf.make import list_steps
from tof2perf.pipeline.graph import Step
from tof2perf.system.run import Run

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLES = ("PROFILE", "DATA", "ROOT", "RUN", "RUN_CPU", "RUN_GPU", "SITE", "PYTHON")


def check_out(folder: Path) -> Path:
    """Copy the working tree as git would check it out, changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def copy_run(run: Path, folder: Path) -> Path:
    """Copy a checkout with its data and results; files have new times, which must not matter."""
    return Path(shutil.copytree(run, folder, symlinks=True))


def outside_make() -> dict[str, str]:
    """The environment, free of the make and the pytest that may run this test."""
    ours = ("MAKE", "MFLAGS", "PYTEST")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours) and name not in VARIABLES}


def command(*words: str) -> list[str]:
    """The words of a call of make with this interpreter, and the profile smoke unless another is named."""
    profile = [] if any(word.startswith("PROFILE=") for word in words) else ["PROFILE=smoke"]
    return ["make", *words, *profile, f"PYTHON={sys.executable}"]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Call make and wait for it."""
    return subprocess.run(command(*words), cwd=folder, env=outside_make(), capture_output=True, text=True)


def planned_steps(goal: str = "paper", data: str = "", profile: str = "laptop") -> list[Step]:
    """The steps of the paper, or of the book."""
    steps, _ = list_steps(Run(profile, ".", data))
    return [step for step in steps if goal == "book" or not step.for_students]
