"""How Sphinx sets the book. ``tof2perf/report/book.py`` brings the pages, the title and the banner with the source."""

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

extensions = ["myst_nb"]
exclude_patterns = ["executed"]  # notebooks as they were executed, to be downloaded
language = "en"
author = "the tof2perf authors"

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
# A summary of a found page would have to be fetched, which a browser refuses where the book is opened as a file.
html_show_search_summary = False
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}  # light or dark as the reader's system

nb_execution_mode = "off"  # what is shown is what the run computed
nb_render_markdown_format = "myst"  # tables in Markdown are tables
nb_output_stderr = "remove"  # progress bars
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # stored notebooks hold no widgets; nothing is loaded from elsewhere
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
myst_enable_extensions = ["dollarmath", "substitution", "deflist"]
myst_heading_anchors = 3


def _block(writer, node):
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def _inline(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise SkipNode


def setup(app):
    """Let the browser set formulas: MathML needs no script and no fonts."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
