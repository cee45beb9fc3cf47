"""Compare a run with reference results: tables number by number within tolerances, all else byte by byte."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Columns that say which row it is; all others are results. No key may hold a word that changes from run to run.
KEYS = ("participant_id", "cohort", "map", "predictor", "against", "convention", "metric", "threshold_s", "finding")
# Results that follow from numbers that are compared, and may flip where those move a little: verdicts, sides, tests.
FOLLOWING = ("gan_is", "p", "p_holm", "laterality", "outcome")
# A patient more or less: the least that a count of patients can change.
COUNTS = ("contralateral", "detected", "missed", "false_alarms")
# Rounding differs between processors already before training, in skull stripping and co-registration (assumption).
MACHINE = 1e-3
# Where no spread was measured: largest accepted difference by the name of the metric or column, absolute (assumption).
ASSUMED = {"ssim": 0.02, "psnr": 0.75, "nrmse": 0.05, "dice": 0.08, "ml": 10.0, "n": 0.0}
RELATIVE = 0.10  # of the reference, for all else (assumption)
COMPARED = ("tables/*.csv", "tables/*.json")
SPREAD = "spread.csv"


@dataclass(frozen=True)
class Miss:
    """One entry of a table that lies outside its tolerance."""

    entry: str
    given: str
    expected: str
    tolerance: float | None


@dataclass(frozen=True)
class Comparison:
    """One compared table.

    Attributes:
        name: path below the results folder.
        outcome: ``identical`` (bytes), ``within tolerance``, ``differs`` or ``missing``.
        entries: how many were compared.
        worst: largest difference as a share of its tolerance.
        misses: entries outside their tolerance.
        detail: what else is wrong.
    """

    name: str
    outcome: str
    entries: int = 0
    worst: float = 0.0
    misses: tuple[Miss, ...] = ()
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the run agrees with the reference in this table."""
        return self.outcome in ("identical", "within tolerance")


def verify(results: Path, reference: Path) -> list[Comparison]:
    """Compare a run's tables with the reference.

    Tolerances are those of ``spread.csv`` in the reference, which ``spread`` makes from runs with other
    seeds; entries that it does not know, and all where there is none, have the assumed ones.

    Args:
        results: the run's folder under ``results/``.
        reference: folder of the same layout.

    Returns:
        One comparison a reference table, in the order of their names.

    Raises:
        FileNotFoundError: there is no reference, or it holds no table.
    """
    tables = [path for pattern in COMPARED for path in sorted(reference.glob(pattern))]
    if not tables:
        raise FileNotFoundError(f"{reference}: no reference tables for this profile; choose another PROFILE")
    measured = read_spread(reference / SPREAD)
    found = []
    for wanted in tables:
        name = wanted.relative_to(reference).as_posix()
        given = results / name
        if not given.is_file():
            found.append(Comparison(name, "missing", detail="run make paper first"))
        elif given.read_bytes() == wanted.read_bytes():
            found.append(Comparison(name, "identical", len(entries(wanted))))
        else:
            found.append(_compare(name, entries(given), entries(wanted), measured.get(name, {})))
    return found


