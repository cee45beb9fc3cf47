"""Find the modules of the package that a piece of code imports, and hash them with their data files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tof2perf.system.files import digest

PACKAGE = "tof2perf"
REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def hash_small(path: Path) -> str:
    """SHA-256 of a source file; read once a process."""
    return digest(path.read_bytes())


def hash_module(path: Path) -> str:
    """SHA-256 of a module and of its data: the files in the folder beside it that has its name, if there is one."""
    data = sorted(file for file in path.with_suffix("").glob("*") if file.is_file())
    return digest("".join(map(hash_small, [path, *data]))) if data else hash_small(path)


@cache
def code_digest(module: str) -> str:
    """Return a digest of a module and of every module of the package that it imports, directly or through others.

    Args:
        module: dotted name, for example ``tof2perf.perfusion.dsc``.
    """
    files = module_files([ast.parse(f"import {module}")], REPOSITORY)
    return digest("".join(f"{name} {hash_module(path)}" for name, path in files.items()))


def module_files(trees: list[ast.Module], repository: Path) -> dict[str, Path]:
    """Every module of the package that code imports, directly or through others.

    Args:
        trees: parsed code of a notebook.
        repository: folder that holds the package's folder.

    Returns:
        Dotted name -> file, sorted by name.
    """
    found: dict[str, Path] = {}
    waiting = [name for tree in trees for name in _imported(tree, "")]
    while waiting:
        name = waiting.pop()
        file = module_file(name, repository)
        if file is None or name in found:
            continue
        found[name] = file
        waiting += _imports_of(file, name)
        waiting.append(name.rpartition(".")[0])  # importing a module runs the packages it lies in
    return dict(sorted(found.items()))


@cache
def _imports_of(file: Path, name: str) -> list[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    try:
        return list(_imported(ast.parse(file.read_bytes()), package))
    except SyntaxError:
        return []  # its hash still counts; running it will say what is wrong


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Names that may be modules of ours, from imports anywhere in the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def module_file(name: str, repository: Path) -> Path | None:
    """Return the file of a module of the package, None for any other module."""
    if name.split(".")[0] != PACKAGE:
        return None
    base = repository.joinpath(*name.split("."))
    candidates = (base / "__init__.py", base.with_name(base.name + ".py"))  # Python prefers the package
    return next((file for file in candidates if file.is_file()), None)
