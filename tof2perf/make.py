"""Do what the Makefile asks for: write its rules, run one step by name, show the status, write the manifest.

Here the profile, which says what cohorts and maps there are, meets the pipeline, which knows no science.
"""

import argparse
import os
import shlex
import sys

from tof2perf.pipeline import graph, steps
from tof2perf.pipeline.fingerprints import NotebookError
from tof2perf.pipeline.graph import Step
from tof2perf.pipeline.launching import use_the_jobs_cores
from tof2perf.system import workers
from tof2perf.system.files import REMEDIES
from tof2perf.system.run import Run


def list_steps(run: Run) -> tuple[list[Step], list[str]]:
    """List the steps of a run, and its cohorts.

    Raises:
        ProfileError: the profile cannot be used, or the user's folder holds no cohort that it knows.
    """
    from tof2perf.profiles import load_profile, run_cohorts  # here, so that a Python without packages gets one line

    profile = load_profile(run.profile)
    cohorts = run_cohorts(profile.cohorts, data=run.data, name=f"profile {profile.name}")
    return list(graph.steps(run, profile, cohorts)), cohorts


def run_by_name(name: str, run: Run, *, in_job: bool) -> None:
    """Run a step here, or give it to its launcher, which then calls the same step with ``in_job``."""
    step = next((step for step in list_steps(run)[0] if step.name == name), None)
    if step is None:
        raise NotebookError(f"{name}: no such step; make status lists them")
    launcher = [] if in_job else shlex.split(os.environ.get(step.launcher, ""))
    with steps.interrupted_by_signals():
        workers.end_with(os.getppid())
        if in_job:
            use_the_jobs_cores()
        if not launcher:
            return steps.run_step(step, run)
        data = ["--data", run.data] if run.data else []
        words = ["--profile", run.profile, "--root", str(run.root), *data, "run", name, "--in-job"]
        steps.run_elsewhere(step, run, launcher, [sys.executable, "-m", "tof2perf.make", *words])


def write_manifest(run: Run) -> None:
    """Write ``manifest.json`` and say how many files it lists."""
    from tof2perf.cohorts.workspace import Workspace  # these take half a second to load
    from tof2perf.pipeline import provenance

    source = Workspace(run.profile, run.root, run.data).label()
    path, files = provenance.write_manifest(run.results, profile=run.profile, source=source)
    print(f"{path}  {files} files")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the Makefile."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.make", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", required=True)
    parser.add_argument("--root", default=".")
    parser.add_argument("--data", default="")
    actions = parser.add_subparsers(dest="action", required=True)
    lock = actions.add_parser("lock", help="call a command that no second make may call in the same results folder")
    lock.add_argument("command", nargs="+")
    rules = actions.add_parser("rules", help="write Make's rules of the steps that must run")
    rules.add_argument("--book", action="store_true", help="the pages for students, too")
    step = actions.add_parser("run", help="run a step unless it is fresh")
    step.add_argument("step")
    step.add_argument("--in-job", action="store_true", help="this is the job that a launcher was given")
    actions.add_parser("status", help="print every step and why it must run")
    actions.add_parser("manifest", help="write the list of all results")
    options = parser.parse_args(arguments)
    run = Run(options.profile, options.root, options.data)
    try:
        if options.action == "lock":
            steps.lock_and_exec(run, options.command)
        elif options.action == "run":
            run_by_name(options.step, run, in_job=options.in_job)
        elif options.action == "status":
            steps.print_status(list_steps(run)[0], run)
        elif options.action == "manifest":
            write_manifest(run)
        else:
            planned, cohorts = list_steps(run)
            steps.write_rules([step for step in planned if options.book or not step.for_students], run, cohorts)
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, run make again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a table has seen enough
        sys.stderr.close()
    except ModuleNotFoundError as error:
        print(f"{sys.executable} lacks {error.name}: install requirements-lock.txt into it", file=sys.stderr)
        return 1
    except (RuntimeError, ValueError, OSError) as error:
        remedy = REMEDIES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        if str(error):  # else the job has said itself what went wrong
            print(f"error: {error}{remedy and f'; {remedy}'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
