"""An institution's books as a whole: opened once, by a person."""

from __future__ import annotations

from alma_hook.errors import Fatal, SendingStopped
from alma_hook.ledger import guard, payments
from alma_hook.ledger.store import Tx


def require_opened(tx: Tx) -> None:
    """Raise ``SendingStopped`` unless a person has opened this ledger for live running."""
    if tx.one("SELECT opened_at FROM institution WHERE institution = :i") is None:
        raise SendingStopped(
            "This ledger was never opened, so it knows nothing of what PeopleSoft already holds, and would charge it "
            "again. If PeopleSoft holds no library fees of ours, run `python -m alma_hook open --begin-clean` once. If "
            "it does, this is not the right ledger: put the right one back."
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


def open_clean(tx: Tx, by: str) -> None:
    """Open the books with nothing in PeopleSoft. Raises ``Fatal`` when they are open already.

    Payments that dry runs have taken in are of earlier charges, none of ours: they are never posted.
    """
    row = tx.row("SELECT opened_at, opened_by FROM institution WHERE institution = :i")
    if row and row["opened_at"]:
        raise Fatal(
            f"This ledger was opened at {row['opened_at'][:16]}Z by {row['opened_by']}; opening is done once."
        )
    tx.run(
        "UPDATE institution SET opened_at = :now, opened_by = :by WHERE institution = :i", now=tx.now, by=by
    )
    earlier = payments.set_aside_as_earlier(tx)
    tx.event("institution", "opened", "clean: PeopleSoft holds no library fees of ours")
    if earlier:
        tx.event("institution", "payments of earlier charges", f"{earlier}, never to be posted")
