"""Batches and their lines: planned, written, delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alma_hook.errors import LeaseTaken
from alma_hook.ledger import fees
from alma_hook.ledger.store import Row, Tx

#: States in which a live batch still has to be worked on, in their order.
UNFINISHED = ("planned", "written", "uploading", "uploaded", "renaming")


@dataclass(frozen=True, slots=True)
class Line:
    """A charge or credit to be sent; ``amount`` in cents, more than nought."""

    fee_id: str
    kind: str
    amount: int
    emplid: str
    item_type: str
    term: str
    reference: str
    description: str
    account_type: str
    effective_date: str
    due_date: str
    reason: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a batch goes, fixed when it is planned."""

    layout: str
    file_name: str
    file_date: str
    host: str
    directory: str


_INSERT_LINE = (
    "INSERT INTO line (institution, batch_id, line_no, fee_id, kind, amount, emplid, item_type, term, reference, "
    "description, account_type, effective_date, due_date, reason, state) VALUES (:i, :b, :n, :fee_id, :kind, :amount, "
    ":emplid, :item_type, :term, :reference, :description, :account_type, :effective_date, :due_date, :reason, :state)"
)


def open_batch(tx: Tx, kind: str, live: bool, lines: Sequence[Line], target: Target) -> str:
    """Fix the lines of a new batch and return its id. ``{sequence}`` in the file name is filled in.

    A live batch takes the next number; a rehearsal has numbers of its own, so it leaves no gap.
    """
    counter = "last_batch" if live else "last_preview"
    tx.run(f"UPDATE institution SET {counter} = {counter} + 1 WHERE institution = :i")
    number = int(tx.one(f"SELECT {counter} FROM institution WHERE institution = :i"))
    batch_id = f"{'' if live else 'P'}{number:06d}"
    tx.run(
        "INSERT INTO batch (institution, batch_id, kind, state, run_id, created_at, changed_at, layout, file_name, "
        "file_date, target, directory, line_count, total) VALUES (:i, :b, :kind, :state, :run, :now, :now, :layout, "
        ":file_name, :file_date, :target, :directory, :count, :total)",
        b=batch_id,
        kind=kind,
        state="planned" if live else "preview",
        run=tx.run_id,
        now=tx.now,
        layout=target.layout,
        file_name=target.file_name.replace("{sequence}", batch_id),
        file_date=target.file_date,
        target=target.host,
        directory=target.directory,
        count=len(lines),
        total=sum(line.amount for line in lines),
    )
    tx.many(
        _INSERT_LINE,
        [
            {
                "b": batch_id,
                "n": n,
                "state": "pending" if live else "preview",
                **{name: getattr(line, name) for name in Line.__slots__},
            }
            for n, line in enumerate(lines, 1)
        ],
    )
    if live:
        fees.touch(tx, [line.fee_id for line in lines])
    tx.event(f"batch {batch_id}", "planned" if live else "rehearsed", f"{kind}, {len(lines)} lines")
    return batch_id


def in_states(tx: Tx, *states: str) -> list[Row]:
    """Return the live batches in these states, charges before credits, oldest first."""
    names = ", ".join(f"'{state}'" for state in states)
    return tx.rows(
        f"SELECT * FROM batch WHERE institution = :i AND state IN ({names}) "
        "ORDER BY CASE kind WHEN 'charges' THEN 0 ELSE 1 END, batch_id"
    )


def previews_of_run(tx: Tx) -> list[Row]:
    """Return the batches that this run rehearsed."""
    return tx.rows(
        "SELECT * FROM batch WHERE institution = :i AND run_id = :run AND state = 'preview' ORDER BY batch_id",
        run=tx.run_id,
    )


def batch(tx: Tx, batch_id: str) -> Row:
    """Return one batch."""
    found = tx.row("SELECT * FROM batch WHERE institution = :i AND batch_id = :b", b=batch_id)
    if found is None:
        raise LookupError(f"no batch {batch_id}")
    return found


def lines(tx: Tx, batch_id: str) -> list[Row]:
    """Return a batch's lines in their order."""
    return tx.rows("SELECT * FROM line WHERE institution = :i AND batch_id = :b ORDER BY line_no", b=batch_id)


