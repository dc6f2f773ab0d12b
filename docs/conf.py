"""How Sphinx builds these pages: `sphinx-build -W -b html docs docs/_build`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import appliance  # noqa: E402

project = "Classroom box"
author = "the authors of the classroom box"
copyright = "the authors, BSD-3-Clause"
version = release = appliance.__version__
extensions = ["sphinx.ext.autodoc", "generated"]
exclude_patterns = ["_build", "images/README*"]
highlight_language = "none"
nitpicky = True
# What others document; the names of our own have to lead somewhere.
nitpick_ignore_regex = [("py:.*", r"(?!appliance\.).*|appliance\.ports\..*")]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

html_theme = "alabaster"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_title = f"Classroom box {release}"
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_theme_options = {
    "description": "Each student a container of their own",
    "fixed_sidebar": True,
    "page_width": "74rem",
    "sidebar_width": "15rem",
    "font_family": "system-ui, sans-serif",
    "head_font_family": "system-ui, sans-serif",
    "extra_nav_links": {"Index": "genindex.html", "Python modules": "py-modindex.html"},
    "show_powered_by": False,
}
