"""A table of lines to the bytes of an SFS file, and back again for checking."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from alma_hook.errors import BadFile, Fault
from alma_hook.layouts import AMOUNTS, CONSTANT_SOURCES, DATES, FieldLayout, Layout, RecordLayout, printable
from alma_hook.money import amount, cents

#: Columns of a frame of lines. ``amount`` in cents, dates as ISO text or blank; ``kind`` is charges or credits,
#: ``reversal`` Y where the line reverses a charge on its own item, else N.
COLUMNS = (
    "fee_id", "kind", "emplid", "item_type", "amount", "reversal", "term", "effective_date", "due_date",
    "account_type", "reference", "description",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Control:
    """What header or trailer say of the file: ``total`` in cents, never negative."""

    kind: str
    line_count: int
    total: int
    origin_id: str
    business_unit: str
    currency: str
    file_date: date


@dataclass(frozen=True, slots=True)
class _Column:
    """A field's texts in each line. ``of``: which of the ``texts`` stands in each; ``None``: they stand line by line.

    Most columns of a file have few different texts, and each is made only once.
    """

    texts: list[str]
    of: npt.NDArray[np.intp] | None = None

    def by_line(self) -> list[str]:
        """Return the text of each line."""
        return self.texts if self.of is None else [self.texts[place] for place in self.of.tolist()]


def write(layout: Layout, control: Control, lines: pd.DataFrame) -> bytes:
    """Return the file's bytes.

    ``lines`` has the columns of ``COLUMNS``. Raises ``BadFile`` naming fee, field and width of every
    value that is too long, missing, or not in the layout's character set; nothing is ever cut.
    """
    columns = [_column(f, lines, control) for f in layout.detail.fields]
    faults = [Fault(f"fee {fee_id}", said) for fee_id, said in _misfits(layout, lines, columns).items()]
    header = _record(layout, "header", layout.header, control, faults)
    trailer = _record(layout, "trailer", layout.trailer, control, faults)
    if faults:
        raise BadFile("The lines don't fit the layout; nothing was written.", faults)
    return b"".join((header, _records(layout, layout.detail, columns, len(lines)), trailer))


def _records(layout: Layout, record: RecordLayout, columns: Sequence[_Column], count: int) -> bytes:
    """Return that many records, each with its line end, of which ``columns`` are the fields."""
    padded = [_Column(_padded(f, c.texts), c.of) for f, c in zip(record.fields, columns, strict=True)]
    if layout.fixed and all(f.width for f in record.fields):
        return _fixed(layout, record, padded, count)
    if layout.fixed:
        lines = _ragged(record, padded)
    else:
        quoted = [
            _Column(_quoted(layout, f, c.texts), c.of).by_line()
            for f, c in zip(record.fields, padded, strict=True)
        ]
        lines = (layout.delimiter.join(values) for values in zip(*quoted, strict=True))
    return "".join(line + layout.newline for line in lines).encode(layout.encoding)


def _ragged(record: RecordLayout, columns: Sequence[_Column]) -> Iterator[str]:
    """Yield records that end where their last value does."""
    texts = [column.by_line() for column in columns]
    place = 1
    for number, f in enumerate(record.fields):
        gap = " " * ((f.at or 1) - place)
        if gap:
            texts[number] = [gap + value for value in texts[number]]
        place = f.end + 1
    return ("".join(values).ljust(record.width or 0) for values in zip(*texts, strict=True))


def _fixed(layout: Layout, record: RecordLayout, columns: Sequence[_Column], count: int) -> bytes:
    """Return records of fixed width: the rows of a matrix of characters, filled field by field."""
    one_size, kind = ("utf-32-le", "<u4") if layout.encoding == "utf-8" else (layout.encoding, "u1")

    def characters(text: str) -> npt.NDArray[Any]:
        return np.frombuffer(text.encode(one_size), dtype=kind)

    width = max([record.width or 0, *(f.end for f in record.fields)])
    rows = np.full((count, width + len(layout.newline)), ord(" "), dtype=kind)
    rows[:, width:] = characters(layout.newline)
    for f, column in zip(record.fields, columns, strict=True):
        texts = characters("".join(column.texts)).reshape(len(column.texts), f.end - (f.at or 1) + 1)
        rows[:, (f.at or 1) - 1 : f.end] = texts if column.of is None else texts[column.of]
    content = rows.tobytes()
    return content if one_size == layout.encoding else content.decode(one_size).encode(layout.encoding)


def _padded(f: FieldLayout, values: list[str]) -> list[str]:
    width, filling = f.width, f.filling
    if width is None:
        return values
    if f.side == "left":
        return [value.ljust(width, filling) for value in values]
    if filling == "0" and f.negative == "credits" and f.sign == "front":
        # The minus stands first, before the zeros.
        return [
            f"-{value[1:].rjust(width - 1, '0')}" if value[:1] == "-" else value.rjust(width, "0")
            for value in values
        ]
    if filling == "0" and f.may_be_blank:
        return [value.rjust(width, "0" if value else " ") for value in values]
    return [value.rjust(width, filling) for value in values]


def _quoted(layout: Layout, f: FieldLayout, values: list[str]) -> list[str]:
    if layout.quote == "never":
        return values
    if layout.quote == "always":
        return ['"' + value.replace('"', '""') + '"' for value in values]
    return [
        '"' + value.replace('"', '""') + '"' if layout.delimiter in value or '"' in value else value
        for value in values
    ] if f.is_text else values  # fmt: skip


def under_ruler(lines: Sequence[str]) -> Iterator[str]:
    """Yield the numbers of the columns, in two lines, and these lines below them."""
    width = max(map(len, lines), default=0)
    yield "".join(f"{tens * 10:>10}" for tens in range(1, width // 10 + 1))
    yield "".join(str(column % 10) for column in range(1, width + 1))
    yield from lines


def misfits(layout: Layout, lines: pd.DataFrame) -> dict[str, str]:
    """Return, by fee id, what of its line does not fit the layout; empty when everything does."""
    return _misfits(layout, lines, [_column(f, lines, None) for f in layout.detail.fields])


def _misfits(layout: Layout, lines: pd.DataFrame, columns: Sequence[_Column]) -> dict[str, str]:
    wrong: dict[str, list[str]] = {}
    fee_ids = lines["fee_id"].tolist()
    for f, column in zip(layout.detail.fields, columns, strict=True):
        # What is the same in every line is the settings' affair, which are checked by themselves.
        if f.source in CONSTANT_SOURCES or f.source in ("literal", "blank", "reversal"):
            continue
        # Nearly always the whole column fits, which is quickly seen.
        values = column.texts
        shortest, longest = min(map(len, values), default=0), max(map(len, values), default=0)
        fits = (
            longest <= f.limit
            and (shortest or f.may_be_blank)
            and printable("".join(values), layout.encoding)
        )
        if fits and not _doubtful(layout, f, values):
            continue
        for fee_id, text in zip(fee_ids, column.by_line(), strict=True):
            for said in layout.misfits(f, text):
                wrong.setdefault(str(fee_id), []).append(f"{f.label} {said}")
    return {fee_id: "; ".join(said) for fee_id, said in wrong.items()}


def _doubtful(layout: Layout, f: FieldLayout, values: Iterable[str]) -> bool:
    """Whether a value may read back as another one; looked for in all of them at once."""
    if not f.is_text:
        return False
    # A value that holds this character itself is told as not printable.
    together = "\0".join(("", *values, ""))
    if not layout.fixed and layout.quote == "never" and (layout.delimiter in together or '"' in together):
        return True
    edge = f"{f.filling}\0" if f.side == "left" else f"\0{f.filling}"
    return f.width is not None and f.source not in DATES and edge in together


def _column(f: FieldLayout, lines: pd.DataFrame, control: Control | None) -> _Column:
    """Return a field's text in each line, not padded yet."""
    if f.only is not None or (f.source in AMOUNTS and f.negative == "credits"):
        # What stands there depends on another column too.
        return _Column(_texts_of(f, lines, control))
    if f.source in ("literal", "blank", *CONSTANT_SOURCES):
        return _Column(_texts_of(f, lines[:1], control), np.zeros(len(lines), dtype=np.intp))
    values = lines[f.source]
    if f.source not in AMOUNTS and values[:_LOOKED_AT].nunique() > _LOOKED_AT // 2:
        return _Column(_texts_of(f, lines, control))
    of, different = pd.factorize(values)
    return _Column(_texts_of(f, pd.DataFrame({f.source: different}), control), of)