def content(tx: Tx, batch_id: str) -> bytes:
    """Return the bytes of a written batch."""
    return bytes(
        tx.one("SELECT content FROM batch_file WHERE institution = :i AND batch_id = :b", b=batch_id)
    )


def keep_content(tx: Tx, batch_id: str, data: bytes, sha256: str) -> None:
    """Keep the bytes that will be sent, and no others."""
    tx.run("DELETE FROM batch_file WHERE institution = :i AND batch_id = :b", b=batch_id)
    tx.run("INSERT INTO batch_file VALUES (:i, :b, :data)", b=batch_id, data=data)
    tx.run("UPDATE batch SET sha256 = :s WHERE institution = :i AND batch_id = :b", b=batch_id, s=sha256)


def move(tx: Tx, batch_id: str, before: str, after: str, **stamps: str) -> None:
    """Move a batch from one state to the next; refused when it is not where it was thought to be."""
    allowed = {"acknowledged_at", "uploaded_at", "delivered_at"}
    sets = "".join(f", {name} = :{name}" for name in stamps if name in allowed)
    moved = tx.run(
        f"UPDATE batch SET state = :after, changed_at = :now{sets} "
        "WHERE institution = :i AND batch_id = :b AND state = :before",
        b=batch_id,
        before=before,
        after=after,
        now=tx.now,
        **stamps,
    )
    if not moved:
        raise LeaseTaken(f"Batch {batch_id} is no longer {before}: another run works on it.")
    tx.event(f"batch {batch_id}", after)


def acknowledge(tx: Tx, batch_id: str) -> None:
    """Note that the far side has said that it holds the whole upload."""
    tx.run(
        "UPDATE batch SET acknowledged_at = :now WHERE institution = :i AND batch_id = :b",
        now=tx.now,
        b=batch_id,
    )
    tx.event(f"batch {batch_id}", "acknowledged")


def begin_upload(tx: Tx, batch_id: str, before: str, temporary: str | None) -> None:
    """Begin an upload under a temporary name that no other attempt writes to; none: under the final name.

    The batch keeps which of the two it was: settings may change before a dead attempt is taken up.
    """
    move(tx, batch_id, before, "uploading")
    tx.run(
        "UPDATE batch SET temporary = :name, acknowledged_at = NULL WHERE institution = :i AND batch_id = :b",
        name=temporary,
        b=batch_id,
    )


def drop_unsent(tx: Tx) -> list[str]:
    """Give up every batch that no upload was begun for, and return its fees: they are worked out anew.

    What was planned before an outage would else be sent on evidence of days ago.
    """
    freed: list[str] = []
    for row in in_states(tx, "planned", "written"):
        drop(tx, row["batch_id"], row["state"])
        freed += [line["fee_id"] for line in lines(tx, row["batch_id"])]
    return freed


def deliver(tx: Tx, batch_id: str, before: str) -> None:
    """Note that PeopleSoft has the file: from now on its lines count."""
    move(tx, batch_id, before, "delivered", delivered_at=tx.now)
    tx.run(
        "UPDATE line SET state = 'sent' WHERE institution = :i AND batch_id = :b AND state = 'pending'",
        b=batch_id,
    )
    fees.touch(tx, [line["fee_id"] for line in lines(tx, batch_id)])


def drop(tx: Tx, batch_id: str, before: str) -> None:
    """Give a batch up whose file surely never reached PeopleSoft; its fees are free to be planned again."""
    move(tx, batch_id, before, "cancelled")
    tx.run(
        "UPDATE line SET state = 'dropped' WHERE institution = :i AND batch_id = :b AND state = 'pending'",
        b=batch_id,
    )
    fees.touch(tx, [line["fee_id"] for line in lines(tx, batch_id)])


def lines_of_fee(tx: Tx, fee_id: str) -> list[dict[str, Any]]:
    """Return every line of a fee with its batch's file and state, oldest first."""
    return [
        dict(row)
        for row in tx.rows(
            "SELECT l.*, b.file_name, b.state AS batch_state, b.run_id, b.created_at, b.delivered_at FROM line l "
            "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
            "WHERE l.institution = :i AND l.fee_id = :fee ORDER BY l.batch_id, l.line_no",
            fee=fee_id,
        )
    ]
