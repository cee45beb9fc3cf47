"""One lock file, from which every environment is made; a Makefile that says clearly what it cannot do."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from helpers.miniature import outside_make, planned_steps
from tools import benchmark_tables

import tof2perf
from tof2perf.report import tables

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((REPOSITORY / "environment.yml").read_text())


def locked() -> dict[str, str]:
    """Normalised name -> the rest of its line in the lock file."""
    text = (REPOSITORY / "requirements-lock.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = (re.fullmatch(r"([\w.-]+)(==.+)", line).groups() for line in lines)
    return {normal(name): rest for name, rest in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def make(*words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = outside_make() | variables
    return subprocess.run(["make", *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_every_line_of_the_lock_is_one_exact_version():
    for name, rest in locked().items():
        assert re.fullmatch(r"==[\w.]+( ; .+)?", rest), f"{name}{rest}"


def declared(*extras: str) -> set[str]:
    """Normalised names of the direct dependencies."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {normal(re.match(r"[\w.-]+", requirement).group()) for entries in lists for requirement in entries}


def test_every_direct_dependency_is_locked():
    assert declared(*PROJECT["optional-dependencies"]) <= locked().keys()


def test_what_package_and_notebooks_import_is_declared():
    code = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tof2perf").rglob("*.py")]
    code += [path.read_text(encoding="utf-8") for path in (REPOSITORY / "notebooks").rglob("*.py")]
    for path in (REPOSITORY / "notebooks").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    modules = set()
    for node in (node for text in code for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.partition(".")[0])
    providers = packages_distributions()
    for module in modules - set(sys.stdlib_module_names) - {"tof2perf"}:
        assert declared("book") & {normal(name) for name in providers[module]}, (
            f"{module}: declare it in pyproject.toml"
        )


def test_the_package_the_project_and_the_citation_state_one_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert tof2perf.__version__ == PROJECT["version"] == citation["version"]


def test_the_citation_names_the_paper_that_the_readme_names_and_code_and_text_have_a_licence():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    paper = citation["preferred-citation"]
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    assert paper["title"] in readme and paper["authors"][0]["family-names"] == "Kossen"
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License")
    assert "Attribution 4.0 International Public License" in (REPOSITORY / "LICENSE-text").read_text()
    for name in ("LICENSE", "LICENSE-text", "CITATION.cff", "CONTRIBUTING.md"):
        assert f"`{name}`" in readme


def test_torch_is_locked_without_a_build_tag_so_that_each_platform_takes_its_own():
    assert locked()["torch"] == "==2.13.0"


def test_what_exists_on_one_platform_alone_carries_a_marker():
    linux_or_windows_only = {"triton", "pywin32", "pywinpty", "colorama", "jeepney", "secretstorage"}
    found = locked()
    assert not any(name.startswith("nvidia-") for name in found)
    assert not linux_or_windows_only & found.keys()
    assert found["appnope"].endswith('; sys_platform == "darwin"')


def test_conda_and_the_makefile_install_the_same_lock():
    conda = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    assert sorted(re.match(r"\w+", entry).group() for entry in conda) == ["make", "pip", "python"]
    assert "python=3.11" in conda and "make>=4.3" in conda
    assert pip == ["-r requirements-lock.txt", "-e ."]
    assert "install -qq --disable-pip-version-check -r requirements-lock.txt" in (REPOSITORY / "Makefile").read_text()


def test_an_unknown_profile_is_one_line_that_names_the_known_ones():
    done = make("paper", "PROFILE=nonsense")
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "unknown profile 'nonsense'" in line and "laptop" in line and "smoke" in line


def test_an_older_make_gets_one_clear_line():
    done = make("paper", ".FEATURES=target-specific order-only")
    assert done.returncode != 0 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "GNU Make 4.3 or newer is needed" in line and "environment.yml" in line


def test_a_data_folder_that_is_not_there_is_one_line():
    done = make("paper", "DATA=/no/such/folder")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "DATA=/no/such/folder: no such folder" in line


