"""Fill the tables between the marks of a page from one run's results, so that no number in prose is typed.

``python -m tof2perf.report.tables`` fills README.md and the pages of ``notebooks/book`` from the stored reference. The
book fills the same marks from the run that it shows.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tof2perf.maps import MAPS
from tof2perf.system.codebase import REPOSITORY

PUBLISHED = REPOSITORY / "data" / "published"
REFERENCE = REPOSITORY / "results" / "reference" / "laptop"
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "notebooks" / "book").glob("*.md")))
ABSENT = "*This run has no such numbers.*\n"
MARK = re.compile(r"(<!-- numbers: (?P<name>[a-z0-9.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def number(value: float, digits: int) -> str:
    """Write a number with so many decimals, n.d. where there is none; no minus before zero."""
    return "n.d." if pd.isna(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def interval(row: Any, names: str, digits: int = 2) -> str:
    """Write ``middle (low to high)`` of three columns, named in that order."""
    middle, low, high = (number(row[name], digits) for name in names.split())
    return f"{middle} ({low} to {high})"


def errors(results: Path) -> pd.DataFrame:
    """Mean absolute error in the brain of GAN, mean map and oracle, with the verdict on GAN against mean map."""
    table, words = (pd.read_csv(results / "tables" / f"{name}.csv") for name in ("table1", "comparison"))
    means = table[(table.convention == "brain") & (table.metric == "mae")].set_index(["cohort", "map", "predictor"])
    words = words[(words.convention == "brain") & (words.metric == "mae") & (words.against == "mean-map")]
    rows = []
    for row in words.itertuples():
        values = [means["mean"].get((row.cohort, row.map, name)) for name in ("gan", "mean-map", "oracle")]
        digits = 2 if values[0] >= 0.5 else 3
        difference = f"{row.difference:+.{digits}f} ({row.low:+.{digits}f} to {row.high:+.{digits}f})"
        cells = [MAPS[row.map].unit, *(number(value, digits) for value in values), difference]
        rows.append([f"{row.cohort} {MAPS[row.map].label}", *cells, row.gan_is, f"{row.p_holm:.3f}"])
    header = ["map", "unit", "GAN", "mean map", "oracle", "GAN minus mean map (95 %)", "the GAN is", "p, Holm"]
    return pd.DataFrame(rows, columns=header)


def lesions(results: Path) -> pd.DataFrame:
    """Overlap of lesions, by predictor."""
    rows = []
    for name, row in _read(results / "tables" / "dice_summary.json")["predictors"].items():
        counts = [row[key] for key in ("detected", "missed", "contralateral", "false_alarms")]
        median = interval(row, "median median_low median_high")
        rows.append([name, row["analysed"], median, number(row["mean"], 2), _quartiles(row), *counts])
    header = ["predictor", "lesions", "median Dice (95 %)", "mean", "middle half", "detected", "missed", "other side"]
    return pd.DataFrame(rows, columns=[*header, "false alarms"])


def claimed(results: Path) -> pd.DataFrame:
    """Overlap of lesions as published, beside this run's."""
    run = _read(results / "tables" / "dice_summary.json")["predictors"]["gan"]
    rows = [
        [name, row["analysed"], row["excluded"], number(row["mean"], 2), number(row["median"], 2), _quartiles(row)]
        for name, row in (("paper (real patients)", _read(PUBLISHED / "dice.json")), ("GAN, this run", run))
    ]
    return pd.DataFrame(rows, columns=["", "analysed", "excluded", "mean Dice", "median", "middle half"])


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _quartiles(row: dict) -> str:
    return f"{number(row['quartile_25'], 2)} to {number(row['quartile_75'], 2)}"


def seeds(results: Path) -> pd.DataFrame:
    """How far lesions of the GAN differ between trainings that differ in their seed alone."""
    kinds = {"mean": "mean Dice", "median": "median Dice", "detected": "lesions detected"}
    table = pd.read_csv(results / "spread.csv").set_index("kind").loc[[f"predictors/gan/{key}" for key in kinds]]
    columns = {"mean": "mean over seeds", "sd": "SD over seeds", "runs": "seeds"}
    table = table.rename(columns=columns)[list(columns.values())].round(2)
    table.insert(0, "GAN, acute Tmax", list(kinds.values()))
    return table


