"""Settings of Sphinx; `make docs` writes to build/docs, warnings are errors."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
TESTS = DOCS.parent / 'tests'
sys.path[:0] = [str(DOCS), str(DOCS.parent)]
sys.path[:0] = [str(TESTS / 'test_ecosystem'), str(TESTS / 'test_anywhere')]

import family_table  # noqa: E402
import recipes  # noqa: E402
import table  # noqa: E402
import zoo  # noqa: E402

from mmmanikey import __version__  # noqa: E402

project = 'mmmanikey'
copyright = 'mmmanikey developers'
release = version = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
]
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['images', 'examples']
highlight_language = 'none'  # what is code says its language

myst_heading_anchors = 3

autodoc_default_options = {'show-inheritance': True}
autodoc_inherit_docstrings = False  # torch's refer to pages of torch
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Our own names must resolve. Those of other projects would take a network, and the
# types in docstrings stand without their modules.
nitpicky = True
nitpick_ignore_regex = [('py:class', r'(?!mmmanikey\.).*')]

html_theme = 'furo'
html_title = f'mmmanikey {release}'


def fill_in_tables(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the tables of metafiles, configs and tools into their pages."""
    if docname == 'model_zoo':
        source[0] = source[0].replace(zoo.PLACE, zoo.tables())
        for path in zoo.metafiles():
            app.env.note_dependency(str(path))
    if docname == 'recipes':
        source[0] = recipes.tables(source[0])
        for path in (recipes.DATA, *(recipes.ROOT / 'configs').rglob('*.py')):
            app.env.note_dependency(str(path))
    if docname == 'any_backbone':
        source[0] = source[0].replace(family_table.PLACE, family_table.tables())
        app.env.note_dependency(str(family_table.FOUND))
    if docname == 'ecosystem':
        source[0] = source[0].replace(zoo.PLACE, table.tables())
        for path in Path(table.__file__).parent.glob('entries_*.py'):
            app.env.note_dependency(str(path))


def setup(app: Sphinx) -> None:
    app.connect('source-read', fill_in_tables)
