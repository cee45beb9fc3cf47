"""The whole paper with the smallest profile, from simulation to manifest, by make in a folder of its own."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.miniature import copy_run, make

from tof2perf.cohorts import importers
from tof2perf.cohorts.layout import file_path
from tof2perf.pipeline.execution import run_notebook
from tof2perf.volumes.nifti import read_volume, write_volume

FIGURES = ("figure1", "figure2", "figure3", "figure4", "appendix4", "distributions", "ceiling", "lesion_rules")
TABLES = ("table1", "comparison", "baselines", "ceiling", "dice", "lesion_volumes", "lesion_thresholds")
MAPS = ("tmax", "cbf", "cbv", "mtt", "ttp")
COHORTS = ("acute", "pegasus")


@pytest.fixture(scope="module")
def copy(smoke_run, tmp_path_factory) -> Path:
    """A checkout with a finished smoke run, for these tests to change."""
    return copy_run(smoke_run, tmp_path_factory.mktemp("smoke") / "tof2perf")


@pytest.fixture(scope="module")
def paper(copy) -> Path:
    """The results folder after the first ``make paper``."""
    return copy / "results" / "smoke"


def started(done: subprocess.CompletedProcess) -> set[str]:
    """The steps that ran: each announces itself with dots."""
    assert done.returncode == 0, done.stderr
    return {line.split(" ...")[0] for line in done.stdout.splitlines() if " ..." in line}


def stamps(paper: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (paper / ".stamps").glob("*.json")}


def test_every_result_of_the_paper_is_there(paper):
    for cohort in COHORTS:
        for name in MAPS:
            assert (paper / "models" / f"{cohort}_{name}" / "generator.safetensors").is_file()
            assert (paper / "models" / f"{cohort}_{name}" / "history.csv").is_file()
            assert (paper / "metrics" / f"{cohort}_{name}.csv").is_file()
            assert list((paper / "predictions" / cohort).glob(f"sub-*_{name}.nii.gz"))
    for name in FIGURES:
        assert (paper / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (paper / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "Source: simulated cohort, profile smoke." in (paper / "figures" / f"{name}.txt").read_text()
    for name in (*(f"{table}.csv" for table in TABLES), "table1.md", "table1.tex", "baselines.md", "dice_summary.json"):
        assert (paper / "tables" / name).stat().st_size > 0
    assert not (paper / "failed").exists()


def test_tables_say_that_the_patients_are_simulated(paper):
    for name in ("table1.md", "table1.tex", "dice.csv", "dice_summary.json"):
        assert "simulated cohort, profile smoke" in (paper / "tables" / name).read_text(), name
    assert json.loads((paper / "manifest.json").read_text())["source"] == "simulated cohort, profile smoke"


def test_the_manifest_lists_every_result_with_its_true_hash(paper):
    listed = json.loads((paper / "manifest.json").read_text())["files"]
    found = [path for path in paper.rglob("*") if path.is_file() and path.name != "manifest.json"]
    visible = {path.relative_to(paper).as_posix(): path for path in found if ".stamps" not in path.parts}
    assert listed.keys() == visible.keys()
    for name, path in visible.items():
        assert listed[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), name


def test_nothing_is_left_half_written(paper):
    root = paper.parent.parent
    assert not [path for path in root.rglob("*") if ".part" in path.name or path.suffix == ".started"]


def test_a_second_make_does_nothing(copy, paper):
    make(copy, "paper")  # files hashed while they were young are looked at once more
    before, manifest = stamps(paper), (paper / "manifest.json").stat().st_mtime_ns
    assert started(make(copy, "paper")) == set()
    assert stamps(paper) == before and (paper / "manifest.json").stat().st_mtime_ns == manifest


def test_touched_times_rerun_nothing(copy, paper):
    for path in [*copy.glob("tof2perf/**/*.py"), *copy.glob("notebooks/*.ipynb"), *paper.rglob("*.csv")]:
        os.utime(path)
    assert started(make(copy, "paper")) == set()


def test_a_line_in_figures_concerns_only_the_notebooks_that_draw(copy, paper):
    figures = copy / "tof2perf" / "figures" / "panels.py"
    before, content = stamps(paper), figures.read_text()
    figures.write_text(content + "# a line more\n")
    stale = {line.split()[0] for line in make(copy, "status").stdout.splitlines() if " stale " in line}
    drawing = {path.stem for path in copy.glob("notebooks/*.ipynb") if "figures" in path.read_text()}
    assert {"07-figure2", "08-figure3"} <= stale <= drawing
    assert started(make(copy, "figure2")) == {"07-figure2"}
    after = stamps(paper)
    assert {name for name in after if after[name] != before[name]} == {"07-figure2.json"}
    figures.write_text(content)
    assert started(make(copy, "paper")) == {"07-figure2"}


def test_status_says_what_is_stale_and_why(copy, paper):
    make(copy, "paper")
    assert "stale" not in make(copy, "status").stdout
    table = paper / "tables" / "dice.csv"
    content = table.read_bytes()
    table.write_bytes(content + b"\n")
    line = next(line for line in make(copy, "status").stdout.splitlines() if line.startswith("04-dice"))
    assert "stale" in line and "dice.csv was changed since" in line
    assert "04-dice" in started(make(copy, "dice"))
    assert table.read_bytes() == content


@pytest.mark.slow
def test_the_page_on_metrics_runs_on_these_results(copy, paper, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(copy))
    page = copy / "notebooks" / "explore" / "metrics.ipynb"
    given = {"profile": "smoke", "root": str(copy)}
    run_notebook(page, tmp_path / "metrics.ipynb", parameters=given, failed=tmp_path / "failed.ipynb")
    assert "simulated cohort, profile smoke" in (paper / "explore" / "metrics_findings.csv").read_text()


def test_a_figure_notebook_run_alone_draws_what_make_drew(copy, paper, tmp_path, monkeypatch):
    """What an author sees in JupyterLab is what ``make paper`` takes: the same bytes, so that nothing is stale."""
    monkeypatch.setenv("PYTHONPATH", str(copy))
    make(copy, "paper")
    drawn = {path: path.read_bytes() for path in (paper / "figures").glob("figure2.*")}
    for path in drawn:
        path.unlink()
    page = copy / "notebooks" / "07-figure2.ipynb"
    given = {"profile": "smoke"}
    run_notebook(page, tmp_path / "figure2.ipynb", parameters=given, failed=tmp_path / "failed.ipynb")
    assert {path: path.read_bytes() for path in drawn} == drawn and len(drawn) >= 3
    assert started(make(copy, "paper")) == set()


def test_a_run_agrees_with_itself_and_not_with_another(copy, paper, tmp_path):
    shutil.rmtree(copy / "results" / "reference" / "smoke", ignore_errors=True)
    reference = copy / "results" / "reference" / "smoke"
    shutil.copytree(paper / "tables", reference / "tables")
    assert "identical" in make(copy, "verify").stdout
    table = reference / "tables" / "table1.csv"
    table.write_text(table.read_text().replace(",ssim,0.", ",ssim,0.1", 1))
    done = make(copy, "verify")
    assert done.returncode != 0 and "differs" in done.stdout


@pytest.mark.slow
def test_one_generator_for_all_maps_is_a_switch_of_the_profile(copy, paper):
    profile = copy / "notebooks" / "profiles" / "smoke.yaml"
    before = profile.read_text()
    profile.write_text(before.replace("together: false", "together: true"))
    done = make(copy, "figure1")
    profile.write_text(before)
    ran = started(done)
    assert {"02-train-acute-all", "03-evaluate-acute-tmax", "06-figure1"} <= ran
    assert not {name for name in ran if name.startswith("02-train") and not name.endswith("-all")}


@pytest.mark.slow
def test_masks_of_a_rater_take_the_place_of_the_rules_and_a_missing_one_is_named(copy, paper):
    make(copy, "paper")
    returned = copy / "data" / "rating" / "smoke"
    returned.mkdir(parents=True)
    for mask in (paper / "rating" / "maps").glob("*_mask.nii.gz"):
        shutil.copy(mask, returned)
    (first := min(returned.iterdir())).unlink()
    done = make(copy, "dice")
    assert done.returncode != 0 and first.name in done.stdout + done.stderr
    shutil.copy(paper / "rating" / "maps" / first.name, returned)
    assert "04-dice" in started(make(copy, "dice"))
    assert "edited by a blinded rater" in (paper / "tables" / "dice.csv").read_text()


# --- a third cohort, public and of another modality -----------------------------------------------------------------


def write_isles(folder: Path, simulated: Path, patients: int) -> None:
    """Simulated patients as ISLES'24 would hold them: CT angiography and maps in one space."""
    for number in range(1, patients + 1):
        patient, who = f"sub-{number:04d}", f"sub-stroke{number:04d}"
        base = folder / "train" / "derivatives" / who / "ses-01"
        tof = read_volume(file_path(simulated, patient, "tof"))
        values = tof.get_fdata()
        soft = values > 0.3 * np.percentile(values, 98)
        units = np.where(soft, 40 + 60 * (values / np.median(values[soft]) - 1), -1000)
        write_volume(base / f"{who}_ses-01_space-ncct_cta.nii.gz", units, tof.affine)
        (base / "perfusion-maps").mkdir()
        for name in ("tmax", "cbf"):
            target = base / "perfusion-maps" / f"{who}_ses-01_space-ncct_{name}.nii.gz"
            shutil.copy(file_path(simulated, patient, name), target)


