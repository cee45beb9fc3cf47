"""The book: one run's executed notebooks, tables and figures as a static site that loads nothing from elsewhere.

``python -m tof2perf.report.book results/laptop`` writes its ``book/index.html``. The pages that are no notebooks, and
how Sphinx sets them, stand in ``notebooks/book``; numbers in them are filled in from the run (``tables``).
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

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDED = {"parameters": "Parameters", "injected-parameters": "Parameters of this run", "imports": "Imports"}
README_MARK = re.compile(r"<!-- readme: (?P<heading>.+?) -->")
NO_PAGE = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)[^)]*\)")  # a link into the repository, which the book does not have
RESULTS = ("table1", "lesions", "figures")
AUDIT = "explore-metrics"
EXPLORE = ("perfusion", "phantom", "patient", "gan", "browse", "hyperparameters", "ablations")  # as a student goes on


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
    facts = {key: manifest[key] for key in ("source", "profile", "commit")}
    shutil.copytree(REPOSITORY / "notebooks" / "book", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "notebooks").mkdir()
    executed = sorted(results.glob("notebooks/*.ipynb"))
    for path in executed:
        _notebook_page(path, source)
    (source / "figures.md").write_text(_figures_page(results, source), encoding="utf-8")
    (source / "colophon.md").write_text(_colophon_page(results, manifest), encoding="utf-8")
    chapters = _chapters([path.stem for path in executed], source)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    stems = {path.stem for path in (source / "notebooks").iterdir()}
    for page in source.glob("*.md"):
        text = README_MARK.sub(lambda mark: _section(readme, mark["heading"]), page.read_text(encoding="utf-8"))
        text = tables.render(text.replace("<!-- toctrees -->", chapters), results)
        page.write_text(_without_dead_links(text, stems), encoding="utf-8")
    return facts


# --- pages ------------------------------------------------------------------------------------------------------------


def _notebook_page(path: Path, source: Path) -> None:
    """A page from an executed notebook: link for download, folded code, descriptions of pictures."""
    raw = source / "executed" / path.name
    raw.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, raw)
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
    book.cells[
        0
    ].source = f"{title}{_variant(path.stem)}\n\n{{download}}`Download this notebook <../executed/{path.name}>`\n{rest}"
    nbformat.write(book, source / "notebooks" / path.name)


def _figures_page(results: Path, source: Path) -> str:
    """All figures with their legends, in the order of the paper."""
    kept = source / "plates"
    kept.mkdir()
    found = {path.stem: path for path in sorted(results.glob("figures/*.png"))}
    order = sorted(found, key=lambda name: (not name.startswith("figure"), name != "appendix4", name))
    lines = ["# Figures\n", "Every figure of this run with its legend; all say which patients they show.\n"]
    for name in order:
        legend = found[name].with_suffix(".txt")
        caption = legend.read_text(encoding="utf-8").strip() if legend.is_file() else ""
        links = []
        for suffix in (".png", ".pdf", ".json"):
            if found[name].with_suffix(suffix).is_file():
                shutil.copyfile(found[name].with_suffix(suffix), kept / f"{name}{suffix}")
                links.append(f"{{download}}`{suffix[1:].upper()} <plates/{name}{suffix}>`")
        lines += [f"## {_title(name)}\n", f"```{{figure}} plates/{name}.png\n:alt: {_title(name)}\n\n{caption}\n```\n"]
        lines += [", ".join(links) + "\n"]
    return "\n".join(lines)


def _colophon_page(results: Path, manifest: dict) -> str:
    """What the run was made from: versions, commit, profile, running times and the hash of every file."""
    facts = [[name, str(manifest[name])] for name in ("source", "profile", "commit", "platform")]
    versions = [[name, version] for name, version in manifest["versions"].items()]
    steps = []
    for path in sorted(results.glob(".stamps/*.json")):
        stamp = json.loads(path.read_text(encoding="utf-8"))
        steps.append([stamp["step"], f"{stamp['seconds']:.0f}", f"{stamp['peak_memory_gb']:.1f}"])
    total = sum(float(row[1]) for row in steps)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{entry['bytes']}</td><td><code>{entry['sha256']}</code></td></tr>\n"
        for name, entry in manifest["files"].items()
    )
    return "\n".join(
        (
            "# Colophon\n",
            "What the numbers and pictures of this book were made from.\n",
            tables.markdown(["", "this run"], facts),
            "## Versions\n",
            tables.markdown(["package", "version"], versions),
            "## Running times\n",
            f"{len(steps)} steps, {total / 60:.0f} minutes if they had run one after another; several run at once.\n",
            tables.markdown(["step", "seconds", "peak memory (GB)"], steps),
            "## Files\n",
            f"SHA-256 of the {len(manifest['files'])} files of this run, from its `manifest.json`.\n",
            "<details><summary>Show all</summary>\n<table>\n<tr><th>file</th><th>bytes</th><th>SHA-256</th></tr>",
            f"{rows}</table>\n</details>\n",
        )
    )


def _chapters(steps: list[str], source: Path) -> str:
    """The table of contents; a notebook that ran more than once gets a page that lists its runs."""
    story = []
    for notebook in sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")):
        runs = [step for step in steps if step == notebook or step.startswith(f"{notebook}-")]
        if len(runs) > 1:
            title, purpose = _title_and_purpose(source / "notebooks" / f"{runs[0]}.ipynb")
            entries = "\n".join(f"{_variant(run, between='')} <{run}>" for run in runs)
            page = f"# {title}\n\n{purpose}\n\n```{{toctree}}\n{entries}\n```\n"
            (source / "notebooks" / f"{notebook}.md").write_text(page, encoding="utf-8")
        story += [f"notebooks/{notebook}"] if len(runs) > 1 else [f"notebooks/{run}" for run in runs]
    explore = [f"notebooks/explore-{name}" for name in EXPLORE if f"explore-{name}" in steps]
    parts = {
        "Results": list(RESULTS),
        "The paper, step by step": story,
        "Explore": explore,
        "Audit": [f"notebooks/{AUDIT}"] if AUDIT in steps else [],
        "About": ["use", "scaling", "colophon"],
    }
    trees = (
        f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in parts.items()
        if pages
    )
    return "\n".join(trees)


# --- texts ------------------------------------------------------------------------------------------------------------


def _title(name: str) -> str:
    """``lesion_rules`` -> Lesion rules, ``figure1`` -> Figure 1."""
    return re.sub(r"(\d+)", r" \1", name).replace("_", " ").capitalize()


def _variant(step: str, *, between: str = ": ") -> str:
    """What tells the runs of one notebook apart: ``02-train-acute-tmax`` -> acute tmax."""
    stored = (path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb"))
    base = next((name for name in stored if step.startswith(f"{name}-")), step)
    return between + step.removeprefix(base).strip("-").replace("-", " ") if step != base else ""


def _title_and_purpose(path: Path) -> tuple[str, str]:
    cell = nbformat.read(path, as_version=4).cells[0].source
    title, purpose = re.search(r"^# (.+)$", cell, re.MULTILINE), re.search(r"Purpose: (.+?)(\n\n|$)", cell, re.DOTALL)
    return (title[1] if title else path.stem).partition(": ")[0], purpose[1] if purpose else ""


def _section(readme: str, heading: str) -> str:
    """A section of the README without its heading, or from the first heading to the second with it.

    Raises:
        BookError: no such heading.
    """
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^##? |\Z)", readme, re.MULTILINE | re.DOTALL)
    if not found:
        raise BookError(f"README.md: no section '{heading}', which a page of notebooks/book asks for; correct the mark")
    title = found[0].splitlines()[0] + "\n" if found[1] == "#" else ""
    return NO_PAGE.sub(r"\1", title + found[2].strip("\n"))


def _without_dead_links(text: str, stems: set[str]) -> str:
    """Links to pages of notebooks that have not run become plain words."""
    return re.sub(
        r"\[([^\]]+)\]\(notebooks/([\w-]+)\)",
        lambda link: f"[{link[1]}](notebooks/{link[2]})" if link[2] in stems else link[1],
        text,
    )


def _run_sphinx(source: Path, site: Path, facts: dict[str, str]) -> None:
    from sphinx.application import Sphinx  # only whoever makes the book needs Sphinx
    from sphinx.util.docutils import docutils_namespace

    settings = {
        "project": "Perfusion maps from TOF-MRA",
        "html_title": "Perfusion maps from TOF-MRA",
        "html_theme_options.announcement": html.escape(facts["source"]),
        "myst_substitutions": facts,
    }
    faults = io.StringIO()
    with docutils_namespace():
        app = Sphinx(source, source, site, site / ".doctrees", "html", settings, status=None, warning=faults)
        app.build(force_all=True)
    found = [line for line in faults.getvalue().splitlines() if line.strip()]
    if found:
        raise BookError(f"{len(found)} faults in the book's pages, the first: {found[0].replace(f'{source}/', '')}")
    shutil.rmtree(site / ".doctrees")


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m tof2perf.report.book RESULTS``."""
    parser = argparse.ArgumentParser(prog="python -m tof2perf.report.book", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    found = parser.parse_args(arguments)
    try:
        print(f"book: {build(found.results)}")
    except (BookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
