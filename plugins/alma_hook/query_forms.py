"""The forms in which PeopleSoft Query writes its rows: CSV, the HTML that it calls Excel, and XML.

The form is told by the content alone: a file name's ending lies (the HTML is named .xls, and comes as .csv once
somebody has saved it so). A file must then be whole in its form, so one that is taken for another can't pass.

    CSV, TXT   a line of headings, then a line a row. Saved from the Excel form, a line with the query's name and
               its number of rows stands above.
    Excel      an HTML table; its first row holds the query's name and the number of rows, its second the headings.
    XML        ``<query numrows="2"><row rownumber="1"><EMPLID>...``, whose fields are named as in PeopleSoft; in any
               namespace, and alone or in an envelope.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser

from lxml import etree

from alma_hook.errors import BadFile, Fault

_HTML = re.compile(rb"<(?:!doctype\s+html|html|table)[\s>]", re.IGNORECASE)
# A sheet may show thousands with a mark; of a whole number it can't be one before decimals.
_COUNT = re.compile(r"[0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2}|[0-9]{1,3}(?:\.[0-9]{3}){1,2}")
_ROW_END = re.compile(rb"</tr\s*>", re.IGNORECASE)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CUT = "the file is cut short; send it again"

#: A row's number and its cells, without blanks around them.
Cells = tuple[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows under their headings; each has as many cells, unless there are ``faults``.

    A row's number is that of its line in CSV, of the sheet's row in Excel's form, its ``rownumber`` in XML.
    ``headings`` is ``None`` where a file without rows tells none. ``line``: where they stand, 0 in XML.
    ``faults``: why the file can't be taken.
    """

    headings: Sequence[str] | None
    line: int
    rows: Sequence[Cells]
    faults: Sequence[Fault]


def read(name: str, content: bytes, delimiter: str) -> Table:
    """Return a file's table, whatever its form. Raises ``BadFile`` when there is none that could be looked at."""
    as_utf8 = _as_utf8(name, content)
    start = as_utf8.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"<"):
        return _csv(name, as_utf8, delimiter)
    if _HTML.search(start[:4096]):
        return _html(name, as_utf8)
    # XML declares its encoding in its own bytes.
    return _xml(name, start if as_utf8 is content else content)


def holds_rows(content: bytes) -> bool:
    """Whether the beginning of a file surely goes beyond what every file of that query begins with.

    The name and the number of rows may stand above the headings: so a third row, or one in XML.
    """
    if content.startswith(_UTF16):
        content = content.decode("utf-16", "ignore").encode("utf-8", "ignore")
    start = content.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"<"):
        return len(_ROW_END.findall(start)) >= 3 or b"</row>" in start
    with suppress(csv.Error):
        return sum(any(row) for row in csv.reader(io.StringIO(start.decode("latin-1"), newline=""))) > 3
    return False


def bad(faults: Sequence[Fault]) -> BadFile:
    """Return the error of a file that can't be taken as a whole."""
    return BadFile("A file of PeopleSoft's output can't be taken in.", faults)


def _as_utf8(name: str, content: bytes) -> bytes:
    """Return UTF-16, which Windows' programs write with a mark, as UTF-8; anything else as it is."""
    if not content.startswith(_UTF16):
        return content
    try:
        return content.decode("utf-16").encode("utf-8")
    except UnicodeDecodeError:
        raise bad([Fault(name, f"begins as UTF-16 text and is none to its end, so {_CUT}")]) from None


def _decode(name: str, content: bytes) -> str:
    """UTF-8 with or without mark, else the code page that PeopleSoft's servers write."""
    if b"\0" in content:
        raise bad(
            [
                Fault(
                    name,
                    "holds the character NUL: it was spoilt on its way, or is no text of UTF-8, of UTF-16 with its mark, "
                    "or of Windows-1252",
                )
            ]
        )
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise bad([Fault(name, "is neither UTF-8 nor Windows-1252 text")])


def _number(text: str) -> int | None:
    return int(re.sub("[,.]", "", text)) if _COUNT.fullmatch(text) else None


def _count(cells: Sequence[str]) -> int | None:
    """Return the number of rows where the cells are the query's name and that number, and nothing else."""
    return _number(cells[1]) if len(cells) > 1 and cells[0] and not any(cells[2:]) else None


def _under_headings(name: str, rows: Sequence[Cells], count: int | None) -> Table:
    """Take the first row for the headings. ``count``: how many rows the file says it has, if it does."""
    if not rows:
        raise bad([Fault(name, "is empty: not even a heading; run the query again")])
    (line, headings), *found = rows
    faults = [
        Fault(
            name,
            f"has {len(cells)} fields, the heading {len(headings)}; the line is broken or cut short",
            line=number,
        )
        for number, cells in found
        if len(cells) != len(headings)
    ]
    if count is not None:
        faults += _counted(name, count, len(found))
    return Table(headings, line, found, faults)


def _counted(name: str, count: int, found: int) -> list[Fault]:
    if count == found:
        return []
    return [Fault(name, f"says that it has {count} rows and has {found}: it is broken, or {_CUT}")]


# -- CSV ------------------------------------------------------------------------------------------------


def _csv(name: str, content: bytes, delimiter: str) -> Table:
    text = _decode(name, content)
    if text.strip() and not text.endswith(("\n", "\r")):
        raise bad([Fault(name, f"its last line has no end, so {_CUT}", line=text.count("\n") + 1)])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Cells] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            # Blank lines carry nothing; a number is that of the line a row ends on.
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise bad([Fault(name, f"is not CSV: {error}", line=reader.line_num)]) from None
    count = _count(rows[0][1]) if rows else None
    return _under_headings(name, rows if count is None else rows[1:], count)


