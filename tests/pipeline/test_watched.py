"""What the notebooks of the smoke run truly read is what the graph of steps and the fingerprints say that they read."""

import ast
import functools
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import pytest
import yaml
from helpers.fresh import forget
from helpers.miniature import REPOSITORY, planned_steps
from helpers.watch import read_watched

from tof2perf.pipeline import fingerprints
from tof2perf.system import codebase
from tof2perf.system.run import Run

PACKAGE = REPOSITORY / "tof2perf"
NOTEBOOKS = REPOSITORY / "notebooks"
PLAN = {step.name: step for step in planned_steps("paper", "", "smoke")}
DRAFT = re.compile(r"\.(.+)\.[^.]{8}\.part")  # as system/files names what is not yet complete

every_step = pytest.mark.parametrize("name", PLAN)


@pytest.fixture(scope="session")
def watched(smoke_run) -> dict[str, dict[str, set[str]]]:
    return read_watched(smoke_run.parent / "watched")


def lies_under(path: str, patterns: tuple[str, ...] | list[str]) -> bool:
    plain = [pattern.removeprefix("./") for pattern in patterns]
    return any(path == entry or path.startswith(f"{entry}/") or fnmatch(path, entry) for entry in plain)


def final(path: str) -> str:
    """The path that a draft is moved to."""
    folder, _, name = path.rpartition("/")
    found = DRAFT.fullmatch(name)
    return f"{folder}/{found[1]}" if found else path


def notebook_of(name: str) -> fingerprints.Notebook:
    return fingerprints.read_notebook(NOTEBOOKS / f"{PLAN[name].notebook}.ipynb")


def claimed_modules(notebook: fingerprints.Notebook) -> set[str]:
    return set(codebase.module_files(notebook.trees(), REPOSITORY))


# --- an import search of its own --------------------------------------------------------------------------------------


def exists(module: str) -> bool:
    base = REPOSITORY.joinpath(*module.split("."))
    return module.split(".")[0] == "tof2perf" and (
        base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()
    )


@functools.cache
def imported_at_once(module: str) -> frozenset[str]:
    """Modules of the package that a module imports as soon as it is loaded: not inside functions."""
    base = REPOSITORY.joinpath(*module.split("."))
    file = base / "__init__.py" if (base / "__init__.py").is_file() else base.with_suffix(".py")
    return frozenset(named_by(ast.parse(file.read_text())))


def named_by(tree: ast.Module) -> set[str]:
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports of this package are absolute"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return {name for name in found if exists(name)}


