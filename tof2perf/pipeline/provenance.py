"""State where results come from, on every notebook and in the manifest: versions, commit, profile and source."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from tof2perf.system.codebase import REPOSITORY
from tof2perf.system.files import file_digest, write_json

PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "torch",
    "nibabel",
    "SimpleITK",
    "scikit-image",
    "nilearn",
    "deepbet",
    "papermill",
)
IGNORED = ("failed", "book", "manifest.json")  # no results, made from results, and the list itself


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit(repository: Path = REPOSITORY) -> str:
    """The repository's commit, ``-dirty`` if a tracked file differs from it, ``unknown`` outside a git checkout.

    An archive unpacked inside another project's checkout has no commit either.
    """
    if not (repository / ".git").exists():
        return "unknown"
    try:
        asked = ["git", "-C", str(repository), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(asked, capture_output=True, text=True, check=True, env=own).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Colophon(dict[str, str]):
    """The last words of a notebook, by what they are about; Jupyter shows them as Markdown."""

    def _repr_markdown_(self) -> str:
        return "| colophon | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in self.items())

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.items())


def colophon(profile: str, *, source: str) -> Colophon:
    """State what a notebook's results come from.

    Args:
        profile: the profile's name.
        source: where the patients come from, ``Workspace.label``: "simulated cohort, profile laptop".
    """
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Colophon(data=source, profile=profile, commit=commit(), versions=packages)


def write_manifest(results: Path, *, profile: str, source: str) -> tuple[Path, int]:
    """Write ``manifest.json``: size and SHA-256 of every result file, and what they come from.

    Args:
        results: the run's folder under ``results/``.
        profile: the profile's name.
        source: where the patients come from, ``Workspace.label``.

    Returns:
        The manifest's path and the number of files. Same files, same bytes: it holds no time of writing.
    """
    files = hash_tree(results)
    content = {
        "profile": profile,
        "source": source,
        "commit": commit(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "files": files,
    }
    path = results / "manifest.json"
    write_json(path, content)
    return path, len(files)


def hash_tree(folder: Path) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file below a folder but hidden ones, by relative path in sorted order."""
    found: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in IGNORED and not any(part.startswith(".") for part in parts):
            found["/".join(parts)] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    return found
