"""The step runner on a small paper of its own: two computations and a figure, a package of four modules."""

import asyncio
import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from helpers.fresh import forget

from tof2perf import make as entry
from tof2perf.pipeline import execution, fingerprints, staleness, steps
from tof2perf.pipeline.graph import Step
from tof2perf.system import codebase, files
from tof2perf.system.run import Run

REPOSITORY = Path(__file__).resolve().parents[2]

PROFILE = """\
name: tiny
epochs: {acute: 2, pegasus: 1}
training: {rate: 0.5, flip: true}
evaluation: {threshold: 6}
"""

MODULES = {
    "__init__": "",
    "ground": "SCALE = 2\n",
    "model": "from tof2perf.ground import SCALE\n\n\ndef fit(rate, epochs):\n    return SCALE * rate * epochs\n",
    "figures": "from . import ground\n\n\ndef draw(number):\n    return f'drawn {number}'\n",
}

HEAD = """\
from pathlib import Path
from types import SimpleNamespace

import yaml
"""

SETUP = """\
def view(value):
    return SimpleNamespace(**value) if isinstance(value, dict) else value

def load_profile(name):
    content = yaml.safe_load((Path("profiles") / f"{name}.yaml").read_text())
    return SimpleNamespace(**{key: value if key == "epochs" else view(value) for key, value in content.items()})

profile = load_profile(profile)
results = Path(root) / "results" / profile.name
results.mkdir(parents=True, exist_ok=True)
"""

NOTEBOOKS = {
    "train": [
        'profile = "tiny"\nroot = ".."\ncohort = "acute"',
        HEAD + "from tof2perf.model import fit",
        SETUP,
        "value = fit(profile.training.rate, profile.epochs[cohort])",
        '(results / f"model_{cohort}.txt").write_text(f"{value}")',
    ],
    "evaluate": [
        'profile = "tiny"\nroot = ".."',
        HEAD,
        SETUP,
        'value = float((results / "model_acute.txt").read_text())',
        '(results / "score.txt").write_text(f"{value > profile.evaluation.threshold}")',
    ],
    "figure": [
        'profile = "tiny"\nroot = ".."',
        HEAD + "from tof2perf import figures",
        SETUP,
        '(results / "figure.txt").write_text(figures.draw((results / "score.txt").read_text()))',
    ],
}

PLAN = [
    Step("train-acute", "train", {"cohort": "acute"}, outputs=("results/tiny/model_acute.txt",)),
    Step(
        "train-pegasus", "train", {"cohort": "pegasus"}, ("train-acute",), outputs=("results/tiny/model_pegasus.txt",)
    ),
    Step("evaluate", "evaluate", {}, ("train-acute",), outputs=("results/tiny/score*",)),
    Step("figure", "figure", {}, ("evaluate",), outputs=("results/tiny/figure.txt",)),
]


def write_notebook(path: Path, sources: list[str], prose: str = "# Title") -> None:
    cells = [nbformat.v4.new_markdown_cell(prose, id="title")]
    for number, source in enumerate(sources):
        cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{number}"))
    cells[1].metadata.tags = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture
def run(tmp_path):
    for name, source in MODULES.items():
        (tmp_path / "tof2perf").mkdir(exist_ok=True)
        (tmp_path / "tof2perf" / f"{name}.py").write_text(source)
    for name, sources in NOTEBOOKS.items():
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", sources)
    (tmp_path / "notebooks" / "profiles").mkdir()
    (tmp_path / "notebooks" / "profiles" / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "requirements-lock.txt").write_text("numpy==1\n")
    forget()
    yield Run("tiny", tmp_path, repository=tmp_path)
    forget()


