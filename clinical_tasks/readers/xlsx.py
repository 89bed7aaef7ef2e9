"""Excel sheets (.xlsx), streamed: a row a record, a header row, cells as their text (ECMA-376, parts SpreadsheetML and
packaging).

Line ends that Excel keeps in cells as `_x000D_\\n` are line ends again. Numbers stand as stored, dates in ISO form by
their cell's format, a formula by the value that Excel saved. A merged cell stands in its first cell; cells with an
Excel error (#N/A) are empty.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from clinical_tasks.readers.files import read_bytes
from clinical_tasks.readers.tables import Row, checked_header, documents_of
from clinical_tasks.readers.xlsx_sheet import Sheet, Text
from clinical_tasks.schema import Document, ReadError, TaskCard, did_you_mean, read_error

# What a part of the archive may come to when unpacked: a small file must not fill the memory.
_LARGEST_PART = 1 << 28
_CHUNK = 1 << 16
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
# Built-in number formats that show dates or times; others do where an unquoted part of theirs names a unit. Elapsed
# time, [h]:mm, is a number.
_DATE_FORMATS = {*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)}
_DATE_UNIT = re.compile(r"[ymdhs]", re.IGNORECASE)
_ELAPSED = re.compile(r"\[(h+|m+|s+)\]", re.IGNORECASE)
_NO_UNIT = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]|General', re.IGNORECASE)
_RESAVE = "open it in a spreadsheet program and save it as .xlsx, or export the sheet as csv"
# Start of an element, end of one with the text since the last start or end.
OnStart = Callable[[str, dict[str, str]], None]
OnEnd = Callable[[str, str], None]


def read_xlsx(paths: list[Path], card: TaskCard, folder: Path) -> Iterator[Document]:
    """The first sheet, or the one that `sheet` names, with a header row unless `header` lists the columns."""
    for path in paths:
        book = _Workbook(path, read_bytes(path))
        name, notes = book.sheet(str(card.reader_options.get("sheet", "")))
        yield from documents_of(path, _rows(path, book.cells(name), card.reader_options), card, notes=notes)


def _rows(path: Path, numbered: Iterator[tuple[int, dict[int, Any]]], options: dict[str, Any]) -> Iterator[Row]:
    header = checked_header(path, [str(name) for name in options.get("header", [])])
    for line, cells in numbered:
        filled = {column: value for column, value in cells.items() if value is not None and str(value).strip()}
        if not filled:
            continue
        if not header:
            names = [str(filled.get(column, "")).strip() for column in range(max(filled) + 1)]
            header = checked_header(path, names, line)
        elif max(filled) >= len(header):
            raise read_error(
                path,
                f"a cell in column {max(filled) + 1} where the header has {len(header)}",
                line=line,
                fix="name every column",
            )
        else:
            yield Row(path, {name: filled.get(column) for column, name in enumerate(header) if name}, line=line)


class _Workbook:
    """The parts of an xlsx archive that hold text: which sheets there are, shared strings, which formats are dates."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        try:
            # Packed as it is, in memory: inside another archive a file may not be sought in.
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
            # Excel's older .xls and any file with a password are no zip archives.
            raise read_error(
                path,
                "not an .xlsx file (it is not a zip archive; older .xls files and files with a password are not)",
                fix=_RESAVE,
            ) from None
        self._names = set(self._archive.namelist())
        self._sheets: list[tuple[str, str]] = []
        self._parts: dict[str, str] = {}
        self._from_1904 = False
        self._read_book()
        self._strings = self._read_strings()
        self._dates = self._read_formats()

    def sheet(self, wanted: str) -> tuple[str, list[str]]:
        """The part that holds a sheet, and a note where others are left out."""
        titles = [title for title, _ in self._sheets]
        if wanted and wanted not in titles:
            fix = "correct reader_options.sheet"
            raise read_error(
                self._path, f"no sheet '{wanted}' among its {len(titles)}{did_you_mean(wanted, titles)}", fix=fix
            )
        if wanted:
            return self._sheets[titles.index(wanted)][1], []
        # Which of several is meant is said in a note unless the card states it.
        notes = []
        if len(titles) > 1:
            notes.append(f"{self._path.name}: sheet 1 of {len(titles)} is read (reader_options.sheet names another)")
        return self._sheets[0][1], notes

    def cells(self, part: str) -> Iterator[tuple[int, dict[int, Any]]]:
        """Every row of a sheet with its number, as column (from 0) to value; text, number or None."""
        sheet = Sheet(self)
        for _ in self._parse(part, sheet.start, sheet.end):
            yield from sheet.done
            sheet.done.clear()

    def value(self, kind: str, style: str, text: str, row: int) -> Any:
        """What a cell holds."""
        if kind == "s":
            if not text.strip().isdecimal() or int(text) >= len(self._strings):
                raise self.damaged("a cell refers to a text that is not there", row)
            return self._strings[int(text)]
        if kind in ("inlineStr", "str"):
            return self._unescaped(text, row)
        if kind == "b":
            return {"1": "true", "0": "false"}.get(text.strip(), text)
        if kind == "e" or not text.strip():
            return None
        if kind == "d":
            return text
        try:
            number = float(text)
        except ValueError:
            raise self.damaged("a cell is marked as a number but holds none", row) from None
        if style.isdecimal() and int(style) in self._dates:
            return self._date(number) or text
        # Long identifiers would not survive a float.
        return text if re.fullmatch(r"-?[0-9]+", text) else number

    def _date(self, serial: float) -> str | None:
        """ISO date, time or both of Excel's day count. It counts a 29 February 1900 that never was."""
        if not 0 <= serial < 2_958_466:
            return None
        days, seconds = int(serial), round(serial % 1 * 86_400)
        first_day = datetime.datetime(1904, 1, 1)
        if not self._from_1904:
            first_day = datetime.datetime(1899, 12, 30)
            days += days < 61
        moment = first_day + datetime.timedelta(days=days, seconds=seconds)
        if serial < 1:
            return moment.time().isoformat()
        if seconds == 0:
            return moment.date().isoformat()
        return moment.isoformat(sep=" ")

    def _unescaped(self, text: str, row: int | None = None) -> str:
        if "_x" not in text:
            return text
        shown = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
        try:
            return shown.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self.damaged("an escape in a cell is half a character", row) from None

    def damaged(self, reason: str, row: int | None = None) -> ReadError:
        return read_error(self._path, reason, line=row, fix=f"the file is damaged: take it as released, or {_RESAVE}")

    def _read_book(self) -> None:
        worksheets: dict[str, str] = {}

        def relation(tag: str, attributes: dict[str, str]) -> None:
            kind = attributes.get("Type", "").rpartition("/")[2]
            if tag == "Relationship" and kind in ("worksheet", "sharedStrings", "styles"):
                target = attributes.get("Target", "")
                part = target[1:] if target.startswith("/") else f"xl/{target}"
                if part not in self._names:
                    raise self.damaged(f"its part with the {kind} is missing")
                if kind == "worksheet":
                    worksheets[attributes.get("Id", "")] = part
                else:
                    self._parts[kind] = part

        def sheet(tag: str, attributes: dict[str, str]) -> None:
            # A sheet that is only a chart is no worksheet.
            if tag == "sheet" and attributes.get("id", "") in worksheets:
                self._sheets.append((attributes.get("name", ""), worksheets[attributes["id"]]))
            elif tag == "workbookPr":
                self._from_1904 = attributes.get("date1904", "0") in ("1", "true")

        for part, start in (("xl/_rels/workbook.xml.rels", relation), ("xl/workbook.xml", sheet)):
            if part not in self._names:
                raise self.damaged(f"a zip archive without {part}, so not an .xlsx file")
            list(self._parse(part, start, lambda tag, text: None))
        if not self._sheets:
            raise self.damaged("the workbook has no sheet")

    def _read_strings(self) -> list[str]:
        strings: list[str] = []
        reader = Text()

        def end(tag: str, text: str) -> None:
            reader.end(tag, text)
            if tag == "si":
                strings.append(self._unescaped(reader.take()))

        if "sharedStrings" in self._parts:
            list(self._parse(self._parts["sharedStrings"], reader.start, end))
        return strings

    def _read_formats(self) -> set[int]:
        """The cell styles (by their number) that show a date."""
        dates: set[int] = set(_DATE_FORMATS)
        custom: dict[str, str] = {}
        styles: list[str] = []
        in_cells = False

        def start(tag: str, attributes: dict[str, str]) -> None:
            nonlocal in_cells
            if tag == "numFmt":
                custom[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
            elif tag == "cellXfs":
                in_cells = True
            elif tag == "xf" and in_cells:
                styles.append(attributes.get("numFmtId", "0"))

        def end(tag: str, text: str) -> None:
            nonlocal in_cells
            in_cells = in_cells and tag != "cellXfs"

        if "styles" in self._parts:
            list(self._parse(self._parts["styles"], start, end))
        for number, code in custom.items():
            if number.isdecimal():
                dates.discard(int(number))
                if _DATE_UNIT.search(_NO_UNIT.sub("", code)) and not _ELAPSED.search(code):
                    dates.add(int(number))
        return {style for style, number in enumerate(styles) if number.isdecimal() and int(number) in dates}

    def _parse(self, part: str, start: OnStart, end: OnEnd) -> Iterator[None]:
        """Feed a part to the two handlers, which see tags and attributes without namespaces, and stop after each
        chunk.
        """
        if self._archive.getinfo(part).file_size > _LARGEST_PART:
            raise read_error(
                self._path, f"{part} unpacks to more than {_LARGEST_PART >> 20} MiB", fix="export the sheet as csv"
            )
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        pieces: list[str] = []

        def started(tag: str, attributes: dict[str, str]) -> None:
            pieces.clear()
            start(tag.rpartition(" ")[2], {name.rpartition(" ")[2]: value for name, value in attributes.items()})

        def ended(tag: str) -> None:
            end(tag.rpartition(" ")[2], "".join(pieces))
            pieces.clear()

        def refuse(*_: object) -> None:
            raise self.damaged(f"{part} declares a document type, which no spreadsheet program writes")

        parser.StartElementHandler = started
        parser.EndElementHandler = ended
        parser.CharacterDataHandler = pieces.append
        # Without a document type there are no entities that a small file could grow by.
        parser.StartDoctypeDeclHandler = refuse
        try:
            with self._archive.open(part) as file:
                while chunk := file.read(_CHUNK):
                    parser.Parse(chunk, False)
                    yield
                parser.Parse(b"", True)
                yield
        except expat.ExpatError as error:
            raise self.damaged(f"{part} is not well-formed XML at line {error.lineno}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, ReadError):
                raise
            raise self.damaged(f"{part} cannot be unpacked") from None
