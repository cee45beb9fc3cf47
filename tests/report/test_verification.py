"""Comparison with reference results, and the tolerances that runs with other seeds give."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tof2perf.report import spread, verification

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "laptop"
TABLE = """\
cohort,map,predictor,convention,metric,mean,sd,n
acute,tmax,gan,brain,ssim,0.812,0.041,20
acute,tmax,gan,brain,mae,1.050,0.210,20
acute,tmax,mean-map,brain,ssim,0.790,0.050,20
"""


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "table1.csv").write_text(TABLE)
    return folder


@pytest.fixture
def reference(tmp_path):
    folder = tmp_path / "reference"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "table1.csv").write_text(TABLE)
    (folder / "tables" / "dice_summary.json").write_text('{"median": 0.43, "patients": {"n": 20}}')
    return folder


def outcome(results, reference, **options):
    return {entry.name: entry.outcome for entry in verification.verify(results, reference, **options)}


def test_equal_bytes_are_identical_and_a_table_that_was_not_made_is_missing(results, reference):
    assert outcome(results, reference) == {"tables/table1.csv": "identical", "tables/dice_summary.json": "missing"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.812", "0.813", "within tolerance"),  # SSIM: absolute
        ("0.812", "0.912", "differs"),
        ("1.050", "1.100", "within tolerance"),  # MAE has the unit of its map: relative
        ("1.050", "1.200", "differs"),
        ("0.210,20", "0.210,19", "differs"),  # the number of patients is exact
        ("0.041,20", "nan,20", "differs"),
        ("mean-map", "constant", "differs"),  # words are exact
        ("acute,tmax,mean-map,brain,ssim,0.790,0.050,20\n", "", "differs"),
    ],
)
def test_a_number_may_differ_within_its_tolerance_only(results, reference, old, new, expected):
    table = results / "tables" / "table1.csv"
    table.write_text(TABLE.replace(old, new))
    assert outcome(results, reference)["tables/table1.csv"] == expected


def test_a_measured_spread_takes_the_place_of_an_assumed_tolerance(results, reference):
    (results / "tables" / "table1.csv").write_text(TABLE.replace("0.812", "0.815"))
    assert outcome(results, reference)["tables/table1.csv"] == "within tolerance"
    for tolerance, expected in (("0.002", "differs"), ("0.004", "within tolerance")):
        (reference / "spread.csv").write_text(
            f"table,kind,tolerance,missing\ntables/table1.csv,gan brain ssim/mean,{tolerance},0\n"
        )
        assert outcome(results, reference)["tables/table1.csv"] == expected


def test_verdicts_and_p_values_follow_from_numbers_and_are_not_compared(results, reference):
    rows = "cohort,map,metric,against,n,difference,p,gan_is\nacute,tmax,mae,mean-map,20,-0.30,{}\n"
    for folder, rest in ((results, "0.01,better"), (reference, "0.09,not distinguishable")):
        (folder / "tables" / "comparison.csv").write_text(rows.format(rest))
    assert outcome(results, reference)["tables/comparison.csv"] == "within tolerance"


def test_counts_of_patients_may_differ_by_one(results, reference):
    summary = '{"predictors": {"gan": {"missed": %d, "patients": 20}}}'
    (reference / "tables" / "dice_summary.json").write_text(summary % 7)
    for missed, expected in ((7, "identical"), (8, "within tolerance"), (9, "differs")):
        (results / "tables" / "dice_summary.json").write_text(summary % missed)
        assert outcome(results, reference)["tables/dice_summary.json"] == expected


def test_rows_that_cannot_be_told_apart_are_an_error(results, reference, capsys):
    (results / "tables" / "table1.csv").write_text(TABLE + TABLE.splitlines()[1].replace("0.812", "0.5") + "\n")
    assert verification.main([str(results), str(reference)]) == 1
    assert "two rows have the keys 'acute tmax gan brain ssim'" in capsys.readouterr().err


def test_a_number_that_cannot_be_computed_agrees_with_itself_alone(results, reference):
    (reference / "tables" / "table1.csv").write_text(TABLE.replace("0.041", ""))
    for given, expected in (("0.041", "differs"), ("nan", "within tolerance"), ("", "identical")):
        (results / "tables" / "table1.csv").write_text(TABLE.replace("0.041", given))
        assert outcome(results, reference)["tables/table1.csv"] == expected


def test_numbers_in_json_are_compared_too(results, reference):
    given = results / "tables" / "dice_summary.json"
    given.write_text('{"median": 0.44, "patients": {"n": 20}}')
    assert outcome(results, reference)["tables/dice_summary.json"] == "within tolerance"
    given.write_text('{"median": 0.44, "patients": {"n": 21}}')
    assert outcome(results, reference)["tables/dice_summary.json"] == "differs"


def test_the_command_line_fails_on_a_miss_and_without_a_reference(results, reference, capsys):
    (results / "tables" / "dice_summary.json").write_text('{"median": 0.43, "patients": {"n": 20}}')
    assert verification.main([str(results), str(reference)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 tables agree" in printed and "identical" in printed and "assumed" in printed
    (results / "tables" / "table1.csv").write_text(TABLE.replace("0.812", "0.112"))
    assert verification.main([str(results), str(reference)]) == 1
    assert "0.112, reference 0.812" in capsys.readouterr().out
    assert verification.main([str(results), str(reference / "absent")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def run_with_seed(folder, rng, *, patients=12, sd=0.02):
    """A run whose GAN columns scatter around fixed values and whose baselines do not."""
    (folder / "tables").mkdir(parents=True)
    rows = ["participant_id,predictor,dice,source"]
    for patient in range(patients):
        rows.append(f"sub-{patient},gan,{0.5 + rng.normal(0, sd):.6f},simulated")
        rows.append(f"sub-{patient},mean-map,0.1,simulated")
    (folder / "tables" / "dice.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_tolerance_covers_runs_like_those_it_was_measured_from_and_no_others(tmp_path, rng):
    runs = [run_with_seed(tmp_path / f"seed{k}", rng) for k in range(4)]
    assert spread.main([str(runs[0]), *map(str, runs)]) == 0
    another = run_with_seed(tmp_path / "another", rng)
    assert verification.main([str(another), str(runs[0])]) == 0
    worse = run_with_seed(tmp_path / "worse", rng, sd=0.3)
    assert verification.main([str(worse), str(runs[0])]) == 1


def test_what_no_seed_changes_must_be_equal_but_for_rounding(tmp_path, rng):
    runs = [run_with_seed(tmp_path / f"seed{k}", rng) for k in range(3)]
    spread.main([str(runs[0]), *map(str, runs)])
    table = runs[1] / "tables" / "dice.csv"
    for given, passes in (("0.10005", True), ("0.102", False)):
        table.write_text((runs[0] / "tables" / "dice.csv").read_text().replace(",0.1,", f",{given},"))
        assert verification.verify(runs[1], runs[0])[0].passed is passes


def test_a_kind_has_the_largest_spread_of_its_entries_and_the_freedom_of_all(tmp_path, rng):
    runs = [run_with_seed(tmp_path / f"seed{k}", rng, patients=200) for k in range(3)]
    (row,) = spread.measure_spread(runs).itertuples()  # the mean map is the same in all runs
    assert (row.kind, row.entries, row.runs) == ("gan/dice", 200, 3)
    values = [pd.read_csv(run / "tables" / "dice.csv").query("predictor == 'gan'").dice.to_numpy() for run in runs]
    assert row.sd == pytest.approx(np.std(values, axis=0, ddof=1).max())
    # sqrt(2) times the 99.95 % quantile of the normal distribution, 3.29, which t approaches
    assert row.tolerance / row.sd == pytest.approx(2**0.5 * 3.31, rel=0.01)


def test_what_some_seeds_cannot_compute_is_not_held_against_a_run(tmp_path):
    runs = []
    for seed, value in enumerate(("0.4", "", "0.5")):
        runs.append(tmp_path / f"seed{seed}")
        (runs[-1] / "tables").mkdir(parents=True)
        (runs[-1] / "tables" / "t.csv").write_text(f"cohort,metric,position\nacute,mae,{value}\n")
    assert spread.main([str(runs[0]), *map(str, runs)]) == 0
    assert verification.verify(runs[1], runs[0])[0].passed


def test_words_have_no_spread(tmp_path, rng):
    table = spread.measure_spread([run_with_seed(tmp_path / f"seed{k}", rng) for k in range(2)])
    assert not table.kind.str.endswith("source").any()


def test_metrics_without_a_unit_share_a_tolerance_over_maps_and_others_do_not(tmp_path, rng):
    runs = []
    for seed in range(3):
        runs.append(tmp_path / f"seed{seed}")
        (runs[-1] / "tables").mkdir(parents=True)
        lines = [f"acute,{m},{k},{rng.normal(1, 0.01)}" for m in ("tmax", "cbf", "cbv") for k in ("ssim", "mae")]
        (runs[-1] / "tables" / "t.csv").write_text("\n".join(["cohort,map,metric,mean", *lines]) + "\n")
    entries = dict(spread.measure_spread(runs)[["kind", "entries"]].itertuples(index=False))
    assert entries == {"ssim/mean": 3, "mae tmax/mean": 1, "mae cbf/mean": 1, "mae cbv/mean": 1}


@pytest.mark.parametrize(("impostor", "metric"), [("mean-map", "mae"), ("constant", "ssim")])
def test_another_predictor_in_the_gans_place_is_refused(tmp_path, impostor, metric):
    """Within the stored tolerances, which come from three trainings of the profile laptop."""
    shutil.copytree(REFERENCE / "tables", tmp_path / "tables")
    assert all(entry.passed for entry in verification.verify(tmp_path, REFERENCE))
    table = pd.read_csv(tmp_path / "tables" / "table1.csv")
    table = table.set_index(["predictor", "cohort", "map", "metric"]).sort_index()
    for convention in ("paper", "brain"):
        chosen = (table.convention == convention) & (table.index.get_level_values("metric") == metric)
        gan = chosen & (table.index.get_level_values("predictor") == "gan")
        other = table[chosen].loc[impostor, "mean"]
        table.loc[gan, "mean"] = [other.loc[key[1:]] for key in table.index[gan]]
    table.reset_index().to_csv(tmp_path / "tables" / "table1.csv", index=False)
    missed = {entry.name: entry for entry in verification.verify(tmp_path, REFERENCE) if not entry.passed}
    assert missed.keys() == {"tables/table1.csv"} and all("gan" in miss for miss in missed["tables/table1.csv"].misses)


@pytest.mark.parametrize("fault", ["one run", "other entries", "unfinished"])
def test_runs_that_cannot_be_compared_are_one_clear_line(tmp_path, rng, fault, capsys):
    runs = [run_with_seed(tmp_path / f"seed{k}", rng, patients=3 + (fault == "other entries") * k) for k in range(2)]
    if fault == "unfinished":
        (runs[1] / "tables" / "dice.csv").unlink()
    given = runs[:1] if fault == "one run" else runs
    assert spread.main([str(tmp_path), *map(str, given)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "spread.csv").exists()