@pytest.fixture
def ran(monkeypatch):
    """Run notebooks by a plain interpreter, without a kernel, and note which ran."""
    names = []

    def run(source, target, *, parameters, failed, on_progress=None):
        names.append(target.stem)
        book = nbformat.read(source, as_version=4)
        code = [cell.source for cell in book.cells if cell.cell_type == "code"]
        given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        done = subprocess.run(
            [sys.executable, "-c", "\n".join([code[0], given, *code[1:]])],
            cwd=source.parent,
            # Compiled modules are told apart by size and whole seconds: too coarse for edits as quick as a test's.
            env=os.environ | {"PYTHONPATH": str(source.parent.parent), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        destination = failed if done.returncode else target
        destination.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, destination)
        if done.returncode:
            raise execution.ExecutionError(done.stderr.splitlines()[-1], "cell")

    monkeypatch.setattr(execution, "run_notebook", run)
    return names


def make(run: Run, plan: list[Step] = PLAN) -> None:
    """Visit what must be visited, as the Makefile does."""
    forget()
    visit = [step for step in plan if staleness.judge_all(plan, run)[step.name].state != "fresh"]
    for step in visit:
        steps.run_step(step, run)


def states(run: Run, plan: list[Step] = PLAN) -> dict[str, str]:
    forget()
    return {name: verdict.state for name, verdict in staleness.judge_all(plan, run).items()}


def reason(run: Run, name: str) -> str:
    forget()
    return staleness.judge_all(PLAN, run)[name].reason


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_page_in_a_subfolder_finds_the_root_and_profile_that_it_is_given(tmp_path):
    run = Run("laptop", tmp_path)
    for step in (Step("05-table1", "05-table1"), Step("explore-gan", "explore/gan", {"profile": "smoke"})):
        given = staleness.parameters_of(step, run)
        assert (step.source(run).parent / given["root"]).resolve() == tmp_path
    assert given["profile"] == "smoke"
    smoke, _ = staleness.current_inputs(step, run, {})
    laptop, _ = staleness.current_inputs(Step("explore-gan", "explore/gan"), run, {})
    assert smoke["profile"] != laptop["profile"]


def test_everything_runs_once_and_then_nothing(run, ran):
    assert set(states(run).values()) == {"missing"}
    make(run)
    assert ran == [step.name for step in PLAN]
    assert set(states(run).values()) == {"fresh"}
    time.sleep(2 * staleness.TICK_NS / 1e9)
    make(run)  # files hashed while they were young are looked at once more
    stamps = {path: path.stat().st_mtime_ns for path in (run.results / ".stamps").iterdir()}
    make(run)
    assert len(ran) == len(PLAN)
    assert stamps == {path: path.stat().st_mtime_ns for path in (run.results / ".stamps").iterdir()}


def test_a_comment_in_figures_reruns_the_figure_alone(run, ran):
    make(run)
    ran.clear()
    edit(run.repository / "tof2perf" / "figures.py", "def draw", "# a comment\ndef draw")
    assert reason(run, "figure") == "module tof2perf.figures changed"
    make(run)
    assert ran == ["figure"]


def test_a_module_imported_by_a_module_reruns_what_depends_on_it(run, ran):
    make(run)
    ran.clear()
    edit(run.repository / "tof2perf" / "ground.py", "2", "3")
    assert reason(run, "train-acute") == "module tof2perf.ground changed"
    assert reason(run, "figure") == "module tof2perf.ground changed"
    assert states(run)["evaluate"] == "waiting"
    make(run)
    assert ran == ["train-acute", "train-pegasus", "evaluate", "figure"]


def test_equal_results_upstream_stop_the_rerun(run, ran):
    make(run)
    ran.clear()
    edit(run.repository / "tof2perf" / "model.py", "return SCALE", "# same numbers\n    return SCALE")
    make(run)
    assert ran == ["train-acute", "train-pegasus"]
    assert set(states(run).values()) == {"fresh"}


@pytest.mark.parametrize(
    ("key", "old", "new", "rerun"),
    [
        ("training.rate", "rate: 0.5", "rate: 4.5", ["train-acute", "train-pegasus", "evaluate", "figure"]),
        ("training.flip", "flip: true", "flip: false", []),
        ("epochs.acute", "acute: 2", "acute: 3", ["train-acute", "train-pegasus", "evaluate"]),
        ("epochs.pegasus", "pegasus: 1", "pegasus: 3", ["train-pegasus"]),
        ("evaluation.threshold", "threshold: 6", "threshold: 1", ["evaluate", "figure"]),
    ],
)
def test_a_profile_key_reruns_the_steps_that_read_it(run, ran, key, old, new, rerun):
    make(run)
    ran.clear()
    edit(run.repository / "notebooks" / "profiles" / "tiny.yaml", old, new)
    if rerun:
        assert reason(run, rerun[0]) == f"profile key {key} changed"
    make(run)
    assert ran == rerun


def test_code_reruns_a_notebook_and_prose_only_renews_its_text(run, ran):
    make(run)
    ran.clear()
    write_notebook(run.repository / "notebooks" / "evaluate.ipynb", NOTEBOOKS["evaluate"], prose="# Better title")
    assert states(run)["evaluate"] == "prose"
    make(run)
    assert ran == []
    assert "Better title" in run.executed("evaluate").read_text()
    assert set(states(run).values()) == {"fresh"}
    changed = [*NOTEBOOKS["evaluate"][:-1], NOTEBOOKS["evaluate"][-1] + "\n# more"]
    write_notebook(run.repository / "notebooks" / "evaluate.ipynb", changed, prose="# Better title")
    assert reason(run, "evaluate") == "code cell cell-4 changed"
    make(run)
    assert ran == ["evaluate"]


def test_prose_is_renewed_without_losing_an_output_whatever_the_cells_are_called(tmp_path):
    """Code cells pair up in order; a name or tag that changed is no reason to lose what a cell printed."""
    target = execute(tmp_path, ["number = 1", "print(number)", "print(number + 1)"], number=4)
    source = tmp_path / "nb" / "book.ipynb"
    book = nbformat.read(source, as_version=4)
    book.cells[2].id, book.cells[3].metadata.tags = "first-print", ["hide-input"]
    book.cells.insert(2, nbformat.v4.new_markdown_cell("Between", id="between"))
    nbformat.write(book, source)
    execution.refresh_prose(source, target)
    cells = nbformat.read(target, as_version=4).cells
    assert [cell.id for cell in cells] == [
        "title",
        "cell-0",
        "injected-parameters",
        "between",
        "first-print",
        "cell-2",
    ]
    assert [cell.outputs[0].text for cell in cells[-2:]] == ["4\n", "5\n"]
    assert cells[-1].metadata.tags == ["hide-input"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ab", "abb", "code cell 2 changed"),
        ("abb", "ab", "code cell 2 removed"),
        ("ab", "ba", "code cells moved"),
        ("abc", "axb", "code cell 1 changed"),
        ("ab", "ab", ""),
    ],
)
def test_the_reason_tells_changed_removed_and_moved_cells_apart(old, new, words):
    old, new = ([[str(number), letter] for number, letter in enumerate(cells)] for cells in (old, new))
    rest = {"modules": {}, "profile": {}, "parameters": {}, "files": {}, "upstream": {}, "lock": ""}
    assert staleness.difference({"cells": old} | rest, {"cells": new} | rest) == words


