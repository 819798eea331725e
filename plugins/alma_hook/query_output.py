"""PeopleSoft Query's output: rows by what their columns mean, whatever form the file has.

Forgiving in shape (form, byte order mark, code page, line ends, order of columns, columns of no concern),
strict in structure: a broken file is refused as a whole, so that nothing is half done.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from alma_hook import query_forms
from alma_hook.campus import Campus
from alma_hook.errors import Fault
from alma_hook.money import NumberFormat, cents_as
from alma_hook.query_forms import Table

# What a spreadsheet makes of a number, such as 1.23457E+11, where many ids become one, or 123.0, where one becomes two.
_SPOILT = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+|[0-9]+[.,]0+", re.IGNORECASE)
_KEY = re.compile(r"[0-9A-Za-z]+(?:[_-][0-9A-Za-z]+)*")


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


def cents_of(values: Mapping[str, str], meaning: str, number_format: NumberFormat) -> int:
    """Return a line's amount in cents. Raises ``LineError`` when it is none."""
    try:
        return cents_as(values[meaning], number_format)
    except ValueError as error:
        raise LineError(meaning, str(error)) from None


def require_ids(values: Mapping[str, str], *meanings: str) -> None:
    """Raise ``LineError`` for the first of these that a line has and that is empty, or an id no more."""
    for meaning in meanings:
        if values.get(meaning) == "":
            raise LineError(meaning, "is empty")
        if spoilt(values.get(meaning, "")):
            raise LineError(meaning, "is no id any more: a spreadsheet made a rounded number of it")


def require_key(values: Mapping[str, str], meaning: str) -> str:
    """Return an id by which payments are told apart: letters and digits, with single ``-`` or ``_`` between them.

    Raises ``LineError`` for any other: written in another way (``4,711``, ``4711-``) it would be another payment's.
    """
    require_ids(values, meaning)
    if _KEY.fullmatch(values[meaning]) is None:
        raise LineError(
            meaning, "is no id: it has more than letters and digits, and single - or _ between them"
        )
    return values[meaning]


def spoilt(text: str) -> bool:
    """Whether an id was turned into a rounded number by a spreadsheet."""
    return _SPOILT.fullmatch(text) is not None


def fee_of(values: Mapping[str, str], campus: Campus) -> str:
    """Return the fee that a line's reference names. Raises ``LineError`` when it is not one of ours."""
    fee_id = campus.fee_id_of(values["reference"])
    if fee_id is None:
        raise LineError("reference", "is not a reference of ours, so the fee can't be told")
    return fee_id


def of_others(reference: str, campus: Campus) -> bool:
    """Whether a reference is somebody else's; without one, or with what a spreadsheet left of it, it may be any fee's."""
    return bool(reference) and not spoilt(reference) and campus.fee_id_of(reference) is None


def rows(
    name: str, content: bytes, delimiter: str, columns: Mapping[str, str]
) -> list[tuple[int, dict[str, str]]]:
    """Return each row's number and values by meaning; ``columns`` maps what is meant to its heading or field.

    Raises ``BadFile`` with every fault of structure: what ``query_forms.read`` finds, or a missing or doubled heading.
    """
    table = query_forms.read(name, content, delimiter)
    faults = [*_heading_faults(name, table, columns), *table.faults]
    if faults:
        raise query_forms.bad(faults)
    if table.headings is None:
        return []
    place = {meaning: table.headings.index(heading) for meaning, heading in columns.items()}
    return [
        (number, {meaning: cells[index] for meaning, index in place.items()}) for number, cells in table.rows
    ]


def _heading_faults(name: str, table: Table, columns: Mapping[str, str]) -> list[Fault]:
    if table.headings is None:
        return []
    counts, line = Counter(table.headings), table.line
    faults = []
    for meaning, heading in columns.items():
        if counts[heading] == 0:
            said = (
                f"no such heading (meant as {meaning})"
                if line
                else f"no row has such a field (meant as {meaning})"
            )
            faults.append(Fault(name, said, line=line, field=heading))
        elif counts[heading] > 1:
            said = "stands twice in the heading, so which one is meant can't be told"
            faults.append(Fault(name, said, line=line, field=heading))
    return faults
