"""Sphinx configuration: `sphinx-build -W docs docs/_build` writes the HTML pages."""

import os
from importlib.metadata import version as installed_version
from pathlib import Path

project = "numpyro_disco"
author = "The numpyro_disco authors"
copyright = author
release = installed_version("numpyro_disco")
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**/.jupyter_cache"]

html_theme = "pydata_sphinx_theme"
html_title = f"numpyro_disco {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "numpyro_disco"},
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "github-dark",
}
# These pages stand alone, so a column beside them would be empty.
html_sidebars = {page: [] for page in ("index", "api", "changelog", "howto", "coming_from")}

# Pages with code cells are executed in kernels of their own and kept in a cache beside the output,
# by their code. A cell that raises an error, or that writes a warning or a bar, fails the build.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "warn"
# Cells inherit these: a backend that shows figures, and one look for all of them.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent / "tutorials" / "matplotlibrc")
# tqdm asks for ipywidgets in notebooks; these show no bars.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
# They share what they compile, unless the caller has a cache already.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / "_build" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Single backticks in docstrings stand for code.
default_role = "code"
# Signatures show defaults as they are written; types stand with the arguments they belong to.
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# A field documented under "Attributes:" and in the class body must not be described twice.
napoleon_use_ivar = True