def test_every_kind_of_change_is_named_and_what_only_came_into_use_is_not(run, ran):
    make(run)
    edit(run.repository / "tof2perf" / "model.py", "from tof2perf.ground import SCALE", "SCALE = 2")
    edit(run.repository / "notebooks" / "profiles" / "tiny.yaml", "rate: 0.5", "rate: 4.5")
    (run.repository / "requirements-lock.txt").write_text("numpy==2\n")
    assert reason(run, "train-acute") == (
        "module tof2perf.model changed; profile key training.rate changed; requirements-lock.txt changed"
    )
    changed = [*NOTEBOOKS["evaluate"][:3], "value = profile.training.rate", NOTEBOOKS["evaluate"][-1]]
    changed[1] += "from tof2perf import figures"
    write_notebook(run.repository / "notebooks" / "evaluate.ipynb", changed)
    assert reason(run, "evaluate") == "code cell cell-1, cell-3 changed; requirements-lock.txt changed"


def test_a_module_that_does_not_parse_is_itself_the_reason(run, ran):
    make(run)
    edit(run.repository / "tof2perf" / "model.py", "def fit(", "def fit((")
    assert reason(run, "train-acute") == "module tof2perf.model changed"


def test_a_step_whose_stamp_is_lost_leaves_those_after_it_waiting(run, ran):
    make(run)
    ran.clear()
    run.stamp("train-acute").unlink()
    assert states(run) == {
        "train-acute": "missing",
        "train-pegasus": "waiting",
        "evaluate": "waiting",
        "figure": "waiting",
    }
    make(run)
    assert ran == ["train-acute"]


def test_a_step_that_comes_to_lie_after_another_reruns_and_says_so(run, ran):
    make(run)
    plan = [*PLAN[:3], Step("figure", "figure", {}, ("evaluate", "train-pegasus"), outputs=PLAN[3].outputs)]
    forget()
    assert staleness.judge_all(plan, run)["figure"].reason == "it now comes after train-pegasus"


def test_the_lock_file_reruns_everything(run, ran):
    make(run)
    ran.clear()
    (run.repository / "requirements-lock.txt").write_text("numpy==2\n")
    assert reason(run, "train-acute") == "requirements-lock.txt changed"
    make(run)
    assert ran == [step.name for step in PLAN[:2]] + [step.name for step in PLAN[2:]]


def test_touched_times_rerun_nothing_and_are_remembered(run, ran):
    make(run)
    ran.clear()
    for path in [*run.root.rglob("*.py"), *run.root.rglob("*.ipynb"), *run.root.rglob("*.txt")]:
        os.utime(path, (1, 1))
    assert set(states(run).values()) == {"fresh"}
    make(run)
    assert ran == []


