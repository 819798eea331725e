"""What PeopleSoft shows of the lines it was sent: its items, lines seen there, lines made void."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alma_hook.ledger import exceptions, fees
from alma_hook.ledger.batches import MAY_BE_LOADED
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.reversals import DROPPED, EARLIER
from alma_hook.ledger.store import Row, Tx, in_list
from alma_hook.money import amount as text_of

DIFFERS = "item amount differs in PeopleSoft"
CREDIT_WAITS = "credit waits until its charge is seen in PeopleSoft"


@dataclass(frozen=True, slots=True)
class Item:
    """A fee's items in PeopleSoft, added up; cents. ``balance`` is ``None`` where the list does not give it."""

    fee_id: str
    emplid: str
    amount: int
    balance: int | None


@dataclass(frozen=True, slots=True)
class Sent:
    """A line of a fee that counts, or is under way: then ``delivered_at`` is ``None``."""

    batch_id: str
    line_no: int
    kind: str
    amount: int
    delivered_at: str | None
    confirmed: bool
    credit_item: bool = False

    @property
    def cents(self) -> int:
        """What the student owes by it: a credit less than nought."""
        return self.amount if self.kind == "charge" else -self.amount

    @property
    def subject(self) -> str:
        """What the line is listed under."""
        return f"line {self.batch_id}/{self.line_no}"


def keep(tx: Tx, file: Row, items: Iterable[Item]) -> None:
    """Keep what a list says of each fee, unless a newer list has told already.

    ``file``: ``name``, ``sha256`` and ``written_at``; of two of one second the later name is the newer.
    """
    tx.many(
        "INSERT INTO item VALUES (:i, :fee, :emplid, :amount, :balance, :name, :sha, :at) "
        "ON CONFLICT (institution, fee_id) DO UPDATE SET emplid = excluded.emplid, amount = excluded.amount, "
        "balance = excluded.balance, file_name = excluded.file_name, file_sha256 = excluded.file_sha256, "
        "seen_at = excluded.seen_at WHERE item.seen_at < excluded.seen_at "
        "OR (item.seen_at = excluded.seen_at AND item.file_name <= excluded.file_name)",
        [
            {
                "fee": item.fee_id,
                "emplid": item.emplid,
                "amount": item.amount,
                "balance": item.balance,
                "name": file["name"],
                "sha": file["sha256"],
                "at": file["written_at"],
            }
            for item in items
        ],
    )


def newer_list(tx: Tx, file: Row) -> bool:
    """Whether a newer list than this one was taken in."""
    return bool(
        tx.one(
            "SELECT COUNT(*) FROM payment_file WHERE institution = :i AND kind = 'items' AND state IN ('taken', 'archived') "
            "AND (written_at > :at OR (written_at = :at AND name > :name))",
            at=file["written_at"],
            name=file["name"],
        )
    )


def lacking(tx: Tx, written_at: str) -> dict[str, int]:
    """Return the fees of the items seen before that a list just kept does not hold, with their cents, by fee id.

    PeopleSoft keeps an item for ever, so a list that lacks one was cut short. One that came to nought may
    have been left out.
    """
    rows = tx.rows(
        "SELECT fee_id, last_amount FROM item_position "
        "WHERE institution = :i AND present = 1 AND last_amount <> 0 AND seen_at < :at ORDER BY fee_id",
        at=written_at,
    )
    return {row["fee_id"]: int(row["last_amount"]) for row in rows}


def to_judge(tx: Tx) -> list[Row]:
    """Return the known position of every fee with an unseen line, or with another amount than it was told."""
    return tx.rows(
        "SELECT * FROM item_position WHERE institution = :i AND as_of IS NOT NULL "
        "AND (unconfirmed > 0 OR amount <> told) ORDER BY fee_id"
    )


def positions(tx: Tx, fee_ids: Sequence[str]) -> dict[str, Row]:
    """Return the positions of these fees; ``as_of`` is null where no list has told of one."""
    sql = "SELECT * FROM item_position WHERE institution = :i AND fee_id"
    return {row["fee_id"]: row for row in in_list(tx, sql, fee_ids)}