def sites(results: Path) -> pd.DataFrame:
    """Dice of the GAN by site of the occlusion, and whether the TOF shows it."""
    dice = pd.read_csv(results / "tables" / "dice.csv")
    patients = pd.read_csv(results / "explore" / "phantom_patients.csv").query("cohort == 'acute'")
    wide = dice[~dice.excluded].pivot(index="participant_id", columns="predictor", values="dice")
    wide = wide.join(patients.set_index("participant_id")[["occlusion_site", "visible"]])
    rows = [
        [*key, len(cases), number(cases.gan.median(), 2), number(cases.oracle.median(), 2)]
        for key, cases in wide.groupby(["occlusion_site", "visible"])
    ]
    return pd.DataFrame(rows, columns=["site", "seen in the TOF", "lesions", "GAN, median Dice", "oracle, median Dice"])


def phantom(results: Path) -> pd.DataFrame:
    """The simulated cohorts beside cited values."""
    table = pd.read_csv(results / "explore" / "phantom.csv")
    value = [interval(row, "median q25 q75", 0 if row["median"] >= 10 else 2) for row in table.to_dict("records")]
    table["simulated: median (middle half)"] = value
    columns = ["cohort", "quantity", "simulated: median (middle half)", "patients", "reference", "source"]
    return table[columns].rename(columns={"reference": "cited"})


TRUTH = {  # quantity: digits, text
    "motion_mm": (2, "movement between TOF and DSC, mean over the brain (mm)"),
    "registration_error_mm": (2, "what co-registration leaves of it (mm)"),
    "brain_dice": (3, "Dice of the skull strip"),
    "cbf_ratio": (2, "measured over true CBF, healthy tissue"),
    "cbv_ratio": (2, "measured over true CBV, healthy tissue"),
    "cbf_correlation": (2, "correlation of measured with true CBF over voxels"),
    "tmax_minus_delay_s": (2, "measured Tmax minus true delay (s)"),
    "tmax_minus_delay_sd_s": (2, "its standard deviation over voxels (s)"),
    "lesion_dice": (2, "Dice of measured and true Tmax > 6 s"),
}


def truth(results: Path) -> pd.DataFrame:
    """What the pipeline found beside what the phantom knows."""
    table = pd.read_csv(results / "explore" / "truth.csv").set_index(["quantity", "cohort"])
    cohorts = ["acute", "pegasus"]
    rows = [
        [text, *(interval(table.loc[(quantity, cohort)], "mean min max", digits) for cohort in cohorts)]
        for quantity, (digits, text) in TRUTH.items()
    ]
    return pd.DataFrame(rows, columns=["mean over patients (least to most)", *cohorts])


def methods(results: Path) -> pd.DataFrame:
    """Errors of the deconvolution methods."""
    table = pd.read_csv(results / "explore" / "perfusion_methods.csv")
    errors = {
        "cbf_percent": ("CBF error (%)", 0),
        "mtt_s": ("MTT error (s)", 1),
        "delay_s": ("delay or Tmax error (s)", 2),
    }
    for name, (title, digits) in errors.items():
        bias, sd = (table[f"{name}_{kind}"].map(lambda value, n=digits: number(value, n)) for kind in ("bias", "sd"))
        table[title] = bias + " ± " + sd
    table["its mean absolute value (s)"] = table.delay_s_mae.map("{:.2f}".format)
    return table[["method", "noise", *(title for title, _ in errors.values()), "its mean absolute value (s)"]]


def study(results: Path) -> str:
    """The three best and the worst trial of the search of hyperparameters, and the profile's values before it."""
    trials = pd.read_csv(results / "hyperparameters" / "acute_tmax_dice" / "trials.csv")
    done = trials[trials.state == "COMPLETE"].sort_values("value", ascending=False)
    shown = pd.concat([done.head(3), done[done.number == 0], done.tail(1)]).drop_duplicates("number")
    table = shown[["number", "value"]].rename(columns={"number": "trial", "value": "Dice"}).round(2)
    for name in [name for name in trials if name.startswith("params_")]:
        title = name.removeprefix("params_").replace("_", " ")
        table[title] = [f"{value:.3g}" if isinstance(value, float) else value for value in shown[name]]
    counts = ", ".join(f"{count} {state.lower()}" for state, count in trials.state.value_counts().items())
    text = f"{len(trials)} trials ({counts}) in {trials.seconds.sum() / 60:.0f} minutes; the best and the worst:"
    return f"{text}\n\n{markdown(table)}"


def ablations(results: Path) -> pd.DataFrame:
    """What each choice of the method is worth on the validation split."""
    rows = []
    for cohort in ("acute", "pegasus"):
        for row in pd.read_csv(results / "ablations" / f"ablations_{cohort}.csv").itertuples():
            dice = f"{number(row.dice_mean, 2)} ({row.lesions:.0f})" if row.lesions > 0 else "–"
            error, epochs = number(row.mae, 3 if row.mae < 0.5 else 2), f"{row.best_epoch} of {row.epochs}"
            rows.append([cohort, row.label, MAPS[row.map].label, error, dice, epochs, number(row.seconds, 0)])
    header = ["cohort", "variant", "map", "MAE (map's unit)", "mean Dice (lesions)", "best epoch", "training a map (s)"]
    return pd.DataFrame(rows, columns=header)


