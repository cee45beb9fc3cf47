"""Every notebook keeps the same order, is stored without outputs, and agrees with the graph of steps."""

import ast
import json
import re
from pathlib import Path

import pytest
from helpers.miniature import planned_steps

from tof2perf.pipeline import fingerprints

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "notebooks"
PAPER = sorted(FOLDER.glob("[0-9]*.ipynb"))  # the steps of the paper are numbered
ALONE = [FOLDER / "predict.ipynb"]  # no step: it is given a scan
EXPLORE = sorted(FOLDER.glob("explore/*.ipynb"))
ALL = PAPER + ALONE + EXPLORE
COMPUTING = {"tof2perf.gan.training", "tof2perf.gan.inference.generate"}  # reading a network to draw it is no computing
PLOTTING = {"tof2perf.figures.panels", "matplotlib", "seaborn"}

every_notebook = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
every_explore_notebook = pytest.mark.parametrize("path", EXPLORE, ids=lambda path: path.stem)
every_paper_notebook = pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)


def raw(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Names of modules, and of what is taken from them, that code imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def all_imports(path: Path) -> set[str]:
    notebook = fingerprints.read_notebook(path)
    return set().union(*(imported(notebook.tree(cell)) for cell in notebook.code))


def test_there_are_notebooks():
    assert sorted(FOLDER.glob("*.ipynb")) == sorted(PAPER + ALONE)
    names = [path.stem for path in PAPER]
    assert names[:4] == ["00-simulate", "01-preprocess", "02-train", "03-evaluate"]
    assert {"04-dice", "05-table1", "06-figure1", "07-figure2", "08-figure3", "09-figure4", "10-appendix4"} <= set(
        names
    )


@every_notebook
def test_a_notebook_is_stored_without_outputs_and_with_readable_cell_names(path):
    book = raw(path)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    for cell in book["cells"]:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell["id"]), f"cell id {cell['id']}"
        assert not re.fullmatch(r"[0-9a-f]{8}", cell["id"]), f"cell id {cell['id']} is random"
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
            assert "".join(cell["source"]).strip(), f"{cell['id']} is empty"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])


@every_notebook
def test_a_notebook_begins_with_title_parameters_and_imports(path):
    cells = fingerprints.read_notebook(path).cells
    title, parameters, imports = cells[:3]
    assert title.kind == "markdown" and re.match(r"# \S", title.source)
    assert parameters.kind == imports.kind == "code"
    assert "parameters" in parameters.tags
    assert not any("parameters" in cell.tags for cell in cells if cell is not parameters)
    for statement in ast.parse(parameters.source).body:
        assert isinstance(statement, ast.Assign), "parameters are assignments alone"
        ast.literal_eval(statement.value)
    for statement in ast.parse(imports.source).body:
        assert isinstance(statement, ast.Import | ast.ImportFrom), "the third cell imports, nothing else"
    for cell in cells[3:]:
        if cell.kind == "code":
            assert not imported(ast.parse(cell.source)), f"{cell.name}: imports stand in the third cell"


@every_notebook
def test_the_title_cell_states_purpose_inputs_and_outputs(path):
    title = fingerprints.read_notebook(path).cells[0].source
    for word in ("Purpose", "Inputs", "Outputs"):
        assert word in title


@every_notebook
def test_a_notebook_ends_with_checks_and_the_colophon(path):
    notebook = fingerprints.read_notebook(path)
    last = ast.parse(notebook.code[-1].source).body[-1]
    assert isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
    assert ast.unparse(last.value.func).split(".")[-1] == "colophon"
    assert any(word.arg == "source" for word in last.value.keywords)
    closing = [ast.parse(cell.source) for cell in notebook.code[-3:]]
    assert any(isinstance(node, ast.Assert) for tree in closing for node in ast.walk(tree))


@every_notebook
def test_every_parameter_is_used(path):
    notebook = fingerprints.read_notebook(path)
    fingerprints.check_parameters(notebook, {})


@every_paper_notebook
def test_default_parameters_are_those_of_the_default_run(path):
    parameters = fingerprints.read_notebook(path).parameters
    defaults = {"profile": "laptop", "root": "..", "data": "", "cohort": "acute", "map_name": "tmax"}
    assert {"profile", "root"} <= parameters.keys()
    if path.stem == "10-appendix4":
        defaults["cohort"] = "pegasus"
    assert parameters == {name: defaults[name] for name in parameters}


@every_explore_notebook
def test_an_explore_notebook_opens_with_the_default_profile_in_its_own_folder(path):
    parameters = fingerprints.read_notebook(path).parameters
    assert parameters["profile"] in ("laptop", "smoke")  # what trains tries itself on the smaller one
    assert (path.parent / parameters["root"]).resolve() == REPOSITORY