def lines(tx: Tx, fee_ids: Sequence[str] = (), *, unseen: bool = False) -> dict[str, list[Sent]]:
    """Return the lines that count or are under way in the order of their delivery, by the fee of their item.

    Of these fees' items; with ``unseen`` also of every fee with a line not seen, which may be all there are.
    """
    sql = (
        "SELECT l.item_fee, l.batch_id, l.line_no, l.kind, l.amount, l.state, l.confirmed_at, l.credit_item, b.delivered_at "
        "FROM line l JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
        "WHERE l.institution = :i AND l.state"
    )
    # Each has an index of its own.
    by_state = (f"{sql} = 'sent' AND l.item_fee", f"{sql} = 'pending' AND l.state <> 'sent' AND l.item_fee")
    found: dict[str, list[Sent]] = {}
    rows: list[Row] = []
    for each in by_state if unseen else ():
        rows += tx.rows(
            f"{each} IN (SELECT u.item_fee FROM line u WHERE u.institution = :i AND u.state = 'sent' "
            "AND u.confirmed_at IS NULL AND u.credit_item = 0)"
        )
    have = {row["item_fee"] for row in rows}
    for each in by_state:
        rows += in_list(tx, each, [fee_id for fee_id in fee_ids if fee_id not in have])
    for row in sorted(rows, key=lambda row: (row["batch_id"], row["line_no"])):
        at = row["delivered_at"] if row["state"] == "sent" else None
        found.setdefault(row["item_fee"], []).append(
            Sent(row["batch_id"], row["line_no"], row["kind"], int(row["amount"]), at,
                 row["confirmed_at"] is not None, bool(row["credit_item"]))
        )  # fmt: skip
    return found


def seen_since(tx: Tx, batch_id: str) -> bool:
    """Whether the newest complete list shows a line that was delivered with a batch or after it.

    A list that does was surely written after that, whatever time its file bears; if the item came to another amount
    before. A batch of a lower number may have been loaded before, however late a person said that it was delivered.
    """
    return bool(
        tx.one(
            "SELECT 1 FROM complete_list c JOIN item_position p ON p.institution = c.institution "
            "AND p.present = 1 AND p.seen_at = c.written_at AND p.amount = p.told "
            "JOIN line l ON l.institution = p.institution AND l.item_fee = p.fee_id AND l.state = 'sent' "
            "AND l.confirmed_at IS NOT NULL JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
            "WHERE c.institution = :i AND b.delivered_at >= :at AND b.batch_id >= :b AND p.amount <> "
            "(SELECT COALESCE(SUM(CASE WHEN m.kind = 'charge' THEN m.amount ELSE -m.amount END), 0) FROM line m "
            "JOIN batch d ON d.institution = m.institution AND d.batch_id = m.batch_id WHERE m.institution = p.institution "
            "AND m.item_fee = p.fee_id AND m.state = 'sent' AND m.credit_item = 0 "
            "AND (d.delivered_at < :at OR d.batch_id < :b)) LIMIT 1",
            b=batch_id,
            at=tx.one("SELECT delivered_at FROM batch WHERE institution = :i AND batch_id = :b", b=batch_id),
        )
    )


def confirm(tx: Tx, seen: Sequence[tuple[Sent, str]]) -> None:
    """Note in which file each line was seen first, and which batches are seen whole by it."""
    tx.many(
        "UPDATE line SET confirmed_at = :now, confirmed_in = :file "
        "WHERE institution = :i AND batch_id = :b AND line_no = :n AND confirmed_at IS NULL",
        [{"now": tx.now, "file": file, "b": line.batch_id, "n": line.line_no} for line, file in seen],
    )
    whole = tx.rows(
        "SELECT b.batch_id FROM batch b WHERE b.institution = :i AND b.state = 'delivered' AND b.confirmed_at IS NULL "
        "AND EXISTS (SELECT 1 FROM line l WHERE l.institution = b.institution AND l.batch_id = b.batch_id "
        "AND l.confirmed_at IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM line l WHERE l.institution = b.institution "
        "AND l.batch_id = b.batch_id AND l.state = 'sent' AND l.confirmed_at IS NULL) ORDER BY b.batch_id"
    )
    tx.many(
        "UPDATE batch SET confirmed_at = :now WHERE institution = :i AND batch_id = :b",
        [{"now": tx.now, "b": row["batch_id"]} for row in whole],
    )
    tx.events([(f"batch {row['batch_id']}", "confirmed", "") for row in whole])


