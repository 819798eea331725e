"""Reads an SFS file by a layout's own declaration (include/layouts/*.toml) and by nothing else.

This is PeopleSoft's side of the agreement: it knows the declaration, not the program that wrote the file.
"""

import csv
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from simulator.money import cents_of

_DATES = {
    "MMDDYYYY": "%m%d%Y",
    "MMDDYY": "%m%d%y",
    "YYYYMMDD": "%Y%m%d",
    "MM/DD/YYYY": "%m/%d/%Y",
    "YYYY-MM-DD": "%Y-%m-%d",
    "DDMMYYYY": "%d%m%Y",
}
_LINE_ENDS = {"lf": "\n", "crlf": "\r\n"}


class BadFile(Exception):
    """The file as a whole does not have the layout's shape; the message names the line."""


@dataclass(frozen=True)
class Field:
    """One declared field. ``at`` counts from 1, None in a delimited file; ``width`` None: as long as it is.

    ``fill``: what fills a shorter value, before it where ``fill_before``. ``marks``: the reversal marks of a
    charge and a credit. ``implied``: an amount without a point. ``only``: blank in files of the other kind.
    """

    name: str
    source: str
    at: int | None
    width: int | None
    value: str | None
    date_format: str | None
    optional: bool
    max_width: int | None
    negative_credits: bool
    fill: str
    fill_before: bool
    implied: bool
    marks: tuple[str, str]
    only: str | None

    def cut(self, line: str) -> str:
        """The field's columns of a line, blanks included."""
        start = (self.at or 1) - 1
        return line[start : None if self.width is None else start + self.width]

    def value_of(self, raw: str) -> str:
        """What stands there, without what fills it."""
        if self.source in ("amount", "control_total", "line_count") or self.width is None:
            return raw.strip() if self.at is not None or self.width is not None else raw
        return raw.lstrip(self.fill) if self.fill_before else raw.rstrip(self.fill)

    @property
    def may_be_blank(self) -> bool:
        """Whether nothing may stand there."""
        return self.optional or self.source == "literal" or self.only is not None or "" in self.marks


@dataclass(frozen=True)
class RecordShape:
    """A header, detail or trailer: its fields and, where declared, the line's whole width."""

    width: int | None
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Layout:
    """A declared layout."""

    name: str
    encoding: str
    line_end: str
    delimiter: str | None
    quotes: bool
    header: RecordShape | None
    detail: RecordShape
    trailer: RecordShape | None

    @property
    def amounts_negative_for_credits(self) -> bool:
        """Whether a credit's line bears a minus."""
        return any(field.source == "amount" and field.negative_credits for field in self.detail.fields)


@dataclass(frozen=True)
class Detail:
    """One detail line: ``amount_cents`` without its sign where the layout writes credits below nought.

    ``reversal``: the Y/N mark; ``below_nought``: such an amount bears a minus.
    """

    line_number: int
    emplid: str
    item_type: str
    amount_cents: int
    reversal: bool
    term: str
    reference: str
    description: str
    effective_date: date | None
    below_nought: bool = False


@dataclass(frozen=True)
class Control:
    """What header or trailer claim; None where the layout has no such field."""

    line_count: int | None = None
    total_cents: int | None = None
    origin_id: str | None = None
    currency: str | None = None
    total_negative_for_credits: bool = False


@dataclass(frozen=True)
class ParsedFile:
    """A file read by its layout, before anything is checked against the campus."""

    control: Control
    details: tuple[Detail, ...]


def read_layout(path: Path) -> Layout:
    """The layout a TOML file declares.

    Raises ValueError when a field lacks ``source`` or its place ``at``, or has a format of no day.
    """
    return declared_layout(tomllib.loads(path.read_text(encoding="utf-8-sig")))


def declared_layout(declared: Mapping[str, Any]) -> Layout:
    """The layout that such a declaration means."""
    delimited = declared.get("form") == "delimited"
    return Layout(
        name=str(declared["name"]),
        encoding=str(declared.get("encoding", "ascii")),
        line_end=_LINE_ENDS[declared.get("line_end", "lf")],
        delimiter=declared.get("delimiter", ",") if delimited else None,
        quotes=declared.get("quote") != "never",
        header=_shape(declared.get("header"), delimited),
        detail=_shape(declared["detail"], delimited) or RecordShape(None, ()),
        trailer=_shape(declared.get("trailer"), delimited),
    )


