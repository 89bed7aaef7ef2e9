"""docs/explanation/architecture.md: every place that its table names exists, and the way of a token has at most twenty
hops.
"""

import re
from pathlib import Path


def test_the_way_of_a_token_names_what_is_there(project: Path) -> None:
    rows = re.findall(
        r"^\| (\d+) \| `([^`]+)`", (project / "docs/explanation/architecture.md").read_text(), re.MULTILINE
    )
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1)) and 15 <= len(rows) <= 20
    for _, place in rows:
        file, _, names = place.partition(": ")
        if "*" in file:
            assert list(project.glob(file))
            continue
        assert (project / file).exists(), place
        for name in filter(None, names.split(", ")):
            assert re.search(rf"^(?:class|def) {name}\b", (project / file).read_text(), re.MULTILINE), place


def test_the_figure_has_every_package(project: Path) -> None:
    drawn = (project / "docs/explanation/rooms.svg").read_text()
    for package in (p.parent.name for p in (project / "engine").glob("*/__init__.py")):
        assert f">{package}</text>" in drawn, package
