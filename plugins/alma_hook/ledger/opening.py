"""Books opened from what PeopleSoft held already: items that stand for fees, what was paid on them before, fees held."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alma_hook.ledger import exceptions, fees
from alma_hook.ledger.batches import OPENING
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.reversals import EARLIER
from alma_hook.ledger.store import Row, Tx
from alma_hook.money import amount

HELD_SINCE_OPENING = "held since the opening"
ITEM_WITHOUT_FEE = "item of before the opening without a fee"
BEFORE_OR_AFTER = exceptions.BEFORE_OR_AFTER
LESS_APPLIED = exceptions.LESS_APPLIED
NEW_FEES_WAIT = "item of before the opening without a fee, new fees wait"

_LOOSE = "opening line "
# What people have said of an opening since, each a line of its note in the archive.
_RELEASED, _SETTLED, _TAKEN_BACK = "released", "settled", "back"


@dataclass(frozen=True, slots=True)
class Stands:
    """An item that stands for a fee; ``paid_before`` cents were applied to it when the books were opened.

    ``reference``: its own, by which payments on it are told; empty where it is ours. ``file_line``: its line in PeopleSoft's
    file, ``line_no`` in the opening's batch, nought where it had nothing to pay.
    """

    file_line: int
    fee_id: str
    emplid: str
    reference: str
    paid_before: int
    line_no: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A fee about which nothing is sent; ``amount``: the cents that would be."""

    fee_id: str
    user_id: str
    amount: int
    why: str


@dataclass(frozen=True, slots=True)
class Loose:
    """An item that stands for no fee; ``line_no`` of the file, ``balance`` in cents.

    ``emplid``: whose it is; an older record does not tell.
    """

    line_no: int
    balance: int
    why: str
    emplid: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What an opening brings besides its lines. ``as_of``: the campus's day of the items; ``file`` the query's file."""

    as_of: str
    file: str
    sha256: str
    reason: str
    items: tuple[Stands, ...]
    holds: tuple[Hold, ...]
    loose: tuple[Loose, ...]

    def text(self) -> bytes:
        """Return it as the archive keeps it: JSON, with EMPLIDs."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode("ascii")


def record_of(text: bytes) -> Record:
    """Return what the archive keeps of an opening."""
    told: dict[str, Any] = json.loads(text)
    told["items"] = tuple(Stands(**item) for item in told["items"])
    told["holds"] = tuple(Hold(**hold) for hold in told["holds"])
    told["loose"] = tuple(Loose(**item) for item in told["loose"])
    return Record(**told)


def bring(tx: Tx, record: Record) -> None:
    """Keep what an opening brings besides its lines; where it stands already, nothing changes."""
    tx.run(
        "UPDATE institution SET opened_as_of = :day WHERE institution = :i AND opened_as_of IS NULL",
        day=record.as_of,
    )
    tx.many(
        "INSERT INTO opening_item (institution, file_line, fee_id, emplid, reference, paid_before, line_no) "
        "VALUES (:i, :file_line, :fee_id, :emplid, :reference, :paid_before, :line_no) "
        "ON CONFLICT (institution, file_line) DO NOTHING",
        [asdict(item) for item in record.items],
    )
    tx.many(
        "INSERT INTO fee (institution, fee_id, user_id, first_seen_at) VALUES (:i, :fee, :user, :now) "
        "ON CONFLICT (institution, fee_id) DO NOTHING",
        [{"fee": hold.fee_id, "user": hold.user_id, "now": tx.now} for hold in record.holds],
    )
    tx.many(
        "INSERT INTO opening_hold (institution, fee_id, why) VALUES (:i, :fee, :why) "
        "ON CONFLICT (institution, fee_id) DO NOTHING",
        [{"fee": hold.fee_id, "why": hold.why} for hold in record.holds],
    )
    tx.many(
        "INSERT INTO opening_loose (institution, file_line, emplid) VALUES (:i, :line, :emplid) "
        "ON CONFLICT (institution, file_line) DO NOTHING",
        [{"line": item.line_no, "emplid": item.emplid} for item in record.loose],
    )
    fees.add_accounts(tx, True, sorted({hold.user_id for hold in record.holds}), "opening")
    listed = [
        Listed(HELD_SINCE_OPENING, f"fee {hold.fee_id}", hold.amount, hold.why, fee_id=hold.fee_id)
        for hold in record.holds
    ]
    listed += [
        Listed(ITEM_WITHOUT_FEE, f"{_LOOSE}{item.line_no}", item.balance, f"{record.file}, {item.why}")
        for item in record.loose
    ]
    exceptions.open_all(tx, listed)


