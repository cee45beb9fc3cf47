"""Fill the tables between the marks of a page from one run's results, so that no number in prose is typed.

``python -m tof2perf.report.tables`` fills README.md and the pages of ``notebooks/book`` from the stored reference. The
book fills the same marks from the run that it shows.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tof2perf.maps import MAPS
from tof2perf.system.codebase import REPOSITORY

PUBLISHED = REPOSITORY / "data" / "published"
REFERENCE = REPOSITORY / "results" / "reference" / "laptop"
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "notebooks" / "book").glob("*.md")))
ABSENT = "*This run has no such numbers.*\n"
OF_RUN = ("provenance", "steps", "files")  # they describe one run, so a stored page leaves them empty
MARK = re.compile(r"(<!-- numbers: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float, digits: int) -> str:
    """Write a number with so many decimals, n.d. where there is none; no minus before zero."""
    return "n.d." if pd.isna(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def interval(row: pd.Series | dict, names: str, digits: int = 2) -> str:
    """Write ``middle (low to high)`` of three columns, named in that order."""
    middle, low, high = (number(row[name], digits) for name in names.split())
    return f"{middle} ({low} to {high})"


def errors(results: Path) -> str:
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
    return markdown(header, rows)


def lesions(results: Path) -> str:
    """Overlap of lesions, by predictor."""
    rows = []
    for name, row in _dice(results / "tables" / "dice_summary.json")["predictors"].items():
        cells = [str(row["analysed"]), interval(row, "median median_low median_high"), number(row["mean"], 2)]
        counts = [str(row[key]) for key in ("detected", "missed", "contralateral", "false_alarms")]
        rows.append([name, *cells, _quartiles(row), *counts])
    header = ["predictor", "lesions", "median Dice (95 %)", "mean", "middle half", "detected", "missed", "other side"]
    return markdown([*header, "false alarms"], rows)


def claimed(results: Path) -> str:
    """Overlap of lesions as published, beside this run's."""
    run = _dice(results / "tables" / "dice_summary.json")["predictors"]["gan"]
    rows = []
    for name, row in (("paper (real patients)", _dice(PUBLISHED / "dice.json")), ("GAN, this run", run)):
        counts = [str(row["analysed"]), str(row["excluded"])]
        rows.append([name, *counts, number(row["mean"], 2), number(row["median"], 2), _quartiles(row)])
    return markdown(["", "analysed", "excluded", "mean Dice", "median", "middle half"], rows)


