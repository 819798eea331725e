"""PeopleSoft's query output of paid library items: one line a payment, as CSV.

Forgiving in shape (byte order mark, code page, line ends, order of columns, columns of no concern),
strict in meaning: ids stay text, amounts are plain decimals, and a line is either taken or refused
with its reason. A file whose structure is broken is refused as a whole, so that nothing is half done.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from alma_hook import keys
from alma_hook.campus import Campus, SisToAlma
from alma_hook.errors import BadFile, Fault
from alma_hook.ledger.payments import Payment
from alma_hook.money import cents


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that is not taken in. ``digest`` names its content, whatever line it stands on tomorrow."""

    line_no: int
    field: str
    text: str
    digest: str


@dataclass(frozen=True, slots=True)
class PaymentFile:
    """A file as read: every line is in one of the two."""

    payments: tuple[Payment, ...]
    refused: tuple[RefusedLine, ...]

    @property
    def lines(self) -> int:
        """How many lines of payments the file holds."""
        return len(self.payments) + len(self.refused)


def read(name: str, content: bytes, campus: Campus) -> PaymentFile:
    """Read a payment file.

    Raises ``BadFile`` with every fault of structure: empty, a missing or doubled heading, a line with
    too few or too many fields, a last line without end (the file is cut short).
    """
    settings = campus.sis_to_alma
    header, rows = _table(name, content, settings)
    columns: dict[str, str] = dict(settings.columns.items())
    place = {meaning: header.index(heading) for meaning, heading in columns.items()}
    seen: Counter[str] = Counter()
    payments: list[Payment] = []
    refused: list[RefusedLine] = []
    for line_no, row in rows:
        values = {meaning: row[index].strip() for meaning, index in place.items()}
        digest = hashlib.sha256("\n".join(f"{m}={values[m]}" for m in sorted(values)).encode()).hexdigest()[
            :16
        ]
        try:
            payments.append(_payment(values, line_no, seen, campus))
        except _LineError as error:
            refused.append(RefusedLine(line_no, columns.get(error.field, error.field), str(error), digest))
    return PaymentFile(tuple(payments), tuple(refused))


class _LineError(Exception):
    def __init__(self, field: str, text: str) -> None:
        self.field = field
        super().__init__(text)


def _payment(values: Mapping[str, str], line_no: int, seen: Counter[str], campus: Campus) -> Payment:
    try:
        value = cents(values["amount"])
    except ValueError as error:
        raise _LineError("amount", str(error)) from None
    if value == 0:
        raise _LineError("amount", "is nought, so nothing was paid")
    if value < 0:
        raise _LineError(
            "amount", "is negative: PeopleSoft took a payment back, which a person has to settle"
        )
    try:
        paid_on = datetime.strptime(values["paid_on"], campus.sis_to_alma.date_format).date()  # noqa: DTZ007 a day has no zone
    except ValueError:
        raise _LineError("paid_on", f"is not a date as {campus.sis_to_alma.date_format}") from None
    if not values["emplid"]:
        raise _LineError("emplid", "is empty")
    fee_id = campus.fee_id_of(values["reference"])
    if fee_id is None:
        raise _LineError("reference", "is not a reference of ours, so the fee can't be told")
    key = _key(values, f"{fee_id}\n{values['emplid']}\n{value}\n{paid_on}", fee_id, seen)
    return Payment(
        key,
        keys.external_id(campus.institution, key),
        fee_id,
        values["emplid"],
        value,
        paid_on.isoformat(),
        line_no,
    )


def _key(values: Mapping[str, str], meaning: str, fee_id: str, seen: Counter[str]) -> str:
    """What identifies a payment in PeopleSoft, made from what the line means and not from how it is written.

    Its own id where the file carries one (a number there, so leading noughts tell nothing), together
    with the fee: one payment may settle several items. Without an id fee, EMPLID, amount and day and,
    for equal lines, their number within the file, which holds where every file gives whole days.
    """
    if "payment_id" in values:
        payment_id = values["payment_id"]
        if not payment_id:
            raise _LineError("payment_id", "is empty")
        return f"id:{payment_id.lstrip('0') if payment_id.isdecimal() else payment_id}:{fee_id}"
    digest = hashlib.sha256(meaning.encode()).hexdigest()[:16]
    seen[digest] += 1
    return f"line:{digest}:{seen[digest]}"


def _table(name: str, content: bytes, settings: SisToAlma) -> tuple[list[str], list[tuple[int, list[str]]]]:
    empty = BadFile(
        "A payment file can't be taken in.",
        [Fault(name, "is empty: not even a heading; run the query again")],
    )
    text = _decode(name, content)
    if not text.strip():
        raise empty
    if not text.endswith(("\n", "\r")):
        raise BadFile(
            "A payment file can't be taken in.",
            [
                Fault(
                    name,
                    "its last line has no end, so the file is cut short; send it again",
                    line=text.count("\n") + 1,
                )
            ],
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=settings.delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        # Blank lines carry nothing; a number is that of the line a row ends on.
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadFile(
            "A payment file can't be taken in.", [Fault(name, f"is not CSV: {error}", line=reader.line_num)]
        ) from None
    if not rows:
        raise empty
    header = [cell.strip() for cell in rows[0][1]]
    faults = _heading_faults(name, header, settings)
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
        raise BadFile("A payment file can't be taken in.", faults)
    return header, rows[1:]


def _heading_faults(name: str, header: Sequence[str], settings: SisToAlma) -> list[Fault]:
    counts = Counter(header)
    faults = []
    for meaning, heading in settings.columns.items():
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
    raise BadFile(
        "A payment file can't be taken in.", [Fault(name, "is neither UTF-8 nor Windows-1252 text")]
    )
