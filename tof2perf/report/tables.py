"""Numbers in prose come from results: fills the tables between the marks of a text from one run's folder.

``python -m tof2perf.report.tables`` rewrites README.md from results/reference; a test checks
that nothing is left to rewrite. The pages of the book have the same marks and are filled from the run that they show.
"""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tof2perf.maps import MAPS

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLISHED = REPOSITORY / "data" / "published"
FILLED = (REPOSITORY / "README.md",)  # stored with its tables
ABSENT = "*This run has no such numbers.*\n"
MARK = re.compile(r"(<!-- numbers: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float, digits: int) -> str:
    """A number with so many decimals, n.d. where there is none; no minus before zero."""
    return "n.d." if pd.isna(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def errors(results: Path) -> str:
    """Mean absolute error in the brain of GAN, mean map and oracle, with the verdict on GAN against mean map."""
    table = pd.read_csv(results / "tables" / "table1.csv")
    table = table[(table.convention == "brain") & (table.metric == "mae")].set_index(["cohort", "map", "predictor"])
    words = pd.read_csv(results / "tables" / "comparison.csv")
    words = words[(words.convention == "brain") & (words.metric == "mae") & (words.against == "mean-map")]
    rows = []
    for row in words.itertuples():
        means = [table["mean"].get((row.cohort, row.map, name)) for name in ("gan", "mean-map", "oracle")]
        digits = 2 if means[0] >= 0.5 else 3
        found = [number(value, digits) for value in means]
        interval = f"{row.difference:+.{digits}f} ({row.low:+.{digits}f} to {row.high:+.{digits}f})"
        unit = MAPS[row.map].unit
        rows.append([f"{row.cohort} {MAPS[row.map].label}", unit, *found, interval, row.gan_is, f"{row.p_holm:.3f}"])
    header = ["map", "unit", "GAN", "mean map", "oracle", "GAN minus mean map (95 %)", "the GAN is", "p, Holm"]
    return markdown(header, rows)


def lesions(results: Path) -> str:
    """Overlap of lesions, by predictor."""
    found = json.loads((results / "tables" / "dice_summary.json").read_text(encoding="utf-8"))["predictors"]
    rows = []
    for name, row in found.items():
        interval = f"{number(row['median'], 2)} ({number(row['median_low'], 2)} to {number(row['median_high'], 2)})"
        quartiles = f"{number(row['quartile_25'], 2)} to {number(row['quartile_75'], 2)}"
        counts = [str(row[key]) for key in ("detected", "missed", "contralateral", "false_alarms")]
        rows.append([name, str(row["analysed"]), interval, number(row["mean"], 2), quartiles, *counts])
    header = ["predictor", "lesions", "median Dice (95 %)", "mean", "middle half", "detected", "missed", "other side"]
    return markdown([*header, "false alarms"], rows)


def seeds(results: Path) -> str:
    """How far lesions and errors of the GAN differ between trainings that differ in their seed alone."""
    table = pd.read_csv(results / "spread.csv").set_index("kind")
    rows = []
    for entry, text in (
        ("predictors/gan/mean", "mean Dice"),
        ("predictors/gan/median", "median Dice"),
        ("predictors/gan/detected", "lesions detected"),
    ):
        row = table.loc[entry]
        rows.append([text, number(row["mean"], 2), number(row.sd, 2), str(int(row.runs))])
    return markdown(["GAN, acute Tmax", "mean over seeds", "SD over seeds", "seeds"], rows)


def sites(results: Path) -> str:
    """Dice of the GAN by site of the occlusion, and whether the TOF shows it."""
    dice = pd.read_csv(results / "tables" / "dice.csv")
    people = pd.read_csv(results / "explore" / "phantom_patients.csv")
    people = people[people.cohort == "acute"].set_index("participant_id")
    dice = dice[~dice.excluded].join(people[["occlusion_site", "visible"]], on="participant_id")
    rows = []
    for (site, visible), cases in dice[dice.predictor == "gan"].groupby(["occlusion_site", "visible"]):
        ceiling = dice[(dice.predictor == "oracle") & dice.participant_id.isin(cases.participant_id)].dice
        rows.append([site, visible, str(len(cases)), number(cases.dice.median(), 2), number(ceiling.median(), 2)])
    return markdown(["site", "seen in the TOF", "lesions", "GAN, median Dice", "oracle, median Dice"], rows)


def phantom(results: Path) -> str:
    """The simulated cohorts beside cited values."""
    table = pd.read_csv(results / "explore" / "phantom.csv")
    rows = []
    for row in table.itertuples():
        digits = 0 if row.median >= 10 else 2
        found = f"{number(row.median, digits)} ({number(row.q25, digits)} to {number(row.q75, digits)})"
        rows.append([row.cohort, row.quantity, found, str(row.patients), str(row.reference), row.source])
    return markdown(["cohort", "quantity", "simulated: median (middle half)", "patients", "cited", "source"], rows)


def truth(results: Path) -> str:
    """What the pipeline found beside what the phantom knows."""
    table = pd.read_csv(results / "explore" / "truth.csv").set_index(["quantity", "cohort"])
    rows = []
    for quantity, digits, text in (
        ("motion_mm", 2, "movement between TOF and DSC, mean over the brain (mm)"),
        ("registration_error_mm", 2, "what co-registration leaves of it (mm)"),
        ("brain_dice", 3, "Dice of the skull strip"),
        ("cbf_ratio", 2, "measured over true CBF, healthy tissue"),
        ("cbv_ratio", 2, "measured over true CBV, healthy tissue"),
        ("cbf_correlation", 2, "correlation of measured with true CBF over voxels"),
        ("tmax_minus_delay_s", 2, "measured Tmax minus true delay (s)"),
        ("tmax_minus_delay_sd_s", 2, "its standard deviation over voxels (s)"),
        ("lesion_dice", 2, "Dice of measured and true Tmax > 6 s"),
    ):
        cells = []
        for cohort in ("acute", "pegasus"):
            one = table.loc[(quantity, cohort)]
            cells.append(
                f"{number(one['mean'], digits)} ({number(one['min'], digits)} to {number(one['max'], digits)})"
            )
        rows.append([text, *cells])
    return markdown(["mean over patients (least to most)", "acute", "pegasus"], rows)


def methods(results: Path) -> str:
    """Errors of the deconvolution methods."""
    table = pd.read_csv(results / "explore" / "perfusion_methods.csv")
    rows = [
        [
            row.method,
            row.noise,
            f"{number(row.cbf_percent_bias, 0)} ± {number(row.cbf_percent_sd, 0)}",
            f"{number(row.mtt_s_bias, 1)} ± {number(row.mtt_s_sd, 1)}",
            f"{number(row.delay_s_bias, 2)} ± {number(row.delay_s_sd, 2)}",
            number(row.delay_s_mae, 2),
        ]
        for row in table.itertuples()
    ]
    header = [
        "method",
        "noise",
        "CBF error (%)",
        "MTT error (s)",
        "delay or Tmax error (s)",
        "its mean absolute value (s)",
    ]
    return markdown(header, rows)


def study(results: Path) -> str:
    """The three best and the worst trial of the search of hyperparameters, and the profile's values before it."""
    trials = pd.read_csv(results / "hyperparameters" / "acute_tmax_dice" / "trials.csv")
    done = trials[trials.state == "COMPLETE"].sort_values("value", ascending=False)
    shown = pd.concat([done.head(3), done[done.number == 0], done.tail(1)]).drop_duplicates("number")
    names = [name for name in trials if name.startswith("params_")]
    rows = [
        [str(row["number"]), number(row["value"], 2)]
        + [f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in names]
        for _, row in shown.iterrows()
    ]
    counts = ", ".join(f"{count} {state.lower()}" for state, count in trials.state.value_counts().items())
    text = f"{len(trials)} trials ({counts}) in {trials.seconds.sum() / 60:.0f} minutes; the best and the worst:\n\n"
    return text + markdown(["trial", "Dice", *(name.removeprefix("params_").replace("_", " ") for name in names)], rows)


def ablations(results: Path) -> str:
    """What each choice of the method is worth on the validation split."""
    rows = []
    for cohort in ("acute", "pegasus"):
        for row in pd.read_csv(results / "ablations" / f"ablations_{cohort}.csv").itertuples():
            dice = f"{number(row.dice_mean, 2)} ({row.lesions:.0f})" if row.lesions > 0 else "–"
            error = number(row.mae, 3 if row.mae < 0.5 else 2)
            cells = [error, dice, f"{row.best_epoch} of {row.epochs}", number(row.seconds, 0)]
            rows.append([cohort, row.label, MAPS[row.map].label, *cells])
    header = ["cohort", "variant", "map", "MAE (map's unit)", "mean Dice (lesions)", "best epoch", "training a map (s)"]
    return markdown(header, rows)


def benchmarks(results: Path) -> str:
    """Time and memory, from `make bench`."""
    return (results / "benchmarks.md").read_text(encoding="utf-8")


def table1(results: Path) -> str:
    """Table 1 in the paper's convention: published values, this run's GAN, and its baselines."""
    table = pd.read_csv(results / "tables" / "table1.csv")
    predictors = [name for name in ("gan", "mean-map", "constant", "oracle") if name in set(table.predictor)]
    table = table[table.convention == "paper"].set_index(["cohort", "map", "metric", "predictor"])
    printed = pd.read_csv(PUBLISHED / "table1.csv").set_index(["cohort", "map", "metric"])
    rows = []
    cohorts = dict.fromkeys(key[0] for key in table.index)
    for cohort, name, metric in itertools.product(cohorts, MAPS, ("ssim", "psnr", "mae", "nrmse")):
        published = _spread(printed.loc[cohort, name, metric]) if (cohort, name, metric) in printed.index else "–"
        found = [(cohort, name, metric, predictor) for predictor in predictors]
        cells = [_spread(table.loc[key]) if key in table.index else "–" for key in found]
        rows.append([cohort, MAPS[name].label, metric.upper(), published, *cells])
    titles = {"gan": "GAN", "mean-map": "mean map"}
    header = ["cohort", "map", "metric", "paper (real patients)"]
    return markdown([*header, *(f"{titles.get(name, name)}, this run" for name in predictors)], rows)


def _spread(row: pd.Series) -> str:
    """Mean and standard deviation as the paper prints them."""
    return number(row["mean"], 3) + (f" ({number(row['sd'], 3)})" if row["n"] > 1 else "")


def claimed(results: Path) -> str:
    """Overlap of lesions as published, beside this run's."""
    paper = json.loads((PUBLISHED / "dice.json").read_text(encoding="utf-8"))
    run = json.loads((results / "tables" / "dice_summary.json").read_text(encoding="utf-8"))["predictors"]["gan"]
    rows = []
    for name, found in (("paper (real patients)", paper), ("GAN, this run", run)):
        quartiles = f"{number(found['quartile_25'], 2)} to {number(found['quartile_75'], 2)}"
        cells = [number(found["mean"], 2), number(found["median"], 2), quartiles]
        rows.append([name, str(found["analysed"]), str(found["excluded"]), *cells])
    return markdown(["", "analysed", "excluded", "mean Dice", "median", "middle half"], rows)


def findings(results: Path) -> str:
    """What the audit of the metrics found."""
    table = pd.read_csv(results / "explore" / "metrics_findings.csv")
    rows = [[row.finding, f"{row.value:.3g}", str(row.meaning)] for row in table.itertuples()]
    return markdown(["finding", "value", "meaning"], rows)


TABLES: dict[str, Callable[[Path], str]] = {
    table.__name__.replace("_", "-"): table
    for table in (
        errors,
        lesions,
        seeds,
        sites,
        phantom,
        truth,
        methods,
        study,
        ablations,
        benchmarks,
        table1,
        claimed,
        findings,
    )
}


def render(text: str, results: Path) -> str:
    """The text with every marked table as one run's results give it.

    Args:
        text: Markdown with marks ``<!-- numbers: NAME -->`` and ``<!-- end -->``, what stands between them is replaced.
        results: the run's folder. A table whose files it lacks is replaced by a sentence that says so.

    Raises:
        KeyError: a mark names no table.
    """

    def fill(found: re.Match) -> str:
        table = TABLES[found["name"]]
        try:
            return found[1] + table(results) + found[3]
        except FileNotFoundError:
            return found[1] + ABSENT + found[3]

    return MARK.sub(fill, text)


if __name__ == "__main__":
    for page in FILLED:
        written = render(page.read_text(encoding="utf-8"), REPOSITORY / "results" / "reference" / "laptop")
        page.write_text(written, encoding="utf-8")
