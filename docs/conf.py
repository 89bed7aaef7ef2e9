"""How Sphinx makes a site of README.md, docs/ and the pages that they link to: make docs.

Everything comes from the clone: no theme, font, script or inventory is fetched. Every warning is an error, such as a
link to a page that does not exist, an anchor without a heading or a page that no list of contents names.
"""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.api_page import markdown_of_faces  # noqa: E402

START = "docs/index"
KINDS = {
    "Tutorials": "tutorials/*",
    "How-to guides": "how_to/*",
    "Explanation": "explanation/*",
    "Reference": "reference/*",
    "Evidence": "evidence/*",
}

project = "clinical-metaprompt"
copyright = "its authors, Apache License 2.0"  # noqa: A001
version = release = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]

# the source folder is the clone, so that links between README.md and docs/ hold on the site as they do on GitHub
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = START
OTHERS = ("*.md", "backbones/pocket/README.md", "benchmarks/results/*/README.md")
include_patterns = ["docs/**.md", *OTHERS]
exclude_patterns = [".*", "runs", "build", "dist", "gpu-wheels", "wheelhouse"]
nitpicky = True
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_to_source)
    app.connect("build-finished", lead_to_start)


def add_to_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Add what only the site has: lists of contents, and the docstrings of the packages."""
    if page == START:
        source[0] += contents()
    elif page == "docs/reference/api":
        source[0] += "\n" + markdown_of_faces()


def contents() -> str:
    """The side bar: the pages of each kind, then those outside docs/."""
    parts = []
    for caption, pattern in KINDS.items():
        if any((ROOT / "docs").glob(f"{pattern}.md")):
            parts.append(f"```{{toctree}}\n:caption: {caption}\n:glob:\n:hidden:\n\n{pattern}\n```")
    others = sorted(str(page.relative_to(ROOT)) for pattern in OTHERS for page in ROOT.glob(pattern))
    pages = "\n".join(f"/{page.removesuffix('.md')}" for page in others)
    parts.append(f"```{{toctree}}\n:caption: Project\n:hidden:\n\n{pages}\n```")
    return "\n" + "\n\n".join(parts) + "\n"


def lead_to_start(app: Sphinx, error: Exception | None) -> None:
    """Write an index.html at the top of the site that leads to its start page."""
    if error is None and app.builder.format == "html":
        line = f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={START}.html">\n'
        (Path(app.outdir) / "index.html").write_text(line)
