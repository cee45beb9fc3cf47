"""Compare a run with reference results: equal bytes, or every number of a table within its tolerance."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

# Columns that identify a row; all others are results. Key columns must be stable across runs.
KEYS = ("participant_id", "cohort", "map", "predictor", "against", "convention", "metric", "threshold_s", "finding")
# Entries that share these keys are of one kind and have one tolerance; maps share it too where there is no unit.
KIND = ("predictor", "convention", "metric", "map", "finding")
UNITLESS = ("ssim", "ssim_paper", "ssim_brain", "psnr", "nrmse", "dice", "spearman", "ratio_error")
# Results that follow from compared numbers, and may flip where those move a little: verdicts, sides, tests.
FOLLOWING = ("gan_is", "p", "p_holm", "laterality", "outcome")
COUNTS = ("contralateral", "detected", "missed", "false_alarms")  # they may differ by one patient
# Rounding differs between processors even before training, in skull stripping and co-registration (assumption).
MACHINE = 1e-3
# Tolerances of tables without a measured one: absolute, by the name of the metric or column (assumption).
ASSUMED = {"ssim": 0.02, "psnr": 0.75, "nrmse": 0.05, "dice": 0.08, "ml": 10.0, "n": 0.0}
RELATIVE = 0.10  # of the reference, for all other numbers (assumption)
COMPARED = ("tables/*.csv", "tables/*.json")
SPREAD = "spread.csv"


class Entry(NamedTuple):
    """One cell of a table."""

    kind: str
    text: str


class Tolerance(NamedTuple):
    """How far an entry may lie from the reference, and whether a good run may be unable to compute it."""

    limit: float
    missing: bool = False


@dataclass(frozen=True)
class Comparison:
    """One compared table.

    Attributes:
        name: path below the results folder.
        outcome: ``identical`` (bytes), ``within tolerance``, ``differs`` or ``missing``.
        entries: how many were compared.
        worst: largest difference as a share of its tolerance.
        misses: a line for each entry outside its tolerance, or for what else is wrong.
    """

    name: str
    outcome: str
    entries: int = 0
    worst: float = 0.0
    misses: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the run agrees with the reference in this table."""
        return self.outcome in ("identical", "within tolerance")


def verify(results: Path, reference: Path) -> list[Comparison]:
    """Compare a run's tables with the reference.

    Args:
        results: the run's folder under ``results/``.
        reference: folder of the same layout. Its ``spread.csv`` has the measured tolerances, see
            :mod:`tof2perf.report.spread`; a table that it does not know is compared with the assumed ones.

    Returns:
        One comparison a reference table, in the order of their names.

    Raises:
        FileNotFoundError: there is no reference, or it holds no table.
    """
    tables = [path for pattern in COMPARED for path in sorted(reference.glob(pattern))]
    if not tables:
        raise FileNotFoundError(f"{reference}: no reference tables for this profile; choose another PROFILE")
    measured = read_spread(reference / SPREAD)
    comparisons = []
    for path in tables:
        name = path.relative_to(reference).as_posix()
        if not (results / name).is_file():
            comparisons.append(Comparison(name, "missing", misses=("run make paper first",)))
        elif (results / name).read_bytes() == path.read_bytes():
            comparisons.append(Comparison(name, "identical", len(entries(path))))
        else:
            comparisons.append(_compare(name, entries(results / name), entries(path), measured.get(name)))
    return comparisons


def read_spread(path: Path) -> dict[str, dict[str, Tolerance]]:
    """Read the measured tolerances by table and kind; empty without the file."""
    tolerances: dict[str, dict[str, Tolerance]] = {}
    if path.is_file():
        for row in pd.read_csv(path).itertuples():
            tolerances.setdefault(str(row.table), {})[str(row.kind)] = Tolerance(row.tolerance, bool(row.missing))
    return tolerances


def entries(path: Path) -> dict[str, Entry]:
    """Flatten a table into ``keys of the row/column``, or JSON into ``path/to/leaf``, without :data:`FOLLOWING`.

    Raises:
        ValueError: two rows have the same keys.
    """
    if path.suffix == ".json":
        return dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    flat: dict[str, Entry] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = " ".join(row[column] for column in KEYS if column in row)
            for column in [column for column in row if column not in (*KEYS, *FOLLOWING)]:
                if f"{key}/{column}" in flat:
                    raise ValueError(f"{path}: two rows have the keys '{key}'; rows must differ in {', '.join(KEYS)}")
                unitless = row.get("metric", column) in UNITLESS
                shared = [row[name] for name in KIND if name in row and not (unitless and name == "map")]
                flat[f"{key}/{column}"] = Entry(f"{' '.join(shared)}/{column}", row[column])
    return flat


