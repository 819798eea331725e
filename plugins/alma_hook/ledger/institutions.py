"""An institution's books as a whole: opened once, by a person."""

from __future__ import annotations

from collections.abc import Sequence

from alma_hook.errors import Fatal, SendingStopped
from alma_hook.ledger import batches, guard, opening, payments
from alma_hook.ledger.batches import Line
from alma_hook.ledger.opening import Record
from alma_hook.ledger.store import Tx


def require_opened(tx: Tx) -> None:
    """Raise ``SendingStopped`` unless a person has opened this ledger for live running."""
    if tx.one("SELECT opened_at FROM institution WHERE institution = :i") is None:
        raise SendingStopped(
            "This ledger was never opened, so it knows nothing of what PeopleSoft already holds, and would charge it "
            "again. If PeopleSoft holds no library fees of ours, run `python -m alma_hook open --begin-clean` once; if another "
            "process has charged some there, `open --import`. If this ledger was at work before, it is not the right one: put "
            "that one back."
        )


def restored(tx: Tx) -> None:
    """Record a repair: the books are open, and what stands outside is accepted once."""
    tx.run(
        "UPDATE institution SET opened_at = :now, opened_by = :by WHERE institution = :i AND opened_at IS NULL",
        now=tx.now,
        by=tx.actor,
    )
    guard.unbind(tx, guard.MARKS, "repaired from the archive and Alma")


def opened_at(tx: Tx) -> str | None:
    """When the books were opened; ``None``: not yet."""
    found = tx.one("SELECT opened_at FROM institution WHERE institution = :i")
    return None if found is None else str(found)


def opened_clean(tx: Tx) -> bool:
    """Whether the books are open and were opened with nothing in PeopleSoft."""
    sql = (
        "SELECT 1 FROM institution WHERE institution = :i AND opened_at IS NOT NULL AND opened_as_of IS NULL"
    )
    return tx.one(sql) is not None


def open_clean(tx: Tx, by: str) -> None:
    """Open the books with nothing in PeopleSoft. Raises ``Fatal`` when they are open already.

    Payments that dry runs have taken in are of earlier charges, none of ours: they are never posted.
    """
    _open(tx, by, "clean: PeopleSoft holds no library fees of ours")


def open_with(
    tx: Tx, by: str, lines: Sequence[Line], record: Record, file_name: str, data: bytes, sha256: str
) -> None:
    """Open the books with what PeopleSoft holds already. Raises ``Fatal`` when they are open already.

    ``lines`` count as delivered; ``data`` are the bytes of ``record``, kept in the archive as ``file_name``.
    """
    require_unopened(tx)
    batches.bring_opening(tx, lines, file_name, data, sha256, record.as_of)
    opening.bring(tx, record)
    _open(tx, by, f"with {len(lines)} items of {record.file}, as of {record.as_of}: {record.reason}")
    opening.set_earlier_aside(tx)


def require_unopened(tx: Tx) -> None:
    """Raise ``Fatal`` when the books are open already."""
    row = tx.row("SELECT opened_at, opened_by, opened_as_of FROM institution WHERE institution = :i")
    if row and row["opened_at"]:
        told, more = "", ""
        if row["opened_as_of"]:
            told = f" with PeopleSoft's items of {row['opened_as_of']}"
            more = (
                " What was held then is settled with `resolve`, an item that is not there with `void 000000`."
            )
        raise Fatal(
            f"This ledger was opened at {row['opened_at'][:16]}Z by {row['opened_by']}{told}; opening is done once.{more}"
        )


def _open(tx: Tx, by: str, how: str) -> None:
    require_unopened(tx)
    tx.run(
        "UPDATE institution SET opened_at = :now, opened_by = :by WHERE institution = :i", now=tx.now, by=by
    )
    earlier = payments.set_aside_as_earlier(tx)
    tx.event("institution", "opened", how)
    if earlier:
        tx.event("institution", "payments of earlier charges", f"{earlier}, never to be posted")