def _shape(declared: dict[str, Any] | None, delimited: bool) -> RecordShape | None:
    if declared is None:
        return None
    fields = []
    for entry in declared["fields"]:
        if "source" not in entry or ("at" in entry) == delimited:
            raise ValueError(f"a field needs a source, and a place where there are places: {entry}")
        if entry.get("format") not in (None, *_DATES):
            said = f"{entry.get('name', entry['source'])} has no format of a day that there is"
            raise ValueError(f"{said} ({', '.join(_DATES)}): {entry['format']}")
        number = entry["source"] in ("amount", "control_total", "line_count")
        fields.append(
            Field(
                name=str(entry.get("name", entry["source"])),
                source=str(entry["source"]),
                at=entry.get("at"),
                width=entry.get("width"),
                value=entry.get("value"),
                date_format=entry.get("format"),
                optional=bool(entry.get("optional", False)),
                max_width=entry.get("max_width"),
                negative_credits=entry.get("negative") == "credits",
                fill=entry.get("fill", "0" if number else " "),
                fill_before=entry.get("align", "right" if number else "left") == "right",
                implied=entry.get("decimals") == "implied",
                marks=(
                    (entry.get("charge", "N").strip(), entry.get("credit", "Y").strip())
                    if entry["source"] == "reversal"
                    else ("-", "-")
                ),
                only=entry.get("only"),
            )
        )
    return RecordShape(declared.get("width"), tuple(sorted(fields, key=lambda field: field.at or 0)))


def parse(layout: Layout, content: bytes) -> ParsedFile:
    """Read a whole file. Raises BadFile for the first line that does not have the declared shape."""
    try:
        text = content.decode(layout.encoding)
    except UnicodeDecodeError as error:
        raise BadFile(f"byte {error.start} is not {layout.encoding}") from None
    if not text.endswith(layout.line_end):
        raise BadFile("the last line has no line end: the file is not complete")
    lines = text.split(layout.line_end)[:-1]
    if any("\r" in line or "\n" in line for line in lines):
        raise BadFile("mixed line ends")
    numbered = list(enumerate(lines, start=1))
    claims: dict[str, str] = {}
    negative = False
    for shape, place in ((layout.header, 0), (layout.trailer, -1)):
        if shape is None:
            continue
        if not numbered:
            raise BadFile("the header or trailer is missing")
        number, line = numbered.pop(place)
        claims |= _record(layout, shape, line, number)
        negative = negative or any(field.negative_credits for field in shape.fields)
    details = tuple(_detail(layout, line, number) for number, line in numbered)
    return ParsedFile(_control(claims, negative), details)


def _record(layout: Layout, shape: RecordShape, line: str, number: int) -> dict[str, str]:
    """The line's values by source, without what fills them; checks widths, literals and what lies between fields."""
    raws = (
        _cells_of_places(shape, line, number)
        if layout.delimiter is None
        else _cells(layout, shape, line, number)
    )
    values: dict[str, str] = {}
    for field, raw in zip(shape.fields, raws, strict=True):
        longest = field.width or field.max_width
        if longest is not None and len(raw) > longest:
            raise BadFile(f"line {number}: {field.name} is longer than {longest}")
        value = field.value_of(raw)
        if field.source == "literal" and value.strip() != (field.value or "").strip():
            raise BadFile(f"line {number}: {field.name} is {value!r}, not {field.value!r}")
        if field.source == "blank":
            if value.strip():
                raise BadFile(f"line {number}: {field.name} is not blank")
            continue
        if field.date_format is not None and value.strip():
            _day(value.strip(), field.date_format, number)
        if not value.strip() and not field.may_be_blank:
            raise BadFile(f"line {number}: {field.name} is blank")
        if field.source == "reversal":
            if value.strip() not in field.marks:
                raise BadFile(f"line {number}: reversal is {value!r}")
            value = "NY"[field.marks.index(value.strip())]
        elif field.source in ("amount", "control_total") and value:
            value = _plain(field, value, number)
        values[field.source] = value
    return values