@pytest.mark.parametrize("installed", ["", "old", "this"])
def test_a_fresh_clone_or_a_new_lock_file_is_installed_before_anything_runs(tmp_path, installed):
    folder = tmp_path / "tof2perf"
    shutil.copytree(REPOSITORY / "notebooks" / "profiles", folder / "notebooks" / "profiles")
    for name in ("Makefile", "requirements-lock.txt"):
        shutil.copy(REPOSITORY / name, folder)
    if installed:
        (folder / ".venv").mkdir()
        lock = (folder / "requirements-lock.txt").read_text()
        (folder / ".venv" / "requirements-lock.txt").write_text(lock if installed == "this" else "old")
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "PIP_USER": "1"}
    done = subprocess.run(["make", "-n", "lint"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("pip install" in done.stdout) == (installed != "this")
    assert "PIP_USER=0" in done.stdout or installed == "this"  # pip refuses a user's folder inside an environment
    assert done.stdout.splitlines()[-1].startswith(".venv/bin/python -c")


def test_help_is_the_default_goal_and_lists_every_target():
    shown = make().stdout
    for target in (
        "paper",
        "book",
        "smoke",
        "test",
        "verify",
        "status",
        "lint",
        "lock",
        "lab",
        "clean",
        "clean-all",
        "PROFILE=",
    ):
        assert target in shown


def test_own_data_take_the_place_of_the_simulation(tmp_path):
    for cohort in ("acute", "pegasus"):
        (tmp_path / "clinic" / cohort / "sub-0001").mkdir(parents=True)
    steps = {step.name: step for step in planned_steps(data=f"{tmp_path}/clinic")}
    assert not {name for name in steps if name.startswith("00")}
    assert f"{tmp_path}/clinic/acute" in steps["01-preprocess-acute"].inputs
    assert steps["02-train-acute-tmax"].outputs == ("results/laptop-clinic/models/acute_tmax",)
    shown = make("-n", "paper", f"DATA={tmp_path}/clinic", f"ROOT={tmp_path}", f"PYTHON={sys.executable}").stdout
    ran = [line.split(" run ")[1] for line in shown.splitlines() if " run " in line]
    assert sorted(ran) == sorted(steps) and f"--data '{tmp_path}/clinic'" in shown


def test_a_cohort_that_the_profile_does_not_know_is_named_with_the_remedy(tmp_path):
    (tmp_path / "clinic" / "heidelberg" / "sub-0001").mkdir(parents=True)
    done = make("-n", "paper", f"DATA={tmp_path}/clinic", f"ROOT={tmp_path}", f"PYTHON={sys.executable}")
    assert done.returncode != 0 and "run 01-preprocess" not in done.stdout
    assert "knows no cohort 'heidelberg' (it has acute, pegasus); rename the folder, or add the cohort" in done.stderr


def test_a_run_of_one_public_cohort_has_no_simulation_no_twin_and_no_appendix(tmp_path):
    (tmp_path / "public" / "isles24" / "sub-stroke0001").mkdir(parents=True)
    steps = {step.name: step for step in planned_steps(data=f"{tmp_path}/public", profile="paper")}
    models = {
        f"0{n}-{what}-isles24-{m}" for n, what in ((2, "train"), (3, "evaluate")) for m in ("tmax", "cbf", "cbv", "mtt")
    }
    assert models <= steps.keys() and "06-figure1" in steps and "04-dice" in steps
    assert not {name for name in steps if "ttp" in name or name.startswith(("00", "10"))}
    about_all = {"05-table1", "11-distributions"}
    assert {name for name, step in steps.items() if step.parameters.get("cohort") != "isles24"} == about_all
    words = (f"DATA={tmp_path}/public", f"ROOT={tmp_path}", "PROFILE=paper", f"PYTHON={sys.executable}")
    done = make("appendix4", "INSIDE=1", *words)
    assert done.returncode != 0 and "10-appendix4: no cohort of this run (isles24) has what it shows" in done.stderr


def test_heavy_steps_alone_go_through_a_launcher():
    steps = {step.name: step.launcher for step in planned_steps()}
    assert len(steps) == 35
    assert {name for name in steps if steps[name]} == {name for name in steps if name < "04"}
    assert {name for name in steps if steps[name] == "RUN_GPU"} == {name for name in steps if name[:2] == "02"}


def test_a_site_says_once_what_each_kind_of_step_gets(tmp_path):
    site = tmp_path / "site.mk"
    site.write_text("RUN_CPU = srun -p cpu\nRUN_GPU = srun -p gpu\n")
    words = (f"ROOT={tmp_path}", f"PYTHON={sys.executable}", "--eval", "show: ; @echo $$RUN_CPU / $$RUN_GPU", "show")
    assert make("-s", f"SITE={site}", *words).stdout.strip() == "srun -p cpu / srun -p gpu"
    assert make("-s", f"SITE={site}", "RUN=env", *words).stdout.strip() == "env / env"
    assert make("-s", *words).stdout.strip() == "/"


def test_variables_of_the_environment_are_not_read_and_a_line_names_each():
    """A DATA or PYTHON there may belong to another program."""
    words = ("-s", "--eval", "show: ; @echo $(PROFILE) $(DATA) $(RUN_CPU) $(DROP) $(PYTHON)", "show")
    plain = make(*words)
    done = make(*words, PROFILE="smoke", DATA="/x", RUN_CPU="srun", DROP="1", PYTHON="/usr/bin/python3")
    assert plain.stderr == "" and done.stdout == plain.stdout and done.stdout.startswith("laptop")
    lines = done.stderr.splitlines()
    for name in ("PROFILE", "DATA", "RUN_CPU", "DROP", "PYTHON"):
        assert [line for line in lines if f" {name} is set in the environment" in line], name
    assert len(lines) == 5
    assert "not from the environment" in make("help").stdout


def test_a_python_without_the_packages_is_one_line_that_says_what_to_install(tmp_path):
    done = make("paper", f"ROOT={tmp_path}", f"PYTHON={sys.executable} -S")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert f"{sys.executable} lacks yaml: install requirements-lock.txt into it" in done.stderr


def test_what_a_shell_would_run_is_part_of_a_folders_name(tmp_path):
    folder = tmp_path / "R&D;(a)>b"
    (folder / "acute" / "sub-0001").mkdir(parents=True)
    for goal in (("check",), ("-n", "paper"), ("clean",), ("-n", "clean-all")):
        done = make(*goal, f"DATA={folder}", f"ROOT={folder}", f"PYTHON={sys.executable}")
        assert "not found" not in done.stderr and "syntax error" not in done.stderr, done.stderr
    assert (folder / "results" / f"laptop-{folder.name}" / ".stamps" / "rules.mk").is_file()


@pytest.mark.parametrize("folder", ["/a b", "/it's", "/a$(shell touch trapped)"])
def test_a_folder_that_make_cannot_hold_is_refused(folder):
    for name in ("DATA", "ROOT"):
        (line,) = make("status", f"{name}={folder}").stderr.splitlines()
        assert "ROOT and DATA must not contain spaces, quotes or dollar signs: use a link to the folder" in line
    assert not (REPOSITORY / "trapped").exists()


@pytest.mark.parametrize("target", ["clean", "clean-all"])
def test_cleaning_spares_what_took_long_or_belongs_to_the_user(target):
    shown = make("-n", target).stdout
    removed = shown.split()
    assert "results/laptop/models" not in removed and "data" not in removed and "results" not in removed
    assert ("data/simulated" in shown) == (target == "clean-all")
    assert "! -name reference" in shown or target == "clean"


def test_the_table_of_benchmarks_is_that_of_what_was_measured():
    reference = REPOSITORY / "results" / "reference" / "laptop"
    measured = json.loads((reference / "benchmarks.json").read_text(encoding="utf-8"))
    assert f"{benchmark_tables.tables(measured)}\n" == (reference / "benchmarks.md").read_text(encoding="utf-8")


def test_every_number_in_the_tables_of_the_readme_is_that_of_the_reference_results():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [mark["name"] for mark in tables.MARK.finditer(text)] == ["errors", "lesions"]
    assert tables.ABSENT not in text
    assert tables.stored(text) == text, "run python -m tof2perf.report.tables"


def test_the_readme_is_short_and_lists_every_room_and_folder():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 230 and len(text.encode()) <= 16_000
    section = text.partition("## Where things are")[2].partition("## ")[0]
    listed = {line.split()[0] for line in section.splitlines() if line.startswith("    ")}
    package = {path for path in (REPOSITORY / "tof2perf").iterdir() if not path.name.startswith("_")}
    rooms = {f"{path.name}/" if path.is_dir() else path.name for path in package}
    pages = {f"{path.name}/" for path in (REPOSITORY / "notebooks").iterdir() if path.is_dir() and path.name[0] != "."}
    assert listed == rooms | pages | {"notebooks/", "tof2perf/", "data/", "results/", "tests/"}
