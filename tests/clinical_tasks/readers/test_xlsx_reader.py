"""Excel sheets: what Excel and others write into them, and damage, which is named and never shown."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from clinical_tasks import ReadError, read_split
from clinical_tasks.corpus.splits import read_documents
from clinical_tasks.pocket.sheets import workbook
from clinical_tasks.readers import xlsx
from clinical_tasks.schema.documents import reader_notes

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
LINKS = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
HEADER = (
    '<row r="1"><c r="A1" t="inlineStr"><is><t>note</t></is></c><c r="B1" '
    't="inlineStr"><is><t>summary</t></is></c></row>'
)
SHEET = {"reader": "xlsx", "splits": {"test": "test.xlsx"}}


def archive(rows, strings="", styles="", book="", sheets=("Sheet1",), **parts):
    """The bytes of a workbook whose first sheet has these rows as XML; other parts as given (None leaves one out)."""
    entries = {
        "xl/workbook.xml": f"<workbook {MAIN} {LINKS}>{book}<sheets>"
        + "".join(f'<sheet name="{name}" sheetId="{n}" r:id="r{n}"/>' for n, name in enumerate(sheets))
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": "<Relationships "
        'xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="worksheet" Target="/xl/worksheets/sheet{n}.xml"/>'
            for n in range(len(sheets))
        )
        + '<Relationship Id="s" Type="http://x/sharedStrings" Target="sharedStrings.xml"/><Relationship Id="t" '
        'Type="http://x/styles" Target="styles.xml"/>' + "</Relationships>",
        "xl/sharedStrings.xml": f"<sst {MAIN}>{strings}</sst>",
        "xl/styles.xml": f"<styleSheet {MAIN}>{styles}</styleSheet>",
        **{
            f"xl/worksheets/sheet{n}.xml": "<worksheet "
            f"{MAIN}><sheetData>{rows if n == 0 else HEADER}</sheetData></worksheet>"
            for n in range(len(sheets))
        },
        **{name.replace("__", "/"): content for name, content in parts.items()},
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in entries.items():
            if content is not None:
                target.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def sheet(card, folder, tmp_path):
    """`sheet(rows, ...)` writes a workbook and gives the texts of its two columns, row by row."""

    def read(rows, options=None, **more):
        (folder / "test.xlsx").write_bytes(rows if isinstance(rows, bytes) else archive(rows, **more))
        mine = card("summarization", **SHEET, reader_options=options or {})
        return [(e.input_text.removesuffix("\nSummary:"), e.answer_text) for e in read_split(mine, tmp_path, "test")]

    return read


def cells(number, *contents):
    return (
        f'<row r="{number}">'
        + "".join(f'<c r="{chr(65 + n)}{number}"{content}</c>' for n, content in enumerate(contents))
        + "</row>"
    )


def test_shared_and_inline_strings_runs_escapes_and_line_ends(sheet):
    strings = (
        "<si><t>note</t></si><si><t>summary</t></si><si><r><t>a_x000D_\nb</t></r><r><rPr/><t xml:space='preserve'> "
        "c\n</t></r>"
        "<rPh sb='0' eb='1'><t>KANA</t></rPh></si><si><t>_x005F_x000D_ \u2028 &#233; _xD83D__xDE00_</t></si>"
    )
    rows = (
        cells(1, ' t="s"><v>0</v>', ' t="s"><v>1</v>')
        + cells(2, ' t="s"><v>2</v>', ' t="s"><v>3</v>')
        + cells(5, ' t="inlineStr"><is><t>in</t><r><t>line</t></r></is>', ' t="str"><f>A1&amp;"x"</f><v>formula</v>')
    )
    assert sheet(rows, strings=strings) == [("a\nb c", "_x000D_ \u2028 \u00e9 \U0001f600"), ("inline", "formula")]


def test_numbers_booleans_dates_and_errors(sheet):
    styles = (
        '<numFmts><numFmt numFmtId="170" formatCode="[Red]&quot;day&quot; yyyy/mm"/><numFmt numFmtId="171" '
        'formatCode="0.0 &quot;mg/day&quot;"/>'
        '</numFmts><cellStyleXfs><xf numFmtId="14"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf '
        'numFmtId="14"/><xf numFmtId="22"/>'
        '<xf numFmtId="170"/><xf numFmtId="171"/><xf numFmtId="20"/>'
        '<xf numFmtId="46"/></cellXfs>'
    )
    contents = [
        ("><v>12345678901234567890</v>", "12345678901234567890"),
        ("><v>81.0</v>", "81"),
        ("><v>0.5</v>", "0.5"),
        ("><v>1E-3</v>", "0.001"),
        (' t="b"><v>1</v>', "true"),
        (' s="1"><v>43101</v>', "2018-01-01"),
        (' s="2"><v>43101.75</v>', "2018-01-01 18:00:00"),
        (' s="3"><v>59</v>', "1900-02-28"),
        (' s="3"><v>61</v>', "1900-03-01"),
        (' s="4"><v>5</v>', "5"),
        (' s="5"><v>0.25</v>', "06:00:00"),
        (' s="6"><v>1.25</v>', "1.25"),
        (' t="d"><v>2018-01-01</v>', "2018-01-01"),
    ]
    rows = HEADER + "".join(
        cells(n, ' t="inlineStr"><is><t>x</t></is>', content) for n, (content, _) in enumerate(contents, start=2)
    )
    assert [answer for _, answer in sheet(rows, styles=styles)] == [text for _, text in contents]
    assert sheet(
        HEADER + cells(2, ' t="e"><v>#N/A</v>', ' s="1"><v>0.5</v>'), styles=styles, book='<workbookPr date1904="1"/>'
    ) == [("", "12:00:00")]
    assert sheet(
        HEADER + cells(2, "><v>1</v>", ' s="1"><v>1</v>'), styles=styles, book='<workbookPr date1904="1"/>'
    ) == [("1", "1904-01-02")]


def test_empty_cells_and_rows_unnamed_columns_and_cells_without_references(sheet):
    rows = (
        '<row/><row><c t="inlineStr"><is><t></t></is></c><c t="inlineStr"><is><t>note</t></is></c><c '
        't="inlineStr"><is><t>summary</t></is></c></row>'
        '<row><c><v>0</v></c><c/><c><v>7</v></c></row><row><c/><c/></row><row r="9"><c r="C9"><v>8</v></c></row>'
    )
    assert sheet(rows) == [("", "7"), ("", "8")]
    assert sheet(cells(1, "><v>1</v>", "><v>2</v>"), {"header": ["note", "summary"]}) == [("1", "2")]


def test_one_of_several_sheets(sheet, card, tmp_path):
    rows = HEADER + cells(2, "><v>1</v>", "><v>2</v>")
    assert sheet(rows, sheets=("First", "Second")) == [("1", "2")]
    note = "test.xlsx: sheet 1 of 2 is read (reader_options.sheet names another)"
    assert reader_notes(read_documents(card("summarization", **SHEET), tmp_path, "test")) == [note]
    assert sheet(rows, {"sheet": "First"}, sheets=("First", "Second")) == [("1", "2")]
    with pytest.raises(ReadError, match=r"no sheet 'Frist' among its 2 \(did you mean 'First'\?\)"):
        sheet(rows, {"sheet": "Frist"}, sheets=("First", "Second"))


def test_what_the_writer_writes_comes_back(sheet):
    rows = [
        {"note": f"n\r\n{n} \u2029\x0b<&_x000D_\U0001f600", "summary": f"s{n}", **{f"c{m}": str(m) for m in range(30)}}
        for n in range(3)
    ] + [{"note": None, "summary": "s3"}]
    assert workbook(rows) == workbook(rows)
    assert sheet(workbook(rows)) == [
        *((f"n\n{n} \u2029\x0b<&_x000D_\U0001f600", f"s{n}") for n in range(3)),
        ("", "s3"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Zebulon", "not an .xlsx file (it is not a zip archive"),
        (b"\xd0\xcf\x11\xe0 Zebulon", "not an .xlsx file (it is not a zip archive"),
        ({"xl__workbook.xml": None}, "a zip archive without xl/workbook.xml"),
        ({"sheets": ()}, "the workbook has no sheet"),
        ({"xl__sharedStrings.xml": None}, "its part with the sharedStrings is missing"),
        ({"xl__worksheets__sheet0.xml": None}, "its part with the worksheet is missing"),
        ({"rows": HEADER + "<row r='2'><c>Zebulon"}, "xl/worksheets/sheet0.xml is not well-formed XML at line 1"),
        (
            {"xl__sharedStrings.xml": '<!DOCTYPE x [<!ENTITY a "Zebulon">]><sst>&a;</sst>'},
            "xl/sharedStrings.xml declares a document type",
        ),
        ({"rows": HEADER + cells(2, ' t="s"><v>9</v>', "><v>1</v>")}, ":2: a cell refers to a text that is not there"),
        ({"rows": HEADER + cells(2, "><v>Zebulon</v>")}, ":2: a cell is marked as a number but holds none"),
        ({"rows": HEADER + cells(2, ' t="str"><v>Zebulon_xD800_</v>')}, ":2: an escape in a cell is half a character"),
        ({"rows": HEADER + cells(2, "><v>1</v>") + cells(2, "><v>1</v>")}, ":2: its rows are not in order"),
        ({"rows": HEADER + '<row r="2"><c r="B2"><v>1</v></c><c r="A2"/></row>'}, ":2: its cells are not in order"),
        (
            {"rows": HEADER + cells(2, "><v>1</v>", "><v>1</v>", "><v>3</v>")},
            ":2: a cell in column 3 where the header has 2",
        ),
        ({"rows": HEADER.replace("summary", "note")}, ":1: columns 1 and 2 have the same name"),
        (
            {"rows": HEADER.replace("summary", "sumary") + cells(2, "><v>1</v>")},
            ":2: no column 'summary' (did you mean 'sumary'?)",
        ),
    ],
)
def test_damage_is_named_and_not_shown(sheet, content, reason):
    with pytest.raises(ReadError) as caught:
        sheet(content if isinstance(content, bytes) else archive(**{"rows": HEADER, **content}))
    assert reason in str(caught.value) and "Fix: " in str(caught.value)
    assert "Zebulon" not in str(caught.value) and caught.value.__cause__ is None


def test_a_part_that_unpacks_to_too_much_is_refused(sheet, monkeypatch):
    monkeypatch.setattr(xlsx, "_LARGEST_PART", 1 << 20)
    with pytest.raises(ReadError, match="xl/sharedStrings.xml unpacks to more than 1 MiB"):
        sheet(HEADER, strings="<si><t>" + "a" * (1 << 21) + "</t></si>")


def test_a_workbook_is_read_from_inside_an_archive(card, folder, tmp_path):
    data = workbook([{"note": "n\r\n1", "summary": "s"}])
    with tarfile.open(folder / "release.tar.gz", "w:gz") as target:
        entry = tarfile.TarInfo("release-main/test.xlsx")
        entry.size = len(data)
        target.addfile(entry, io.BytesIO(data))
    (example,) = read_split(card("summarization", **SHEET), tmp_path, "test")
    assert (example.input_text, example.answer_text) == ("n\n1\nSummary:", "s")
