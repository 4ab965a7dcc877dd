"""Sphinx configuration."""

from importlib.metadata import version as installed_version

project = "faceaffect"
author = "the faceaffect authors"
copyright = "2026, the faceaffect authors"
release = version = installed_version("faceaffect")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "faceaffect"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the attributes stand in the class, and "str_" is no reference