def loaded_by(modules: set[str]) -> set[str]:
    """All that is loaded with these modules, packages around them included."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module and module not in found:
            found.add(module)
            waiting += [*imported_at_once(module), module.rpartition(".")[0]]
    return found


# --- the smoke run ----------------------------------------------------------------------------------------------------


def test_every_step_of_the_smoke_run_was_watched(watched):
    assert watched.keys() == PLAN.keys()
    for name, kinds in watched.items():
        assert {"read", "list", "import", "key"} <= kinds.keys(), name


@every_step
def test_a_step_reads_no_file_that_is_not_declared(watched, name):
    """Its inputs, what the steps directly before it wrote, and what it wrote itself; code and profile apart."""
    step = PLAN[name]
    before = [pattern for other in step.after for pattern in PLAN[other].outputs]
    known = [*step.inputs, *before, *step.outputs, "notebooks/profiles/smoke.yaml"]
    read = {final(path) for path in watched[name]["read"] if not path.startswith("tof2perf/")}
    assert {path for path in read if not lies_under(path, known)} == set()
    # What a folder holds is read as well; of the folders above it only that it is there.
    parents = {parent.as_posix() for entry in known for parent in Path(entry).parents}
    listed = {path for path in watched[name]["list"] if not lies_under(path, ["tof2perf"])} - {"notebooks"}
    assert {path for path in listed - parents if not lies_under(path, known)} == set()


@every_step
def test_a_step_writes_only_what_it_declares(watched, name):
    written = {final(path) for path in watched[name].get("write", ())}
    assert {path for path in written if not lies_under(path, PLAN[name].outputs)} == set()


def test_every_file_of_a_run_is_the_result_of_one_step(smoke_run):
    run = Run("smoke", smoke_run, repository=smoke_run)
    apart = {run.results / "manifest.json", *(run.executed(name) for name in PLAN)}
    found = [path for folder in ("data", "results/smoke") for path in (smoke_run / folder).rglob("*")]
    for path in found:
        name = path.relative_to(smoke_run).as_posix()
        if path.is_file() and path not in apart and not {".stamps", "published"} & set(path.parts):
            makers = [step.name for step in PLAN.values() if lies_under(name, step.outputs)]
            assert len(makers) == 1 or name == "data/README.md", (name, makers)


@every_step
def test_modules_that_a_step_loads_are_those_that_its_fingerprint_covers(watched, name):
    notebook = notebook_of(name)
    loaded = {module for module in watched[name]["import"] if exists(module)}
    claimed = claimed_modules(notebook)
    assert loaded <= claimed
    # The rest is what functions import when they are called; an independent search finds none of it at the top.
    at_once = loaded_by(set().union(*(named_by(tree) for tree in notebook.trees())))
    assert at_once <= loaded and not (claimed - loaded) & at_once
    known = {file.relative_to(REPOSITORY).as_posix() for file in notebook_files(notebook)}
    read = {path for path in watched[name]["read"] if path.startswith("tof2perf/") and "__pycache__" not in path}
    assert {path if path.endswith(".py") else f"{os.path.dirname(path)}.py" for path in read} <= known


def notebook_files(notebook: fingerprints.Notebook) -> list[Path]:
    return list(codebase.module_files(notebook.trees(), REPOSITORY).values())


@every_step
def test_profile_keys_that_a_step_reads_are_those_that_its_fingerprint_covers(watched, name):
    notebook, step = notebook_of(name), PLAN[name]
    content = yaml.safe_load((NOTEBOOKS / "profiles" / "smoke.yaml").read_text())
    covered = set()
    for chain in fingerprints.profile_keys(notebook.trees(), notebook.parameters | step.parameters):
        part, end = content, 0
        while end < len(chain) and isinstance(part, dict) and chain[end] in part:
            part, end = part[chain[end]], end + 1
        covered.add(chain[:end])  # of a key that the file lacks its section
    read = {tuple(key.split(".")) for key in watched[name]["key"]}
    assert {key for key in read if not any(key[: len(chain)] == chain for chain in covered)} == set()
    assert () not in covered


# --- notebooks apart from the paper -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_imports_of_every_notebook_load_what_its_fingerprint_covers():
    paths = sorted(NOTEBOOKS.rglob("[!.]*.ipynb"))
    assert len(paths) > len({step.notebook for step in PLAN.values()}) + 8
    code = (
        "import json, sys\n"
        "for path in sys.argv[1:]:\n"
        "    for name in [name for name in sys.modules if name.split('.')[0] == 'tof2perf']: del sys.modules[name]\n"
        "    cells = [cell for cell in json.load(open(path))['cells'] if cell['cell_type'] == 'code']\n"
        "    exec(''.join(cells[1]['source']), {})\n"
        "    print(path, *[name for name in sys.modules if name.split('.')[0] == 'tof2perf'])\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in paths]
    for path, *loaded in lines:
        notebook = fingerprints.read_notebook(Path(path))
        at_once = loaded_by(set().union(*(named_by(tree) for tree in notebook.trees())))
        assert at_once == set(loaded) and at_once <= claimed_modules(notebook), path


# --- what reading code cannot see -------------------------------------------------------------------------------------

UNSEEN = {"__import__", "import_module", "exec", "runpy", "run_module", "run_path", "pkgutil", "zipimport", "imp"}


def sources() -> dict[str, ast.Module]:
    """Code of every notebook and of the modules that one of them loads; the step runner starts programs by name."""
    found = {}
    for path in NOTEBOOKS.rglob("*.ipynb"):
        notebook = fingerprints.read_notebook(path)
        for module in codebase.module_files(notebook.trees(), REPOSITORY).values():
            found[module.relative_to(REPOSITORY).as_posix()] = ast.parse(module.read_text())
        for cell in notebook.code:
            found[f"{path.stem}, cell {cell.name}"] = ast.parse(cell.source)
    return found


def hidden_imports(tree: ast.Module) -> list[str]:
    """Ways to load a module or run one of the package that no search for import statements finds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name in UNSEEN or a.name == "importlib"]
        elif isinstance(node, ast.ImportFrom):
            found += [a.name for a in node.names if a.name in UNSEEN or (a.name == "*" or node.module in UNSEEN)]
        elif isinstance(node, ast.Name) and (node.id in UNSEEN or node.id == "eval"):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and (node.attr in UNSEEN or ast.unparse(node) == "sys.modules"):
            found.append(node.attr)
        elif isinstance(node, ast.List | ast.Tuple):
            words = [part.value for part in node.elts if isinstance(part, ast.Constant)]
            found += [
                word for word in words if isinstance(word, str) and re.match(r"(python3?|tof2perf(\..*)?)$", word)
            ]
    return found


def test_no_import_is_hidden_from_who_reads_the_code():
    found = {name: hidden for name, tree in sources().items() if (hidden := hidden_imports(tree))}
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import importlib",
        "from importlib import import_module",
        "__import__('tof2perf.perfusion.dsc')",
        "runpy.run_module('tof2perf.perfusion.dsc')",
        "from tof2perf import *",
        "exec('import tof2perf.perfusion.dsc')",
        "eval('tof2perf')",
        "sys.modules['tof2perf.perfusion.dsc']",
        "subprocess.run([sys.executable, '-m', 'tof2perf.perfusion.dsc'])",
    ],
)
def test_a_hidden_import_would_be_found(code):
    assert hidden_imports(ast.parse(code))


@pytest.mark.parametrize("module", ["cohorts.intake", "preprocessing.preprocess", "phantom.patient"])
def test_what_is_kept_of_a_patient_depends_on_all_modules_that_made_it(module):
    """Patients finished before are not made again: their keys must cover the code as the step's fingerprint does.

    Of the profile the keys hold the values themselves.
    """
    name = f"tof2perf.{module}"
    code = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    assert re.search(r"(fingerprint|code_digest)\(__name__", code)
    forget()
    with mock.patch.object(codebase, "hash_small", wraps=lambda path: str(path)) as hashed:
        codebase.code_digest(name)
    covered = {call.args[0].relative_to(REPOSITORY).with_suffix("").as_posix() for call in hashed.call_args_list}
    assert loaded_by({name}) <= {path.removesuffix("/__init__").replace("/", ".") for path in covered}
    forget()