def test_a_clock_in_the_past_changes_nothing(run, ran):
    make(run)
    ran.clear()
    future = time.time() + 86400
    for path in run.root.rglob("*.txt"):
        os.utime(path, (future, future))
    make(run)
    assert ran == []


@pytest.mark.parametrize("deed", ["edited", "removed", "edited without a trace in size or time"])
def test_a_result_that_was_tampered_with_is_made_again(run, ran, deed):
    make(run)
    ran.clear()
    time.sleep(0.05)  # beyond the tick within which every file is hashed anyway
    set(states(run))
    result = run.results / "score.txt"
    content, facts = result.read_text(), result.stat()
    if deed == "removed":
        result.unlink()
    else:
        result.write_text(content.swapcase() if "trace" in deed else "something else")
    if "trace" in deed:
        os.utime(result, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert result.stat().st_mtime_ns == facts.st_mtime_ns and result.stat().st_size == facts.st_size
    assert "score.txt" in reason(run, "evaluate")
    make(run)
    assert ran == ["evaluate"]
    assert result.read_text() == content


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"inputs": 3}', "[]"])
def test_a_damaged_stamp_means_a_rerun(run, ran, damage):
    make(run)
    ran.clear()
    run.stamp("evaluate").write_text(damage)
    make(run)
    assert ran == ["evaluate"]


def test_an_input_file_of_the_user_reruns_the_step_that_reads_it(run, ran):
    plan = [Step("evaluate", "evaluate", {}, (), ("given",), ("results/tiny/score.txt",))]
    (run.root / "given").mkdir()
    (run.root / "given" / "patient.txt").write_text("1")
    run.results.mkdir(parents=True)
    (run.results / "model_acute.txt").write_text("1")
    make(run, plan)
    make(run, plan)
    assert ran == ["evaluate"]
    (run.root / "given" / "patient.txt").write_text("2")
    forget()
    assert staleness.judge_all(plan, run)["evaluate"].reason == "input given/patient.txt changed"
    make(run, plan)
    (run.root / "given" / "another.txt").write_text("2")
    make(run, plan)
    assert ran == ["evaluate"] * 3


def test_the_users_folder_may_move_and_what_came_and_went_in_it_is_named(run, ran, tmp_path_factory):
    base = tmp_path_factory.mktemp("apart")
    (base / "here" / "clinic").mkdir(parents=True)
    for name in ("a", "b"):
        (base / "here" / "clinic" / name).write_text("1")
    run.results.mkdir(parents=True)
    (run.results / "model_acute.txt").write_text("1")

    def of(folder: Path) -> tuple[Run, list[Step]]:
        step = Step("evaluate", "evaluate", {}, (), (str(folder),), ("results/tiny/score.txt",))
        return Run("tiny", run.root, str(folder), run.repository), [step]

    make(*of(base / "here" / "clinic"))
    (base / "here").rename(base / "there")
    clinic = base / "there" / "clinic"
    assert states(*of(clinic)) == {"evaluate": "fresh"}
    (clinic / "a").rename(clinic / "c")
    moved, plan = of(clinic)
    forget()
    reason = staleness.judge_all(plan, moved)["evaluate"].reason
    assert reason == "input clinic/c is new; input clinic/a is gone"


def test_files_of_an_earlier_run_do_not_survive_a_rerun(run, ran):
    make(run)
    (run.results / "score-of-a-patient-who-left.txt").write_text("old")
    edit(run.repository / "notebooks" / "profiles" / "tiny.yaml", "threshold: 6", "threshold: 1")
    make(run)
    assert not (run.results / "score-of-a-patient-who-left.txt").exists()
    assert "results/tiny/score.txt" in staleness.read_stamp(run.stamp("evaluate"))["outputs"]


def test_what_an_interrupted_run_with_the_same_inputs_left_is_kept_for_resuming(run, ran, monkeypatch):
    partial = run.results / "score-checkpoint.txt"
    steps.run_step(PLAN[0], run)
    with monkeypatch.context() as patch:

        def interrupt(*arguments, **options):
            partial.write_text("half")
            raise KeyboardInterrupt

        patch.setattr(execution, "run_notebook", interrupt)
        with pytest.raises(KeyboardInterrupt):
            steps.run_step(PLAN[2], run)
    steps.run_step(PLAN[2], run)
    assert partial.read_text() == "half"


def test_a_signal_while_the_kernel_starts_is_an_interrupt(run, monkeypatch):
    def cancelled(*arguments, **options):
        raise asyncio.CancelledError

    monkeypatch.setattr(execution._Client, "execute", cancelled)
    with pytest.raises(KeyboardInterrupt):
        steps.run_step(PLAN[0], run)


