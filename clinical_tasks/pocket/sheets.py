"""An Excel workbook of one sheet, as Excel writes it: shared strings, line ends in cells as `_x000D_\\n`. The same
rows give the same bytes.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_RELATIONSHIPS = "application/vnd.openxmlformats-package.relationships+xml"
# The parts that are the same in every workbook.
_FIXED = {
    "[Content_Types].xml": (
        f'<Types xmlns="{_PACKAGE}/content-types">'
        f'<Default Extension="rels" ContentType="{_RELATIONSHIPS}"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_KIND}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_KIND}.worksheet+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{_KIND}.sharedStrings+xml"/></Types>'
    ),
    "_rels/.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
        '<sheets><sheet name="QS" sheetId="1" r:id="rId1"/></sheets></workbook>'
    ),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{_PACKAGE}/relationships">'
        f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
        f'<Relationship Id="rId2" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/></Relationships>'
    ),
}
# XML has no such characters; Excel writes their codes, and so the code of an underscore that would look like one.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b-\x1f]|_(?=x[0-9A-Fa-f]{4}_)")


def workbook(rows: Sequence[dict[str, Any]]) -> bytes:
    """The bytes of an .xlsx file with a header row of the first row's keys; every value is a text, None an empty
    cell.
    """
    strings: dict[str, int] = {}
    lines = []
    for number, cells in enumerate(([*rows[0]], *(row.values() for row in rows)), start=1):
        written = ""
        for column, cell in enumerate(cells):
            if cell is not None:
                shared = strings.setdefault(str(cell), len(strings))
                written += f'<c r="{_letters(column)}{number}" t="s"><v>{shared}</v></c>'
        lines.append(f'<row r="{number}">{written}</row>')
    items = "".join(f'<si><t xml:space="preserve">{escape(_UNWRITABLE.sub(_code, text))}</t></si>' for text in strings)
    parts = {
        **_FIXED,
        "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}" uniqueCount="{len(strings)}">{items}</sst>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>',
    }
    file = io.BytesIO()
    # Stored and dated alike: neither the clock nor the version of a compressor is in the bytes.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 0
            archive.writestr(entry, (_HEAD + content).encode())
    return file.getvalue()


def _code(match: re.Match[str]) -> str:
    return f"_x{ord(match[0]):04X}_"


def _letters(column: int) -> str:
    """0 is A, 25 Z, 26 AA."""
    letters = ""
    while column >= 0:
        letters = chr(65 + column % 26) + letters
        column = column // 26 - 1
    return letters
