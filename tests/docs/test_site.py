"""The site builds with warnings as errors, has every document, and loads nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="sphinx is not installed: the site is NOT built")

BUILD = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html")


@pytest.fixture(scope="module")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [*BUILD, "-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "html")]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_document_is_a_page_that_the_start_page_leads_to(project: Path, site: Path) -> None:
    assert 'url=docs/index.html"' in (site / "index.html").read_text()
    start = (site / "docs" / "index.html").read_text()
    documents = [path.relative_to(project / "docs") for path in (project / "docs").rglob("*.md")]
    assert len(documents) > 15
    for document in documents:
        page = document.with_suffix(".html")
        assert (site / "docs" / page).is_file(), document
        assert f'href="{page}"' in start or str(page) == "index.html", document
    assert (site / "README.html").is_file()


def test_the_exported_names_are_on_the_site(site: Path) -> None:
    assert "engine.config.resolve" in (site / "docs" / "reference" / "api.html").read_text()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"", text)
        loaded += re.findall(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)", text)
        assert not loaded, (page, loaded)
