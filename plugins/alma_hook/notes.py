"""What the archive tells beside the files themselves, so that a lost ledger can be repaired.

Beside each file lies its manifest, written before it is sent, and a note of what became of it. Of a payment
there is a note where neither Alma nor a file of PeopleSoft's shows what people have said of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

from alma_hook import guard
from alma_hook.errors import Fault
from alma_hook.guard import MarkPlace
from alma_hook.ledger import Lease, Ledger, Row, batches, opening
from alma_hook.ledger import notes as entries
from alma_hook.remote import RemoteFolder

#: Beside each archived file: its lines in the ledger's words, and what became of it.
MANIFEST, STATE = ".manifest.csv", ".state"
_NO_LINE = {"line_no": 0, "amount": 0, "credit_item": 0}
_NOTE = ".note"


def note_batches(ledger: Ledger, lease: Lease, archive: RemoteFolder, directory: str) -> None:
    """Note in the archive what became of each batch since the last time."""
    with ledger.read() as tx:
        rows = [
            (row, batches.lines(tx, row["batch_id"]), batches.counted_again(tx, row["batch_id"]))
            for row in batches.unnoted(tx)
        ]
        of_opening = opening.said(tx)
    for row, lines, counting in rows:
        void = [line["line_no"] for line in lines if line["state"] == "void"]
        told = [f"void {number}" for number in void] + [
            f"counts {number}" for number in sorted(counting - {*void})
        ]
        if row["batch_id"] == batches.OPENING:
            told += of_opening
        note = "".join(f"{each}\n" for each in (row["state"], *told))
        archive.write(f"{directory}/{row['file_name']}{STATE}", note.encode())
        with ledger.write(lease) as tx:
            batches.noted(tx, row)


def manifest(row: Row, lines: list[Row]) -> bytes:
    """Return what a file says in the ledger's words, one row a line: enough to rebuild the ledger.

    That of a file without lines has one row of line 0, which tells of the batch alone.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*batches.MANIFEST_BATCH, *batches.MANIFEST_LINE])
    none = {**dict.fromkeys(batches.MANIFEST_LINE, ""), **_NO_LINE, "kind": row["kind"].removesuffix("s")}
    for line in lines or [none]:
        of_batch = [row[name] for name in batches.MANIFEST_BATCH]
        writer.writerow([*of_batch, *(line[name] for name in batches.MANIFEST_LINE)])
    return out.getvalue().encode("ascii")


def read_manifest(content: bytes) -> list[dict[str, Any]]:
    """Return a manifest's rows as they stand there, an older one's with what it would have told; none where it is no CSV."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("ascii", "replace"), newline="")))
    except csv.Error:
        return []
    return [{**batches.MANIFEST_SINCE, **row} for row in rows]


def note_payments(
    ledger: Ledger, lease: Lease, archive: RemoteFolder, directory: str, marks: Sequence[MarkPlace]
) -> None:
    """Note in the archive what was said of payments since the last time.

    ``marks`` are renewed before the first: an older copy of the ledger would write over what it does not know.
    """
    with ledger.read() as tx:
        unnoted = entries.unnoted(tx)
    if unnoted:
        guard.advance(ledger, marks)
    for note in unnoted:
        archive.write(f"{directory}/{_prefix(ledger.institution)}{note.external_id}{_NOTE}", note.text)
        with ledger.write(lease) as tx:
            entries.noted(tx, note.external_id, note.sha256)


def read_payments(
    archive: RemoteFolder, directory: str, institution: str
) -> tuple[list[entries.Note], list[Fault]]:
    """Return the notes of an institution's payments, and what can't be read of them."""
    notes: list[entries.Note] = []
    faults: list[Fault] = []
    for file in archive.files(directory, f"{_prefix(institution)}*{_NOTE}"):
        text = archive.read(f"{directory}/{file.name}")
        try:
            told = json.loads(text)
            complete = isinstance(told, dict) and (
                {*entries.SINCE, *told} == set(entries.FIELDS) or set(told) == set(entries.EARLIER_FIELDS)
            )
        except (ValueError, RecursionError):
            complete = False
        if complete:
            notes.append(entries.Note(told["external_id"], text, hashlib.sha256(text).hexdigest()))
        else:
            wrong = "is cut short or of another version of this package; bring it back from a backup, or remove it and "
            faults.append(Fault(file.name, f"{wrong}say again what was said of that payment"))
    return notes, faults


def _prefix(institution: str) -> str:
    return f"payment_{institution}_"