@pytest.mark.slow
def test_a_public_cohort_of_another_modality_needs_a_few_lines_and_no_simulation(copy, paper, tmp_path):
    profile = yaml.safe_load((copy / "notebooks" / "profiles" / "smoke.yaml").read_text())
    profile["name"] = "public"
    profile["cohorts"]["isles24"] = {
        "title": "ISLES'24",
        "train": 3,
        "validation": 1,
        "test": 2,
        "input": "cta",
        "measured_with": "CTP",
        "intensity": [0, 300],
        "registration": "none",
        "maps": ["tmax", "cbf"],
    }
    profile["epochs"]["isles24"] = 1
    profile["evaluation"]["deficit_threshold_s"]["isles24"] = 6.0
    (copy / "notebooks" / "profiles" / "public.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    write_isles(tmp_path / "isles", copy / "data" / "simulated" / "smoke" / "acute", patients=5)
    before = {path: path.read_bytes() for path in (tmp_path / "isles").rglob("*") if path.is_file()}
    data = tmp_path / "mine"
    importers.import_isles24(tmp_path / "isles", data)
    checked = make(copy, "check", f"DATA={data}", "PROFILE=public")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "isles24: 5 patients, 0 cannot be used" in checked.stdout

    ran = started(make(copy, "paper", f"DATA={data}", "PROFILE=public"))
    assert "02-train-isles24-cbf" in ran and not {name for name in ran if name.startswith("00") or "acute" in name}
    results = copy / "results" / "public-mine"
    assert not (results / "failed").exists() and not (results / "figures" / "appendix4.png").exists()
    for name in set(FIGURES) - {"appendix4"}:
        caption = (results / "figures" / f"{name}.txt").read_text()
        assert "Source: own data isles24, profile public." in caption or "own data ISLES'24, profile public" in caption
        assert "simulated" not in caption.lower() and "DSC" not in caption and "TOF" not in caption, caption
    table = " ".join((results / "tables" / "table1.md").read_text().split())
    assert "| ISLES'24 | CBF |" in table and "own data" in table and "TTP" not in table
    assert "simulated" not in table.lower() and "acute" not in table.lower().replace("acute stroke", "")
    assert json.loads((results / "tables" / "dice_summary.json").read_text())["cohort"] == "isles24"
    assert {path: path.read_bytes() for path in before} == before
    assert started(make(copy, "paper", f"DATA={data}", "PROFILE=public")) == set()

    tof = next((data / "isles24").rglob("sub-*_cta.nii.gz"))
    tof.write_bytes(tof.read_bytes() + b"\0")
    lines = make(copy, "status", f"DATA={data}", "PROFILE=public").stdout.splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines if not line.startswith("explore")}
    (stale,) = [line for line in lines if line.split()[1] == "stale"]
    assert stale.startswith("01-preprocess-isles24") and stale.endswith(
        f"input {tof.relative_to(data.parent).as_posix()} changed"
    )
    assert set(states.values()) <= {"stale", "waiting", "of"}
