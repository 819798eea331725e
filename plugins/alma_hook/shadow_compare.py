"""The campus's own files of what its present process has sent, beside what would have been sent.

A file whose name ends in .csv has the headings `amount` and `reference` or `emplid` (or both), and may have
`date`; amounts are plain decimals, credits below nought, days as 2026-11-22. Any other is an SFS file in
one of the layouts. Entries belong together by the fee that the reference names; those that name none by
EMPLID and amount.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from alma_hook import charge_file
from alma_hook.campus import Campus
from alma_hook.errors import BadFile, Fault
from alma_hook.layouts import Layout
from alma_hook.money import cents
from alma_hook.shadow import WouldSend

HEADINGS = ("reference", "emplid", "amount", "date")


@dataclass(frozen=True, slots=True)
class Sent:
    """One entry of the present process: ``cents`` below nought for a credit, ``fee_id`` where its reference names one."""

    file: str
    line_no: int
    reference: str
    emplid: str
    cents: int
    day: date | None
    fee_id: str | None = None


@dataclass(frozen=True, slots=True)
class Together:
    """What belongs together: of one fee, or one entry each of equal EMPLID and amount; either side may lack."""

    fee_id: str | None
    ours: tuple[WouldSend, ...]
    theirs: tuple[Sent, ...]

    @property
    def our_cents(self) -> int:
        """Charges less credits that would have been sent."""
        return sum(would.cents for would in self.ours)

    @property
    def their_cents(self) -> int:
        """Charges less credits that the present process sent."""
        return sum(sent.cents for sent in self.theirs)

    @property
    def result(self) -> str:
        """``matched``, ``differing``, ``only ours`` or ``only theirs``."""
        if not self.theirs:
            return "only ours"
        if not self.ours:
            return "only theirs"
        return "matched" if self.our_cents == self.their_cents else "differing"


def read(paths: Sequence[Path], campus: Campus, layout: Layout, known: Collection[str]) -> list[Sent]:
    """Return every entry of these files. ``known``: fees that a reference of another form than ours may end with.

    Raises ``BadFile`` with every line of every file that can't be read.
    """
    found: list[Sent] = []
    faults: list[Fault] = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            faults.append(Fault(path.name, f"can't be read: {error.strerror}"))
            continue
        try:
            entries = (
                _of_csv(path.name, content)
                if path.suffix.lower() == ".csv"
                else _of_layout(path.name, content, layout, campus)
            )
        except BadFile as error:
            faults += error.faults
            continue
        found += [
            Sent(
                e.file, e.line_no, e.reference, e.emplid, e.cents, e.day, _fee_of(e.reference, campus, known)
            )
            for e in entries
        ]
    if faults:
        raise BadFile("Not every file can be compared; nothing was.", faults)
    return found


def _fee_of(reference: str, campus: Campus, known: Collection[str]) -> str | None:
    ours = campus.fee_id_of(reference)
    digits = re.search(r"[0-9]+$", reference, re.ASCII)
    if ours is None and digits is not None and digits.group() in known:
        return digits.group()
    return ours


def _of_layout(name: str, content: bytes, layout: Layout, campus: Campus) -> list[Sent]:
    try:
        header, lines = charge_file.read(layout, content)
    except BadFile as error:
        raise BadFile("", [Fault(name, f.text, line=f.line, field=f.field) for f in error.faults]) from None
    day = date.fromisoformat(header["file_date"]) if header.get("file_date") else None
    first = 1 if layout.header is None else 2
    credit_types = set(campus.credit_item_types.values())
    return [
        Sent(
            name,
            n,
            line.get("reference", "").strip(),
            line["emplid"].strip(),
            -cents(line["amount"])
            if line.get("reversal") == "Y" or line["item_type"] in credit_types
            else cents(line["amount"]),
            day,
        )
        for n, line in enumerate(lines, first)
    ]


def _of_csv(name: str, content: bytes) -> list[Sent]:
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile("", [Fault(name, f"is not CSV in UTF-8 ({type(error).__name__})")]) from None
    heading = [cell.lower() for cell in rows[0][1]] if rows else []
    place = {word: heading.index(word) for word in HEADINGS if word in heading}
    if "amount" not in place or not {"reference", "emplid"} & place.keys():
        raise BadFile("", [Fault(name, "lacks the heading amount, or both of reference and emplid", line=1)])
    found: list[Sent] = []
    faults: list[Fault] = []
    for line_no, row in rows[1:]:
        if len(row) != len(heading):
            faults.append(Fault(name, f"has {len(row)} fields, the heading {len(heading)}", line=line_no))
            continue
        values = {word: row[at] for word, at in place.items()}
        faults += list(_faults_of(name, line_no, values))
        if not faults:
            day = values.get("date")
            found.append(
                Sent(
                    name,
                    line_no,
                    values.get("reference", ""),
                    values.get("emplid", ""),
                    cents(values["amount"]),
                    date.fromisoformat(day) if day else None,
                )
            )
    if faults:
        raise BadFile("", faults)
    return found


def _faults_of(name: str, line_no: int, values: dict[str, str]) -> Iterator[Fault]:
    try:
        if cents(values["amount"]) == 0:
            yield Fault(name, "is nought", line=line_no, field="amount")
    except ValueError as error:
        yield Fault(name, str(error), line=line_no, field="amount")
    if not (values.get("reference") or values.get("emplid")):
        yield Fault(name, "names neither a reference nor an EMPLID", line=line_no)
    try:
        date.fromisoformat(values.get("date") or "2026-11-22")
    except ValueError:
        yield Fault(name, "is not a day such as 2026-11-22", line=line_no, field="date")


def compare(ours: Iterable[WouldSend], theirs: Iterable[Sent]) -> list[Together]:
    """Put together what belongs together; each entry is in exactly one."""
    by_fee: dict[str, tuple[list[WouldSend], list[Sent]]] = {}
    nameless: list[Sent] = []
    for would in ours:
        by_fee.setdefault(would.line.fee_id, ([], []))[0].append(would)
    for sent in theirs:
        if sent.fee_id is None:
            nameless.append(sent)
        else:
            by_fee.setdefault(sent.fee_id, ([], []))[1].append(sent)
    found: list[Together] = []
    alike: dict[tuple[str, int], list[WouldSend]] = {}
    for fee_id, (of_us, of_them) in by_fee.items():
        if of_them:
            found.append(Together(fee_id, tuple(of_us), tuple(of_them)))
            continue
        for would in of_us:
            alike.setdefault((would.line.emplid, would.cents), []).append(would)
    for sent in nameless:
        match = alike.get((sent.emplid, sent.cents), [])[:1]
        del alike.get((sent.emplid, sent.cents), [])[:1]
        found.append(Together(match[0].line.fee_id if match else None, tuple(match), (sent,)))
    found += [Together(would.line.fee_id, (would,), ()) for left in alike.values() for would in left]
    return found
