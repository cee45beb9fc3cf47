"""Compare a run with reference results: equal bytes, or every number of a table within its tolerance."""

import argparse
import json
import math
import sys
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
UNKNOWN = ("", "nan", "none")  # a number that cannot be computed
SPREAD = "spread.csv"


class Comparison(NamedTuple):
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
        ValueError: two rows of a table have the same keys.
    """
    names = table_names(reference)
    if not names:
        raise FileNotFoundError(f"{reference}: no reference tables for this profile; choose another PROFILE")
    file = reference / SPREAD
    spread = pd.read_csv(file).set_index("kind") if file.is_file() else pd.DataFrame({"table": []})
    comparisons = []
    for name in names:
        if not (results / name).is_file():
            comparisons.append(Comparison(name, "missing", misses=("run make paper first",)))
        elif (results / name).read_bytes() == (reference / name).read_bytes():
            comparisons.append(Comparison(name, "identical", len(entries(reference / name))))
        else:
            measured = spread[spread.table == name]
            comparisons.append(_compare(name, entries(results / name), entries(reference / name), measured))
    return comparisons


def table_names(folder: Path) -> list[str]:
    """List the tables of a run that are compared, as paths below its folder."""
    return sorted(f"tables/{path.name}" for path in folder.glob("tables/*") if path.suffix in (".csv", ".json"))


def entries(path: Path) -> pd.DataFrame:
    """Read the cells of a table, or the leaves of JSON, without :data:`FOLLOWING`.

    Returns:
        One row an entry, named ``keys of the row/column`` or ``path/to/leaf``: its ``kind``, ``column`` and ``text``;
        its ``number``, nan for words and for what cannot be computed; whether it is a ``word``. A list is a word.

    Raises:
        ValueError: two rows have the same keys.
    """
    if path.suffix == ".json":
        leaves = pd.json_normalize(json.loads(path.read_text(encoding="utf-8")), sep="/").astype(str).iloc[0]
        cells = pd.DataFrame({"kind": leaves.index, "column": leaves.index.str.split("/").str[-1], "text": leaves})
    else:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        keys = [name for name in KEYS if name in table]
        columns = [name for name in table if name not in (*KEYS, *FOLLOWING)]
        table["row"] = table[keys].agg(" ".join, axis=1)
        if not table.row.is_unique:
            twice = table.row[table.row.duplicated()].iloc[0]
            raise ValueError(f"{path}: two rows have the keys '{twice}'; rows must differ in {', '.join(KEYS)}")
        cells = table.melt(["row", *keys], columns, "column", "text", ignore_index=False).sort_index(kind="stable")
        if "map" in keys:
            cells.loc[cells.get("metric", cells.column).isin(UNITLESS), "map"] = ""
        shared = cells[[name for name in KIND if name in keys]].to_numpy().tolist()
        cells["kind"] = [" ".join(filter(None, names)) for names in shared]
        cells["kind"] += "/" + cells.column
        cells = cells.set_index(cells.row + "/" + cells.column)[["kind", "column", "text"]]
    number = pd.to_numeric(cells.text, errors="coerce").replace([math.inf, -math.inf], math.nan)
    return cells.assign(number=number, word=number.isna() & ~cells.text.str.lower().isin(UNKNOWN))


def _compare(name: str, run: pd.DataFrame, reference: pd.DataFrame, measured: pd.DataFrame) -> Comparison:
    """Compare the entries of two tables: numbers within their tolerance, words exactly."""
    odd = sorted(run.index.symmetric_difference(reference.index))
    if odd:
        where = "only in the reference" if odd[0] in reference.index else "not in the reference"
        return Comparison(name, "differs", len(reference), misses=(f"{odd[0]}: {where} ({len(odd)} such entries)",))
    run, limit = run.reindex(reference.index), tolerance(reference, measured)
    word = run.word | reference.word
    share = ((run.number - reference.number).abs() / limit).where(~word)
    neither = run.number.isna() & reference.number.isna()
    unsure = reference.kind.map(measured.missing).gt(0) if len(measured) else False
    share = share.mask(share.isna() & ~word & (neither | unsure), 0.0).fillna(math.inf)
    share = share.mask(run.text == reference.text, 0.0)
    allowed = limit.map("tolerance {:.3g}".format).mask(reference.word, "must be equal")
    lines = reference.index + ": " + run.text + ", reference " + reference.text + ", " + allowed
    misses = tuple(lines[share > 1])
    return Comparison(name, "differs" if misses else "within tolerance", len(reference), share.max(), misses)


def tolerance(reference: pd.DataFrame, measured: pd.DataFrame) -> pd.Series:
    """Find how far each entry may lie from the reference.

    A kind that a measured table does not list was equal in all runs, so only rounding is allowed.

    Args:
        reference: entries of the reference.
        measured: rows of ``spread.csv`` for this table, by kind; assumed tolerances apply if there are none.
    """
    size = reference.number.abs().fillna(0.0)
    least = (MACHINE * size).mask(reference.column.isin(COUNTS), 1.0)
    if len(measured):
        return reference.kind.map(measured.tolerance).fillna(0.0).clip(lower=least)
    assumed = reference.kind.map(_assumed)
    return assumed.fillna((RELATIVE * size).clip(lower=least))


def _assumed(kind: str) -> float:
    """Find the assumed tolerance of a kind by its words; nan if none is listed."""
    words = kind.lower().replace("/", " ").replace("_", " ").split()
    # The column itself comes first: n of a metric is a count, not a metric.
    return next((ASSUMED[word] for word in (words[-1], *words) if word in ASSUMED), math.nan)


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
