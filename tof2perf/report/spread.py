"""Measure how far two good runs may lie apart, from runs that differ in nothing but the seed of training.

A training sums floating-point numbers in an order that depends on processor and threads. After thousands of steps the
last bits have become another network, as different as one from another seed. So the spread between seeds is the
yardstick for a run on another machine.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from tof2perf.report.verification import SPREAD, entries, table_names
from tof2perf.system.files import write_text

ALARM = 0.001  # probability that a good run lies outside the tolerance of an entry (two-sided)
ROUNDING = 1e-9  # a standard deviation below this share of the mean is no spread


def measure_spread(runs: Sequence[Path]) -> pd.DataFrame:
    """Measure one tolerance for each kind of number in the tables of several finished runs.

    A kind is what shares table, predictor, convention, metric, map and column: both cohorts and all patients, and all
    maps where the metric has no unit. The tolerance is sqrt(2) t SD. SD is the largest standard deviation of an entry
    of the kind; sqrt(2), because two runs are compared; t is Student's at :data:`ALARM`, with as many degrees of
    freedom as all entries of the kind have, since few runs tell little about one entry. It is infinite where most
    entries of the kind cannot be computed in some run.

    Args:
        runs: results folders of the same profile and data, trained with different seeds.

    Returns:
        One row a kind that differs between runs: ``table``, ``kind``, ``entries``, ``runs``, ``mean``, ``sd``,
        ``tolerance``, and ``missing``, the number of its entries that some run cannot compute.

    Raises:
        ValueError: fewer than two runs, or runs whose tables or entries differ.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run: a spread needs at least two, better four or more, with different seeds")
    if len({tuple(table_names(run)) for run in runs}) > 1:
        raise ValueError(f"{runs[0]}: its tables are not those of the other runs; finish each with make paper")
    names = table_names(runs[0])
    cells = [pd.concat({name: entries(run / name) for name in names}, names=["table"]) for run in runs]
    for run, other in zip(runs, cells, strict=True):
        if odd := sorted(other.index.symmetric_difference(cells[0].index)):
            raise ValueError(f"{run / odd[0][0]}: {odd[0][1]} is not in all runs; finish each with make paper")
    words = pd.concat([each.word for each in cells], axis=1).any(axis=1)
    numbers = pd.concat([each.number for each in cells], axis=1)[~words]
    kinds = numbers.groupby(["table", cells[0].kind], sort=False)
    table = pd.DataFrame([{"table": name, "kind": kind, **_pool(each.to_numpy())} for (name, kind), each in kinds])
    return table[(table.sd > ROUNDING * table["mean"].abs()) | (table.missing > 0)]


def _pool(values: np.ndarray) -> dict[str, float]:
    """Pool the entries of one kind, (entries, runs); those that some run cannot compute count as missing."""
    known = np.isfinite(values)
    finite = known.all(axis=1)
    unsure = int((known.any(axis=1) & ~finite).sum())
    sd = values[finite].std(axis=1, ddof=1).max(initial=0.0)
    freedom = max(finite.sum(), 1) * (values.shape[1] - 1)
    limit = math.sqrt(2) * float(t.ppf(1 - ALARM / 2, freedom)) * sd
    mean = values[finite].mean() if finite.any() else math.nan
    row = {"entries": len(values), "runs": values.shape[1], "mean": mean, "sd": sd}
    return row | {"tolerance": math.inf if unsure > finite.sum() else limit, "missing": unsure}


def main(arguments: list[str] | None = None) -> int:
    """Command line: measure the spread of finished runs and write it beside the reference."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.spread", description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path, help="folder of the reference, into which spread.csv is written")
    parser.add_argument("runs", type=Path, nargs="+", help="results folders of finished runs with different seeds")
    options = parser.parse_args(arguments)
    try:
        table = measure_spread(options.runs)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_text(options.reference / SPREAD, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    print(f"{options.reference / SPREAD}: {len(table)} kinds of numbers of {len(options.runs)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
