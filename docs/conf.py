"""How Sphinx makes a site of README.md, docs/ and the pages that they link to: make docs.

Everything comes from the clone: no theme, font, script or inventory is fetched. Every warning is an error, such as a
link to a page that does not exist, an anchor without a heading or a page that no list of contents names.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
START = "docs/index"

project = "clinical-metaprompt"
copyright = "its authors, Apache License 2.0"  # noqa: A001
version = release = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]

# the source folder is the clone, so that links between README.md and docs/ hold on the site as they do on GitHub
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = START
include_patterns = ["*.md", "docs/**/*.md", "backbones/pocket/README.md", "benchmarks/results/*/README.md"]
exclude_patterns = [".*", "runs", "build", "dist", "gpu-wheels", "wheelhouse"]
nitpicky = True
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    app.connect("build-finished", lead_to_start)


def lead_to_start(app: Sphinx, error: Exception | None) -> None:
    """Write an index.html at the top of the site that leads to its start page."""
    if error is None and app.builder.format == "html":
        line = f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={START}.html">\n'
        (Path(app.outdir) / "index.html").write_text(line)
