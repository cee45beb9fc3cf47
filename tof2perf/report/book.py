"""Make the book: one run's executed notebooks, tables and figures as a static site that loads nothing from elsewhere.

``python -m tof2perf.report.book results/laptop`` writes its ``book/index.html``. Pages of prose, contents and settings
of Sphinx are in ``notebooks/book``; their numbers are filled in from the run (:mod:`tof2perf.report.tables`).
"""

import argparse
import html
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat

from tof2perf.pipeline.provenance import hash_tree
from tof2perf.report import tables
from tof2perf.system.codebase import REPOSITORY

FOLDED = {"parameters": "Parameters", "injected-parameters": "Parameters of this run", "imports": "Imports"}
NOTEBOOK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(explore/)?([\w-]+)\.ipynb\)")  # a link to a stored notebook


class BookError(RuntimeError):
    """The book cannot be made; the message says what is missing and what to do, in one line."""


def build(results: Path) -> Path:
    """Make the book of one run, unless the one that is there was made from the same pages.

    Args:
        results: the run's folder under ``results/``, with its ``manifest.json``.

    Returns:
        The book's ``index.html``.

    Raises:
        BookError: no manifest, or Sphinx finds fault with a page.
    """
    target = results / "book"
    with tempfile.TemporaryDirectory(prefix=".book-", dir=results) as scratch:
        source, site = Path(scratch) / "source", Path(scratch) / "site"
        facts = assemble(results, source)
        made_from = json.dumps(hash_tree(source), sort_keys=True)
        record = target / ".made-from.json"
        if record.is_file() and record.read_text(encoding="utf-8") == made_from:
            return target / "index.html"
        _run_sphinx(source, site, facts)
        (site / record.name).write_text(made_from, encoding="utf-8")
        if target.exists():
            os.replace(target, Path(scratch) / "old")
        os.replace(site, target)
    return target / "index.html"


def assemble(results: Path, source: Path) -> dict[str, str]:
    """Write the book's pages as a source tree for Sphinx.

    Args:
        results: the run's folder.
        source: folder to be made.

    Returns:
        ``source``, ``profile`` and ``commit`` of the run.
    """
    try:
        manifest = json.loads((results / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BookError(f"{results / 'manifest.json'}: missing; run make paper first") from None
    shutil.copytree(REPOSITORY / "notebooks" / "book", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(results / "figures", source / "plates")
    shutil.copytree(results / "notebooks", source / "executed")
    (source / "notebooks").mkdir()
    for path in sorted(source.glob("executed/*.ipynb")):
        nbformat.write(_notebook_page(path), source / "notebooks" / path.name)

    def link(mark: re.Match) -> str:
        """A link to an executed notebook, or plain words if it did not run."""
        name = f"{'explore-' if mark[2] else ''}{mark[3]}"
        return f"[{mark[1]}](notebooks/{name})" if (source / "notebooks" / f"{name}.ipynb").is_file() else mark[1]

    for page in source.glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("<!-- figures -->", _figures(source / "plates"))
        page.write_text(NOTEBOOK.sub(link, tables.render(text, results)), encoding="utf-8")
    return {key: manifest[key] for key in ("source", "profile", "commit")}


def _notebook_page(path: Path) -> nbformat.NotebookNode:
    """Make a page from an executed notebook: link for download, folded code, descriptions of pictures."""
    book = nbformat.read(path, as_version=4)
    if any(cell.id == "injected-parameters" for cell in book.cells):  # those of the run, instead of the stored ones
        book.cells = [cell for cell in book.cells if cell.id != "parameters"]
    heading = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)), heading)
            continue
        cell.metadata["mystnb"] = {"image": {"alt": f"Figure: {heading}"}}
        if cell.id in FOLDED:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
            cell.metadata["mystnb"] |= {"code_prompt_show": FOLDED[cell.id], "code_prompt_hide": FOLDED[cell.id]}
    title, _, rest = book.cells[0].source.partition("\n")
    variant = re.fullmatch(r"0[0-3]-[a-z]+-(.+)", path.stem)  # cohort and map of a notebook that runs for each
    title += f": {variant[1].replace('-', ' ')}" if variant else ""
    book.cells[0].source = f"{title}\n\n{{download}}`Download this notebook <../executed/{path.name}>`\n{rest}"
    return book


def _figures(plates: Path) -> str:
    """Show every figure with its legend and files: those of the paper first."""
    parts = []
    for path in sorted(plates.glob("*.png"), key=lambda path: (path.stem[:6] not in ("figure", "append"), path.stem)):
        title = re.sub(r"(\d+)", r" \1", path.stem).replace("_", " ").capitalize()
        legend = path.with_suffix(".txt")
        caption = legend.read_text(encoding="utf-8").strip() if legend.is_file() else ""
        files = [path.with_suffix(suffix) for suffix in (".png", ".pdf", ".json")]
        links = [f"{{download}}`{file.suffix[1:].upper()} <plates/{file.name}>`" for file in files if file.is_file()]
        picture = f"```{{figure}} plates/{path.name}\n:alt: {title}\n\n{caption}\n```"
        parts.append(f"## {title}\n\n{picture}\n\n{', '.join(links)}\n")
    return "\n".join(parts)


def _run_sphinx(source: Path, site: Path, facts: dict[str, str]) -> None:
    from sphinx.application import Sphinx  # only make book needs Sphinx
    from sphinx.util.docutils import docutils_namespace

    settings = {
        "project": "Perfusion maps from TOF-MRA",
        "html_title": "Perfusion maps from TOF-MRA",
        "html_theme_options.announcement": html.escape(facts["source"]),
        "myst_substitutions": facts,
    }
    log = io.StringIO()
    with docutils_namespace():
        app = Sphinx(source, source, site, site / ".doctrees", "html", settings, status=None, warning=log)
        app.build(force_all=True)
    empty = "didn't match any documents"  # a pattern of the contents: a run of own data lacks some notebooks
    faults = [line for line in log.getvalue().splitlines() if line.strip() and empty not in line]
    if faults:
        raise BookError(f"{len(faults)} faults in the book's pages, the first: {faults[0].replace(f'{source}/', '')}")
    shutil.rmtree(site / ".doctrees")


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m tof2perf.report.book RESULTS``."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.book", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    options = parser.parse_args(arguments)
    try:
        print(f"book: {build(options.results)}")
    except (BookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
