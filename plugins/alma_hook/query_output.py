"""PeopleSoft Query's output as CSV: rows by what their columns mean.

Forgiving in shape (byte order mark, code page, line ends, order of columns, columns of no concern),
strict in structure: a broken file is refused as a whole, so that nothing is half done.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alma_hook.campus import Campus
from alma_hook.errors import BadFile, Fault
from alma_hook.money import cents


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that is not taken in. ``digest`` names its content, whatever line it stands on tomorrow."""

    line_no: int
    field: str
    text: str
    digest: str


class LineError(Exception):
    """Why a line is not taken in; ``field`` is what the faulty value means, not its heading."""

    def __init__(self, field: str, text: str) -> None:
        self.field = field
        super().__init__(text)


def refused(
    line_no: int, values: Mapping[str, str], columns: Mapping[str, str], error: LineError
) -> RefusedLine:
    """Return what is listed of a line that can't be taken in, with the heading of the faulty field."""
    digest = hashlib.sha256("\n".join(f"{m}={values[m]}" for m in sorted(values)).encode()).hexdigest()[:16]
    return RefusedLine(line_no, columns.get(error.field, error.field), str(error), digest)


def cents_of(values: Mapping[str, str], meaning: str) -> int:
    """Return a line's amount in cents. Raises ``LineError`` when it is none."""
    try:
        return cents(values[meaning])
    except ValueError as error:
        raise LineError(meaning, str(error)) from None


def require_filled(values: Mapping[str, str], *meanings: str) -> None:
    """Raise ``LineError`` for the first of these that a line has and leaves empty."""
    for meaning in meanings:
        if values.get(meaning) == "":
            raise LineError(meaning, "is empty")


def fee_of(values: Mapping[str, str], campus: Campus) -> str:
    """Return the fee that a line's reference names. Raises ``LineError`` when it is not one of ours."""
    fee_id = campus.fee_id_of(values["reference"])
    if fee_id is None:
        raise LineError("reference", "is not a reference of ours, so the fee can't be told")
    return fee_id


def rows(
    name: str, content: bytes, delimiter: str, columns: Mapping[str, str]
) -> list[tuple[int, dict[str, str]]]:
    """Return each row's line number and values by meaning; ``columns`` maps what is meant to its heading.

    Raises ``BadFile`` with every fault of structure: empty, a missing or doubled heading, a line with
    too few or too many fields, a last line without end (the file is cut short).
    """
    header, found = _table(name, content, delimiter, columns)
    place = {meaning: header.index(heading) for meaning, heading in columns.items()}
    return [
        (line_no, {meaning: row[index].strip() for meaning, index in place.items()}) for line_no, row in found
    ]


def _bad(faults: Sequence[Fault]) -> BadFile:
    return BadFile("A file of PeopleSoft's output can't be taken in.", faults)


def _table(
    name: str, content: bytes, delimiter: str, columns: Mapping[str, str]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    empty = _bad([Fault(name, "is empty: not even a heading; run the query again")])
    text = _decode(name, content)
    if not text.strip():
        raise empty
    if not text.endswith(("\n", "\r")):
        said = "its last line has no end, so the file is cut short; send it again"
        raise _bad([Fault(name, said, line=text.count("\n") + 1)])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        # Blank lines carry nothing; a number is that of the line a row ends on.
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise _bad([Fault(name, f"is not CSV: {error}", line=reader.line_num)]) from None
    if not rows:
        raise empty
    header = [cell.strip() for cell in rows[0][1]]
    faults = _heading_faults(name, header, columns)
    faults += [
        Fault(
            name,
            f"has {len(row)} fields, the heading {len(header)}; the line is broken or cut short",
            line=line_no,
        )
        for line_no, row in rows[1:]
        if len(row) != len(header)
    ]
    if faults:
        raise _bad(faults)
    return header, rows[1:]


def _heading_faults(name: str, header: Sequence[str], columns: Mapping[str, str]) -> list[Fault]:
    counts = Counter(header)
    faults = []
    for meaning, heading in columns.items():
        if counts[heading] == 0:
            faults.append(Fault(name, f"no such heading (meant as {meaning})", line=1, field=heading))
        elif counts[heading] > 1:
            faults.append(
                Fault(
                    name,
                    "stands twice in the heading, so which one is meant can't be told",
                    line=1,
                    field=heading,
                )
            )
    return faults


def _decode(name: str, content: bytes) -> str:
    """UTF-8 with or without mark, else the code page that PeopleSoft's servers write."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise _bad([Fault(name, "is neither UTF-8 nor Windows-1252 text")])
