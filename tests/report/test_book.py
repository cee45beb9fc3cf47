"""The book of a run opens in a browser without a network: pages, pictures, search, downloads, and true numbers."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tof2perf.pipeline.execution import run_notebook
from tof2perf.report import book, tables

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "results" / "reference" / "laptop"
PAGES = sorted((REPOSITORY / "notebooks" / "book").glob("*.md"))
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of MyST, about Sphinx 11
CELLS = (
    ("markdown", "title", "# Two waves\n\nPurpose: show what Dice cannot.\n\nInputs: none. Outputs: none."),
    ("code", "parameters", "cycles = 1"),
    (
        "code",
        "imports",
        "import matplotlib.pyplot as plt\nimport numpy as np\nimport pandas as pd\n"
        "from IPython.display import Markdown\nfrom tqdm.auto import tqdm",
    ),
    (
        "markdown",
        "wave-text",
        "## A wave\n\nThe residue is $R(t) = e^{-t}$, with\n\n$$\\int_0^\\infty R(t)\\,dt = 1.$$",
    ),
    ("code", "wave", "plt.plot(np.sin(cycles * np.linspace(0, 6, 50)))\nplt.show()"),
    ("code", "colophon", "Markdown('| colophon | |\\n|---|---|\\n| data | simulated cohort, in a test |')"),
    ("code", "table", "pd.DataFrame(np.ones((2, 30)) * len(list(tqdm(range(3)))))"),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of a run in small: the reference's tables and figures, and a tiny notebook that did run."""
    folder = tmp_path_factory.mktemp("book") / "results" / "laptop"
    shutil.copytree(REFERENCE, folder)
    cells = [
        nbformat.v4.new_code_cell(source, id=name) if kind == "code" else nbformat.v4.new_markdown_cell(source, id=name)
        for kind, name, source in CELLS
    ]
    cells[1].metadata["tags"] = ["parameters"]
    cells[4].metadata["tags"] = ["hide-input"]
    stored = folder.parent / "waves.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), stored)
    first = folder / "notebooks" / "02-train-acute-tmax.ipynb"
    run_notebook(stored, first, parameters={"cycles": 3}, failed=folder / "failed.ipynb")
    for name in ("02-train-acute-cbf", "05-table1", "explore-perfusion", "explore-metrics"):
        shutil.copy(first, first.with_name(f"{name}.ipynb"))
    (folder / ".stamps").mkdir()
    stamp = {"step": "02-train-acute-tmax", "seconds": 61.2, "peak_memory_gb": 1.1}
    (folder / ".stamps" / "02-train-acute-tmax.json").write_text(json.dumps(stamp))
    return folder


@pytest.fixture(scope="module")
def site(results) -> Path:
    """The book of those results."""
    return book.build(results).parent


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium without a network; where there is none, a skip that says so, but a failure in CI."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on the PATH: .ci/run installs it")
        pytest.skip("no chromium on the PATH: install it to open the book in a browser")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield running
        running.close()


def pages_of(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)


def read(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def rows_of(page: Path, number: int = 0) -> list[list[str]]:
    """Cells of one of a page's tables, as text."""
    table = read(page).find("article").find_all("table")[number]
    return [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


def open_page(browser, page: Path, *, query: str = "", size=DESKTOP, scheme="light"):
    """Open a page of the book; returns it and everything that went wrong or reached for the network."""
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    tab, faults = context.new_page(), []
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    tab.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url)
    )
    tab.goto(f"file://{page}{query}")
    tab.wait_for_load_state("load")
    return tab, faults


@pytest.mark.slow
def test_every_page_opens_without_an_error_and_without_a_network_and_its_pictures_load(browser, site):
    for page in pages_of(site):
        tab, faults = open_page(browser, page)
        assert not faults, f"{page.relative_to(site)}: {faults}"
        broken = tab.eval_on_selector_all("img", "found => found.filter(i => !i.naturalWidth).map(i => i.src)")
        assert not broken, f"{page.relative_to(site)}: {broken}"
        tab.context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone_and_the_banner_can_be_read(browser, site, scheme):
    for name in ("index", "table1", "notebooks/02-train-acute-tmax"):
        tab, faults = open_page(browser, site / f"{name}.html", size=PHONE, scheme=scheme)
        assert not faults
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
        banner = tab.locator(".bd-header-announcement__content")
        assert banner.is_visible() and banner.inner_text() == "simulated cohort, profile laptop"
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        tab.context.close()


@pytest.mark.slow
def test_the_search_finds_dice(browser, site):
    tab, faults = open_page(browser, site / "search.html", query="?q=Dice")
    found = tab.locator("#search-results li a")
    tab.get_by_text("Search finished, found").wait_for()
    targets = found.evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert any("lesions.html" in target for target in targets)
    assert any("notebooks/02-train-acute-tmax.html" in target for target in targets)
    assert not faults
    tab.context.close()


def test_every_page_says_where_its_patients_come_from(site):
    for page in pages_of(site):
        assert "simulated cohort, profile laptop" in read(page).select_one(".bd-header-announcement").get_text(), page


def test_nothing_is_asked_of_another_machine(site):
    for page in pages_of(site):
        asked = [tag.get("src") or tag.get("href") for tag in read(page).find_all(["script", "img", "link", "iframe"])]
        assert not [address for address in asked if address and "//" in address], page
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert not [style for style in styles if "url(http" in style or '@import "http' in style]


def test_every_notebook_can_be_downloaded_as_it_was_executed(site, results):
    for executed in results.glob("notebooks/*.ipynb"):
        page = site / "notebooks" / f"{executed.stem}.html"
        (link,) = [a for a in read(page).find_all("a") if "Download this" in a.get_text()]
        assert (page.parent / link["href"]).read_bytes() == executed.read_bytes()


