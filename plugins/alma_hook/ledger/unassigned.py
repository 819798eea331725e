"""Payments that PeopleSoft tells without naming a fee: which of a student's fees they are for.

Such a payment is taken in whole and belongs to no fee. A person, or the rule `oldest_first`, gives it to fees, in parts:
each part is from then on a payment like any other, what is left waits. The parts of a payment always come to its amount.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from alma_hook import keys
from alma_hook.errors import Fatal
from alma_hook.ledger import exceptions, fees, payments, reversals
from alma_hook.ledger.payments import Payment
from alma_hook.ledger.store import Row, Tx, in_list
from alma_hook.money import amount as text_of

# A payment is given to one fee a few times at most: each time the fee was raised meanwhile.
_LOOKED_FOR = 25


def as_known(
    tx: Tx, told: Sequence[Payment], unclear: frozenset[str]
) -> tuple[tuple[Payment, ...], frozenset[str]]:
    """Return the payments of a file as the ledger has them in parts, and the parts of those that are ``unclear``.

    What the file shows of a payment is its first parts' first, so what was taken back is taken off the last ones. One
    that Alma alone tells of, after a repair, is found by the key that its part had.
    """
    parts = _parts(tx, [*(payment.payment_key for payment in told), *unclear])
    lost = _known_to_alma(tx)
    found: list[Payment] = []
    for payment in told:
        known = parts.get(payment.payment_key)
        found += _shared(payment, known) if known else _found_again(tx, payment, lost[payment.emplid])
    return tuple(found), unclear | {row["payment_key"] for key in unclear for row in parts.get(key, ())}


def _parts(tx: Tx, wholes: Sequence[str]) -> dict[str, list[Row]]:
    """Return the parts of these payments: as they were given to fees, and last what belongs to none."""
    sql = "SELECT whole, payment_key, external_id, fee_id, payment_no, amount FROM payment WHERE institution = :i AND whole"
    found: dict[str, list[Row]] = defaultdict(list)
    rows = in_list(tx, sql, list(wholes))
    for row in sorted(rows, key=lambda row: (row["fee_id"] is None, int(row["payment_no"]))):
        found[row["whole"]].append(row)
    return found


def _shared(payment: Payment, parts: Sequence[Row]) -> list[Payment]:
    found, left = [], payment.amount
    for row in parts:
        # More than all of them is told of the last one.
        cents = left if row is parts[-1] else min(left, int(row["amount"]))
        left -= cents
        # Of nought, too: so much is left of that part.
        found.append(_part(payment, row["payment_key"], row["external_id"], row["fee_id"], cents))
    return found


def _part(payment: Payment, key: str, external_id: str, fee_id: str | None, cents: int) -> Payment:
    return replace(payment, payment_key=key, external_id=external_id, fee_id=fee_id, amount=cents)


def _known_to_alma(tx: Tx) -> dict[str, dict[str, Row]]:
    """Return the payments that no file has told of since the ledger was rebuilt, by external id.

    For each EMPLID that their fees were ever charged to: such a one was paid.
    """
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    of_lines = (
        "SELECT l.emplid, p.external_id, p.fee_id, p.amount, p.payment_no FROM payment p "
        "JOIN line l ON l.institution = p.institution AND l.item_fee = p.fee_id "
        f"WHERE p.institution = :i AND p.payment_key LIKE '{reversals.LOST}%' AND l.state"
    )
    for row in tx.rows(f"{of_lines} = 'sent' UNION {of_lines} <> 'sent' ORDER BY payment_no"):
        found[row["emplid"]][row["external_id"]] = row
    return found


def _found_again(tx: Tx, payment: Payment, lost: dict[str, Row]) -> list[Payment]:
    found, left = [], payment.amount
    for key, row in _lost_parts(tx, payment.payment_key, lost):
        cents = min(left, int(row["amount"]))
        left -= cents
        # Of nought, too: PeopleSoft has nothing any more of what was posted of that part.
        found.append(_part(payment, key, row["external_id"], row["fee_id"], cents))
    return [*found, replace(payment, amount=left)] if left else found


def _lost_parts(tx: Tx, whole: str, lost: dict[str, Row]) -> Iterator[tuple[str, Row]]:
    """Yield what was a part of this payment, with the key that it had."""
    for fee_id in {row["fee_id"]: None for row in lost.values()}:
        # Not all of them need be posted.
        for key in islice(_keys(whole, fee_id), _LOOKED_FOR):
            row = lost.get(keys.external_id(tx.institution, key))
            if row is not None:
                yield key, row


def recognise(tx: Tx) -> None:
    """Let what Alma alone tells of be parts of those payments that this ledger, an older copy, holds as waiting.

    So much less of them waits.
    """
    lost = _known_to_alma(tx)
    sql = "SELECT * FROM payment WHERE institution = :i AND whole IS NOT NULL ORDER BY payment_no"
    for told in {row["whole"]: row for row in tx.rows(sql)}.values() if lost else ():
        for key, row in _lost_parts(tx, told["whole"], lost[told["emplid"]]):
            cents = int(row["amount"])
            part = Payment(
                key, row["external_id"], row["fee_id"], told["emplid"], cents, told["paid_on"], int(told["line_no"]),
                told["whole"],
            )  # fmt: skip
            payments.adopt(tx, told["file_name"], told["file_sha256"], [part])
            _take_off(tx, told["whole"], cents, key)


def _take_off(tx: Tx, whole: str, cents: int, key: str) -> None:
    """Take off what waits of a payment what turned out to be posted under another key, first off what belongs to no fee."""
    waiting = tx.rows(
        "SELECT payment_key, payment_no, fee_id, amount FROM payment WHERE institution = :i AND whole = :whole AND state = 'new' "
        "ORDER BY CASE WHEN fee_id IS NULL THEN 0 ELSE 1 END, payment_no DESC",
        whole=whole,
    )
    for row in waiting:
        off = min(cents, int(row["amount"]))
        if not off:
            break
        cents -= off
        subject = f"payment {row['payment_no']}"
        tx.event(subject, "was given to a fee", f"{text_of(off)}, as Alma shows")
        exceptions.close_subject(tx, subject, "it was given to a fee, as Alma shows")
        if off < int(row["amount"]):
            tx.run(
                "UPDATE payment SET amount = amount - :cents WHERE institution = :i AND payment_key = :key",
                key=row["payment_key"],
                cents=off,
            )
        else:
            tx.run(
                "DELETE FROM payment WHERE institution = :i AND payment_key = :key", key=row["payment_key"]
            )
            # What was taken back of it was taken back of that.
            payments.rename(tx, row["payment_key"], key)
            there = tx.row("SELECT * FROM payment WHERE institution = :i AND payment_key = :key", key=key)
            assert there is not None
            reversals.renumber(tx, there)
        if row["fee_id"] is not None:
            fees.touch(tx, [row["fee_id"]])


def _keys(whole: str, fee_id: str) -> Iterable[str]:
    """Return the keys that a payment's parts of a fee have, one after the other: its whole follows from each."""
    first = f"{whole.removesuffix(':')}:{fee_id}"
    yield first
    number = 2
    while True:
        yield f"{first}/{number}"
        number += 1