def read_spread(path: Path) -> dict[str, dict[str, float]]:
    """Measured tolerances by table and entry; empty without the file."""
    tolerances: dict[str, dict[str, float]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                tolerances.setdefault(row["table"], {})[row["entry"]] = float(row["tolerance"])
    return tolerances


def entries(path: Path) -> dict[str, str]:
    """Flatten a table: ``keys of the row / column`` -> text of the cell; of JSON ``path / to / leaf``.

    Columns of :data:`FOLLOWING` are left out.

    Raises:
        ValueError: two rows have the same keys.
    """
    if path.suffix == ".json":
        flat: dict[str, str] = {}
        _flatten(json.loads(path.read_text(encoding="utf-8")), "", flat)
        return flat
    flat = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = " ".join(row[column] for column in KEYS if column in row)
            for column in row:
                if column not in KEYS and column not in FOLLOWING:
                    if f"{key}/{column}" in flat:
                        raise ValueError(
                            f"{path}: two rows have the keys '{key}'; rows must differ in {', '.join(KEYS)}"
                        )
                    flat[f"{key}/{column}"] = row[column]
    return flat


def _compare(name: str, given: dict[str, str], wanted: dict[str, str], measured: Mapping[str, float]) -> Comparison:
    """Compare two flattened tables; numbers within tolerance, words exactly."""
    odd = sorted(given.keys() ^ wanted.keys())
    if odd:
        where = "only in the reference" if odd[0] in wanted else "not in the reference"
        return Comparison(name, "differs", len(wanted), detail=f"{odd[0]}: {where} ({len(odd)} such entries)")
    worst, misses = 0.0, []
    for entry, expected in wanted.items():
        limit = _tolerance(entry, expected, measured)
        share = _share(given[entry], expected, limit)
        worst = max(worst, share)
        if share > 1:
            misses.append(Miss(entry, given[entry], expected, limit))
    return Comparison(name, "differs" if misses else "within tolerance", len(wanted), worst, tuple(misses))


def _share(given: str, expected: str, limit: float | None) -> float:
    """Difference as a share of what is allowed; infinite where words differ."""
    if given == expected:
        return 0.0
    a, b = number(given), number(expected)
    if a is None or b is None or limit is None:
        return math.inf
    if math.isinf(limit):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
    return abs(a - b) / limit if limit else math.inf


def _tolerance(entry: str, expected: str, measured: Mapping[str, float]) -> float | None:
    """How far an entry may lie from the reference; None for words."""
    value = number(expected)
    if value is None:
        return None
    column = entry.rpartition("/")[2]
    least = 1.0 if column in COUNTS else MACHINE * abs(value) if math.isfinite(value) else 0.0
    if entry in measured:
        return max(measured[entry], least)
    words = entry.lower().replace("/", " ").replace("_", " ").split()
    if words[-1] in ASSUMED:  # the column itself first: n of a metric is a count, not a metric
        return ASSUMED[words[-1]]
    relative = RELATIVE * abs(value) if math.isfinite(value) else 0.0
    return next((ASSUMED[word] for word in words if word in ASSUMED), max(relative, least))


def _flatten(value: object, where: str, flat: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten(part, f"{where}/{key}".strip("/"), flat)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            _flatten(part, f"{where}/{place}".strip("/"), flat)
    else:
        flat[where] = str(value)


def number(text: str) -> float | None:
    """The number a cell holds; an empty cell is one that cannot be computed, nan."""
    if text in ("", "None"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def report(comparisons: list[Comparison], *, shown: int = 5) -> str:
    """A table of the comparisons, and below it the first ``shown`` misses of each table."""
    rows = [("table", "outcome", "entries", "worst", "misses")]
    for found in comparisons:
        worst = "" if found.outcome in ("identical", "missing") else f"{found.worst:.0%}"
        rows.append((found.name, found.outcome, str(found.entries or ""), worst, str(len(found.misses) or "")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for found in comparisons:
        if found.detail:
            lines.append(f"{found.name}: {found.detail}")
        for miss in found.misses[:shown]:
            allowed = "must be equal" if miss.tolerance is None else f"tolerance {miss.tolerance:.3g}"
            lines.append(f"{found.name}: {miss.entry}: {miss.given}, reference {miss.expected}, {allowed}")
        if len(found.misses) > shown:
            lines.append(f"{found.name}: and {len(found.misses) - shown} more")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line: print a table and every kind of miss; the exit code is 1 unless all tables agree."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.verification", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("reference", type=Path)
    found = parser.parse_args(arguments)
    try:
        comparisons = verify(found.results, found.reference)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report(comparisons))
    spread = found.reference / SPREAD
    basis = f"measured between seeds ({spread})" if spread.is_file() else f"assumed, there is no {spread}"
    print(f"tolerances: {basis}")
    passed = sum(comparison.passed for comparison in comparisons)
    print(f"{passed} of {len(comparisons)} tables agree with {found.reference}")
    return 0 if passed == len(comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