def test_an_interrupted_run_is_not_resumed_after_its_inputs_changed(run, ran):
    steps.run_step(PLAN[0], run)
    partial = run.results / "score-checkpoint.txt"
    partial.write_text("of unknown origin")
    steps._started(PLAN[2], run).write_text("other inputs")
    steps.run_step(PLAN[2], run)
    assert not partial.exists()


@pytest.mark.parametrize("resuming", [True, False])
def test_what_a_killed_writer_left_half_written_is_removed_when_its_step_runs(run, ran, resuming):
    steps.run_step(PLAN[0], run)
    folder = run.results / "scores"
    folder.mkdir()
    (folder / "patient.txt").write_text("whole")
    halves = [run.results / ".score.txt.x1.part", folder / ".patient.txt.x2.part"]
    of_another = run.results / ".model_acute.txt.x3.part"
    for path in (*halves, of_another):
        path.write_text("half")
    step = Step("evaluate", "evaluate", {}, ("train-acute",), (), ("results/tiny/score.txt", "results/tiny/scores"))
    if resuming:
        key = files.digest(json.dumps(staleness.current_inputs(step, run, {})[0], sort_keys=True))
        steps._started(step, run).write_text(key)
    with contextlib.nullcontext() if resuming else pytest.raises(execution.ExecutionError, match=r"wrote no .*scores"):
        steps.run_step(step, run)
    assert not any(path.exists() for path in halves) and of_another.exists()
    assert (folder / "patient.txt").exists() == resuming


def test_a_failure_is_shown_until_it_is_repaired(run, ran):
    make(run)
    figures = run.repository / "tof2perf" / "figures.py"
    edit(figures, "return", "raise ValueError('no ink; buy some')\n    return")
    forget()
    with pytest.raises(execution.ExecutionError, match="no ink"):
        make(run)
    assert states(run)["figure"] == "failed"
    assert "no ink; buy some" in reason(run, "figure") and "failed/figure.ipynb" in reason(run, "figure")
    edit(figures, "raise ValueError('no ink; buy some')\n    ", "")
    make(run)
    assert set(states(run).values()) == {"fresh"}
    assert not (run.results / "failed").exists()


def test_a_step_that_writes_nothing_has_failed(run, ran):
    step = Step("evaluate", "evaluate", {}, (), (), ("results/tiny/promised.txt",))
    run.results.mkdir(parents=True)
    (run.results / "model_acute.txt").write_text("1")
    with pytest.raises(execution.ExecutionError, match=r"wrote no results/tiny/promised\.txt"):
        steps.run_step(step, run)
    assert not run.stamp("evaluate").exists()
    assert not run.executed("evaluate").exists()


def test_results_may_move_without_a_rerun(run, ran, tmp_path_factory):
    make(run)
    elsewhere = tmp_path_factory.mktemp("moved") / "copy"
    shutil.copytree(run.root, elsewhere)
    assert set(states(Run("tiny", elsewhere, repository=elsewhere)).values()) == {"fresh"}


# --- reading notebooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "chains"),
    [
        ("x = profile.training.rate", {("training", "rate")}),
        ("x = profile.epochs[cohort]", {("epochs", "acute")}),
        ("x = profile.epochs['pegasus']", {("epochs", "pegasus")}),
        ("x = profile.cohorts[cohort].train + profile.seed", {("cohorts", "acute", "train"), ("seed",)}),
        ("for cohort in profile.cohorts:\n    profile.epochs[cohort]", {("cohorts",), ("epochs",)}),
        ("profile = load_profile(profile)\nprofile.name", {("name",)}),
        ("train(profile)", {()}),
        ("get_cohort(profile, cohort)", set()),
        ("names[profile.seed].profile.other", {("seed",)}),
        ("profile.epochs.get(profile.seed)", {("epochs", "get"), ("seed",)}),
    ],
)
def test_profile_keys_are_the_longest_literal_chains(source, chains):
    import ast

    assert fingerprints.profile_keys([ast.parse(source)], {"cohort": "acute"}) == chains


def test_a_key_that_is_not_in_the_file_stands_for_its_section(run):
    file = run.repository / "notebooks" / "profiles" / "tiny.yaml"
    found = fingerprints.profile_values({("epochs", "items"), ("training", "rate"), ("name",)}, file)
    assert list(found) == ["epochs", "training.rate"]
    assert list(fingerprints.profile_values({()}, file)) == ["(whole profile)"]