def table1(results: Path) -> pd.DataFrame:
    """Table 1 in the paper's convention: published values, this run's GAN, and its baselines."""
    keys, titles = ["cohort", "map", "metric"], {"gan": "GAN", "mean-map": "mean map"}
    run = pd.read_csv(results / "tables" / "table1.csv").query("convention == 'paper'")
    wide = run.assign(text=_mean_and_sd(run)).pivot(index=keys, columns="predictor", values="text")
    names = [name for name in ("gan", "mean-map", "constant", "oracle") if name in wide]
    wide = wide[names].rename(columns=lambda name: f"{titles.get(name, name)}, this run")
    published = pd.read_csv(PUBLISHED / "table1.csv").set_index(keys)
    wide.insert(0, "paper (real patients)", _mean_and_sd(published))
    order = pd.MultiIndex.from_product([run.cohort.unique(), MAPS, ["ssim", "psnr", "mae", "nrmse"]], names=keys)
    table = wide.reindex(order).dropna(how="all", subset=wide.columns[1:]).fillna("–").reset_index()
    table["map"] = [MAPS[name].label for name in table["map"]]
    return table.assign(metric=table.metric.str.upper())


def _mean_and_sd(table: pd.DataFrame) -> pd.Series:
    spread = table.sd.map(" ({:.3f})".format).where(table.sd.notna(), "")  # a single patient has none
    return table["mean"].map(lambda value: number(value, 3)) + spread


def findings(results: Path) -> pd.DataFrame:
    """What the audit of the metrics found."""
    table = pd.read_csv(results / "explore" / "metrics_findings.csv")
    return table.assign(value=table.value.map("{:.3g}".format))[["finding", "value", "meaning"]]


def provenance(results: Path) -> pd.DataFrame:
    """What the run was made from: source, profile, commit and versions."""
    manifest = _read(results / "manifest.json")
    facts = {name: manifest[name] for name in ("source", "profile", "commit", "platform")} | manifest["versions"]
    return pd.DataFrame(facts.items(), columns=["", "this run"])


def steps(results: Path) -> pd.DataFrame:
    """Running time and memory of every step."""
    stamps = [_read(path) for path in sorted(results.glob(".stamps/*.json"))]
    rows = [[stamp["step"], f"{stamp['seconds']:.0f}", f"{stamp['peak_memory_gb']:.1f}"] for stamp in stamps]
    return pd.DataFrame(rows, columns=["step", "seconds", "peak memory (GB)"])


def files(results: Path) -> pd.DataFrame:
    """Size and checksum of every file."""
    files = _read(results / "manifest.json")["files"]
    rows = [[name, entry["bytes"], f"`{entry['sha256']}`"] for name, entry in files.items()]
    return pd.DataFrame(rows, columns=["file", "bytes", "SHA-256"])


OF_RUN = (provenance, steps, files)  # they describe one run, so a stored page leaves them empty
OF_RESULTS = (errors, lesions, claimed, seeds, sites, phantom, truth, methods, study, ablations, table1, findings)
TABLES: dict[str, Callable[[Path], pd.DataFrame | str]] = {table.__name__: table for table in (*OF_RESULTS, *OF_RUN)}


def markdown(table: pd.DataFrame) -> str:
    """Write a table as Markdown, its texts as they are."""
    return f"{table.to_markdown(index=False, disable_numparse=True)}\n"


def render(text: str, results: Path) -> str:
    """Fill every marked table from one run's results.

    Args:
        text: Markdown with marks ``<!-- numbers: NAME -->`` and ``<!-- end -->``; what is between them is replaced.
            A name like ``benchmarks.md`` is a file of the run that is included as it is.
        results: the run's folder. A table whose files it lacks is replaced by a sentence that says so.

    Raises:
        KeyError: a mark names no table.
    """

    def fill(mark: re.Match) -> str:
        name = mark["name"]
        try:
            table = (results / name).read_text("utf-8") if name.endswith(".md") else TABLES[name](results)
        except FileNotFoundError:
            table = ABSENT
        return mark[1] + (table if isinstance(table, str) else markdown(table)) + mark[3]

    return MARK.sub(fill, text)


def stored(text: str) -> str:
    """Fill a page from the stored reference, but for what describes one run."""
    names = [table.__name__ for table in OF_RUN]
    return MARK.sub(lambda mark: mark[1] + mark[3] if mark["name"] in names else mark[0], render(text, REFERENCE))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(stored(page.read_text(encoding="utf-8")), encoding="utf-8")
