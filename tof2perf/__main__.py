"""Command line: ``python -m tof2perf predict`` for one scan, ``python -m tof2perf import`` for a folder of images."""

import argparse
import sys
from pathlib import Path

from tof2perf.maps import MAPS


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; an error is one line, and the exit status is then not 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tof2perf", description="Perfusion maps from TOF-MRA. Research use only."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("predict", help="generate the perfusion maps of one TOF on its own grid")
    one.add_argument("tof", type=Path, metavar="TOF", help="NIfTI volume, .nii or .nii.gz; it is only read")
    one.add_argument("--weights", type=Path, required=True, metavar="DIR", help="one model, or results/<run>/models")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the maps")
    models = "whose models, where DIR holds those of several cohorts"
    one.add_argument("--cohort", dest="cohort_name", default="", metavar="COHORT", help=models)
    one.add_argument("--maps", nargs="+", default=list(MAPS), choices=MAPS, metavar="MAP", help=f"of {', '.join(MAPS)}")
    brain = "brain mask; without it the skull is stripped"
    one.add_argument("--brain", dest="brain_mask", type=Path, metavar="MASK", help=brain)
    axes = "where the axes point (right, anterior, superior: RAS), if the header does not say it"
    one.add_argument("--orientation", default="", metavar="RAS", help=axes)
    one.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps", "auto"), help="where to compute")
    links = commands.add_parser("import", help="link a folder of images into the layout that make paper DATA= reads")
    kinds = links.add_subparsers(dest="kind", required=True)
    for kind, text in (
        ("paper-naming", "<id>_TOF.nii.gz, <id>_TMAX.nii.gz ..., one folder a cohort"),
        ("isles24", "ISLES'24 as published, or a mirror of it"),
        ("export", "the other way: a cohort under the paper's naming"),
    ):
        sub = kinds.add_parser(kind, help=text)
        sub.add_argument("source", type=Path, help="folder to read")
        sub.add_argument("target", type=Path, help="folder for the links")
        if kind == "paper-naming":
            sub.add_argument("--cohort", default="", help="name of the cohort, if SOURCE is the folder of one")
    options = parser.parse_args(arguments)
    try:
        return _predict(options) if options.command == "predict" else _import(options)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _predict(options: argparse.Namespace) -> int:
    from tof2perf.prediction import RESEARCH_USE, predict  # torch takes seconds to load; --help needs none of it

    made = predict(**{name: value for name, value in vars(options).items() if name != "command"})
    print(*made.paths.values(), sep="\n")
    print(f"Weights: {made.label}. {RESEARCH_USE}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from tof2perf.cohorts import importers, layout

    if not options.source.is_dir():
        raise ValueError(f"{options.source}: no such folder; check the path")
    if options.kind == "export":
        print(f"{options.target}: {importers.export_paper_naming(options.source, options.target)} patients")
        return 0
    if options.kind == "isles24":
        remarks = importers.import_isles24(options.source, options.target)
    else:
        remarks = importers.import_paper_naming(options.source, options.target, cohort=options.cohort)
    for cohort, lines in remarks.items():
        print(*lines, sep="\n", end="\n" if lines else "")
        print(f"{options.target / cohort}: {len(layout.list_patients(options.target / cohort))} patients")
    print(f"next: make check DATA={options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
