"""A table of lines to the bytes of an SFS file, and back again for checking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from alma_hook.errors import BadFile, Fault
from alma_hook.layouts import AMOUNTS, DATES, FieldLayout, Layout, RecordLayout
from alma_hook.money import amount, cents

#: Columns of a frame of lines. ``amount`` in cents, dates as ISO text or blank.
COLUMNS = (
    "fee_id", "emplid", "item_type", "amount", "reversal", "term", "effective_date", "due_date",
    "account_type", "reference", "description",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """What the header says of the file: ``total`` in cents, never negative."""

    kind: str
    line_count: int
    total: int
    origin_id: str
    business_unit: str
    currency: str
    file_date: date


def write(layout: Layout, control: Control, lines: pd.DataFrame) -> bytes:
    """Return the file's bytes.

    ``lines`` has the columns of ``COLUMNS``. Raises ``BadFile`` naming fee, field and width of every
    value that is too long, missing, or not in the layout's character set; nothing is ever cut.
    """
    texts = _texts(layout, lines)
    faults = [Fault(f"fee {fee_id}", said) for fee_id, said in _misfits(layout, lines, texts).items()]
    out = [] if layout.header is None else [_header(layout, layout.header, control, faults)]
    if faults:
        raise BadFile("The lines don't fit the layout; nothing was written.", faults)
    out += _details(layout, texts)
    return "".join(line + layout.newline for line in out).encode(layout.encoding)


def _details(layout: Layout, texts: Sequence[list[str]]) -> Iterator[str]:
    columns = []
    column = 1
    for f, values in zip(layout.detail.fields, texts, strict=True):
        gap = " " * (f.at - column)
        if f.width is None:
            columns.append([gap + value for value in values])
        elif f.is_text:
            columns.append([gap + value.ljust(f.width) for value in values])
        else:
            columns.append([gap + value.rjust(f.width, "0") for value in values])
        column = f.end + 1
    return ("".join(values).ljust(layout.detail.width or 0) for values in zip(*columns, strict=True))


def misfits(layout: Layout, lines: pd.DataFrame) -> dict[str, str]:
    """Return, by fee id, what of its line does not fit the layout; empty when everything does."""
    return _misfits(layout, lines, _texts(layout, lines))


def _misfits(layout: Layout, lines: pd.DataFrame, texts: Sequence[list[str]]) -> dict[str, str]:
    wrong: dict[str, list[str]] = {}
    fee_ids = lines["fee_id"].tolist()
    for f, values in zip(layout.detail.fields, texts, strict=True):
        # Nearly always the whole column fits, which is quickly seen.
        shortest, longest = min(map(len, values), default=0), max(map(len, values), default=0)
        if longest <= f.limit and (shortest or f.optional) and _printable("".join(values), layout.encoding):
            continue
        for fee_id, text in zip(fee_ids, values, strict=True):
            for said in _misfits_of(f, text, layout.encoding):
                wrong.setdefault(str(fee_id), []).append(f"{f.name} {said}")
    return {fee_id: "; ".join(said) for fee_id, said in wrong.items()}


def _misfits_of(f: FieldLayout, text: str, encoding: str) -> Iterator[str]:
    if len(text) > f.limit:
        yield f"is longer than its {f.limit} columns"
    if not text and not f.optional:
        yield "is missing"
    # A control character would break the line in two, so only printable text is let through.
    if not _printable(text, encoding):
        yield f"is not {encoding} text"


def _texts(layout: Layout, lines: pd.DataFrame) -> list[list[str]]:
    """Return the lines' texts field by field, not padded yet."""
    return [_texts_of(f, lines) for f in layout.detail.fields]


def _texts_of(f: FieldLayout, lines: pd.DataFrame) -> list[str]:
    if f.source == "literal":
        return [f.value] * len(lines)
    values: list[Any] = lines[f.source].tolist()
    if f.source in AMOUNTS:
        return [amount(value) for value in values]
    if f.source in DATES:
        # A file has few different days, so each is formatted once.
        days = {iso: f.date_text(date.fromisoformat(iso)) if iso else "" for iso in set(values)}
        return [days[iso] for iso in values]
    return [str(value) for value in values]