def test_a_notebook_that_ran_more_than_once_has_a_page_that_lists_its_runs(site):
    article = read(site / "steps" / "02-train.html").find("article")
    links = {link["href"] for link in article.find_all("a", href=True)}
    assert {"../notebooks/02-train-acute-tmax.html", "../notebooks/02-train-acute-cbf.html"} <= links
    assert read(site / "notebooks" / "02-train-acute-cbf.html").h1.get_text().startswith("Two waves: acute cbf")


def test_code_beside_the_point_is_folded_and_no_progress_bar_is_left(site):
    page = read(site / "notebooks" / "02-train-acute-tmax.html")
    folded = [part.get_text() for part in page.select("details")]
    assert any("import matplotlib" in text for text in folded) and any("np.sin" in text for text in folded)
    assert any("cycles = 3" in text for text in folded) and "cycles = 1" not in page.get_text()
    assert "it/s" not in page.get_text() and "100%" not in page.get_text()
    tables = page.select("div.cell_output table")
    assert len(tables) == 2 and not any(table.find_parent("details") for table in tables)


def test_a_colophon_is_a_table(site):
    """What a notebook shows as Markdown is set as such."""
    page = read(site / "notebooks" / "02-train-acute-tmax.html")
    assert "simulated cohort, in a test" in [cell.get_text(strip=True) for cell in page.find_all("td")]


def test_formulas_are_set_by_the_browser(site):
    page = read(site / "notebooks" / "02-train-acute-tmax.html")
    formulas = page.find_all("math")
    assert len(formulas) == 2 and formulas[1].get("display") == "block" and "∫" in formulas[1].get_text()


def test_pictures_are_described(site):
    for page in pages_of(site):
        for image in read(page).find("body").find_all("img"):
            assert image.get("alt") and "/" not in image["alt"], f"{page}: {image}"


def test_table_1_shows_paper_and_run_as_their_files_have_them(site):
    header, *rows = rows_of(site / "table1.html")
    assert header[:5] == ["cohort", "map", "metric", "paper (real patients)", "GAN, this run"]
    table = pd.read_csv(REFERENCE / "tables" / "table1.csv").query("convention == 'paper' and predictor == 'gan'")
    paper = pd.read_csv(REPOSITORY / "data" / "published" / "table1.csv").set_index(["cohort", "map", "metric"])
    shown = {(row[0], row[1].lower(), row[2].lower()): row for row in rows}
    assert len(shown) == len(rows) == len(table)
    for row in table.itertuples():
        found = shown[row.cohort, row.map, row.metric]
        assert found[4] == f"{row.mean:.3f} ({row.sd:.3f})"
        published = paper.loc[row.cohort, row.map, row.metric]
        assert found[3] == f"{published['mean']:.3f} ({published.sd:.3f})"


def test_the_colophon_has_commit_versions_hashes_and_running_times(site):
    text = read(site / "colophon.html").find("article").get_text()
    manifest = json.loads((REFERENCE / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["commit"] in text and manifest["versions"]["torch"] in text
    assert all(entry["sha256"] in text for entry in manifest["files"].values())
    assert ["02-train-acute-tmax", "61", "1.1"] in rows_of(site / "colophon.html", 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_has_a_typed_result_and_its_tables_are_those_of_the_reference(page):
    text = page.read_text(encoding="utf-8")
    assert tables.stored(text) == text, "run python -m tof2perf.report.tables"
    prose = [line for line in tables.MARK.sub("", text).splitlines() if not line.startswith("    ")]
    typed = [word for line in prose for word in line.split() if "0." in word or word.rstrip(".,").endswith("%")]
    assert not typed, f"{page.name}: {typed}: give the number a mark of tof2perf/report/tables.py"


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *PAGES], ids=lambda page: page.stem)
def test_a_page_links_to_what_is_there(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_a_link_to_a_notebook_that_did_not_run_is_plain_words(site):
    text = read(site / "lesions.html").find("article")
    assert "the blinded rating" in text.get_text()
    assert not [link for link in text.find_all("a", href=True) if "12-rating" in link["href"]]
    assert [a for a in read(site / "table1.html").find("article").find_all("a", href=True) if "05-table1" in a["href"]]


def test_the_book_is_made_again_only_when_its_pages_changed(site, results, tmp_path):
    copy = tmp_path / "laptop"
    shutil.copytree(results, copy)
    index = book.build(copy)
    before = index.stat().st_mtime_ns
    assert book.build(copy).stat().st_mtime_ns == before
    table = copy / "tables" / "dice_summary.json"
    summary = json.loads(table.read_text(encoding="utf-8"))
    summary["predictors"]["gan"]["mean"] = 0.123
    table.write_text(json.dumps(summary), encoding="utf-8")
    assert book.build(copy).stat().st_mtime_ns != before
    assert rows_of(copy / "book" / "lesions.html")[2][3] == "0.12"


def test_a_fault_in_a_page_is_one_line_and_leaves_the_book_that_is_there(site, results, tmp_path, capsys):
    copy = tmp_path / "laptop"
    shutil.copytree(results, copy)
    index = book.build(copy).read_bytes()
    page = nbformat.read(copy / "notebooks" / "05-table1.ipynb", as_version=4)
    page.cells[0].source += "\n\n![no such picture](nowhere.png)"
    nbformat.write(page, copy / "notebooks" / "05-table1.ipynb")
    assert book.main([str(copy)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "05-table1" in line and "nowhere.png" in line
    assert (copy / "book" / "index.html").read_bytes() == index
    assert not list(copy.glob(".book-*"))


def test_without_a_finished_run_there_is_no_book(tmp_path, capsys):
    assert book.main([str(tmp_path)]) == 1
    assert "manifest.json: missing; run make paper first" in capsys.readouterr().err
