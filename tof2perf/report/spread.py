"""Tolerances from runs that differ in nothing but the seed of training: how far apart two good runs may lie.

A training sums floating-point numbers in an order that depends on processor and threads. What becomes of the last bits
after thousands of steps is not rounding but another network, as different as one from another seed. So the spread
between seeds is the yardstick for a run on another machine.
"""

import argparse
import csv
import io
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from tof2perf.report.verification import COMPARED, KEYS, SPREAD, entries, number
from tof2perf.system.files import write_text

# A run that is as good as the others lies outside the tolerance of an entry with this probability (two-sided).
ALARM = 0.001
# Without a unit, so that their spread can be pooled over maps.
UNITLESS = ("ssim", "psnr", "nrmse", "dice", "spearman", "ratio_error")
COLUMNS = ("table", "entry", "runs", "mean", "sd", "degrees_of_freedom", "tolerance")


def measure_spread(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Tolerance of every number in the tables of several finished runs.

    The difference of two runs has a standard deviation of sqrt(2) SD; with SD estimated from few runs it follows
    Student's t. The tolerance of an entry is therefore sqrt(2) t SD, with t at :data:`ALARM`. A handful of runs tells
    little about the SD of one entry, so SDs are pooled over entries of one kind: over the patients of a table, and over
    the maps where the metric has no unit. Where an entry's own SD is larger than the pooled one, it counts. An entry
    that some runs can compute and others cannot has an infinite tolerance.

    Args:
        runs: results folders of the same profile and data, trained with different seeds.

    Returns:
        One row an entry, in the order of tables and entries: :data:`COLUMNS`.

    Raises:
        ValueError: fewer than two runs, or runs whose tables or entries differ.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run: a spread needs at least two, better four or more, with different seeds")
    rows = []
    for name in _tables(runs):
        tables = [entries(run / name) for run in runs]
        for run, table in zip(runs[1:], tables[1:], strict=True):
            odd = sorted(table.keys() ^ tables[0].keys())
            if odd:
                raise ValueError(f"{run / name}: {odd[0]} is not in all runs; give runs of one profile and version")
        kinds = _kinds(runs[0] / name)
        found = {}
        for entry in tables[0]:
            values = _numbers([table[entry] for table in tables])
            if values is not None and np.isfinite(values).all():
                found[entry] = (float(values.mean()), float(values.std(ddof=1)), kinds.get(entry, entry))
            elif values is not None and np.isfinite(values).any():
                unsure = (len(runs), math.nan, math.nan, 0, math.inf)
                rows.append(dict(zip(COLUMNS, (name, entry, *unsure), strict=True)))
        groups = defaultdict(list)
        for _, sd, kind in found.values():
            groups[kind].append(sd)
        for entry, (mean, sd, kind) in found.items():
            pooled = math.sqrt(sum(other**2 for other in groups[kind]) / len(groups[kind]))
            freedom = (len(runs) - 1) * len(groups[kind])
            limit = math.sqrt(2) * float(t.ppf(1 - ALARM / 2, freedom)) * max(sd, pooled)
            numbers = (len(runs), mean, max(sd, pooled), freedom, limit)
            rows.append(dict(zip(COLUMNS, (name, entry, *numbers), strict=True)))
    return rows


def _tables(runs: Sequence[Path]) -> list[str]:
    """Names of the tables, which all runs must have."""
    found = [{p.relative_to(run).as_posix() for pattern in COMPARED for p in run.glob(pattern)} for run in runs]
    for run, names in zip(runs, found, strict=True):
        if names != found[0] or not names:
            odd = sorted(names ^ found[0])
            raise ValueError(f"{run}: {odd[0] if odd else 'tables/'} is not in all runs; finish each with make paper")
    return sorted(found[0])


def _kinds(path: Path) -> dict[str, str]:
    """For each entry of a CSV table the kind whose spread it shares."""
    kinds: dict[str, str] = {}
    if path.suffix != ".csv":
        return kinds
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            keys = [column for column in KEYS if column in row]
            key = " ".join(row[column] for column in keys)
            for column in row:
                unitless = row.get("metric", column) in UNITLESS
                pooled = {"participant_id"} | ({"map"} if unitless else set())
                shared = " ".join(f"{name}={row[name]}" for name in keys if name not in pooled)
                kinds[f"{key}/{column}"] = f"{shared}/{column}"
    return kinds


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The values of one entry in all runs, nan where it could not be computed; None for words."""
    values = [number(text) for text in texts]
    return None if None in values else np.array(values, dtype=float)


def main(arguments: list[str] | None = None) -> int:
    """Command line: measure the spread of finished runs and write it beside the reference."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.spread", description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="folder of the reference, into which spread.csv is written")
    parser.add_argument("runs", type=Path, nargs="+", help="results folders of finished runs with different seeds")
    given = parser.parse_args(arguments)
    try:
        rows = measure_spread(given.runs)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(given.reference / SPREAD, text.getvalue())
    print(f"{given.reference / SPREAD}: {len(rows)} numbers of {len(given.runs)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
