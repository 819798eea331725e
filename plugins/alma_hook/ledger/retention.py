"""What of a patron's data may go after some time, and its removal, a part at a time.

Rows that mean money stay: sent lines, payments, what was taken back, and the events. So does the last reading
of a fee that was ever charged: without it the fee would be looked for at each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alma_hook.ledger.shadow import LAST_LIVE
from alma_hook.ledger.store import Tx

#: A live batch before an instant; what dry runs saw before it is of no concern any more.
_LIVE_BEFORE = f"COALESCE(({LAST_LIVE}), '')"
_OF_BATCH = "institution = :i AND batch_id = :batch_id"
_OF_FEE = "institution = :i AND fee_id = :fee_id"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of what may go. ``setting``: that of its days, ``direction``: whose lease keeps others away.

    ``old``: what is older than ``:before``, its keys and its time as ``at``. ``remove``: what is done to each.
    ``part``: how many go in one transaction.
    """

    setting: str
    name: str
    direction: str
    old: str
    remove: tuple[str, ...]
    part: int = 500


KINDS = (
    Kind(
        "sent_file_days",
        "files that were sent or given up",
        "out",
        # Only what the archive tells the end of: until then the bytes may be needed again.
        "SELECT b.batch_id, b.changed_at AS at FROM batch b JOIN batch_file f ON f.institution = b.institution "
        "AND f.batch_id = b.batch_id WHERE b.institution = :i AND b.state IN ('delivered', 'cancelled') "
        "AND b.noted_at = b.changed_at AND b.changed_at < :before",
        (f"DELETE FROM batch_file WHERE {_OF_BATCH}",),
        part=50,
    ),
    Kind(
        "payment_file_days",
        "files of PeopleSoft's output",
        "back",
        # The row stays: by it the file is known again, and which of two is the newer one.
        "SELECT f.name, f.sha256, f.found_at AS at FROM payment_file f WHERE f.institution = :i "
        "AND f.state IN ('taken', 'archived', 'withdrawn') AND f.found_at < :before AND LENGTH(f.content) > 0",
        (
            "UPDATE payment_file SET content = :nothing WHERE institution = :i AND name = :name AND sha256 = :sha256",
        ),
        part=50,
    ),
    Kind(
        "dry_run_days",
        "batches of dry runs",
        "out",
        "SELECT b.batch_id, b.created_at AS at FROM batch b WHERE b.institution = :i AND b.state = 'preview' "
        "AND b.created_at < :before",
        tuple(
            f"DELETE FROM {table} WHERE {_OF_BATCH}"
            for table in ("batch_file", "batch_hold", "line", "batch")
        ),
        part=5,
    ),
    # The runs first: a report of half of them would be wrong.
    Kind(
        "dry_run_days",
        "dry runs from before the campus was live",
        "out",
        "SELECT e.event_id, e.at FROM event e WHERE e.institution = :i AND e.subject = 'dry run' "
        f"AND e.at < {_LIVE_BEFORE}",
        ("DELETE FROM event WHERE institution = :i AND event_id = :event_id",),
        part=100_000,
    ),
    Kind(
        "dry_run_days",
        "fees as they saw them",
        "out",
        "SELECT d.fee_id, d.planned_at, d.run_id, d.planned_at AS at FROM dry_reading d WHERE d.institution = :i "
        f"AND d.planned_at < {_LIVE_BEFORE}",
        (f"DELETE FROM dry_reading WHERE {_OF_FEE} AND planned_at = :planned_at AND run_id = :run_id",),
    ),
    Kind(
        "uncharged_fee_days",
        "fees that were never charged and are settled in Alma",
        "out",
        "SELECT f.fee_id, r.read_at AS at FROM fee f "
        "JOIN reading r ON r.institution = f.institution AND r.fee_id = f.fee_id "
        "WHERE f.institution = :i AND r.read_at < :before AND r.own_paid = 0 "
        "AND ((r.balance = 0 AND r.problem IS NULL) OR r.problem = 'user not found in Alma') "
        # One column each: with an OR no index serves.
        + "".join(
            f"AND NOT EXISTS (SELECT 1 FROM {table} t WHERE t.institution = f.institution AND t.{column} = f.fee_id{more}) "
            for table, column, more in (
                ("line", "fee_id", " AND t.state <> 'preview'"),
                ("line", "item_fee", " AND t.state = 'sent'"),
                ("line", "item_fee", " AND t.state <> 'sent' AND t.state <> 'preview'"),
                ("payment", "fee_id", ""),
                ("payment", "posted_to", ""),
                ("carry", "to_fee", ""),
                ("carry", "from_fee", ""),
                ("carry", "item_fee", ""),
                ("item", "fee_id", ""),
            )
        )
        + "AND NOT EXISTS (SELECT 1 FROM exception_item x WHERE x.institution = f.institution "
        "AND x.fee_id = f.fee_id AND x.closed_at IS NULL)",
        tuple(f"DELETE FROM {table} WHERE {_OF_FEE}" for table in ("reading", "fee")),
    ),
)


def count(tx: Tx, kind: Kind, before: str) -> int:
    """Return how many are older than an instant."""
    return int(tx.one(f"SELECT COUNT(*) FROM ({kind.old}) o", before=before))


def remove(tx: Tx, kind: Kind, before: str) -> int:
    """Remove a part of what is older than an instant; return how many, nought when nothing is left."""
    rows: Sequence[dict[str, str]] = [
        dict(row)
        for row in tx.rows(
            f"SELECT o.* FROM ({kind.old}) o ORDER BY o.at LIMIT :part", before=before, part=kind.part
        )
    ]
    for statement in kind.remove:
        tx.many(statement, [{**row, "nothing": b""} for row in rows])
    if rows:
        tx.event("retention", "removed", f"{len(rows)} {kind.name}, older than {before[:10]}")
    return len(rows)


def oldest(tx: Tx, kind: Kind) -> str | None:
    """Return since when what could go one day is kept; ``None``: there is none."""
    found = tx.one(f"SELECT MIN(o.at) FROM ({kind.old}) o", before=tx.now)
    return None if found is None else str(found)
