"""Batches that wait for a person's answer, what was approved, and how large the reports were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta

from alma_hook.errors import Fatal
from alma_hook.ledger import batches, exceptions, fees
from alma_hook.ledger.batches import Line
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.store import Row, Tx, in_list, instant, moment
from alma_hook.money import amount

#: What is approved of a line: whose money, how much, and where in PeopleSoft it lands. Its day is not.
FACTS = ("fee_id", "kind", "amount", "emplid", "item_type", "term", "reference", "account_type")
Facts = tuple[object, ...]
HELD = "batch held for approval"

_HOLDS = (
    "SELECT b.*, h.why, (SELECT MAX(l.amount) FROM line l WHERE l.institution = b.institution "
    "AND l.batch_id = b.batch_id) AS largest FROM batch b "
    "JOIN batch_hold h ON h.institution = b.institution AND h.batch_id = b.batch_id WHERE b.institution = :i "
)


def facts(line: Line) -> Facts:
    """Return what an approval of a line is bound to."""
    return tuple(getattr(line, name) for name in FACTS)


def set_aside(tx: Tx, batch_id: str, why: Sequence[str]) -> None:
    """Record why a batch was opened as held; a live one is listed until it is answered."""
    text = "; ".join(why)
    tx.run("INSERT INTO batch_hold (institution, batch_id, why) VALUES (:i, :b, :why)", b=batch_id, why=text)
    row = batches.batch(tx, batch_id)
    if row["state"] == "held":
        exceptions.open_all(tx, [Listed(HELD, f"batch {batch_id}", int(row["total"]), text)])


def held(tx: Tx) -> list[Row]:
    """Return the batches that wait for an answer, oldest first: the batch, ``why``, its ``largest`` line in cents."""
    return tx.rows(_HOLDS + "AND b.state = 'held' ORDER BY b.batch_id")


def holds(tx: Tx, batch_ids: Sequence[str]) -> list[Row]:
    """Return these batches as ``held`` does, whatever their state; rehearsals too."""
    return in_list(tx, _HOLDS + "AND b.batch_id", batch_ids)


def describe(row: Row) -> str:
    """Return one batch that is set aside for a log, without patron data."""
    return (
        f"batch {row['batch_id']} ({row['kind']}, {row['line_count']} lines, {amount(int(row['total']))}): "
        f"{row['why']}"
    )


def composition(tx: Tx, batch_id: str) -> list[Row]:
    """Return a batch's lines and cents by Alma fee type and item type: ``type``, ``item_type``, ``lines``, ``total``."""
    return tx.rows(
        "SELECT COALESCE(r.type, '') AS type, l.item_type, COUNT(*) AS lines, CAST(SUM(l.amount) AS BIGINT) AS total FROM line l "
        "LEFT JOIN reading r ON r.institution = l.institution AND r.fee_id = l.fee_id "
        "WHERE l.institution = :i AND l.batch_id = :b GROUP BY 1, 2 ORDER BY 1, 2",
        b=batch_id,
    )


