"""Reads an SFS file by a layout's own declaration (include/layouts/*.toml) and by nothing else.

This is PeopleSoft's side of the agreement: it knows the declaration, not the program that wrote the file.
"""

import re
import tomllib
from collections.abc import Sequence
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
}
_LINE_ENDS = {"lf": "\n", "crlf": "\r\n"}


class BadFile(Exception):
    """The file as a whole does not have the layout's shape; the message names the line."""


@dataclass(frozen=True)
class Field:
    """One declared field. ``at`` counts from 1; ``width`` None: to the end of the line."""

    name: str
    source: str
    at: int
    width: int | None
    value: str | None
    date_format: str | None
    optional: bool
    max_width: int | None
    negative_credits: bool

    def cut(self, line: str) -> str:
        """The field's columns of a line, blanks included."""
        end = None if self.width is None else self.at - 1 + self.width
        return line[self.at - 1 : end]


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
    header: RecordShape | None
    detail: RecordShape
    trailer: RecordShape | None


@dataclass(frozen=True)
class Detail:
    """One detail line. ``amount_cents`` as it stands in the file, ``reversal`` the Y/N mark."""

    line_number: int
    emplid: str
    item_type: str
    amount_cents: int
    reversal: bool
    term: str
    reference: str
    description: str
    effective_date: date | None


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
    """The layout a TOML file declares. Raises ValueError when a field lacks ``at`` or ``source``."""
    declared = tomllib.loads(path.read_text(encoding="utf-8"))
    return Layout(
        name=str(declared["name"]),
        encoding=str(declared.get("encoding", "ascii")),
        line_end=_LINE_ENDS[declared.get("line_end", "lf")],
        header=_shape(declared.get("header")),
        detail=_shape(declared["detail"]) or RecordShape(None, ()),
        trailer=_shape(declared.get("trailer")),
    )


def _shape(declared: dict[str, Any] | None) -> RecordShape | None:
    if declared is None:
        return None
    fields = []
    for entry in declared["fields"]:
        if "at" not in entry or "source" not in entry:
            raise ValueError(f"a field needs at and source: {entry}")
        fields.append(
            Field(
                name=str(entry.get("name", entry["source"])),
                source=str(entry["source"]),
                at=int(entry["at"]),
                width=entry.get("width"),
                value=entry.get("value"),
                date_format=entry.get("format"),
                optional=bool(entry.get("optional", False)),
                max_width=entry.get("max_width"),
                negative_credits=entry.get("negative") == "credits",
            )
        )
    return RecordShape(declared.get("width"), tuple(sorted(fields, key=lambda field: field.at)))


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
        claims |= _record(shape, line, number)
        negative = negative or any(field.negative_credits for field in shape.fields)
    details = tuple(_detail(layout.detail, line, number) for number, line in numbered)
    return ParsedFile(_control(claims, negative), details)


def _record(shape: RecordShape, line: str, number: int) -> dict[str, str]:
    """The line's values by source, trimmed; checks width, literals and the blanks between fields."""
    if shape.width is not None and len(line) != shape.width:
        raise BadFile(f"line {number} has {len(line)} columns, the layout {shape.width}")
    covered = 0
    values: dict[str, str] = {}
    for field in shape.fields:
        if line[covered : field.at - 1].strip():
            raise BadFile(f"line {number}: text between the fields, before column {field.at}")
        raw = field.cut(line)
        if field.width is not None and len(raw) < field.width:
            raise BadFile(f"line {number} ends within {field.name}")
        if field.max_width is not None and len(raw) > field.max_width:
            raise BadFile(f"line {number}: {field.name} is longer than {field.max_width}")
        value = raw.strip()
        if field.source == "literal" and value != field.value:
            raise BadFile(f"line {number}: {field.name} is {value!r}, not {field.value!r}")
        if field.date_format is not None and value:
            _day(value, field.date_format, number)
        if not value and not field.optional and field.source != "literal":
            raise BadFile(f"line {number}: {field.name} is blank")
        values[field.source] = value
        covered = field.at - 1 + len(raw)
    if line[covered:].strip():
        raise BadFile(f"line {number}: text after the last field")
    return values


def _detail(shape: RecordShape, line: str, number: int) -> Detail:
    values = _record(shape, line, number)
    mark = values.get("reversal", "N") or "N"
    if mark not in ("Y", "N"):
        raise BadFile(f"line {number}: reversal is {mark!r}")
    formats: Sequence[str] = [
        field.date_format for field in shape.fields if field.source == "effective_date" and field.date_format
    ]
    effective = values.get("effective_date")
    return Detail(
        line_number=number,
        emplid=values["emplid"],
        item_type=values["item_type"],
        amount_cents=_cents(values["amount"], number),
        reversal=mark == "Y",
        term=values.get("term", ""),
        reference=values.get("reference", ""),
        description=values.get("description", ""),
        effective_date=_day(effective, formats[0], number) if effective and formats else None,
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
