"""Applied amounts: payments made from what PeopleSoft says has been paid on each item up to now.

The newest file alone is right: what is in Alma, and what waits or is listed, comes to its amount. So what
it says above that becomes a payment, and what it says below is taken off the payments: first off those
that are not in Alma. From there on such a payment is like any other, but that one posted in part is
lowered to that part, and the rest is a payment of its own: nowhere else does a payment's amount change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from alma_hook import keys
from alma_hook.ledger import exceptions, opening, payments, reversals
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.payments import Payment
from alma_hook.ledger.reversals import EARLIER, LOST, Shown
from alma_hook.ledger.store import Row, Tx

SHAPE = "applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """What is applied to a fee's items under one EMPLID in PeopleSoft, in cents, nought or more."""

    fee_id: str
    emplid: str
    cents: int
    line_no: int


@dataclass(frozen=True, slots=True)
class Part:
    """A payment as far as it counts: ``cents`` of it may be in Alma, ``there`` are (``sure``), or perhaps."""

    cents: int
    there: int
    sure: bool


def since_opening(tx: Tx, told: Sequence[Applied]) -> tuple[list[Applied], list[Listed]]:
    """Return what is applied to each item beside what was before the books were opened, and which have less than that.

    Of a fee's items the one that it was applied to comes first; PeopleSoft may have put it to another EMPLID since.
    """
    before: dict[str, Counter[str]] = defaultdict(Counter)
    for (fee_id, emplid), cents in opening.paid_before(tx).items():
        before[fee_id][emplid] = cents
    left = {item: item.cents - min(item.cents, before[item.fee_id][item.emplid]) for item in told}
    for item in told:
        before[item.fee_id][item.emplid] -= item.cents - left[item]
    for item in told:
        more = min(left[item], before[item.fee_id].total())
        before[item.fee_id].subtract({item.emplid: more})
        left[item] -= more
    lines = {item.fee_id: item.line_no for item in told}
    short = [
        opening.less_applied(fee_id, line_no, before[fee_id].total())
        for fee_id, line_no in lines.items()
        if before[fee_id].total() > 0
    ]
    return [replace(item, cents=left[item]) for item in told], short


def share(total: int, parts: Sequence[Part]) -> list[int]:
    """Divide what is applied to an item among its payments, oldest first; return how much each still has.

    What is in Alma comes first, then what may be there, then what is not: so nothing counts as taken
    back while it can be taken off what was never posted.
    """
    found = [0] * len(parts)
    for fits in (lambda p: p.sure, lambda p: not p.sure, None):
        for n, part in enumerate(parts):
            room = part.cents if fits is None else min(part.there, part.cents) if fits(part) else 0
            more = max(0, min(total, room - found[n]))
            found[n] += more
            total -= more
    return found


def compare(
    tx: Tx, told: Iterable[Applied], unclear: frozenset[str], blind: bool
) -> tuple[Shown, list[tuple[Applied, int]]]:
    """Return what a file shows of the payments known, and by how many cents each item is above them.

    An item that the file lacks has nothing applied to it, unless it is ``unclear``, or the file ``blind``. Of a
    fee that has items under several EMPLIDs the sum counts: PeopleSoft may put what was paid from one to another.
    """
    items: dict[str, list[Applied]] = defaultdict(list)
    for item in told:
        items[item.fee_id].append(item)
    shown: dict[str, int] = {}
    idle: set[str] = set()
    kept: dict[str, Counter[str]] = defaultdict(Counter)
    for fee_id, rows in _payments(tx).items():
        if fee_id in unclear or (fee_id not in items and blind):
            continue
        total = sum(item.cents for item in items.get(fee_id, ()))
        parts = [_part(row) for row in rows]
        for row, part, cents in zip(rows, parts, share(total, parts), strict=True):
            # What only Alma tells of a fee never charged was paid on another item, which can't be told.
            if fee_id not in items and row["payment_key"].startswith(LOST) and not row["charged"]:
                continue
            shown[row["payment_key"]] = cents
            if cents >= part.there:
                idle.add(row["payment_key"])
            kept[fee_id][row["emplid"]] += part.cents
    above = [rise for fee_id, of_fee in items.items() for rise in _above(of_fee, kept[fee_id])]
    return Shown(shown, lacking=False, idle=frozenset(idle)), above


def _above(items: Sequence[Applied], kept: Counter[str]) -> list[tuple[Applied, int]]:
    """Return by how many cents a fee's items are above its payments, all together, and which of them are.

    ``kept``: the payments' cents by EMPLID.
    """
    left = sum(item.cents for item in items) - kept.total()
    found = []
    for item in items:
        more = min(left, item.cents - kept[item.emplid])
        if more > 0:
            found.append((item, more))
            left -= more
    return found