def differing(fee_id: str, found: int, told: int, detail: str) -> Listed:
    """Return the entry of a fee whose items come to ``found`` cents and should come to ``told``."""
    text = f"PeopleSoft {text_of(found)}, told {text_of(told)}; {detail}"
    return Listed(DIFFERS, f"item {fee_id}", found - told, text, fee_id=fee_id)


def above(tx: Tx) -> frozenset[str]:
    """Return the fees that stand listed with more in PeopleSoft than it was told."""
    rows = tx.rows(
        "SELECT fee_id FROM exception_item WHERE institution = :i AND kind = :kind AND amount > 0 AND closed_at IS NULL",
        kind=DIFFERS,
    )
    return frozenset(row["fee_id"] for row in rows)


def unseen_charges(tx: Tx) -> dict[str, str]:
    """Return, of the fees this run has read, those with charges not seen in PeopleSoft: when the last was delivered."""
    rows = tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT r.fee_id, b.delivered_at FROM reading r CROSS JOIN line l "
        "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
        "WHERE l.institution = r.institution AND l.fee_id = r.fee_id AND r.institution = :i AND r.run_id = :run "
        "AND l.state = 'sent' AND l.kind = 'charge' AND l.confirmed_at IS NULL",
        run=tx.run_id,
    )
    last: dict[str, str] = {}
    for row in rows:
        last[row["fee_id"]] = max(row["delivered_at"], last.get(row["fee_id"], ""))
    return last


def unconfirmed(tx: Tx) -> list[Row]:
    """Return every line that counts and was not seen in PeopleSoft, with its batch's file, oldest first.

    But for credits with an item type of their own: no list of items can show those.
    """
    return tx.rows(
        "SELECT l.batch_id, l.line_no, l.fee_id, l.kind, l.amount, b.file_name, b.delivered_at, "
        "(SELECT COUNT(*) FROM exception_item x WHERE x.institution = l.institution AND x.closed_at IS NULL "
        "AND x.subject = 'line ' || l.batch_id || '/' || CAST(l.line_no AS TEXT)) AS listed FROM line l "
        "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
        "WHERE l.institution = :i AND l.state = 'sent' AND l.confirmed_at IS NULL AND l.credit_item = 0 "
        "ORDER BY l.batch_id, l.line_no"
    )


def summary(tx: Tx) -> Row:
    """Return ``charges`` not seen, what they come to (``charged``), the ``oldest``'s delivery, the ``newest`` complete list."""
    found = tx.row(
        "SELECT COUNT(*) AS charges, CAST(COALESCE(SUM(l.amount), 0) AS BIGINT) AS charged, MIN(b.delivered_at) AS oldest, "
        "(SELECT c.written_at FROM complete_list c WHERE c.institution = :i) AS newest "
        "FROM line l JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
        "WHERE l.institution = :i AND l.kind = 'charge' AND l.state = 'sent' AND l.confirmed_at IS NULL"
    )
    assert found is not None
    return found


@dataclass(frozen=True, slots=True)
class Paid:
    """What PeopleSoft says was paid on a fee's item and stands, in cents, and when the ledger heard of the last of it."""

    cents: int = 0
    heard_at: str = ""


def paid(tx: Tx, fee_ids: Sequence[str]) -> dict[str, Paid]:
    """Return what was paid on these fees' items; not on charges of before the books were opened."""
    sql = (
        "SELECT reported_fee_id, stands, taken_at FROM payment_now "
        f"WHERE institution = :i AND state NOT IN ('{EARLIER}', '{DROPPED}') AND stands > 0 AND reported_fee_id"
    )
    found: dict[str, Paid] = {}
    for row in in_list(tx, sql, fee_ids):
        before = found.get(row["reported_fee_id"], Paid())
        found[row["reported_fee_id"]] = Paid(
            before.cents + int(row["stands"]), max(before.heard_at, row["taken_at"])
        )
    return found


#: Of a line ``l`` that counts no more: people may have been wrong.
_MAY_BE_LOADED_ALL_THE_SAME = f"(l.state = 'void' OR (l.state = 'dropped' AND {MAY_BE_LOADED}))"