@every_paper_notebook
def test_computing_and_plotting_never_share_a_notebook(path):
    found = all_imports(path)
    roots = found | {name.split(".")[0] for name in found}
    assert not (found & COMPUTING and roots & PLOTTING)


@every_notebook
def test_a_notebook_draws_at_most_one_figure_a_cell(path):
    for cell in fingerprints.read_notebook(path).code:
        tree = ast.parse(cell.source)
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
        made = [n for n in calls if ast.unparse(n.func) in ("plt.subplots", "plt.figure")]
        assert len(made) <= 1, f"{cell.name} makes more than one figure"
        saves = [n for n in calls if "save" in ast.unparse(n.func).lower()]
        figures = [n for n in saves if "figure" in ast.unparse(n).lower()]
        assert len(figures) <= 1, f"{cell.name} saves more than one figure"


@every_paper_notebook
def test_the_profile_is_read_by_literal_chains_alone(path):
    notebook = fingerprints.read_notebook(path)
    chains = fingerprints.profile_keys(notebook.trees(), notebook.parameters)
    assert () not in chains, "the whole profile is handed on: no change of it could be told from another"


def test_the_graph_and_the_notebooks_agree():
    plan = planned_steps()
    assert {step.notebook for step in plan} == {path.stem for path in PAPER}
    for step in plan:
        notebook = fingerprints.read_notebook(FOLDER / f"{step.notebook}.ipynb")
        fingerprints.check_parameters(notebook, step.parameters)
        assert notebook.parameters.keys() - {"profile", "root", "data"} == step.parameters.keys(), step.name


def test_the_book_has_a_step_for_every_page_for_students_and_the_paper_for_none():
    pages = planned_steps("book")[len(planned_steps()) :]
    assert planned_steps("book")[: len(planned_steps())] == planned_steps()
    assert {page.notebook for page in pages} == {f"explore/{path.stem}" for path in EXPLORE}
    earlier = {step.name for step in planned_steps()}
    for page in pages:
        notebook = fingerprints.read_notebook(FOLDER / f"{page.notebook}.ipynb")
        fingerprints.check_parameters(notebook, page.parameters)
        assert page.name == f"explore-{Path(page.notebook).stem}" and set(page.after) <= earlier


def test_the_book_of_own_data_has_no_page_that_simulates(tmp_path):
    for cohort in ("acute", "pegasus"):
        (tmp_path / cohort / "sub-0001" / "anat").mkdir(parents=True)
    pages = {step.name for step in planned_steps("book", str(tmp_path))} - {step.name for step in planned_steps()}
    assert pages == {f"explore-{name}" for name in ("gan", "browse", "metrics", "hyperparameters", "ablations")}


def test_the_plan_names_every_step_once_and_upstream_first():
    seen: set[str] = set()
    for step in planned_steps():
        assert step.name not in seen
        assert set(step.after) <= seen, step.name
        assert step.outputs, step.name
        seen.add(step.name)


def test_no_two_steps_write_the_same_files():
    patterns = [pattern for step in planned_steps() for pattern in step.outputs]
    assert len(patterns) == len(set(patterns))


# Pages that are given a profile of their own make example patients of their own, too.
READERS = [step for step in planned_steps("book") if "profile" not in step.parameters]


@pytest.mark.parametrize("step", READERS, ids=lambda step: step.name)
def test_a_step_comes_after_every_step_whose_files_its_notebook_reads(step):
    """What a notebook asks ``Workspace`` for must be made by one of the steps before it, or by itself."""
    plan = {entry.name: entry for entry in planned_steps("book")}
    notebook = fingerprints.read_notebook(FOLDER / f"{step.notebook}.ipynb")
    code = "\n".join(ast.unparse(tree) for tree in notebook.trees())
    made_by = {
        r"workspace\.(preprocessed|training_volumes)\(": "01-preprocess",
        r"workspace\.model\(|load_generator\(": "02-train",
        r"workspace\.metrics\(": "03-evaluate",
        r"workspace\.prediction(_path|s)?\(": "03-evaluate",
        r"workspace\.rating|collect_masks\(": "12-rating",
        r"workspace\.relative\(": "03-evaluate",
        r"workspace\.oracle\(": "00-simulate",
        r"['\"]dice_summary\.json|['\"]dice\.csv|['\"]lesions": "04-dice",
        r"data['\"]? */ *['\"]published|data/published": "data/published",
    }
    reachable, waiting = set(), [step.name]
    while waiting:
        name = waiting.pop()
        if name not in reachable:
            reachable.add(name)
            waiting += plan[name].after
    before = {plan[name].notebook for name in reachable} | set(step.inputs)
    for pattern, maker in made_by.items():
        if re.search(pattern, code):
            assert maker in before, f"{step.name} reads what {maker} makes, but does not come after it"