# -- giving them to fees ---------------------------------------------------------------------------------


def assign_oldest_first(tx: Tx) -> int:
    """Give what waits to its student's fees, the fee charged first first, never more than is owed; return the cents.

    Nothing of what one file alone shows as taken back. ``reversals.route`` has to follow.
    """
    waiting = [row for row in _waiting(tx) if not reversals.seen_once(tx, row["payment_key"])]
    owed = _owed(tx, sorted({row["emplid"] for row in waiting}))
    given = 0
    for row in waiting:
        rest = row
        for fee_id, cents in owed[row["emplid"]].items():
            part = min(int(rest["stands"]), cents)
            if part > 0:
                owed[row["emplid"]][fee_id] -= part
                given += part
                rest = _give(tx, rest, fee_id, part)
    return given


def assign(tx: Tx, payment_no: int, fee_id: str, cents: int | None) -> int:
    """Give a waiting payment, or so many cents of it, to a fee, as a person says; return the cents.

    Raises ``Fatal`` with the reason when it does not wait for that, or when the student does not owe so much on the fee.
    """
    row = next((row for row in _waiting(tx) if int(row["payment_no"]) == payment_no), None)
    if row is None:
        raise Fatal(f"Payment {payment_no} does not wait for a fee; `exceptions` names those that do.")
    owed = _owed(tx, [row["emplid"]])[row["emplid"]].get(fee_id, 0)
    wanted = min(int(row["stands"]), owed) if cents is None else cents
    if owed <= 0:
        raise Fatal(
            f"The student of payment {payment_no} owes nothing on fee {fee_id}, by what was charged and paid so far."
        )
    if not 0 < wanted <= min(int(row["stands"]), owed):
        raise Fatal(
            f"{text_of(wanted)} of payment {payment_no} can't be for fee {fee_id}: {text_of(int(row['stands']))} of it "
            f"waits, and {text_of(owed)} is owed on the fee."
        )
    _give(tx, row, fee_id, wanted)
    reversals.route(tx)
    return wanted