def digest(tx: Tx, batch_id: str) -> str:
    """Return the digest that an answer is bound to: the first twelve digits of a SHA-256 over the batch's lines."""
    lines = [[row[name] for name in FACTS] for row in batches.lines(tx, batch_id)]
    text = json.dumps([tx.institution, batch_id, lines], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def release(tx: Tx, batch_id: str, seen: str, by: str, reason: str) -> None:
    """Approve a held batch's lines by a person's name; ``seen`` is the digest of what was looked at.

    Nothing leaves by it. The next run gives the batch up, reads its fees anew, and a line that still
    equals an approved one passes the brake. If a sudden drop was doubted, the report is accepted.
    Raises ``Fatal`` when the batch is not held, the digest is another one, or name or reason lack.
    """
    row = _answerable(tx, batch_id, by)
    if not reason.strip():
        raise Fatal(
            f"Batch {batch_id} was not released: that needs a reason, for whoever reads it later. It stays held; answer "
            "again, with a reason."
        )
    seen = seen.strip().lower()
    if seen != digest(tx, batch_id):
        raise Fatal(
            f"The digest is not that of batch {batch_id}: it is not what was looked at. Look again with "
            "`python -m alma_hook held`. Nothing was released."
        )
    _answer(tx, batch_id, "released", by, seen=seen, reason=reason)
    batches.move(tx, batch_id, "held", "released")
    tx.run("UPDATE report_taken SET accepted = 1 WHERE institution = :i AND run_id = :run", run=row["run_id"])


def refuse(tx: Tx, batch_id: str, by: str, reason: str) -> None:
    """Give a held batch up by a person's name; the next run works its fees out anew, and may hold them again.

    Raises ``Fatal`` when the batch is not held, or name or reason lack.
    """
    _answerable(tx, batch_id, by)
    if not reason.strip():
        raise Fatal("A refusal needs a reason, for whoever reads it later. Nothing was done.")
    _answer(tx, batch_id, "refused", by, reason=reason)
    accounts = fees.accounts_of_fees(tx, [row["fee_id"] for row in batches.lines(tx, batch_id)])
    batches.drop(tx, batch_id, "held")
    fees.add_accounts(tx, True, sorted(accounts), "refused")


def answer_of(tx: Tx, batch_id: str) -> tuple[str, str] | None:
    """Return how a batch that was held was answered, and by whom; ``None`` while it was not."""
    row = tx.row(
        "SELECT answer, answered_by FROM batch_hold WHERE institution = :i AND batch_id = :b AND answer IS NOT NULL",
        b=batch_id,
    )
    return None if row is None else (str(row["answer"]), str(row["answered_by"]))


def approved(tx: Tx, hours: int) -> frozenset[Facts]:
    """Return what was approved in the last hours and not used since.

    An approval of a fee's line is used once another line of that fee stands or was sent; one that was
    given up before it left uses nothing.
    """
    rows = tx.rows(
        f"SELECT {', '.join(f'l.{name}' for name in FACTS)} FROM batch_hold h "
        "JOIN line l ON l.institution = h.institution AND l.batch_id = h.batch_id "
        "WHERE h.institution = :i AND h.answer = 'released' AND h.answered_at >= :since "
        "AND NOT EXISTS (SELECT 1 FROM line u WHERE u.institution = l.institution AND u.fee_id = l.fee_id "
        "AND u.batch_id > l.batch_id AND u.state NOT IN ('dropped', 'preview'))",
        since=instant(moment(tx.now) - timedelta(hours=hours)),
    )
    return frozenset(tuple(row[name] for name in FACTS) for row in rows)


def last_report(tx: Tx) -> int | None:
    """Return how many fees the last accepted report showed."""
    found = tx.one(
        "SELECT fees FROM report_taken WHERE institution = :i AND accepted = 1 ORDER BY taken_at DESC, run_id DESC LIMIT 1"
    )
    return None if found is None else int(found)


def keep_report(tx: Tx, reported: int, last: int | None, accepted: bool) -> None:
    """Keep the size of this run's report; a retry's replaces it."""
    tx.run(
        "INSERT INTO report_taken VALUES (:i, :run, :now, :fees, :last, :accepted) "
        "ON CONFLICT (institution, run_id) DO UPDATE SET taken_at = excluded.taken_at, fees = excluded.fees, "
        "last_fees = excluded.last_fees, accepted = excluded.accepted",
        run=tx.run_id,
        now=tx.now,
        fees=reported,
        last=last,
        accepted=int(accepted),
    )


def doubted_report(tx: Tx) -> tuple[int, int] | None:
    """Return how many fees this run's report showed and the last one did, if it is not accepted."""
    row = tx.row(
        "SELECT fees, last_fees FROM report_taken WHERE institution = :i AND run_id = :run AND accepted = 0",
        run=tx.run_id,
    )
    return None if row is None else (int(row["fees"]), int(row["last_fees"]))


def _answerable(tx: Tx, batch_id: str, by: str) -> Row:
    if not by.strip():
        raise Fatal("An answer needs the name of the person who gives it. Nothing was done.")
    waiting = held(tx)
    for row in waiting:
        if row["batch_id"] == batch_id:
            return row
    given = tx.row(
        "SELECT * FROM batch_hold WHERE institution = :i AND batch_id = :b AND answer IS NOT NULL", b=batch_id
    )
    if given is not None:
        raise Fatal(
            f"Batch {batch_id} was {given['answer']} by {given['answered_by']} at {given['answered_at'][:19]} already."
        )
    names = ", ".join(row["batch_id"] for row in waiting)
    raise Fatal(f"Batch {batch_id} is not held for approval; those are: {names or 'none'}.")


def _answer(
    tx: Tx, batch_id: str, answer: str, by: str, *, seen: str | None = None, reason: str | None = None
) -> None:
    tx.run(
        "UPDATE batch_hold SET answer = :answer, answered_at = :now, answered_by = :by, answer_reason = :reason, "
        "digest = :digest WHERE institution = :i AND batch_id = :b",
        answer=answer,
        now=tx.now,
        by=by,
        reason=reason,
        digest=seen,
        b=batch_id,
    )
    detail = "; ".join(part for part in (f"digest {seen}" if seen else "", reason) if part)
    tx.event(f"batch {batch_id}", f"{answer} by {by}", detail)
    exceptions.close_subject(tx, f"batch {batch_id}", f"{answer}: {detail}", by)
