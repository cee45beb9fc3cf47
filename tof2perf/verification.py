"""Compare a run with reference results: tables number by number within tolerances, all else byte by byte."""

import argparse
import csv
import fnmatch
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

# Largest accepted difference of a number from its reference, absolute, by the name of the metric or column. Training
# sums floating-point numbers in an order that depends on processor and threads; what remains after a whole training is
# not rounding but another, equally good, network. Assumption: the spread between machines; to be replaced by measured
# spreads where they are known.
TOLERANCES = {
    "ssim": 0.02,
    "psnr": 0.75,
    "nrmse": 0.05,
    "dice": 0.08,
    "volume_ml": 10.0,
    "n": 0.0,
}
RELATIVE = 0.10  # for numbers that have no tolerance of their own
COMPARED = ("tables/*.csv", "tables/*.json")


@dataclass(frozen=True)
class Comparison:
    """One compared file."""

    name: str
    outcome: str  # "identical", "within tolerance", "differs", "missing"
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the run agrees with the reference in this file."""
        return self.outcome in ("identical", "within tolerance")


def verify(results: Path, reference: Path, *, tolerances: dict[str, float] | None = None) -> list[Comparison]:
    """Compare a run's tables with the reference.

    Args:
        results: the run's folder under ``results/``.
        reference: folder of the same layout.
        tolerances: absolute tolerance by metric or column, in place of ``TOLERANCES``.

    Returns:
        One comparison a reference table, in the order of their names.

    Raises:
        FileNotFoundError: there is no reference, or it holds no table.
    """
    tables = [path for pattern in COMPARED for path in sorted(reference.glob(pattern))]
    if not tables:
        raise FileNotFoundError(f"{reference}: no reference tables for this profile; choose another PROFILE")
    allowed = TOLERANCES if tolerances is None else tolerances
    found = []
    for wanted in tables:
        name = wanted.relative_to(reference).as_posix()
        given = results / name
        if not given.is_file():
            found.append(Comparison(name, "missing", "run make paper first"))
        elif given.read_bytes() == wanted.read_bytes():
            found.append(Comparison(name, "identical"))
        else:
            found.append(_compare(name, _numbers(given), _numbers(wanted), allowed))
    return found


def _compare(name: str, given: dict[str, str], wanted: dict[str, str], allowed: dict[str, float]) -> Comparison:
    """Compare two tables flattened to entry -> text; numbers within tolerance, words exactly."""
    odd = sorted(given.keys() ^ wanted.keys())
    if odd:
        where = "only in the reference" if odd[0] in wanted else "not in the reference"
        return Comparison(name, "differs", f"{odd[0]}: {where} ({len(odd)} such entries)")
    worst, detail, misses = 0.0, "", 0
    for entry, expected in wanted.items():
        share = _share(given[entry], expected, _tolerance(entry, allowed))
        misses += share > 1
        if share > worst:
            worst, detail = share, f"{entry}: {given[entry]}, reference {expected}"
    outcome = "differs" if misses else "within tolerance"
    return Comparison(
        name, outcome, f"{detail} ({misses} misses)" if misses else f"at most {worst:.0%} of the tolerance"
    )


def _share(given: str, expected: str, tolerance: float | None) -> float:
    """Difference as a share of what is allowed; infinite where words differ."""
    if given == expected:
        return 0.0
    try:
        a, b = float(given), float(expected)
    except ValueError:
        return math.inf
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
    limit = RELATIVE * abs(b) if tolerance is None else tolerance
    return abs(a - b) / limit if limit else math.inf


def _tolerance(entry: str, allowed: dict[str, float]) -> float | None:
    """The tolerance whose name stands among the words of an entry; counts are exact."""
    words = entry.lower().replace("/", " ").replace("=", " ").replace("_", " ").split()
    if words[-1] in allowed:  # the column itself first: n of a metric is a count, not a metric
        return allowed[words[-1]]
    return next((allowed[name] for name in allowed if fnmatch.filter(words, name)), None)


def _numbers(path: Path) -> dict[str, str]:
    """Flatten a table: ``keys of the row / column`` -> text of the cell; of JSON ``path / to / leaf``."""
    if path.suffix == ".json":
        flat: dict[str, str] = {}
        _flatten(json.loads(path.read_text(encoding="utf-8")), "", flat)
        return flat
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # The key of a row is its words (cohort, map, predictor, ...), which stay the same from run to run.
    names = [column for column in (rows[0] if rows else {}) if all(not _is_number(row[column]) for row in rows)]
    flat = {}
    for number, row in enumerate(rows):
        key = " ".join(row[column] for column in names) or str(number)
        for column, text in row.items():
            entry = f"{key}/{column}"
            flat[entry if entry not in flat else f"row {number} {entry}"] = text
    return flat


def _flatten(value: object, where: str, flat: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten(part, f"{where}/{key}".strip("/"), flat)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _flatten(part, f"{where}/{number}".strip("/"), flat)
    else:
        flat[where] = str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == ""
    return True


def main(arguments: list[str] | None = None) -> int:
    """Command line: print one line a table; the exit code is 1 unless all agree."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.verification", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("reference", type=Path)
    found = parser.parse_args(arguments)
    try:
        comparisons = verify(found.results, found.reference)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    width = max(len(comparison.name) for comparison in comparisons)
    for comparison in comparisons:
        print(f"{comparison.name:{width}}  {comparison.outcome:16}  {comparison.detail}".rstrip())
    passed = sum(comparison.passed for comparison in comparisons)
    print(f"{passed} of {len(comparisons)} tables agree with {found.reference}")
    return 0 if passed == len(comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
