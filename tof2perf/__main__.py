"""Command line for one's own scans: ``python -m tof2perf predict TOF --weights DIR --out DIR``."""

import argparse
import sys
from pathlib import Path

from tof2perf.maps import MAPS


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; what goes wrong is one line, and the exit status is not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tof2perf", description="Perfusion maps from TOF-MRA. Research use only."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("predict", help="generate the perfusion maps of one TOF on its own grid")
    one.add_argument("tof", type=Path, metavar="TOF", help="NIfTI volume, .nii or .nii.gz; it is only read")
    one.add_argument("--weights", type=Path, required=True, metavar="DIR", help="one model, or results/<run>/models")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the maps")
    one.add_argument("--cohort", default="", help="whose models, where DIR holds those of several cohorts")
    one.add_argument("--maps", nargs="+", default=list(MAPS), choices=MAPS, metavar="MAP", help=f"of {', '.join(MAPS)}")
    one.add_argument("--brain", type=Path, metavar="MASK", help="brain mask; without it the skull is stripped")
    one.add_argument("--profile", default="", help="profile of the training, for weights that do not tell")
    one.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps", "auto"), help="where to compute")
    found = parser.parse_args(arguments)
    from tof2perf.prediction import RESEARCH_USE, predict  # torch takes seconds to load; --help needs none of it

    try:
        made = predict(
            found.tof,
            found.weights,
            found.out,
            cohort_name=found.cohort,
            maps=found.maps,
            brain_mask=found.brain,
            profile=found.profile,
            device=found.device,
        )
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(*made.paths.values(), sep="\n")
    print(f"Weights: {made.label}. {RESEARCH_USE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
