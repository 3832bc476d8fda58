"""How the documentation is built: `sphinx-build -W docs build/docs`, from the root of the repository.

Nothing is fetched, and the pages load nothing. Cells of pages are executed once and kept until they change; with
`-D nb_execution_mode=off` none is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
# `wassgrid` in cells is that of this Python, without colours and in lines of one length
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.update(COLUMNS="110", NO_COLOR="1", PYTHONWARNINGS="error::DeprecationWarning:wassgrid")

from wassgrid.version import __version__  # noqa: E402

project = "wassgrid"
author = "the authors of wassgrid"
copyright = author
release = version = __version__

extensions = ["myst_nb", "generated", "mathml"]
exclude_patterns = ["_*", "build"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"

html_theme = "furo"
html_title = f"wassgrid {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["wassgrid.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