def held(tx: Tx) -> frozenset[str]:
    """Return the fees about which nothing is sent yet."""
    rows = tx.rows("SELECT fee_id FROM opening_hold WHERE institution = :i AND released_at IS NULL")
    return frozenset(row["fee_id"] for row in rows)


def release(tx: Tx, fee_ids: Iterable[str]) -> None:
    """Let the formula decide about these fees from now on; the archive is told with the next run."""
    found = sorted(fee_ids)
    tx.many(
        "UPDATE opening_hold SET released_at = :now WHERE institution = :i AND fee_id = :fee AND released_at IS NULL",
        [{"fee": fee_id, "now": tx.now} for fee_id in found],
    )
    if found:
        _look_again(tx, found)


def _look_again(tx: Tx, fee_ids: Sequence[str]) -> None:
    """Let the next run read these fees, and tell the archive what was said of the opening."""
    _to_be_noted(tx)
    fees.touch(tx, fee_ids)
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, fee_ids)), "opening")


def _to_be_noted(tx: Tx) -> None:
    tx.run(
        "UPDATE batch SET changed_at = :now WHERE institution = :i AND batch_id = :b", now=tx.now, b=OPENING
    )


def released(tx: Tx) -> list[str]:
    """Return the fees that a person has released."""
    rows = tx.rows(
        "SELECT fee_id FROM opening_hold WHERE institution = :i AND released_at IS NOT NULL ORDER BY fee_id"
    )
    return [row["fee_id"] for row in rows]


def settle_loose(tx: Tx, subject: str) -> None:
    """Take a person's word that an item which stands for no fee was dealt with: its student's new fees wait no more."""
    tx.run(
        "UPDATE opening_loose SET settled_at = :now WHERE institution = :i AND file_line = :line AND settled_at IS NULL",
        now=tx.now,
        line=int(subject.removeprefix(_LOOSE)),
    )
    _to_be_noted(tx)


def students_of_loose(tx: Tx) -> frozenset[str]:
    """Return the EMPLIDs of items that stand for no fee and were not dealt with: a new fee of theirs may be in PeopleSoft."""
    rows = tx.rows("SELECT emplid FROM opening_loose WHERE institution = :i AND settled_at IS NULL")
    return frozenset(row["emplid"] for row in rows if row["emplid"])


def settle_less_applied(tx: Tx, listed: Row) -> None:
    """Take a person's word on what was taken back of what was paid before: what is applied from now on was paid since."""
    left = int(listed["amount"])
    for row in tx.rows(
        "SELECT file_line, paid_before FROM opening_paid WHERE institution = :i AND fee_id = :fee ORDER BY file_line",
        fee=listed["fee_id"],
    ):
        part = min(left, int(row["paid_before"]))
        left -= part
        tx.run(
            "UPDATE opening_item SET taken_back = taken_back + :part WHERE institution = :i AND file_line = :line",
            part=part,
            line=row["file_line"],
        )
    _look_again(tx, [listed["fee_id"]])
    tx.event(f"fee {listed['fee_id']}", f"{LESS_APPLIED}: settled", amount(int(listed["amount"])))


def said(tx: Tx) -> list[str]:
    """Return what people have said of the opening since, as its note in the archive tells it."""
    settled = tx.rows(
        "SELECT file_line FROM opening_loose WHERE institution = :i AND settled_at IS NOT NULL ORDER BY file_line"
    )
    back = tx.rows(
        "SELECT file_line, taken_back FROM opening_item WHERE institution = :i AND taken_back > 0 ORDER BY file_line"
    )
    return [
        *(f"{_RELEASED} {fee_id}" for fee_id in released(tx)),
        *(f"{_SETTLED} {row['file_line']}" for row in settled),
        *(f"{_TAKEN_BACK} {row['file_line']} {row['taken_back']}" for row in back),
    ]


def restore(tx: Tx, text: bytes, note: Iterable[str]) -> None:
    """Bring an opening back from the archive. ``note``: the lines of its note."""
    told: dict[str, list[list[str]]] = defaultdict(list)
    for word, *about in (line.split(" ") for line in note):
        told[word].append(about)
    record = record_of(text)
    bring(tx, record)
    # PeopleSoft's own file has shown them.
    tx.run(
        "UPDATE line SET confirmed_at = :now, confirmed_in = :file WHERE institution = :i AND batch_id = :b "
        "AND confirmed_at IS NULL",
        now=tx.now,
        file=record.file,
        b=OPENING,
    )
    held_yet = held(tx)
    gone = [fee_id for (fee_id,) in told[_RELEASED] if fee_id in held_yet]
    release(tx, gone)
    for fee_id in gone:
        exceptions.close_kind(
            tx, HELD_SINCE_OPENING, [f"fee {fee_id}"], "it was released, as the archive tells"
        )
    for (line,) in told[_SETTLED]:
        settle_loose(tx, f"{_LOOSE}{line}")
        exceptions.close_kind(
            tx, ITEM_WITHOUT_FEE, [f"{_LOOSE}{line}"], "it was settled, as the archive tells"
        )
    tx.many(
        "UPDATE opening_item SET taken_back = :cents WHERE institution = :i AND file_line = :line AND taken_back < :cents",
        [{"line": int(line), "cents": int(cents)} for line, cents in told[_TAKEN_BACK]],
    )