def _printable(text: str, encoding: str) -> bool:
    if text.isascii():
        return text.isprintable()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _header(layout: Layout, header: RecordLayout, control: Control, faults: list[Fault]) -> str:
    out = ""
    for f in header.fields:
        value = _header_value(f, control)
        if len(value) > f.limit or not _printable(value, layout.encoding):
            faults.append(Fault("header", f"does not fit its {f.limit} columns", field=f.name))
            continue
        out = out.ljust(f.at - 1) + (value.ljust(f.limit) if f.is_text else _zeros(value, f.limit))
    return out.ljust(header.width or 0)


def _header_value(f: FieldLayout, control: Control) -> str:
    if f.source == "literal":
        return f.value
    if f.source == "control_total":
        return amount(
            -control.total if f.negative == "credits" and control.kind == "credits" else control.total
        )
    if f.source == "file_date":
        return f.date_text(control.file_date)
    return str(getattr(control, f.source))


def _zeros(value: str, width: int) -> str:
    sign = "-" if value.startswith("-") else ""
    return sign + value.removeprefix("-").rjust(width - len(sign), "0")


def read(layout: Layout, content: bytes) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the header's and the lines' values by source, as text without padding.

    Amounts come back as plain decimals. Raises ``BadFile`` with every line that does not fit the
    layout, and when the control count or total disagrees with the lines.
    """
    try:
        lines = content.decode(layout.encoding).split(layout.newline)
    except UnicodeDecodeError:
        raise BadFile(
            "The file does not fit its layout.", [Fault("file", f"is not {layout.encoding} text")]
        ) from None
    faults = [] if lines[-1] == "" else [Fault("file", "the last line has no line end", line=len(lines))]
    lines = lines[:-1] if lines[-1] == "" else lines
    header: dict[str, str] = {}
    if layout.header is not None:
        header = _parse(layout.header, lines[0] if lines else "", 1, faults)
    first = 1 if layout.header is not None else 0
    details = [_parse(layout.detail, line, n, faults) for n, line in enumerate(lines[first:], first + 1)]
    if not faults and "line_count" in header and int(header["line_count"]) != len(details):
        faults.append(Fault("file", "the control count is not the number of lines", line=1))
    if not faults and "control_total" in header:
        total = sum(cents(d["amount"]) for d in details)
        if abs(cents(header["control_total"])) != total:
            faults.append(Fault("file", "the control total is not the sum of the lines", line=1))
    if faults:
        raise BadFile("The file does not fit its layout.", faults)
    return header, details


def _parse(record: RecordLayout, line: str, number: int, faults: list[Fault]) -> dict[str, str]:
    values: dict[str, str] = {}
    if record.width is not None and len(line) != record.width:
        faults.append(Fault("file", f"has {len(line)} columns, not {record.width}", line=number))
        return values
    for f in record.fields:
        text = line[f.at - 1 : f.end].rstrip(" ")
        if f.source == "literal" and text != f.value:
            faults.append(Fault("file", f"is not {f.value!r}", line=number, field=f.name))
        if f.source in AMOUNTS:
            try:
                text = amount(cents(text))
            except ValueError as error:
                faults.append(Fault("file", str(error), line=number, field=f.name))
        elif f.source == "line_count":
            if not (text.isascii() and text.isdigit()):
                faults.append(Fault("file", "is not a number", line=number, field=f.name))
            text = text.lstrip("0") or "0"
        elif f.source in DATES:
            try:
                day = f.date_of(text)
                text = day.isoformat() if day else ""
            except ValueError:
                faults.append(Fault("file", f"is not a day as {f.format}", line=number, field=f.name))
        values[f.source] = text
    return values
