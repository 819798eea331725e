"""What the dry runs of a campus that is not live have seen: each fee, whenever it was not as before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from alma_hook.ledger import reversals
from alma_hook.ledger.store import Row, Tx

_SUBJECT = "dry run"
#: When the last live batch before an instant was made.
LAST_LIVE = "SELECT MAX(b.created_at) FROM batch b WHERE b.institution = :i AND b.state <> 'preview' AND b.created_at < :before"
_COLUMNS = (
    "fee_id", "emplid", "status", "type", "currency", "original", "balance", "told", "own_paid", "others_paid", "reason",
    "problem", "taken_back", "owner", "made_at", "user_group",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """A fee as a dry run saw it, beside what live runs had told PeopleSoft by then. Amounts in cents.

    ``others_paid``: payments in Alma without our key. ``problem``: why nothing may be concluded from it.
    """

    fee_id: str
    emplid: str
    status: str
    type: str
    currency: str | None
    original: int
    balance: int
    told: int
    own_paid: int
    others_paid: int
    reason: str
    problem: str | None
    taken_back: int
    owner: str = ""
    made_at: str | None = None
    user_group: str | None = None


def keep(tx: Tx, seen: Sequence[Seen]) -> None:
    """Keep what this dry run saw otherwise than the last one did, and that it ran."""
    before = {
        row["fee_id"]: _seen(row)
        for row in tx.rows(
            "SELECT d.* FROM dry_reading d WHERE d.institution = :i AND d.planned_at > :begin "
            "AND NOT EXISTS (SELECT 1 FROM dry_reading n WHERE n.institution = d.institution "
            "AND n.fee_id = d.fee_id AND n.planned_at > d.planned_at)",
            begin=_after_live(tx, tx.now),
        )
    }
    columns = ", ".join(_COLUMNS)
    values = ", ".join(f":{name}" for name in _COLUMNS)
    tx.many(
        f"INSERT INTO dry_reading (institution, planned_at, run_id, {columns}) VALUES (:i, :now, :run, {values})",
        [{"now": tx.now, "run": tx.run_id, **asdict(fee)} for fee in seen if before.get(fee.fee_id) != fee],
    )
    tx.event(_SUBJECT, "planned", f"{len(seen)} fees considered")


def _seen(row: Row) -> Seen:
    return Seen(**{name: row[name] for name in _COLUMNS})


def _after_live(tx: Tx, before: str) -> str:
    """Return when the last live batch before an instant was made: what was seen until then is of no concern."""
    return str(tx.one(LAST_LIVE, before=before) or "")


@dataclass(frozen=True, slots=True)
class History:
    """The latest stretch of dry runs without a live one between: the runs, and what each saw otherwise.

    ``runs``: when and which, oldest first. ``seen``: by that, its fees by id. ``payments``: what PeopleSoft's
    output showed and no live run has posted before, in the order in which they were taken in.
    ``sent``: by fee, the charge of a live run from before that later lines copy.
    """

    runs: tuple[tuple[str, str], ...]
    seen: dict[tuple[str, str], list[Seen]]
    payments: tuple[Row, ...]
    sent: dict[str, Row]


def history(tx: Tx) -> History:
    """Return what the report is made of; it stays what it was when the campus is live afterwards."""
    last = tx.one("SELECT MAX(at) FROM event WHERE institution = :i AND subject = :s", s=_SUBJECT)
    if last is None:
        return History((), {}, (), {})
    begin = _after_live(tx, last)
    runs = [
        (str(row["at"]), str(row["run_id"]))
        for row in tx.rows(
            "SELECT at, run_id FROM event WHERE institution = :i AND subject = :s AND at > :begin ORDER BY event_id",
            s=_SUBJECT,
            begin=begin,
        )
    ]
    seen: dict[tuple[str, str], list[Seen]] = {run: [] for run in runs}
    for row in tx.rows(
        "SELECT * FROM dry_reading WHERE institution = :i AND planned_at > :begin ORDER BY planned_at, run_id, fee_id",
        begin=begin,
    ):
        seen.setdefault((str(row["planned_at"]), str(row["run_id"])), []).append(_seen(row))
    first = runs[0][0]
    payments = tx.rows(
        # Opening the books sets aside what was taken in before; the report of that time stays what it was.
        "SELECT payment_no, CASE WHEN state = 'earlier' THEN reported_fee_id ELSE fee_id END AS fee_id, emplid, stands, "
        "paid_on, taken_at, run_id FROM payment_now WHERE institution = :i "
        "AND (marked_at IS NULL OR marked_at > :first) AND taken_at <= :last AND stands > 0 "
        f"AND state <> '{reversals.DROPPED}' ORDER BY payment_no",
        first=first,
        last=_end(tx, last),
    )
    sent = reversals.carried_lines(tx) | {
        row["fee_id"]: row
        for row in tx.rows(
            "SELECT l.* FROM line l JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
            "WHERE l.institution = :i AND l.state = 'sent' AND l.kind = 'charge' AND b.created_at <= :begin "
            "ORDER BY l.batch_id, l.line_no",
            begin=begin,
        )
    }
    return History(tuple(runs), seen, tuple(payments), sent)


def _end(tx: Tx, last: str) -> str:
    """Return when the first live batch after the last dry run was made, else now: payments count until then."""
    found = tx.one(
        "SELECT MIN(created_at) FROM batch WHERE institution = :i AND state <> 'preview' AND created_at > :last",
        last=last,
    )
    return str(found or tx.now)