def references(tx: Tx) -> dict[str, str]:
    """Return by its own reference the fee that an item charged by another process stands for."""
    rows = tx.rows(
        "SELECT reference, fee_id FROM opening_item_now WHERE institution = :i AND reference <> ''"
    )
    return {row["reference"]: row["fee_id"] for row in rows}


# -- payments of before ------------------------------------------------------------------------------------


def paid_before(tx: Tx) -> dict[tuple[str, str], int]:
    """Return, by fee and EMPLID, what of the cents applied to its items now was so when the books were opened."""
    found: dict[tuple[str, str], int] = defaultdict(int)
    for row in tx.rows("SELECT fee_id, emplid, paid_before FROM opening_paid WHERE institution = :i"):
        found[row["fee_id"], row["emplid"]] += int(row["paid_before"])
    return found


def _paid_on_items(tx: Tx) -> dict[str, Row]:
    """Return, by fee, the ``cents`` paid before on its items, those made void since too; ``owing`` 0: nothing was left to pay."""
    sql = (
        "SELECT fee_id, CAST(SUM(paid_before) AS BIGINT) AS cents, MAX(line_no) AS owing FROM opening_item_now "
        "WHERE institution = :i GROUP BY fee_id"
    )
    return {row["fee_id"]: row for row in tx.rows(sql)}


def void_fees(tx: Tx) -> frozenset[str]:
    """Return the fees of which an item of the opening was made void: it may be that only PeopleSoft ever told of them."""
    rows = tx.rows(
        "SELECT fee_id FROM line WHERE institution = :i AND batch_id = :b AND state = 'void'", b=OPENING
    )
    return frozenset(row["fee_id"] for row in rows)


def set_earlier_aside(tx: Tx, file: Row | None = None) -> None:
    """Let payments that the items' balances had taken in already never be posted.

    PeopleSoft may date a later one back. So of a day before the opening's those that dry runs or the first ``file`` since
    have told of, where with those of that day they come to just what was applied by then, or nothing was left to pay. Of
    the others of these days a person says, see ``may_be_earlier``.
    """
    as_of = tx.one(
        "SELECT opened_as_of FROM institution WHERE institution = :i AND payment_shape <> 'applied'"
    )
    if as_of is None or (file is not None and not _first_since(tx, file)):
        return
    before = _paid_on_items(tx)
    left: dict[str, int] = defaultdict(int, {fee_id: int(row["cents"]) for fee_id, row in before.items()})
    found: dict[str, list[Row]] = defaultdict(list)
    for row in tx.rows(
        "SELECT fee_id, CAST(SUM(posted) AS BIGINT) AS cents FROM payment WHERE institution = :i AND state = :earlier "
        "AND fee_id IS NOT NULL GROUP BY fee_id",
        earlier=EARLIER,
    ):
        left[row["fee_id"]] -= int(row["cents"])
    for row in tx.rows(
        "SELECT p.* FROM payment_now p JOIN payment_of_unclear_day d ON d.institution = p.institution "
        "AND d.payment_key = p.payment_key WHERE p.institution = :i AND p.stands > 0 "
        # What one file shows as taken back may have been so before the opening.
        "AND NOT EXISTS (SELECT 1 FROM reversal v WHERE v.institution = p.institution AND v.payment_key = p.payment_key "
        "AND v.state = 'seen_once') ORDER BY p.paid_on, p.payment_no",
    ):
        if int(row["stands"]) <= left[row["reported_fee_id"]]:
            left[row["reported_fee_id"]] -= int(row["stands"])
            found[row["reported_fee_id"]].append(row)
    for fee_id, rows in found.items():
        if left[fee_id] == 0 or not before[fee_id]["owing"]:
            for row in rows:
                if row["paid_on"] < as_of:
                    _set_aside(tx, row, int(row["stands"]))


