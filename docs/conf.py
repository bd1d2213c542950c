"""The documentation: ``sphinx-build -W --keep-going docs docs/_build``. Neither this nor the pages need a network."""

import re
from importlib.metadata import version as version_of

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

project = "ggmi-callbacks"
author = "the authors of ggmi-callbacks"
copyright = f"2026, {author}"
version = release = version_of(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_custom_sections = ["Source"]
napoleon_use_ivar = True  # fields of named tuples are documented once

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]


def _formula(writer: HTML5Translator, node: nodes.math | nodes.math_block, display: str) -> None:
    formula = re.sub("<mi>(log|exp)</mi>", r'<mo rspace="0.17em">\1</mo>', convert(node.astext(), display=display))
    if "\\" in formula:  # a command that the converter does not know
        logging.getLogger(__name__).warning("no MathML for %r", node.astext(), location=node)
    writer.body.append(f'<div class="formula">{formula}</div>' if display == "block" else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas become MathML, which browsers draw by themselves."""
    app.add_html_math_renderer(
        "mathml",
        (lambda writer, node: _formula(writer, node, "inline"), None),
        (lambda writer, node: _formula(writer, node, "block"), None),
    )