def _payments(tx: Tx) -> dict[str, list[Row]]:
    """Return every payment by the fee it was paid on, oldest first; ``settled``: what a person has dealt with."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in tx.rows(
        "SELECT p.payment_key, p.fee_id, p.emplid, p.amount, p.state, p.posted, p.trying, "
        "CAST((SELECT COALESCE(SUM(v.settled), 0) FROM reversal v WHERE v.institution = p.institution "
        "AND v.payment_key = p.payment_key AND v.state IN ('standing', 'settled')) AS BIGINT) AS settled, "
        "(SELECT COUNT(*) FROM line l WHERE l.institution = p.institution AND l.item_fee = p.fee_id "
        "AND l.state = 'sent' AND l.kind = 'charge') AS charged "
        "FROM payment p WHERE p.institution = :i AND p.fee_id IS NOT NULL "
        # What was paid before on an item of the opening is taken off what is applied to it.
        f"AND NOT (p.state = '{EARLIER}' AND EXISTS (SELECT 1 FROM opening_item_now o WHERE o.institution = p.institution "
        "AND o.fee_id = p.fee_id)) ORDER BY p.payment_no"
    ):
        found[row["fee_id"]].append(row)
    return found


def _part(row: Row) -> Part:
    there = {"posted": row["posted"], "posting": row["trying"], "unknown": row["trying"]}
    return Part(
        int(row["amount"]) - int(row["settled"]),
        max(0, int(there.get(row["state"], 0)) - int(row["settled"])),
        row["state"] == "posted",
    )


def add(tx: Tx, file: Row, above: Sequence[tuple[Applied, int]], paid_on: str) -> None:
    """Take what is above the payments known in as payments of their own."""
    found = []
    for item, cents in above:
        key, external_id = _next_key(tx, item.fee_id)
        found.append(Payment(key, external_id, item.fee_id, item.emplid, cents, paid_on, item.line_no))
    payments.add(tx, file["name"], file["sha256"], found)


def _next_key(tx: Tx, fee_id: str) -> tuple[str, str]:
    """Return the key and external id of a fee's next payment: its number among them.

    So an older copy of the ledger, or a second one, comes to the same ids, and finds them in Alma. A number
    is free when no payment bears its id, those included that are known by Alma's word only.
    """
    number = 1 + int(
        tx.one(
            "SELECT COUNT(*) FROM payment WHERE institution = :i AND fee_id = :fee AND payment_key LIKE 'applied:%'",
            fee=fee_id,
        )
    )
    while True:
        key = f"{SHAPE}:{fee_id}:{number}"
        external_id = keys.external_id(tx.institution, key)
        if not payments.known_external_ids(tx, [external_id]):
            return key, external_id
        number += 1


def part_rests(tx: Tx) -> list[Row]:
    """Make payments of their own of what was not posted of posted ones; return them.

    They are posted when the fee's balance rises. The newest file must show that rest: what one file shows as
    taken back stays where it is until the next one.
    """
    # Found in Alma by its key with more: so much it is.
    tx.run(
        "UPDATE payment SET amount = posted WHERE institution = :i AND state = 'posted' AND posted > amount"
    )
    rows = tx.rows(
        "SELECT * FROM (SELECT p.*, p.stands - p.posted + (SELECT COALESCE(SUM(v.settled), 0) FROM reversal v "
        "WHERE v.institution = p.institution AND v.payment_key = p.payment_key AND v.state IN ('standing', 'settled')) "
        "- (SELECT COALESCE(SUM(v.amount), 0) FROM reversal v WHERE v.institution = p.institution "
        "AND v.payment_key = p.payment_key AND v.state = 'seen_once') AS rest "
        "FROM payment_now p WHERE p.institution = :i AND p.state = 'posted') r WHERE r.rest > 0 ORDER BY r.payment_no"
    )
    return [_part_rest(tx, row, int(row["rest"])) for row in rows]


def _part_rest(tx: Tx, row: Row, rest: int) -> Row:
    tx.run(
        "UPDATE payment SET amount = amount - :rest WHERE institution = :i AND payment_key = :key",
        rest=rest,
        key=row["payment_key"],
    )
    fee_id = row["reported_fee_id"]
    key, external_id = _next_key(tx, fee_id)
    made = Payment(key, external_id, fee_id, row["emplid"], rest, row["paid_on"], int(row["line_no"]))
    payments.add(tx, row["file_name"], row["file_sha256"], [made])
    new = tx.row("SELECT * FROM payment_now WHERE institution = :i AND payment_key = :key", key=key)
    assert new is not None
    tx.event(f"payment {row['payment_no']}", "posted in part", f"the rest is payment {new['payment_no']}")
    exceptions.close_subject(
        tx, f"payment {row['payment_no']}", f"the rest is payment {new['payment_no']} now"
    )
    reversals.route(tx)
    return new