def _first_since(tx: Tx, file: Row) -> bool:
    """Whether no file of payments that was written between the opening and this one was taken in."""
    return not tx.one(
        "SELECT COUNT(*) FROM payment_file f JOIN batch b ON b.institution = f.institution AND b.batch_id = :b "
        "WHERE f.institution = :i AND f.kind = 'payments' AND f.state IN ('taken', 'archived') "
        "AND f.written_at > b.created_at AND (f.written_at < :at OR (f.written_at = :at AND f.name < :name))",
        b=OPENING,
        at=file["written_at"],
        name=file["name"],
    )


def day_of(tx: Tx, fee_id: str | None, paid_on: str) -> str | None:
    """Return the opening's day where a payment of this day may be one of before, on an item on which something was paid."""
    found = tx.one(
        "SELECT i.opened_as_of FROM institution i WHERE i.institution = :i AND i.opened_as_of >= :day AND EXISTS "
        "(SELECT 1 FROM opening_item_now o WHERE o.institution = i.institution AND o.fee_id = :fee AND o.paid_before > 0)",
        day=paid_on,
        fee=fee_id,
    )
    return None if found is None else str(found)


def _set_aside(tx: Tx, payment: Row, in_alma: int) -> None:
    """Let a payment be one of before. So much of it is in Alma, posted by somebody else."""
    tx.run(
        "UPDATE payment SET state = :earlier, posted_to = NULL, posted = :posted "
        "WHERE institution = :i AND payment_key = :key AND state = 'new'",
        earlier=EARLIER,
        posted=in_alma,
        key=payment["payment_key"],
    )
    tx.event(f"payment {payment['payment_no']}", "of before the opening", "never to be posted")


def may_be_earlier(tx: Tx) -> frozenset[str]:
    """Return the keys of payments of which nothing tells whether the items' balances had taken them in."""
    rows = tx.rows("SELECT payment_key FROM payment_of_unclear_day WHERE institution = :i")
    return frozenset(row["payment_key"] for row in rows)


def say_when(tx: Tx, payment_key: str, *, after: bool) -> None:
    """Take a person's word on a payment: after the opening it is posted, before it never is."""
    payment = tx.row(
        "SELECT p.payment_key, p.payment_no, p.stands, p.reported_fee_id, (SELECT COALESCE(SUM(v.amount), 0) FROM reversal v "
        "JOIN batch b ON b.institution = v.institution AND b.batch_id = :b WHERE v.institution = p.institution "
        "AND v.payment_key = p.payment_key AND v.state = 'standing' AND v.first_written_at > b.created_at) AS back_since "
        "FROM payment_now p WHERE p.institution = :i AND p.payment_key = :key",
        key=payment_key,
        b=OPENING,
    )
    assert payment is not None
    if not after:
        # What a file of after the opening was the first to show as taken back was there, as far as so much was paid on the items.
        _set_aside(tx, payment, int(payment["stands"]) + int(payment["back_since"]))
        _no_more_than_was_paid(tx, payment["reported_fee_id"])
        return
    tx.run(
        "UPDATE payment SET after_opening = 1 WHERE institution = :i AND payment_key = :key", key=payment_key
    )
    tx.event(f"payment {payment['payment_no']}", "of after the opening", "the next run posts it")


def _no_more_than_was_paid(tx: Tx, fee_id: str) -> None:
    """Where payments of before come to more than was paid on a fee's items, what was taken back was so by then."""
    before = _paid_on_items(tx).get(fee_id)
    rows = tx.rows(
        "SELECT p.payment_key, p.posted, (SELECT COALESCE(SUM(v.amount), 0) FROM reversal v "
        "WHERE v.institution = p.institution AND v.payment_key = p.payment_key AND v.state = 'standing') AS back "
        "FROM payment p WHERE p.institution = :i AND p.fee_id = :fee AND p.state = :earlier ORDER BY p.payment_no",
        fee=fee_id,
        earlier=EARLIER,
    )
    over = sum(int(row["posted"]) for row in rows) - (int(before["cents"]) if before else 0)
    for row in rows:
        part = max(0, min(over, int(row["posted"]), int(row["back"])))
        over -= part
        tx.run(
            "UPDATE payment SET posted = posted - :part WHERE institution = :i AND payment_key = :key",
            part=part,
            key=row["payment_key"],
        )


def less_applied(fee_id: str, line_no: int, short: int) -> Listed:
    """Return the entry of an item to which ``short`` cents less are applied than at the opening."""
    detail = f"line {line_no}: {amount(short)} of what was paid before the books were opened was taken back"
    return Listed(LESS_APPLIED, f"item {fee_id}", short, detail, fee_id=fee_id)