def test_imports_are_followed_in_every_form(tmp_path):
    package = tmp_path / "tof2perf"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__", "a", "b", "c", "d", "unused", "inner/__init__", "inner/deep"):
        (package / f"{name}.py").write_text("")
    (package / "a.py").write_text("def late():\n    from tof2perf import b\n")
    (package / "b.py").write_text("import tof2perf.c\n")
    (package / "c.py").write_text("from .inner import deep\n")
    (package / "inner" / "deep.py").write_text("from .. import d\nimport numpy\n")
    import ast

    codebase._imports_of.cache_clear()
    codebase.module_file.cache_clear()
    found = codebase.module_files([ast.parse("from tof2perf.a import late")], tmp_path)
    names = [
        "tof2perf",
        "tof2perf.a",
        "tof2perf.b",
        "tof2perf.c",
        "tof2perf.d",
        "tof2perf.inner",
        "tof2perf.inner.deep",
    ]
    assert list(found) == names


def test_a_package_hides_a_module_of_the_same_name(tmp_path):
    """As Python has it: of ``same/__init__.py`` and ``same.py`` the first is imported."""
    (tmp_path / "tof2perf" / "same").mkdir(parents=True)
    for name in ("__init__", "same", "same/__init__"):
        (tmp_path / "tof2perf" / f"{name}.py").write_text("")
    codebase.module_file.cache_clear()
    found = codebase.module_file("tof2perf.same", tmp_path)
    code = "import tof2perf.same; print(tof2perf.same.__file__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True).stdout
    assert str(found) == said.strip()


def test_a_file_that_changes_within_the_same_tick_is_hashed_again(tmp_path):
    path = tmp_path / "file"
    path.write_text("a")
    first = staleness.hash_file(path, None)
    facts = path.stat()
    path.write_text("b")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert staleness.hash_file(path, first)[0] != first[0]


# --- real kernels -----------------------------------------------------------------------------------------------------


def execute(tmp_path, sources, **parameters):
    source, target = tmp_path / "nb" / "book.ipynb", tmp_path / "out" / "book.ipynb"
    write_notebook(source, sources)
    forget()
    execution.run_notebook(source, target, parameters=parameters, failed=tmp_path / "failed" / "book.ipynb")
    return target


def test_an_executed_notebook_is_the_same_bytes_every_time(tmp_path):
    sources = [
        "times = 3",
        "import sys, tqdm",
        "for _ in tqdm.tqdm(range(times), desc='epochs', file=sys.stderr): print(_)",
        "object()",
        "from IPython.display import Markdown\nprint('before')\ndisplay(Markdown('shown'))\nprint('after')",
    ]
    first = execute(tmp_path, sources, times=4).read_bytes()
    second = execute(tmp_path, sources, times=4).read_bytes()
    assert first == second
    text = first.decode()
    assert "epochs: 100%" in text and "it/s" not in text and "duration" not in text and str(tmp_path) not in text


def test_a_progress_bar_keeps_its_last_numbers_and_has_no_clock(tmp_path):
    sources = [
        "times = 3",
        "import sys, time, tqdm",
        "bar = tqdm.tqdm(range(times), desc='epochs', mininterval=0)\nfor number in bar: bar.set_postfix(l1=number)",
        "for _ in tqdm.tqdm(iter(range(3))): pass",
        "print('mask [0, 1] of 3, at [12:30]')",
    ]
    cells = nbformat.read(execute(tmp_path, sources, times=4), as_version=4).cells
    bar, endless, text = (cell.outputs[0].text for cell in cells[-3:])
    assert bar.startswith("epochs: 100%|") and bar.endswith("| 4/4, l1=3\n") and "0/4" not in bar
    assert "3/?" in endless and "it/s" not in bar + endless and ":0" not in bar + endless
    assert text == "mask [0, 1] of 3, at [12:30]\n"


def test_kernels_are_the_running_interpreter_in_the_notebooks_folder(tmp_path):
    target = execute(tmp_path, ["name = 1", "import sys, os", "print(name, sys.executable, os.getcwd())"], name=2)
    printed = nbformat.read(target, as_version=4).cells[-1].outputs[0].text
    assert printed.split() == ["2", sys.executable, str(tmp_path / "nb")]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("raise ValueError('wrong number')", "book, cell cell-2: ValueError: wrong number"),
        (
            "class CohortError(ValueError): pass\nraise CohortError('a.nii: missing; restore it')",
            "a.nii: missing; restore",
        ),
        ("import sys; sys.exit(0)", "book, cell cell-2: the notebook ended here, before its last cell"),
        ("import os; os._exit(1)", "book: its kernel died"),
    ],
)
def test_a_notebook_that_does_not_reach_its_end_fails_in_one_line(tmp_path, cell, message):
    with pytest.raises(execution.ExecutionError, match=message) as caught:
        execute(tmp_path, ["x = 1", "print(x)", cell, "print(x)"], x=1)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "failed" / "book.ipynb").is_file()
    assert not (tmp_path / "out").exists()


