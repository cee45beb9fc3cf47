"""Where a result comes from: versions, commit, profile and source, on every notebook and in the manifest."""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
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
    """The repository's commit, ``-dirty`` if a tracked file differs from it, ``unknown`` outside a git checkout."""
    try:
        asked = ["git", "-C", str(repository), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Colophon:
    """The last words of a notebook; Jupyter shows them as Markdown.

    Attributes:
        facts: what is stated, in order.
    """

    def __init__(self, facts: dict[str, str]):
        self.facts = facts

    def _repr_markdown_(self) -> str:
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.facts.items())
        return f"| colophon | |\n|---|---|\n{rows}"

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.facts.items())


def colophon(profile: str, *, source: str) -> Colophon:
    """State what a notebook's results come from.

    Args:
        profile: the profile's name.
        source: where the patients come from, ``Workspace.label``: "simulated cohort, profile laptop".
    """
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return Colophon({"data": source, "profile": profile, "commit": commit(), "versions": packages})


def write_manifest(results: Path, *, profile: str, source: str) -> Path:
    """Write ``manifest.json``: size and SHA-256 of every result file, and what they come from.

    Args:
        results: the run's folder under ``results/``.
        profile: the profile's name.
        source: where the patients come from.

    Returns:
        The manifest's path. Same files, same bytes: it holds no time of writing.
    """
    content = {
        "profile": profile,
        "source": source,
        "commit": commit(),
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "files": hash_tree(results),
    }
    path = results / "manifest.json"
    draft = path.with_name(f".part-{path.name}")
    try:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def hash_tree(folder: Path) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of every file below a folder but hidden ones, by relative path in sorted order."""
    found: dict[str, dict[str, int | str]] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] not in IGNORED and not any(part.startswith(".") for part in parts):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found["/".join(parts)] = {"bytes": path.stat().st_size, "sha256": content}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m tof2perf.pipeline.provenance --profile P --root R [--data D]`` writes the manifest."""
    from tof2perf.cohorts.workspace import Workspace
    from tof2perf.volumes.nifti import CohortError

    parser = argparse.ArgumentParser(prog="python -m tof2perf.pipeline.provenance", description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--root", default=".")
    parser.add_argument("--data", default="")
    found = parser.parse_args(arguments)
    here = Workspace(found.profile, found.root, found.data)
    try:
        path = write_manifest(here.results, profile=found.profile, source=here.label())
    except (CohortError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}  {len(json.loads(path.read_text(encoding='utf-8'))['files'])} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