def _leaves(value: object, where: str = "") -> Iterator[tuple[str, Entry]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield where, Entry(where, str(value))
    else:
        for name, part in parts:
            yield from _leaves(part, f"{where}/{name}".strip("/"))


def _compare(
    name: str, run: dict[str, Entry], reference: dict[str, Entry], measured: Mapping[str, Tolerance] | None
) -> Comparison:
    """Compare two flattened tables; numbers within tolerance, words exactly."""
    odd = sorted(run.keys() ^ reference.keys())
    if odd:
        where = "only in the reference" if odd[0] in reference else "not in the reference"
        return Comparison(name, "differs", len(reference), misses=(f"{odd[0]}: {where} ({len(odd)} such entries)",))
    worst, misses = 0.0, []
    for key, (kind, expected) in reference.items():
        text, limit = run[key].text, tolerance(kind, expected, measured)
        share = _share(text, expected, limit)
        worst = max(worst, share)
        if share > 1:
            allowed = f"tolerance {limit.limit:.3g}" if limit else "must be equal"
            misses.append(f"{key}: {text}, reference {expected}, {allowed}")
    return Comparison(name, "differs" if misses else "within tolerance", len(reference), worst, tuple(misses))


def tolerance(kind: str, expected: str, measured: Mapping[str, Tolerance] | None) -> Tolerance | None:
    """Find how far an entry may lie from the reference; None for words.

    A kind that a measured table does not list was equal in all runs, so only rounding is allowed.
    """
    value = number(expected)
    if value is None:
        return None
    column, size = kind.rpartition("/")[2], abs(value) if math.isfinite(value) else 0.0
    least = 1.0 if column in COUNTS else MACHINE * size
    if measured is not None:
        limit, missing = measured.get(kind, Tolerance(0.0))
        return Tolerance(max(limit, least), missing)
    words = kind.lower().replace("/", " ").replace("_", " ").split()
    # The column itself comes first: n of a metric is a count, not a metric.
    assumed = next((ASSUMED[word] for word in (words[-1], *words) if word in ASSUMED), max(RELATIVE * size, least))
    return Tolerance(assumed)


def _share(text: str, expected: str, limit: Tolerance | None) -> float:
    """Difference as a share of what is allowed; infinite where words differ."""
    a, b = number(text), number(expected)
    if text == expected:
        return 0.0
    if a is None or b is None or limit is None:
        return math.inf
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if limit.missing or (math.isnan(a) and math.isnan(b)) else math.inf
    return abs(a - b) / limit.limit if limit.limit else math.inf


def number(text: str) -> float | None:
    """Read a cell as a number; an empty one cannot be computed, nan. None for words."""
    try:
        return float(text) if text not in ("", "None") else math.nan
    except ValueError:
        return None


def report(comparisons: list[Comparison], *, shown: int = 5) -> str:
    """Print the comparisons as a table, and below it the first ``shown`` misses of each."""
    rows = [
        (each.name, each.outcome, each.entries or "", f"{each.worst:.0%}", len(each.misses) or "")
        for each in comparisons
    ]
    lines = [pd.DataFrame(rows, columns=["table", "outcome", "entries", "worst", "misses"]).to_markdown(index=False)]
    for each in comparisons:
        lines += [f"{each.name}: {miss}" for miss in each.misses[:shown]]
        lines += [f"{each.name}: and {len(each.misses) - shown} more"] if len(each.misses) > shown else []
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line: print a table and the misses; the exit code is 1 unless all tables agree."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.verification", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("reference", type=Path)
    options = parser.parse_args(arguments)
    try:
        comparisons = verify(options.results, options.reference)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(comparisons))
    spread = options.reference / SPREAD
    print(f"tolerances: {'measured between seeds in' if spread.is_file() else 'assumed, there is no'} {spread}")
    passed = sum(comparison.passed for comparison in comparisons)
    print(f"{passed} of {len(comparisons)} tables agree with {options.reference}")
    return 0 if passed == len(comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