#: A column whose first lines have more than half as many different values is taken to have one a line.
_LOOKED_AT = 1000


def _texts_of(f: FieldLayout, lines: pd.DataFrame, control: Control | None) -> list[str]:
    """Return a field's text in each of these lines."""
    if f.source in ("literal", "blank"):
        texts = [f.value] * len(lines)
    elif f.source in CONSTANT_SOURCES:
        texts = [_constant(f, control) if control else ""] * len(lines)
    elif f.source == "reversal":
        texts = [f.credit if mark == "Y" else f.charge for mark in lines["reversal"].tolist()]
    elif f.source in AMOUNTS:
        values = lines[f.source].tolist()
        if f.negative == "credits":
            # As in the control total: whether a credit reverses its charge or is an item of its own.
            kinds = lines["kind"].tolist()
            values = [
                -value if kind == "credits" else value for value, kind in zip(values, kinds, strict=True)
            ]
        texts = _amounts(f, values)
    elif f.source in DATES:
        values = lines[f.source].tolist()
        # A file has few different days, so each is formatted once.
        days = {iso: f.date_text(date.fromisoformat(iso)) if iso else "" for iso in set(values)}
        texts = [days[iso] for iso in values]
    else:
        texts = list(map(str, lines[f.source].tolist()))
    if f.only is None:
        return texts
    return [text if kind == f.only else "" for text, kind in zip(texts, lines["kind"].tolist(), strict=True)]