def _dice(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _quartiles(row: dict) -> str:
    return f"{number(row['quartile_25'], 2)} to {number(row['quartile_75'], 2)}"


def seeds(results: Path) -> str:
    """How far lesions of the GAN differ between trainings that differ in their seed alone."""
    table = pd.read_csv(results / "spread.csv").set_index("kind")
    kinds = {"mean": "mean Dice", "median": "median Dice", "detected": "lesions detected"}
    found = [(text, table.loc[f"predictors/gan/{key}"]) for key, text in kinds.items()]
    rows = [[text, number(row["mean"], 2), number(row.sd, 2), str(int(row.runs))] for text, row in found]
    return markdown(["GAN, acute Tmax", "mean over seeds", "SD over seeds", "seeds"], rows)


def sites(results: Path) -> str:
    """Dice of the GAN by site of the occlusion, and whether the TOF shows it."""
    dice = pd.read_csv(results / "tables" / "dice.csv")
    patients = pd.read_csv(results / "explore" / "phantom_patients.csv").query("cohort == 'acute'")
    keys = ["participant_id", "occlusion_site", "visible"]
    wide = dice[~dice.excluded].pivot(index="participant_id", columns="predictor", values="dice")
    groups = wide.join(patients[keys].set_index("participant_id")).groupby(keys[1:])
    rows = [
        [*key, str(len(cases)), number(cases.gan.median(), 2), number(cases.oracle.median(), 2)]
        for key, cases in groups
    ]
    return markdown(["site", "seen in the TOF", "lesions", "GAN, median Dice", "oracle, median Dice"], rows)


def phantom(results: Path) -> str:
    """The simulated cohorts beside cited values."""
    rows = []
    for _, row in pd.read_csv(results / "explore" / "phantom.csv").iterrows():
        value = interval(row, "median q25 q75", 0 if row["median"] >= 10 else 2)
        rows.append([row.cohort, row.quantity, value, str(row.patients), str(row.reference), row.source])
    return markdown(["cohort", "quantity", "simulated: median (middle half)", "patients", "cited", "source"], rows)


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


def truth(results: Path) -> str:
    """What the pipeline found beside what the phantom knows."""
    table = pd.read_csv(results / "explore" / "truth.csv").set_index(["quantity", "cohort"])
    cohorts = ["acute", "pegasus"]
    rows = [
        [text, *(interval(table.loc[(quantity, cohort)], "mean min max", digits) for cohort in cohorts)]
        for quantity, (digits, text) in TRUTH.items()
    ]
    return markdown(["mean over patients (least to most)", *cohorts], rows)


def methods(results: Path) -> str:
    """Errors of the deconvolution methods."""
    rows = []
    for _, row in pd.read_csv(results / "explore" / "perfusion_methods.csv").iterrows():
        kinds = {"cbf_percent": 0, "mtt_s": 1, "delay_s": 2}
        cells = [f"{number(row[f'{k}_bias'], n)} ± {number(row[f'{k}_sd'], n)}" for k, n in kinds.items()]
        rows.append([row.method, row.noise, *cells, number(row.delay_s_mae, 2)])
    errors = ["CBF error (%)", "MTT error (s)", "delay or Tmax error (s)", "its mean absolute value (s)"]
    return markdown(["method", "noise", *errors], rows)


def study(results: Path) -> str:
    """The three best and the worst trial of the search of hyperparameters, and the profile's values before it."""
    trials = pd.read_csv(results / "hyperparameters" / "acute_tmax_dice" / "trials.csv")
    done = trials[trials.state == "COMPLETE"].sort_values("value", ascending=False)
    shown = pd.concat([done.head(3), done[done.number == 0], done.tail(1)]).drop_duplicates("number")
    names = [name for name in trials if name.startswith("params_")]
    values = shown[names].map(lambda value: f"{value:.3g}" if isinstance(value, float) else str(value))
    rows = [
        [str(trial), number(value, 2), *cells]
        for trial, value, cells in zip(shown.number, shown.value, values.to_numpy().tolist(), strict=True)
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
            error, epochs = number(row.mae, 3 if row.mae < 0.5 else 2), f"{row.best_epoch} of {row.epochs}"
            rows.append([cohort, row.label, MAPS[row.map].label, error, dice, epochs, number(row.seconds, 0)])
    header = ["cohort", "variant", "map", "MAE (map's unit)", "mean Dice (lesions)", "best epoch", "training a map (s)"]
    return markdown(header, rows)


def benchmarks(results: Path) -> str:
    """Time and memory, from ``make bench``."""
    return (results / "benchmarks.md").read_text(encoding="utf-8")


def table1(results: Path) -> str:
    """Table 1 in the paper's convention: published values, this run's GAN, and its baselines."""
    keys = ["cohort", "map", "metric"]
    table = pd.read_csv(results / "tables" / "table1.csv").query("convention == 'paper'")
    table["text"] = [number(row["mean"], 3) + f" ({number(row.sd, 3)})" * (row.n > 1) for _, row in table.iterrows()]
    order = pd.MultiIndex.from_product(
        [table.cohort.unique(), list(MAPS), ["ssim", "psnr", "mae", "nrmse"]], names=keys
    )
    wide = table.pivot(index=keys, columns="predictor", values="text")
    wide = wide.reindex(order.intersection(wide.index, sort=False))
    titles = {"gan": "GAN", "mean-map": "mean map", "constant": "constant", "oracle": "oracle"}
    wide = wide.reindex(columns=[name for name in titles if name in wide]).fillna("–")
    printed = pd.read_csv(PUBLISHED / "table1.csv").set_index(keys)
    rows = []
    for key, cells in wide.iterrows():
        published = "{:.3f} ({:.3f})".format(*printed.loc[key, ["mean", "sd"]]) if key in printed.index else "–"
        rows.append([key[0], MAPS[key[1]].label, key[2].upper(), published, *cells])
    header = [*keys, "paper (real patients)", *(f"{titles[name]}, this run" for name in wide)]
    return markdown(header, rows)


def findings(results: Path) -> str:
    """What the audit of the metrics found."""
    table = pd.read_csv(results / "explore" / "metrics_findings.csv")
    rows = [[row.finding, f"{row.value:.3g}", str(row.meaning)] for row in table.itertuples()]
    return markdown(["finding", "value", "meaning"], rows)


def provenance(results: Path) -> str:
    """What the run was made from: source, profile, commit and versions."""
    manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    facts = {name: manifest[name] for name in ("source", "profile", "commit", "platform")} | manifest["versions"]
    return markdown(["", "this run"], [[name, str(value)] for name, value in facts.items()])


def steps(results: Path) -> str:
    """Running time and memory of every step."""
    stamps = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob(".stamps/*.json"))]
    rows = [[stamp["step"], f"{stamp['seconds']:.0f}", f"{stamp['peak_memory_gb']:.1f}"] for stamp in stamps]
    return markdown(["step", "seconds", "peak memory (GB)"], rows)


def files(results: Path) -> str:
    """Size and checksum of every file, folded."""
    manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    rows = [[name, str(entry["bytes"]), f"`{entry['sha256']}`"] for name, entry in manifest["files"].items()]
    return f"<details><summary>Show all</summary>\n\n{markdown(['file', 'bytes', 'SHA-256'], rows)}\n</details>\n"


_TABLES = [
    errors,
    lesions,
    claimed,
    seeds,
    sites,
    phantom,
    truth,
    methods,
    study,
    ablations,
    benchmarks,
    table1,
    findings,
]
TABLES: dict[str, Callable[[Path], str]] = {table.__name__: table for table in (*_TABLES, provenance, steps, files)}


def render(text: str, results: Path) -> str:
    """Fill every marked table from one run's results.

    Args:
        text: Markdown with marks ``<!-- numbers: NAME -->`` and ``<!-- end -->``; what is between them is replaced.
        results: the run's folder. A table whose files it lacks is replaced by a sentence that says so.

    Raises:
        KeyError: a mark names no table.
    """

    def fill(mark: re.Match) -> str:
        try:
            return mark[1] + TABLES[mark["name"]](results) + mark[3]
        except FileNotFoundError:
            return mark[1] + ABSENT + mark[3]

    return MARK.sub(fill, text)


def stored(text: str) -> str:
    """Fill a page from the stored reference, but for what describes one run."""
    filled = render(text, REFERENCE)
    return MARK.sub(lambda mark: mark[1] + mark[3] if mark["name"] in OF_RUN else mark[0], filled)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(stored(page.read_text(encoding="utf-8")), encoding="utf-8")
