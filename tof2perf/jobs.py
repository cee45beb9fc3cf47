"""The heavy part of a step without its notebook, for a cluster to share: some of a cohort's patients.

The notebook comes afterwards and finds these patients done. Everything is made by the functions that the notebook
calls, so nobody can tell who made it. Called by :mod:`tof2perf.pipeline.steps`.
"""

import argparse
import os
import sys
from collections.abc import Iterator

import joblib

from tof2perf.cohorts import intake, splits
from tof2perf.cohorts.participants import read_participants
from tof2perf.cohorts.workspace import Workspace, read_dropped
from tof2perf.phantom.cohort import simulate_patients
from tof2perf.preprocessing.preprocess import preprocess_patient
from tof2perf.profiles import Profile, ProfileError, get_cohort, load_profile
from tof2perf.system.files import locked
from tof2perf.system.workers import tied
from tof2perf.volumes.nifti import CohortError


def simulate(profile: Profile, here: Workspace, cohort: str, part: slice) -> Iterator[object]:
    """Simulate some of a cohort's patients, as ``00-simulate`` does all of them.

    Args:
        profile: the run's.
        here: where its folders are.
        cohort: the cohort's name.
        part: which patients, by their place in the cohort.

    Returns:
        Iterator that yields once a patient.
    """
    return simulate_patients(
        here.cohort(cohort), cohort, part, cohort=profile.cohorts[cohort], phantom=profile.phantom, seed=profile.seed
    )


def preprocess(profile: Profile, here: Workspace, cohort: str, part: slice) -> Iterator[object]:
    """Take in (own data) and preprocess some of a cohort's patients, as ``01-preprocess`` does all of them.

    Arguments and return value as of :func:`simulate`.

    Raises:
        CohortError: a patient who cannot be used.
    """
    known, source = profile.cohorts[cohort], here.cohort(cohort)
    if here.data:
        dropped = read_dropped(here.dropped, cohort)
        listed = splits.listed_patients(source, splits.read_table(source))
        patients = [name for name in listed if name not in dropped]
    else:
        patients = list(read_participants(source).index)

    def work(patient: str) -> None:
        folder = source
        if here.data:
            folder = here.intake(cohort)
            threshold_s = profile.evaluation.deficit_threshold_s[cohort]
            intake.complete_patient(source, patient, folder, cohort=known, threshold_s=threshold_s)
        preprocess_patient(
            folder,
            patient,
            here.preprocessed(cohort),
            settings=profile.preprocessing,
            maps=known.maps,
            modality=known.input,
            intensity=known.intensity,
            registration=known.registration,
        )

    with locked(here.preprocessed(cohort), shared=True), joblib.parallel_config("loky", inner_max_num_threads=1):
        yield from joblib.Parallel(n_jobs=joblib.cpu_count(), return_as="generator", batch_size=1, **tied())(
            joblib.delayed(work)(patient) for patient in patients[part]
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line, for :mod:`tof2perf.pipeline.steps`."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.jobs", description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=("00-simulate", "01-preprocess"))
    parser.add_argument("--profile", required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--part", default="1/1", help="K/N: every Nth patient from the Kth on")
    given = parser.parse_args(arguments)
    try:
        profile = load_profile(given.profile)
        here = Workspace(profile.name, given.root, given.data)
        get_cohort(profile, given.cohort)
        first, parts = map(int, given.part.split("/"))
        work = {"00-simulate": simulate, "01-preprocess": preprocess}[given.work]
        done = sum(1 for _ in work(profile, here, given.cohort, slice(first - 1, None, parts)))
    except (CohortError, ProfileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.work} {given.cohort} {given.part}: {done} patients, on {os.uname().nodename}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