def _cells_of_places(shape: RecordShape, line: str, number: int) -> list[str]:
    if shape.width is not None and len(line) != shape.width:
        raise BadFile(f"line {number} has {len(line)} columns, the layout {shape.width}")
    covered = 0
    cells = []
    for field in shape.fields:
        if line[covered : (field.at or 1) - 1].strip():
            raise BadFile(f"line {number}: text between the fields, before column {field.at}")
        raw = field.cut(line)
        if field.width is not None and len(raw) < field.width:
            raise BadFile(f"line {number} ends within {field.name}")
        covered = (field.at or 1) - 1 + len(raw)
        cells.append(raw)
    if line[covered:].strip():
        raise BadFile(f"line {number}: text after the last field")
    return cells


def _cells(layout: Layout, shape: RecordShape, line: str, number: int) -> list[str]:
    if layout.quotes:
        try:
            rows = list(csv.reader([line], delimiter=layout.delimiter or ",", strict=True))
        except csv.Error as error:
            raise BadFile(f"line {number}: {error}") from None
        cells = rows[0] if len(rows) == 1 else []
    else:
        cells = line.split(layout.delimiter)
    if len(cells) != len(shape.fields):
        raise BadFile(f"line {number} has {len(cells)} fields, the layout {len(shape.fields)}")
    for field, cell in zip(shape.fields, cells, strict=True):
        if field.width is not None and len(cell) != field.width:
            raise BadFile(f"line {number}: {field.name} has not its {field.width} characters")
    return cells


def _plain(field: Field, text: str, number: int) -> str:
    """An amount as the layout writes it, with its sign in front and a point."""
    if field.negative_credits and text.endswith("-"):
        text = f"-{text[:-1].strip()}"
    if field.implied:
        if not re.fullmatch(r"-?[0-9]+", text):
            raise BadFile(f"line {number}: {text!r} is not an amount with implied decimals")
        sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
        digits = digits.zfill(3)
        text = f"{sign}{digits[:-2]}.{digits[-2:]}"
    return text


def _detail(layout: Layout, line: str, number: int) -> Detail:
    shape = layout.detail
    values = _record(layout, shape, line, number)
    cents = _cents(values["amount"], number)
    formats: Sequence[str] = [
        field.date_format for field in shape.fields if field.source == "effective_date" and field.date_format
    ]
    effective = values.get("effective_date", "").strip()
    below = layout.amounts_negative_for_credits and cents < 0
    return Detail(
        line_number=number,
        emplid=values["emplid"],
        item_type=values["item_type"],
        amount_cents=-cents if below else cents,
        reversal=values.get("reversal", "N") == "Y",
        term=values.get("term", ""),
        reference=values.get("reference", ""),
        description=values.get("description", ""),
        effective_date=_day(effective, formats[0], number) if effective and formats else None,
        below_nought=below,
    )


def _control(claims: dict[str, str], negative: bool) -> Control:
    count = claims.get("line_count")
    if count is not None and not count.isdecimal():
        raise BadFile(f"the control count is {count!r}")
    total = claims.get("control_total")
    return Control(
        None if count is None else int(count),
        None if total is None else _cents(total, 1),
        claims.get("origin_id"),
        claims.get("currency"),
        negative,
    )


def _cents(text: str, number: int) -> int:
    # Every PeopleSoft file on public record has an explicit point and two decimals.
    if not re.fullmatch(r"-?[0-9]+\.[0-9]{2}", text):
        raise BadFile(f"line {number}: {text!r} is not an amount with two decimals")
    return cents_of(text)


def _day(text: str, date_format: str, number: int) -> date:
    try:
        return datetime.strptime(text, _DATES[date_format]).date()  # noqa: DTZ007 - a calendar day has no zone
    except ValueError:
        raise BadFile(f"line {number}: {text!r} is not a date {date_format}") from None