def given_up_and_paid(tx: Tx) -> frozenset[str]:
    """Return the fees of this run's readings with a charge given up or made void that a later payment shows as loaded.

    So much was paid on the item as its other charges and that one come to.
    """
    rows = tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT l.fee_id FROM reading r CROSS JOIN line l "
        "JOIN batch b ON b.institution = l.institution AND b.batch_id = l.batch_id "
        "WHERE l.institution = r.institution AND l.fee_id = r.fee_id AND r.institution = :i AND r.run_id = :run "
        f"AND l.state IN ('void', 'dropped') AND {_MAY_BE_LOADED_ALL_THE_SAME} AND l.kind = 'charge' "
        "AND l.amount + (SELECT COALESCE(SUM(c.amount), 0) FROM line c "
        "WHERE c.institution = l.institution AND c.item_fee = l.item_fee AND c.state = 'sent' AND c.kind = 'charge') "
        "<= (SELECT COALESCE(SUM(p.stands), 0) FROM payment_now p WHERE p.institution = l.institution "
        # One that a person has settled is none of this fee's.
        f"AND p.reported_fee_id = l.item_fee AND p.state NOT IN ('{EARLIER}', '{DROPPED}', 'settled')) "
        "AND EXISTS (SELECT 1 FROM payment p "
        "WHERE p.institution = l.institution AND p.fee_id = l.item_fee AND p.taken_at > b.created_at)",
        run=tx.run_id,
    )
    return frozenset(row["fee_id"] for row in rows)


def ever_sent_otherwise(tx: Tx, fee_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return, by fee of the item, lines that count no more and may be loaded all the same, as ``batch/line``."""
    sql = (
        "SELECT l.item_fee, l.batch_id, l.line_no FROM line l WHERE l.institution = :i "
        f"AND l.state <> 'sent' AND {_MAY_BE_LOADED_ALL_THE_SAME} AND l.item_fee"
    )
    found: dict[str, list[str]] = {}
    for row in in_list(tx, sql, fee_ids):
        found.setdefault(row["item_fee"], []).append(f"{row['batch_id']}/{row['line_no']}")
    return found


def richer_item(tx: Tx, fee_id: str, emplid: str) -> str | None:
    """Return another fee of that student whose items come to more than they can by its own lines."""
    found = tx.one(
        "SELECT MIN(p.fee_id) FROM item_position p WHERE p.institution = :i AND p.emplid = :emplid AND p.fee_id <> :fee "
        "AND p.present = 1 AND (p.amount > p.charged OR EXISTS (SELECT 1 FROM exception_item x "
        "WHERE x.institution = p.institution AND x.fee_id = p.fee_id AND x.kind = :kind AND x.amount > 0 "
        "AND x.closed_at IS NULL))",
        emplid=emplid,
        fee=fee_id,
        kind=DIFFERS,
    )
    return None if found is None else str(found)


def void(tx: Tx, rows: Sequence[Row], evidence: str, reason: str) -> None:
    """Let sent lines count no more; the next run works their fees out anew.

    What is listed of them is closed. That a credit waits is closed too: with the charge the credit is gone,
    and a fee on which nothing is due is not looked at again.
    """
    tx.many(
        "UPDATE line SET state = 'void' WHERE institution = :i AND batch_id = :b AND line_no = :n AND state = 'sent'",
        [{"b": row["batch_id"], "n": row["line_no"]} for row in rows],
    )
    for batch_id in sorted({row["batch_id"] for row in rows}):
        tx.run(
            "UPDATE batch SET changed_at = :now WHERE institution = :i AND batch_id = :b",
            now=tx.now,
            b=batch_id,
        )
    events = []
    for row in rows:
        where = (
            f"{row['kind']} of {text_of(int(row['amount']))}, batch {row['batch_id']} line {row['line_no']}"
        )
        events.append((f"fee {row['fee_id']}", "line made void", f"{where}: {evidence}; {reason}"))
        events.append((f"batch {row['batch_id']}", "line made void", f"line {row['line_no']}: {evidence}"))
    tx.events(events)
    fee_ids = [row["fee_id"] for row in rows]
    subjects = {f"line {row['batch_id']}/{row['line_no']}" for row in rows}
    waiting = {f"fee {fee_id}" for fee_id in fee_ids}
    for item in exceptions.open_items(tx):
        if item["subject"] in subjects or (item["kind"] == CREDIT_WAITS and item["subject"] in waiting):
            # Not the person's word: another credit of that fee may wait some day.
            exceptions.close(tx, item["exception_id"], "system", f"line made void: {reason}")
    fees.touch(tx, fee_ids)
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, fee_ids)), "void")