def _amounts(f: FieldLayout, values: Sequence[int]) -> list[str]:
    texts = [amount(value) for value in values]
    if f.decimals == "implied":
        texts = [text.replace(".", "") for text in texts]
    if f.negative == "credits" and f.sign == "end":
        # In a field of fixed width the sign has a column of its own.
        plus = "" if f.width is None else " "
        texts = [f"{text[1:]}-" if text[:1] == "-" else text + plus for text in texts]
    return texts


def _record(
    layout: Layout, name: str, record: RecordLayout | None, control: Control, faults: list[Fault]
) -> bytes:
    """Return the one line of a header or trailer; nothing where the layout has no such record."""
    if record is None:
        return b""
    columns = []
    for f in record.fields:
        text = f.value if f.source in ("literal", "blank") else _constant(f, control)
        long = len(text) > f.limit and f.source != "literal"
        if long or not printable(text, layout.encoding):
            faults.append(Fault(name, f"does not fit its {f.limit} columns", field=f.label))
        columns.append(_Column([text]))
    return b"" if faults else _records(layout, record, columns, 1)


def _constant(f: FieldLayout, control: Control) -> str:
    if f.source == "control_total":
        negative = f.negative == "credits" and control.kind == "credits"
        return _amounts(f, [-control.total if negative else control.total])[0]
    if f.source == "file_date":
        return f.date_text(control.file_date)
    return str(getattr(control, f.source))


