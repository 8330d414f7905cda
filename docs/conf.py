"""Sphinx configuration: `sphinx-build -W docs docs/_build` writes the HTML pages."""

from importlib.metadata import version as installed_version

project = "numpyro_disco"
author = "The numpyro_disco authors"
copyright = author
release = installed_version("numpyro_disco")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"numpyro_disco {release}"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Signatures show defaults as they are written; types stand with the arguments they belong to.
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# A field documented under "Attributes:" and in the class body must not be described twice.
napoleon_use_ivar = True
