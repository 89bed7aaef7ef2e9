"""report.html as a browser takes it: well formed, on its own, in both themes, on a desk and on a phone."""

import html
import json
import os
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from engine.reporting.report import write_report
from tests.engine.reported_demo import demo_results, write_demo
from tests.engine.reported_run import results, write_run

pytestmark = pytest.mark.slow

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
WIDTHS = {"desk": 1200, "narrow": 500, "phone": 390}
MOST_PAGES = 8


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs, one with many and long names."""
    home = tmp_path_factory.mktemp("page")
    wide = results()
    wide["tasks"] = {f"{name}_{'with_a_long_name_' * 2}": task for name, task in wide["tasks"].items()}
    for task in wide["tasks"].values():
        task["methods"] |= {f"lora@variant_number_{n}": task["methods"]["lora"] for n in range(6)}
    runs = [write_run(home / "a"), write_run(home / "b", wide)]
    write_report(runs, home / "out", ["runs/a", "runs/" + "a-very-long-name-without-a-break/" * 3 + "b"])
    return home / "out/report.html"


class Elements(HTMLParser):
    """Every element closed in order; what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.referred: list[str] = []
        self.ids: list[str] = []
        self.unnamed = 0
        self.kinds: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.kinds.add(tag)
        self.referred += [
            v or "" for k, v in attributes if k in ("src", "href", "xlink:href", "data", "action", "srcset", "poster")
        ]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.unnamed += tag == "svg" and not (found.get("aria-label") or found.get("aria-hidden"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")


def test_every_element_is_closed_and_nothing_is_fetched(page: Path) -> None:
    text = page.read_text()
    found = Elements()
    found.feed(text)
    found.close()
    assert found.open == [] and found.wrong == [] and len(found.ids) == len(set(found.ids))
    assert found.referred and all(r.removeprefix("#") in found.ids and r.startswith("#") for r in found.referred)
    assert not found.kinds & {"script", "link", "img", "iframe", "object", "embed"} and found.unnamed == 0
    assert not re.search(r"url\(|@import|https?:", text) and "default-src 'none'" in text
    assert re.search(r"@media \(prefers-color-scheme: dark\)", text) and "@media print" in text


def test_colours_can_be_read_in_both_themes(page: Path) -> None:
    """WCAG: 4.5 for words against what they stand on, 3 for marks of charts."""
    light, dark = re.findall(r":root \{(.*?)\}", page.read_text(), re.DOTALL)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
        for words, ground in (
            ("ink", "page"),
            ("ink", "paper"),
            ("ink", "note"),
            ("ink", "warn"),
            ("ink", "head"),
            ("soft", "paper"),
            ("soft", "page"),
            ("link", "page"),
            ("link", "paper"),
            ("good", "paper"),
            ("bad", "paper"),
        ):
            assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)
        assert all(contrast(colours[f"c{n}"], colours["paper"]) >= 3 for n in range(8))


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def browse(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Headless Chromium without a network; its console is on stderr."""
    if BROWSER is None:
        pytest.skip(
            "there is no chromium on PATH (`apt-get install -y chromium`): report.html is NOT tested in a browser"
        )
    own = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--proxy-server=127.0.0.1:9",
        "--enable-logging=stderr",
    ]
    environment = {k: v for k, v in os.environ.items() if "DBUS" not in k} | {"HOME": str(folder)}
    return subprocess.run(
        [BROWSER, "--headless=new", *own, *flags], capture_output=True, text=True, timeout=120, env=environment
    )


# measures the page in frames as wide as a desk and a phone, every folded part open too; nothing of the page itself runs
MEASURE = """<!doctype html><title>measure</title><pre id="found">nothing</pre>%s<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement;
    for (const state of ["closed", "open"]) {
      for (const fold of page.querySelectorAll("details")) fold.open = state == "open";
      const free = [...page.querySelectorAll("body *")].filter(e => !e.closest(".wide *, .box *, pre *"));
      const beyond = free.filter(e => e.getBoundingClientRect().right > root.clientWidth + 1);
      const names = beyond.map(e => e.tagName + "." + e.className).slice(0, 5);
      found[frame.id + " " + state] = {width: root.clientWidth, scroll: root.scrollWidth, beyond: names};
    }
    const boxes = [...page.querySelectorAll(".wide, .box, pre")];
    const scrolls = e => ["auto", "scroll"].includes(frame.contentWindow.getComputedStyle(e).overflowX);
    found[frame.id] = {
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
      charts: page.querySelectorAll(".chart").length,
      flat: [...page.querySelectorAll(".chart")].filter(e => e.getBoundingClientRect().height < 50).length,
      tallest: Math.max(...[...page.querySelectorAll("tbody th")].map(e => e.getBoundingClientRect().height)),
      scrolling: boxes.filter(e => e.scrollWidth > e.clientWidth).length,
      stuck: boxes.filter(e => e.scrollWidth > e.clientWidth && !scrolls(e)).length,
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


def test_it_fits_a_desk_and_a_phone_without_a_network(page: Path, tmp_path: Path) -> None:
    frames = "".join(
        f'<iframe id="{name}" width="{w}" height="800" srcdoc="{html.escape(page.read_text())}"></iframe>'
        for name, w in WIDTHS.items()
    )
    (tmp_path / "measure.html").write_text(MEASURE % frames)
    done = browse(tmp_path, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "measure.html").as_uri())
    shown = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown is not None
    found = json.loads(html.unescape(shown[1]))
    for name in WIDTHS:
        for state in ("closed", "open"):
            measured = found[f"{name} {state}"]
            assert measured["scroll"] <= measured["width"] and measured["beyond"] == [], (name, state, measured)
        assert abs(found[f"{name} closed"]["width"] - WIDTHS[name]) <= 20
        assert found[name]["fetched"] == [] and found[name]["flat"] == 0 and found[name]["stuck"] == 0
        assert found[name]["charts"] == len(re.findall('class="chart( fit)?"', page.read_text())) > 20
        assert found[name]["tallest"] < 400  # names are not written downwards
    assert found["phone"]["scrolling"] > found["desk"]["scrolling"] >= 0  # wide tables scroll in their own box
    assert "CONSOLE" not in done.stderr, done.stderr


def test_it_opens_from_disk_in_both_themes(page: Path, tmp_path: Path) -> None:
    """Two pictures, one light, one dark, and nothing on the console."""
    grounds = []
    for scheme in ("light", "dark"):
        picture, chosen = tmp_path / f"{scheme}.png", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
        done = browse(tmp_path, chosen, "--window-size=1200,3000", f"--screenshot={picture}", page.as_uri())
        assert "CONSOLE" not in done.stderr, done.stderr
        grounds.append(first_pixel(picture.read_bytes()))
    ground = [tuple(bytes.fromhex(c)) for c in re.findall(r"--page: #(\w{6})", page.read_text())[:2]]
    assert grounds == ground and ground[0] != ground[1]


def test_the_report_of_a_demo_prints_on_eight_pages(tmp_path: Path) -> None:
    write_report(write_demo(tmp_path), tmp_path / "out", ["runs/demo/distill", "runs/demo/adapt"])
    assert 2 <= printed_pages(tmp_path, tmp_path / "out/report.html") <= MOST_PAGES


def test_the_report_of_a_study_prints_on_eight_pages_and_folds_its_distillations(tmp_path: Path) -> None:
    """Four adaptations, as those of `make demo`, and more distillations than it has."""
    names = ["factors_5_steps", "factors_30_steps", "all_5_steps", "all_30_steps"]
    runs, made = [write_run(tmp_path / name, demo_results("target")) for name in names], {}
    for number in range(9):
        made[tmp_path / f"rank={number}"] = f"runs/demo/rank={number}"
    for folder in (*runs, *made):
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "device_seconds": 3600.0}))
    write_report(runs, tmp_path / "out", [f"runs/demo/unseen/{name}" for name in names], distillations=made)
    text = (tmp_path / "out/report.html").read_text()
    first = text[: text.index('<details class="section"')]
    assert first.index("9 distillations before these runs") < first.index("<summary>Device-hours of every distillation")
    assert first.index("runs/demo/rank=8") < first.index("Difference by run")
    assert 2 <= printed_pages(tmp_path, tmp_path / "out/report.html") <= MOST_PAGES


