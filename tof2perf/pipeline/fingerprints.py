"""What a notebook depends on, found by reading it: its code, the modules it imports, the profile keys it reads."""

import ast
import itertools
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tof2perf.system.files import digest

PROFILE = "profile"  # the variable a notebook holds its profile in
NAMES_ALONE = ("load_profile", "get_cohort")  # called with the profile, these let no value of it into the results


class NotebookError(ValueError):
    """A notebook that cannot be read or is called with wrong parameters; one line that names it and the remedy."""


@dataclass(frozen=True)
class Cell:
    """One cell as it is stored: ``kind`` is ``code`` or ``markdown``."""

    name: str
    kind: str
    source: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Notebook:
    """The stored notebook; outputs play no role."""

    path: Path
    cells: tuple[Cell, ...]

    @property
    def code(self) -> list[Cell]:
        """The code cells in order."""
        return [cell for cell in self.cells if cell.kind == "code"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and default values of the cell tagged ``parameters``."""
        found = {}
        for cell in self.code:
            if "parameters" in cell.tags:
                for statement in self.tree(cell).body:
                    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                        try:
                            found[statement.targets[0].id] = ast.literal_eval(statement.value)
                        except ValueError:
                            raise NotebookError(
                                f"{self.path.name}, cell {cell.name}: a parameter must be a literal; compute it later"
                            ) from None
        return found

    def tree(self, cell: Cell) -> ast.Module:
        """Parse one code cell."""
        try:
            return ast.parse(cell.source)
        except SyntaxError as error:
            raise NotebookError(
                f"{self.path.name}, cell {cell.name}: not plain Python ({error.msg}, line {error.lineno}); correct it"
            ) from None

    def trees(self) -> list[ast.Module]:
        """The code cells but the parameters, parsed."""
        return [self.tree(cell) for cell in self.code if "parameters" not in cell.tags]


@cache
def read_notebook(path: Path) -> Notebook:
    """Read a stored notebook.

    Raises:
        NotebookError: missing, or not a notebook.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = tuple(
            Cell(
                name=cell.get("id", f"number {number}"),
                kind=cell["cell_type"],
                source="".join(cell["source"]),
                tags=tuple(cell.get("metadata", {}).get("tags", ())),
            )
            for number, cell in enumerate(content["cells"], start=1)
        )
    except FileNotFoundError:
        raise NotebookError(f"{path}: no such notebook; check its name in tof2perf/pipeline/graph.py") from None
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(f"{path}: not a notebook ({error}); restore the file") from None
    return Notebook(path, cells)


# --- code and parameters ----------------------------------------------------------------------------------------------


def code_cells(notebook: Notebook) -> list[list[str]]:
    """Name and hash of every code cell; prose is left out, so that a corrected typo retrains nothing."""
    return [[cell.name, digest(f"{'parameters' in cell.tags}\n{cell.source}")] for cell in notebook.code]


def prose(notebook: Notebook) -> str:
    """Hash of all that a reader sees beside the code: prose, its place, names and tags of cells."""
    shown = [[cell.name, cell.tags, "" if cell.kind == "code" else cell.source] for cell in notebook.cells]
    return digest(json.dumps(shown))


def check_parameters(notebook: Notebook, given: dict[str, Any]) -> None:
    """Refuse what papermill would only warn of.

    Raises:
        NotebookError: a name the notebook does not know, or a parameter that it has but never uses.
    """
    known = notebook.parameters
    nodes = [node for tree in notebook.trees() for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for name in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise NotebookError(f"{notebook.path.name}: unknown parameter '{name}'; its parameters are {names}")
    for name in known:
        if name not in used:
            raise NotebookError(f"{notebook.path.name}: parameter '{name}' is never used; use it or remove it")


# --- profile keys -----------------------------------------------------------------------------------------------------


def profile_keys(trees: list[ast.Module], parameters: dict[str, Any]) -> set[tuple[str, ...]]:
    """The profile keys that code reads, as the longest literal chains on the variable ``profile``.

    ``profile.epochs[cohort]`` with the parameter cohort = "acute" gives ``("epochs", "acute")``. A subscript that is
    neither a literal nor an unchanged parameter ends the chain; a profile handed on whole gives the empty chain.
    """
    names = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assigned = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    constants = {name: str(value) for name, value in parameters.items() if name not in assigned}
    chains: set[tuple[str, ...]] = set()

    def literal(node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant):
            return str(node.value)
        return constants.get(node.id) if isinstance(node, ast.Name) else None

    def visit(node: ast.AST, keys: tuple[str | None, ...] = ()) -> None:
        """Visit a node whose ``keys`` the code reads, the outermost last; None is a key that is no literal."""
        match node:
            case ast.Attribute():
                visit(node.value, (node.attr, *keys))
            case ast.Subscript():
                visit(node.value, (literal(node.slice), *keys))
                visit(node.slice)
            case ast.Name():
                if node.id == PROFILE and isinstance(node.ctx, ast.Load):
                    chains.add(tuple(itertools.takewhile(lambda key: key is not None, keys)))  # type: ignore[arg-type]
            case _:
                names_alone = (
                    isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES_ALONE
                )
                for child in ast.iter_child_nodes(node):
                    if not (names_alone and isinstance(child, ast.Name)):
                        visit(child)

    for tree in trees:
        visit(tree)
    return chains


def profile_values(chains: set[tuple[str, ...]], profile_file: Path) -> dict[str, str]:
    """Hashes of the profile's values under the chains: dotted key -> hash.

    A key that the file lacks (a default, a method) counts as the section around it: one rerun too many is better than
    one too few. The profile's own name is no key: it is a parameter of every notebook.
    """
    content = _yaml(profile_file)
    values = {}
    for chain in sorted(chains - {("name",)}):
        value, reached = content, []
        for key in chain:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
            reached.append(key)
        values[".".join(reached) or "(whole profile)"] = digest(json.dumps(value, sort_keys=True, default=str))
    return values


@cache
def _yaml(path: Path) -> Any:
    import yaml  # here, because most questions are answered without it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except FileNotFoundError:
        raise NotebookError(f"{path}: no such profile; choose one of notebooks/profiles/*.yaml") from None
    except yaml.YAMLError as error:
        raise NotebookError(f"{path}: not valid YAML ({str(error).splitlines()[0]}); correct the file") from None