def _waiting(tx: Tx) -> list[Row]:
    return tx.rows(
        "SELECT * FROM payment_now WHERE institution = :i AND state = 'new' AND reported_fee_id IS NULL AND stands > 0 "
        "ORDER BY paid_on, payment_no"
    )


def _owed(tx: Tx, emplids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return, by EMPLID and fee, what is owed in PeopleSoft by all that is known, the fee charged first first.

    A fee belongs to the EMPLID that it was charged to last. What its item stands in for counts with it.
    """
    charges = "FROM line WHERE institution = :i AND state = 'sent' AND kind = 'charge' AND"
    touched = {row["item_fee"] for row in in_list(tx, f"SELECT item_fee {charges} emplid", emplids)}
    student: dict[str, str] = {}
    rows = in_list(tx, f"SELECT item_fee, emplid, batch_id, line_no {charges} item_fee", sorted(touched))
    for row in sorted(rows, key=lambda row: (row["batch_id"], int(row["line_no"]))):
        student[row["item_fee"]] = row["emplid"]
    carried = in_list(
        tx, "SELECT item_fee, to_fee FROM carry WHERE institution = :i AND item_fee", sorted(touched)
    )
    item_of = {row["to_fee"]: row["item_fee"] for row in carried}
    positions = in_list(
        tx,
        "SELECT fee_id, charged + carried - credited - received AS owed FROM fee_position WHERE institution = :i AND fee_id",
        sorted(touched | set(item_of)),
    )
    owed: Counter[str] = Counter()
    for row in positions:
        fee_id = str(row["fee_id"])
        owed[item_of.get(fee_id, fee_id)] += int(row["owed"])
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for fee_id, emplid in student.items():
        found[emplid][fee_id] = owed[fee_id]
    return found


def _give(tx: Tx, row: Row, fee_id: str, cents: int) -> Row:
    """Make a part of a waiting payment one of a fee; return what is left of it, a payment with a number of its own.

    Where that part belongs in Alma is for ``reversals.route`` to say.
    """
    key = next(
        key
        for key in _keys(row["payment_key"], fee_id)
        if not payments.known_external_ids(tx, [keys.external_id(tx.institution, key)])
    )
    kind = tx.one(
        "SELECT kind FROM payment WHERE institution = :i AND payment_no = :no", no=row["payment_no"]
    )
    rest = int(row["amount"]) - cents
    if not rest:
        payments.rename(tx, row["payment_key"], key)
    # What was taken back stays with what is left.
    tx.run(
        "UPDATE payment SET payment_key = :key, external_id = :external, fee_id = :fee, posted_to = :fee, amount = :cents "
        "WHERE institution = :i AND payment_no = :no",
        key=key,
        external=keys.external_id(tx.institution, key),
        fee=fee_id,
        cents=cents,
        no=row["payment_no"],
    )
    subject, where = f"payment {row['payment_no']}", f"{text_of(cents)} for fee {fee_id}"
    tx.event(subject, "given to a fee", where)
    exceptions.close_subject(tx, subject, f"it is {where} now")
    if rest:
        left = Payment(
            row["payment_key"], row["external_id"], None, row["emplid"], rest, row["paid_on"], int(row["line_no"]),
            row["payment_key"], None, kind,
        )  # fmt: skip
        payments.add(tx, row["file_name"], row["file_sha256"], [left])
    fees.touch(tx, [fee_id])
    waits = "SELECT * FROM payment_now WHERE institution = :i AND payment_key = :key"
    what_is_left = tx.row(waits, key=row["payment_key"])
    if what_is_left is None:
        return {**row, "stands": 0}
    reversals.renumber(tx, what_is_left)
    return what_is_left