# -- HTML, called Excel -----------------------------------------------------------------------------------


def _html(name: str, content: bytes) -> Table:
    sheet = _Sheet()
    try:
        sheet.feed(_decode(name, content))
        sheet.close()
    except AssertionError:  # the library's, of a declaration that is none
        raise bad([Fault(name, "is not HTML: a declaration in it is broken")]) from None
    if sheet.in_table:
        sheet.faults[f"its table is not closed, so {_CUT}"] = 0
    if sheet.faults:
        raise bad([Fault(name, text, line=line) for text, line in sheet.faults.items()])
    rows = [(number, cells) for number, cells in sheet.rows if any(cells)]
    count = _count(rows[0][1]) if rows else None
    if count is None:
        raise bad([Fault(name, "has no first row with the query's name and number of rows, as Query writes")])
    return _under_headings(name, rows[1:], count)


class _Sheet(HTMLParser):
    """The rows of a page's tables, one after the other as a spreadsheet shows them, and what is wrong with them.

    A cell's text is what stands in it, tags in it taken for blanks: so no two numbers grow together.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[tuple[int, list[str]]] = []
        self.faults: dict[str, int] = {}
        self.in_table = False
        self._number = 0
        self._row: list[str] | None = None
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            if self.in_table:
                self._fault("has a table inside a table")
            self.in_table = True
        elif tag == "tr":
            self._end_row()
            self._number += 1
            self._row = []
            if not self.in_table:
                self._fault("has a row outside of a table")
        elif tag in ("td", "th"):
            self._end_cell()
            self._cell = []
            if self._row is None:
                self._fault("has a cell outside of a row")
            # The query's name may stand over the whole sheet.
            if self._number > 1 and any(
                key in ("colspan", "rowspan") and (value or "").strip() != "1" for key, value in attrs
            ):
                self._fault("has a cell over several columns or rows")
        else:
            self._part()

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._end_row()
            self.in_table = False
        elif tag == "tr":
            self._end_row()
        elif tag in ("td", "th"):
            self._end_cell()
        else:
            self._part()

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        elif self.in_table and data.strip():
            self._fault("has text outside of the cells")

    def handle_comment(self, data: str) -> None:
        self._part()

    def handle_decl(self, decl: str) -> None:
        self._part()

    def handle_pi(self, data: str) -> None:
        self._part()

    def unknown_decl(self, data: str) -> None:
        self._part()

    def _part(self) -> None:
        if self._cell is not None:
            self._cell.append(" ")

    def _end_cell(self) -> None:
        if self._cell is not None and self._row is not None:
            self._row.append(" ".join("".join(self._cell).split()))
        self._cell = None

    def _end_row(self) -> None:
        self._end_cell()
        if self._row is not None:
            self.rows.append((self._number, self._row))
        self._row = None

    def _fault(self, text: str) -> None:
        self.faults.setdefault(text, self._number)


# -- XML ------------------------------------------------------------------------------------------------


def _xml(name: str, data: bytes) -> Table:
    query = None
    rows: list[dict[str, str]] = []
    faults: dict[str, int] = {}
    try:
        events = etree.iterparse(
            io.BytesIO(data),
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        first = True
        for event, element in events:
            if first and element.getroottree().docinfo.doctype:
                raise bad([Fault(name, "declares a document type or entities, which Query never does")])
            first = False
            if event == "start":
                if _local(element) == "query":
                    if query is not None:
                        raise bad([Fault(name, "holds more than one <query>")])
                    query = element
            elif query is not None and element.getparent() is query:
                if _local(element) != "row":
                    faults.setdefault("holds something else than rows in <query>", 0)
                    continue
                rows.append(_fields(element, len(rows) + 1, faults))
                element.clear(keep_tail=True)
    except etree.XMLSyntaxError as error:
        said = f"is not well-formed XML at line {error.lineno} of its text: cut short, or not in the encoding that it declares"
        raise bad([Fault(name, f"{said}; send it again")]) from None
    if query is None:
        raise bad([Fault(name, "is XML without <query>, so not what Query writes as XML")])
    if any(text and text.strip() for text in (query.text, *(row.tail for row in query))):
        faults.setdefault("has text outside of the fields", 0)
    found = [Fault(name, text, line=line) for text, line in faults.items()]
    count = _number(query.get("numrows", ""))
    if count is None:
        found.append(Fault(name, "does not say in numrows how many rows it has"))
    else:
        found += _counted(name, count, len(rows))
    headings = list(dict.fromkeys(field for row in rows for field in row))
    return Table(
        headings if rows else None,
        0,
        # An element that a row lacks is an empty value.
        [(number, [row.get(field, "") for field in headings]) for number, row in enumerate(rows, start=1)],
        found,
    )


def _local(element: etree._Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _fields(row: etree._Element, place: int, faults: dict[str, int]) -> dict[str, str]:
    """Return a row's values by field, and add what is wrong with it to ``faults``."""
    found: dict[str, str] = {}
    if row.get("rownumber", str(place)) != str(place):
        faults.setdefault("is not numbered in order by rownumber: a row is missing, or there twice", place)
    if any(text and text.strip() for text in (row.text, *(field.tail for field in row))):
        faults.setdefault("has text outside of the fields", place)
    for field in row:
        if len(field):
            faults.setdefault("has elements inside a field", place)
        if _local(field) in found:
            faults.setdefault("has a field twice in one row", place)
        found[_local(field)] = (field.text or "").strip()
    return found