def test_unknown_and_unused_parameters_are_errors(tmp_path):
    with pytest.raises(fingerprints.NotebookError, match="unknown parameter 'cohrt'; its parameters are x"):
        execute(tmp_path, ["x = 1", "print(x)"], cohrt="acute")
    with pytest.raises(fingerprints.NotebookError, match="parameter 'x' is never used"):
        execute(tmp_path, ["x = 1", "print(1)"])


def test_parallel_kernels_do_not_clash(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    sources = ["x = 1", "print(x)"]
    write_notebook(tmp_path / "nb" / "book.ipynb", sources)
    code = (
        "import sys; from pathlib import Path; from tof2perf.pipeline.execution import run_notebook as run\n"
        f"here, name = Path({str(tmp_path)!r}), sys.argv[1]\n"
        "run(here / 'nb/book.ipynb', here / name, parameters={'x': name}, failed=here / 'failed.ipynb')"
    )

    def one(number):
        return subprocess.run([sys.executable, "-c", code, f"n{number}.ipynb"], cwd=REPOSITORY, check=True)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(3)))
    for number in range(3):
        book = nbformat.read(tmp_path / f"n{number}.ipynb", as_version=4)
        assert book.cells[-1].outputs[0].text == f"n{number}.ipynb\n"


def test_folders_of_sockets_that_killed_runs_left_are_removed_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(execution.tempfile, "tempdir", str(tmp_path))
    with execution.private_folder(tmp_path / "killed.ipynb") as left:
        pass
    with execution.private_folder(tmp_path / "other.ipynb") as first:
        left.mkdir()
        (left / "kernel.json").touch()
        with execution.private_folder(tmp_path / "killed.ipynb") as second:
            assert set(tmp_path.iterdir()) == {first, second}
    assert list(tmp_path.iterdir()) == []


def test_on_a_full_disk_the_error_is_the_cells_own(run, monkeypatch):
    """Neither the failed notebook nor its record can be written; why the notebook failed is still said."""
    write_notebook(run.repository / "notebooks" / "train.ipynb", ["cohort = 1", "print(cohort)\n1 / 0"])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    step = Step("train", "train", {"cohort": "acute"}, outputs=("results/tiny/model_acute.txt",))
    steps._started(step, run).parent.mkdir(parents=True)
    monkeypatch.setattr(steps, "write_text", lambda *_: None)
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(
        execution.ExecutionError, match=r"cell-1: ZeroDivisionError.*; the failed notebook is lost: .*No space"
    ):
        steps.run_step(step, run)


def test_a_long_temporary_folder_holds_no_sockets(tmp_path, monkeypatch):
    """The name of a socket may have 107 characters, and no kernel starts with a longer one."""
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setattr(execution.tempfile, "tempdir", str(deep))
    assert execute(tmp_path, ["x = 1", "print(x)"], x=2).is_file()


# --- the command line -------------------------------------------------------------------------------------------------

TRAIN = Step("train", "train", {"cohort": "acute"}, outputs=("results/tiny/model_acute.txt",))


@pytest.fixture
def command(run, monkeypatch, capfd):
    """Call the command line for a paper of the one step ``TRAIN`` or another: exit status, output, errors."""
    monkeypatch.setenv("PYTHONPATH", str(run.repository))
    monkeypatch.setattr(entry, "Run", functools.partial(Run, repository=run.repository))
    monkeypatch.setattr(entry.workers, "end_with", lambda parent: None)

    def call(*words, step=TRAIN):
        forget()
        monkeypatch.setattr(entry, "list_steps", lambda run: ([step], ["acute"]))
        status = entry.main(["--profile", "tiny", "--root", str(run.root), *words])
        return status, *capfd.readouterr()

    return call


def test_the_command_line_runs_a_step_and_then_finds_it_fresh(run, command):
    rules = run.results / ".stamps" / "rules.mk"
    assert command("rules") == (0, "", "")
    assert "\t@$(PIPELINE) run train\n" in rules.read_text() and "\t@$(PIPELINE) manifest\n" in rules.read_text()
    status, out, _ = command("run", "train")
    assert status == 0 and out.splitlines()[-1].endswith(" GB")
    assert (run.results / "model_acute.txt").read_text() == "2.0"
    command("rules")
    assert "run train" not in rules.read_text() and "\t@$(PIPELINE) manifest\n" in rules.read_text()
    assert "1 of 1 steps are fresh" in command("status")[1]