def printed_pages(folder: Path, page: Path) -> int:
    printed = folder / "report.pdf"
    done = browse(folder, f"--print-to-pdf={printed}", page.as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    return len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes()))


def test_the_first_screen_of_a_demo_holds_answer_table_and_figure(tmp_path: Path) -> None:
    """Their places on a desk's screen of 1280 x 1000."""
    write_report(write_demo(tmp_path), tmp_path / "out", ["runs/demo/distill", "runs/demo/adapt"])
    frame = (tmp_path / "out/report.html").read_text()
    (tmp_path / "measure.html").write_text(
        f'<pre id="found"></pre><iframe width="1280" height="1000" srcdoc="{html.escape(frame)}"></iframe>'
        '<script>addEventListener("load", () => {'
        'const page = document.querySelector("iframe").contentDocument;'
        'const ends = [".answer", "table", "figure .charts"].map('
        "s => page.querySelector(s).getBoundingClientRect().bottom);"
        'document.getElementById("found").textContent = JSON.stringify(ends); });</script>'
    )
    done = browse(tmp_path, "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "measure.html").as_uri())
    shown = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown is not None
    answer, table, figure = json.loads(shown[1])
    assert answer < table < figure <= 1000


def first_pixel(picture: bytes) -> tuple[int, ...]:
    """Red, green and blue of a PNG's upper left corner; no filter changes it, for there is nothing before it to add."""
    place, packed = 8, b""
    while place < len(picture):
        size = int.from_bytes(picture[place : place + 4], "big")
        packed += picture[place + 8 : place + 8 + size] if picture[place + 4 : place + 8] == b"IDAT" else b""
        place += size + 12
    return tuple(zlib.decompress(packed)[1:4])
