"""What must hold when a life has calmed down, by the books of the simulated Alma and PeopleSoft.

Each function returns the promises that were broken, as sentences. The ledger is the defendant here:
what it says is compared with the witnesses, never the other way.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from alma_hook.ledger import Row
from simulator.alma_records import Fee
from tests.simulation.world import World, by_api, own_paid, own_payments

_DOUBLE = "payments in Alma differ from those posted"


def broken(world: World) -> list[str]:
    """Every promise that this life broke."""
    return [
        f"{check.__name__}: {said}"
        for check in (calm, files, lines, payments, fees, stuck)
        for said in check(world)
    ]


def calm(world: World) -> list[str]:
    """Nothing changes any more when nothing happens outside."""
    return [] if world.quiet_after is not None else ["the runs never come to rest"]


def files(world: World) -> list[str]:
    """PeopleSoft loads each file once, whole, and refuses none of its lines."""
    loads = world.far.peoplesoft.loads
    times = Counter(load.file_name for load in loads if not load.error)
    found = [f"{name} was loaded {n} times" for name, n in times.items() if n > 1]
    for load in loads:
        # Under its own name a file may be met half written; then nothing of it is posted.
        torn = world.nature.mode == "direct" and load.file_name in world.torn
        if load.rejects or (load.error and not torn):
            found.append(f"{load.file_name} was refused: {load.error or load.rejects[0].reason}")
    return found


def lines(world: World) -> list[str]:
    """What PeopleSoft was told of a fee was so at some time, and in that order.

    After each line, charges less credits are what one answer of Alma showed as balance and own payments;
    so they never exceed the largest such answer, and no line comes without a change outside.
    """
    sfs = world.far.peoplesoft
    numbers = {
        load.group_id: int(re.findall(r"\d+", load.file_name)[0]) for load in sfs.loads if load.group_id
    }
    told: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for posting in sfs.postings:
        told[posting.reference].append((numbers[posting.group_id], posting.cents))
    found = []
    for reference, steps in told.items():
        fee_id = reference.removeprefix(world.far.reference_prefix)
        shown = iter(world.shown.get(fee_id, []))
        total = 0
        for _, cents in sorted(steps):
            total += cents
            if total not in shown:  # which goes on from where the line before was found
                found.append(f"fee {fee_id}: told {sorted(steps)}, shown {world.shown.get(fee_id)}")
                break
    return found


def payments(world: World) -> list[str]:
    """Each payment is in Alma once, on its fee, with its amount; what is not is listed or was settled."""
    rows, listed = _payments(world)
    expected = Counter(
        (p.reference.removeprefix(world.far.reference_prefix), p.emplid, p.amount_cents, f"{p.at:%Y-%m-%d}")
        for p in world.far.peoplesoft.payments.values()
    )
    found = []
    taken = Counter((row["fee_id"], row["emplid"], row["amount"], row["paid_on"]) for row in rows)
    if taken != expected:
        found.append(
            f"payments taken in are not PeopleSoft's: {taken - expected} too many, {expected - taken} missing"
        )
    if world.nature.short_ids:
        return found + _with_short_ids(world, rows)
    in_alma: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for fee in world.far.alma.fees.values():
        for key, cents in own_payments(fee):
            in_alma[key].append((fee.id, cents))
    for row in rows:
        there = in_alma.pop(row["external_id"], [])
        said = f"payment {row['payment_no']} of {row['amount']} on fee {row['fee_id']}, {row['state']}"
        posted = row["posted"] if row["state"] == "posted" else 0
        if there != [(row["fee_id"], posted)] * bool(posted):
            late = row["external_id"] in world.applied_too_late
            if not (late and _listed_fee(listed, row["fee_id"], _DOUBLE)):
                found.append(f"{said}: posted {posted}, Alma has {there}")
        rest = row["amount"] - posted
        if rest and row["state"] != "settled":
            about = [each for each in listed if each["subject"] == f"payment {row['payment_no']}"]
            if not about:
                found.append(f"{said}: {rest} are not in Alma, and it was never listed")
            elif any(each["amount"] != rest for each in about if each["closed_at"] is None):
                found.append(f"{said}: {rest} are not in Alma, and it is listed with {about[-1]['amount']}")
            elif row["state"] == "new" and all(each["closed_at"] for each in about):
                found.append(f"{said}: not in Alma and no longer listed")
    return found + [f"Alma has a payment {key} that PeopleSoft never had" for key in in_alma]


def _with_short_ids(world: World, rows: list[Row]) -> list[str]:
    """Where Alma cuts our keys, posting stops at the first that does not come back."""
    tried = Counter(row["fee_id"] for row in rows if row["attempts"])
    posted = sum(row["state"] == "posted" for row in rows)
    found = [f"{posted} payments were posted although the first did not come back"] if posted > 1 else []
    for fee in world.far.alma.fees.values():
        if by_api(fee) > tried[fee.id]:
            found.append(f"fee {fee.id}: {by_api(fee)} payments by us, {tried[fee.id]} were tried")
    return found


def _payments(world: World) -> tuple[list[Row], list[Row]]:
    ledger = world.bridge.ledger("look")
    with ledger.read() as tx:
        return (
            tx.rows("SELECT * FROM payment WHERE institution = :i ORDER BY payment_no"),
            tx.rows("SELECT * FROM exception_item WHERE institution = :i ORDER BY opened_at"),
        )


def _listed_fee(listed: list[Row], fee_id: str, kind: str | None = None) -> list[Row]:
    """The open entries on a fee itself."""
    return [
        each
        for each in listed
        if each["subject"] == f"fee {fee_id}" and each["closed_at"] is None and kind in (None, each["kind"])
    ]


def fees(world: World) -> list[str]:
    """PeopleSoft's balance of a fee is Alma's, or the list says by how much it is not.

    The ledger's sums are those of both books.
    """
    rows, listed = _payments(world)
    books = world.far.peoplesoft.books()
    ledger = world.bridge.ledger("look")
    with ledger.read() as tx:
        positions = {
            row["fee_id"]: row
            for row in tx.rows(
                "SELECT p.*, r.problem FROM fee_position p LEFT JOIN reading r "
                "ON r.institution = p.institution AND r.fee_id = p.fee_id WHERE p.institution = :i"
            )
        }
        balance = tx.row("SELECT * FROM balances WHERE institution = :i")
    paid_in_short = {row["fee_id"] for row in rows} if world.nature.short_ids else set()
    found = []
    for fee in world.far.alma.fees.values():
        reference = world.far.reference_prefix + fee.id
        charged, credited = books.charged.get(reference, 0), books.credited.get(reference, 0)
        paid, own = books.paid.get(reference, 0), own_paid(fee)
        said = (
            f"fee {fee.id} ({fee.status}): Alma {fee.balance_cents}, charged {charged}, credited {credited}, "
        )
        said += f"paid {paid}, of which in Alma {own}"
        known = positions.get(fee.id)
        sums = (known["charged"], known["credited"], known["received"]) if known else (0, 0, 0)
        if sums != (charged, credited, paid):
            found.append(f"{said}; the ledger has {sums}")
        if fee.id in paid_in_short:
            continue
        entries = _listed_fee(listed, fee.id)
        due = fee.balance_cents - (charged - credited - own)
        if _out_of_sight(fee, known):
            if charged - credited - own and not entries:
                found.append(f"{said}; it can't be seen in Alma, and nothing is listed")
            continue
        if due != sum(entry["amount"] for entry in entries):
            found.append(f"{said}; due {due}, listed {[(e['kind'], e['amount']) for e in entries]}")
        on_account = [e for e in listed if e["fee_id"] == fee.id and e["closed_at"] is None]
        owed = max(0, charged - credited - paid)
        if not on_account and fee.balance_cents != owed:
            found.append(f"{said}; PeopleSoft asks for {owed}, and nothing is listed")
    found += [f"PeopleSoft has {reference}, which is no fee" for reference in world.far.books().foreign]
    if balance is not None and not paid_in_short and (balance["unexplained"] or balance["on_its_way"]):
        found.append(f"balances: unexplained {balance['unexplained']}, on its way {balance['on_its_way']}")
    return found


def _out_of_sight(fee: Fee, known: Row | None) -> bool:
    """Whether no call finds a fee, or none is made: by how much it differs then, nobody can know.

    A fee that was never seen active is not looked for among the others, nor one whose account got
    another primary id meanwhile, until it is active again.
    """
    lost = known is None or known["problem"] == "user not found in Alma"
    return fee.user.purged or (lost and fee.status != "ACTIVE")


def stuck(world: World) -> list[str]:
    """Nothing stays between two states."""
    short = " AND 1 = 0" if world.nature.short_ids else ""
    ledger = world.bridge.ledger("look")
    with ledger.read() as tx:
        rows = tx.rows(
            "SELECT 'batch ' || batch_id AS what, state FROM batch WHERE institution = :i "
            "AND state NOT IN ('delivered', 'cancelled', 'preview') "
            "UNION ALL SELECT 'payment ' || payment_no, state FROM payment WHERE institution = :i "
            f"AND state IN ('posting', 'unknown'){short} "
            "UNION ALL SELECT 'file ' || name, state FROM payment_file WHERE institution = :i "
            f"AND state NOT IN ('archived', 'withdrawn'){short} "
            "UNION ALL SELECT 'account', 'to read' FROM account_to_read WHERE institution = :i AND live = 1 "
            "UNION ALL SELECT 'lease ' || direction, owner FROM lease WHERE institution = :i AND owner IS NOT NULL"
        )
    return [f"{row['what']} is stuck in {row['state']}" for row in rows]


def moved(world: World) -> None:
    """Count the money that this life moved."""
    cents = world.tally.cents
    for posting in world.far.peoplesoft.postings:
        cents["charges" if posting.cents > 0 else "credits"] += abs(posting.cents)
    for fee in world.far.alma.fees.values():
        cents["payments"] += _posted(fee)


def _posted(fee: Fee) -> int:
    return sum(t.amount_cents for t in fee.transactions if t.received_by == "Not At Desk")