def read(layout: Layout, content: bytes) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return header's and trailer's values and the lines' by source, as text without padding.

    Amounts come back as plain decimals above nought, ``reversal`` as Y or N where the layout marks credits: by its
    mark, and where it has none Y of what is below nought.
    Raises ``BadFile`` with every line that does not fit the layout, and when the control count or total
    disagrees with the lines.
    """
    try:
        lines = content.decode(layout.encoding).split(layout.newline)
    except UnicodeDecodeError:
        raise BadFile(
            "The file does not fit its layout.", [Fault("file", f"is not {layout.encoding} text")]
        ) from None
    faults = [] if lines[-1] == "" else [Fault("file", "the last line has no line end", line=len(lines))]
    numbered = list(enumerate(lines[:-1] if lines[-1] == "" else lines, 1))
    told: dict[str, str] = {}
    for record, place in ((layout.header, 0), (layout.trailer, -1)):
        if record is not None and numbered:
            number, line = numbered.pop(place)
            told |= _parse(layout, record, line, number, faults)
        elif record is not None:
            faults.append(Fault("file", "has no header, or no trailer", line=1))
    details = [_parse(layout, layout.detail, line, n, faults) for n, line in numbered]
    if not faults and "line_count" in told and int(told["line_count"]) != len(details):
        faults.append(Fault("file", "the control count is not the number of lines", line=1))
    if not faults and "control_total" in told:
        total = sum(cents(d["amount"]) for d in details)
        if cents(told["control_total"]) != total:
            faults.append(Fault("file", "the control total is not the sum of the lines", line=1))
    if faults:
        raise BadFile("The file does not fit its layout.", faults)
    return told, details


def _parse(
    layout: Layout, record: RecordLayout, line: str, number: int, faults: list[Fault]
) -> dict[str, str]:
    values: dict[str, str] = {}
    cells = _cells(layout, record, line)
    if isinstance(cells, str):
        faults.append(Fault("file", cells, line=number))
        return values
    for f, cell in zip(record.fields, cells, strict=True):
        try:
            text = _value(f, cell, values)
        except ValueError as error:
            faults.append(Fault("file", str(error), line=number, field=f.label))
            continue
        if f.source not in ("literal", "blank"):
            values[f.source] = text
    return values


def _cells(layout: Layout, record: RecordLayout, line: str) -> list[str] | str:
    """Return what stands in each field, or why that can't be told."""
    if layout.fixed:
        if record.width is not None and len(line) != record.width:
            return f"has {len(line)} columns, not {record.width}"
        return [line[(f.at or 1) - 1 : f.end] for f in record.fields]
    if layout.quote == "never":
        cells = line.split(layout.delimiter)
    else:
        try:
            (cells,) = csv.reader(io.StringIO(line, newline=""), delimiter=layout.delimiter, strict=True)
        except (csv.Error, ValueError):
            return "is not one line of delimited values"
    return cells if len(cells) == len(record.fields) else f"has {len(cells)} fields, not {len(record.fields)}"


def _value(f: FieldLayout, cell: str, values: dict[str, str]) -> str:
    """Return a field's value without what fills it. Raises ``ValueError`` saying what is wrong with it."""
    if f.source in ("literal", "blank"):
        if cell.rstrip(" ") != f.value.rstrip(" "):
            raise ValueError(f"is not {f.value!r}" if f.value else "is not blank")
        return f.value
    if f.source == "reversal":
        marks = {f.charge.strip(): "N", f.credit.strip(): "Y"}
        if cell.strip() not in marks:
            raise ValueError(f"is neither {f.charge!r} nor {f.credit!r}")
        return marks[cell.strip()]
    if f.is_text:
        text = cell
        if f.width is not None:
            text = cell.rstrip(f.filling) if f.side == "left" else cell.lstrip(f.filling)
        elif f.at is not None:
            text = cell.rstrip(" ")
        if f.source in DATES:
            return _iso(f, text)
        return text
    text = cell.strip(" ")
    if f.source == "line_count":
        if not (text.isascii() and text.isdigit()):
            raise ValueError("is not a number")
        return text.lstrip("0") or "0"
    if not text and f.may_be_blank:
        return ""
    value = _cents(f, text)
    if f.source == "amount" and f.negative == "credits":
        values.setdefault("reversal", "Y" if value < 0 else "N")
    return amount(abs(value))


def _iso(f: FieldLayout, text: str) -> str:
    try:
        day = f.date_of(text.strip())
    except ValueError:
        raise ValueError(f"is not a day as {f.format}") from None
    return day.isoformat() if day else ""


def _cents(f: FieldLayout, text: str) -> int:
    if f.negative == "credits" and f.sign == "end" and text.endswith("-"):
        text = f"-{text[:-1]}"
    if f.decimals == "point":
        return cents(text)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("is not an amount with implied decimals")
    digits = digits.rjust(3, "0")
    return cents(f"{sign}{digits[:-2]}.{digits[-2:]}")