def test_a_wrong_parameter_or_an_unknown_step_is_one_line(command):
    status, _, errors = command("run", "train", step=Step("train", "train", {"cohrt": "acute"}))
    assert status == 1
    assert errors.splitlines() == [
        "error: train.ipynb: unknown parameter 'cohrt'; its parameters are profile, root, cohort"
    ]
    assert command("run", "trian") == (1, "", "error: trian: no such step; make status lists them\n")


def test_a_step_for_a_cluster_is_given_to_its_launcher_which_runs_it_by_name(run, command, monkeypatch):
    calls = []
    monkeypatch.setattr(entry.steps, "launch", lambda *words, name: calls.append((*words, name)))
    monkeypatch.setattr(entry.steps, "SEEN_WITHIN_S", 0.0)
    monkeypatch.setenv("RUN_GPU", "srun -q --comment='a b'")
    step = Step("train", "train", {"cohort": "acute"}, outputs=TRAIN.outputs, launcher="RUN_GPU")
    run.stamp("train").parent.mkdir(parents=True)
    status, _, errors = command("run", "train", step=step)
    assert status == 1 and "its job ended well, but" in errors  # of a launcher that does nothing
    ((launcher, words, name),) = calls
    assert launcher == ["srun", "-q", "--comment=a b"] and name == "train"
    assert words[1:] == [
        "-m",
        "tof2perf.make",
        "--profile",
        "tiny",
        "--root",
        str(run.root),
        "run",
        "train",
        "--in-job",
    ]
    assert command(*words[3:][4:], step=step)[0] == 0 and run.stamp("train").exists()


def test_a_second_make_in_the_same_folder_is_refused(run):
    base = [sys.executable, "-m", "tof2perf.make", "--root", run.root, "--profile", "tiny", "lock", "--"]
    first = subprocess.Popen([*base, "sh", "-c", "echo locked; read line"], stdin=-1, stdout=-1, cwd=REPOSITORY)
    try:
        assert first.stdout.readline() == b"locked\n"
        second = subprocess.run([*base, "echo", "ran"], capture_output=True, text=True, cwd=REPOSITORY)
        assert second.returncode == 1 and second.stdout == ""
        assert len(second.stderr.splitlines()) == 1
        assert "another make works in this results folder" in second.stderr and "ROOT" in second.stderr
    finally:
        first.communicate(b"\n")
    third = subprocess.run([*base, "echo", "ran"], capture_output=True, text=True, cwd=REPOSITORY)
    assert third.stdout == "ran\n"


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "chmod u+w"), (errno.EROFS, "another folder"), (errno.ENOSPC, "make room")]
)
def test_a_folder_that_cannot_be_written_to_is_one_line_with_a_remedy(run, command, monkeypatch, number, remedy):
    def refuse(folder, **options):
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(Path, "mkdir", refuse)
    status, _, errors = command("lock", "true")
    (line,) = errors.splitlines()
    assert status == 1
    assert line.startswith("error: ") and os.strerror(number) in line and str(run.results) in line and remedy in line


def test_the_lock_removes_what_killed_steps_left_half_written(run):
    (run.results / ".stamps").mkdir(parents=True)
    halves = [run.results / ".manifest.json.abc.part", run.results / ".stamps" / ".evaluate.json.abc.part"]
    stamp = run.stamp("evaluate")
    for path in (*halves, stamp):
        path.write_text("{")
    base = [sys.executable, "-m", "tof2perf.make", "--root", run.root, "--profile", "tiny", "lock", "--"]
    subprocess.run([*base, "true"], cwd=REPOSITORY, check=True)
    assert not any(path.exists() for path in halves) and stamp.exists()


def test_asking_what_is_stale_loads_no_heavy_package():
    heavy = {"torch", "numpy", "pandas", "papermill", "nbformat"}
    code = f"import sys, tof2perf.make; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == []


def test_the_manifest_is_stale_when_it_names_another_file(run, ran):
    make(run)
    listed = {}
    for step in PLAN:
        stamp = staleness.read_stamp(run.stamp(step.name))
        listed |= {path.removeprefix("results/tiny/"): {"sha256": entry[0]} for path, entry in stamp["outputs"].items()}
        listed[f"notebooks/{step.name}.ipynb"] = {"sha256": stamp["notebook"][0]}
    manifest = run.results / "manifest.json"
    assert not staleness.manifest_is_true(PLAN, run)
    manifest.write_text(json.dumps({"files": listed}))
    assert staleness.manifest_is_true(PLAN, run)
    listed["score.txt"]["sha256"] = "other"
    manifest.write_text(json.dumps({"files": listed}))
    assert not staleness.manifest_is_true(PLAN, run)
