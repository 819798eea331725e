"""What must hold when a life has calmed down, by the books of the simulated Alma and PeopleSoft.

Each check returns the promises that were broken, as sentences. The ledger is the defendant here:
what it says is compared with the witnesses, never the other way.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from alma_hook.ledger import Row
from simulator.alma_records import Fee
from tests.simulation.world import World, by_api, own_paid, own_payments

_DOUBLE = "payments in Alma differ from those posted"
_GONE = "user not found in Alma"


@dataclass(frozen=True)
class Said:
    """What the ledger says in the end."""

    payments: list[Row]
    listed: list[Row]
    positions: dict[str, Row]
    balances: Row | None
    unfinished: list[Row]

    @classmethod
    def of(cls, world: World) -> Said:
        """Read it."""
        ledger = world.bridge.ledger("look")
        with ledger.read() as tx:
            return cls(
                tx.rows("SELECT * FROM payment WHERE institution = :i ORDER BY payment_no"),
                tx.rows(
                    "SELECT * FROM exception_item WHERE institution = :i ORDER BY opened_at, exception_id"
                ),
                {
                    row["fee_id"]: row
                    for row in tx.rows(
                        "SELECT p.*, r.problem FROM fee_position p LEFT JOIN reading r "
                        "ON r.institution = p.institution AND r.fee_id = p.fee_id WHERE p.institution = :i"
                    )
                },
                tx.row("SELECT * FROM balances WHERE institution = :i"),
                tx.rows(
                    "SELECT 'batch' AS what, batch_id AS name, state FROM batch WHERE institution = :i "
                    "AND state NOT IN ('delivered', 'cancelled', 'preview') "
                    "UNION ALL SELECT 'file', name, state FROM payment_file WHERE institution = :i "
                    "AND state NOT IN ('archived', 'withdrawn') "
                    "UNION ALL SELECT 'account', user_id, 'to read' FROM account_to_read "
                    "WHERE institution = :i AND live = 1 "
                    "UNION ALL SELECT 'lease', direction, owner FROM lease "
                    "WHERE institution = :i AND owner IS NOT NULL"
                ),
            )

    def on_fee(self, fee_id: str) -> list[Row]:
        """The open entries on a fee itself."""
        return [row for row in self.listed if row["subject"] == f"fee {fee_id}" and row["closed_at"] is None]

    def on_payment(self, payment: Row) -> list[Row]:
        """The entries on a payment, open and closed."""
        return [row for row in self.listed if row["subject"] == f"payment {payment['payment_no']}"]

    def out_of_sight(self, fee: Fee) -> bool:
        """Whether no call finds a fee, or none is made: by how much it differs then, nobody can know.

        A fee that was never seen active is not looked for among the others, nor one whose account got
        another primary id meanwhile, until it is active again.
        """
        known = self.positions.get(fee.id)
        lost = known is None or known["problem"] == _GONE
        return fee.user.purged or (lost and fee.status != "ACTIVE")


def broken(world: World) -> list[str]:
    """Every promise that this life broke."""
    said = Said.of(world)
    checks = (calm, files, lines, payments, fees, finished)
    return [f"{check.__name__}: {text}" for check in checks for text in check(world, said)]


def calm(world: World, _said: Said) -> list[str]:
    """Nothing changes any more when nothing happens outside."""
    return [] if world.quiet_after is not None else ["the runs never come to rest"]


def files(world: World, _said: Said) -> list[str]:
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


def lines(world: World, _said: Said) -> list[str]:
    """What PeopleSoft was told of a fee was so at some time, and in that order.

    After each line, charges less credits are what one answer of Alma showed as balance and own payments.
    So they never exceed the largest such answer, and no line comes without a change outside.
    """
    sfs = world.far.peoplesoft
    batch_of = {
        load.group_id: int(re.findall(r"\d+", load.file_name)[0]) for load in sfs.loads if load.group_id
    }
    told: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for posting in sfs.postings:
        told[posting.reference].append((batch_of[posting.group_id], posting.cents))
    found = []
    for reference, steps in told.items():
        fee_id = reference.removeprefix(world.far.reference_prefix)
        shown = world.shown.get(fee_id, [])
        left = iter(shown)
        total = 0
        for _, cents in sorted(steps):
            total += cents
            if total not in left:  # which goes on from where the line before was found
                found.append(f"fee {fee_id}: told {sorted(steps)}, shown {shown}")
                break
    return found


def payments(world: World, said: Said) -> list[str]:
    """Each payment is in Alma once, on its fee, with its amount; what is not is listed or was settled."""
    prefix = world.far.reference_prefix
    expected = Counter(
        (p.reference.removeprefix(prefix), p.emplid, p.amount_cents, f"{p.at:%Y-%m-%d}")
        for p in world.far.peoplesoft.payments.values()
    )
    taken = Counter((row["fee_id"], row["emplid"], row["amount"], row["paid_on"]) for row in said.payments)
    found = []
    if taken != expected:
        found.append(f"taken in: {taken - expected} that PeopleSoft never had, {expected - taken} not at all")
    if world.nature.short_ids:
        return found + _short_ids(world, said)
    in_alma: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for fee in world.far.alma.fees.values():
        for key, cents in own_payments(fee):
            in_alma[key].append((fee.id, cents))
    for row in said.payments:
        there = in_alma.pop(row["external_id"], [])
        wrong = _wrong_with(world, said, row, there)
        if wrong is not None:
            found.append(
                f"payment {row['payment_no']} of {row['amount']} on fee {row['fee_id']} is {row['state']} with "
                f"{row['posted']}, Alma has {there}: {wrong}"
            )
    return found + [f"Alma has {there} as {key}, which the ledger lacks" for key, there in in_alma.items()]


def _wrong_with(world: World, said: Said, row: Row, there: list[tuple[str, int]]) -> str | None:
    entries = said.on_payment(row)
    open_cents = [entry["amount"] for entry in entries if entry["closed_at"] is None]
    if row["state"] in ("posting", "unknown"):
        # It stays so only where Alma can't be asked any more.
        gone = said.out_of_sight(world.far.alma.fees[row["fee_id"]])
        return None if gone and open_cents == [row["amount"]] else "nobody finds out"
    posted = row["posted"] if row["state"] == "posted" else 0
    if there != [(row["fee_id"], posted)] * bool(posted):
        too_late = row["external_id"] in world.applied_too_late
        if not too_late or _DOUBLE not in [entry["kind"] for entry in said.on_fee(row["fee_id"])]:
            return "not what was posted, and not listed"
    rest = row["amount"] - posted
    if rest and row["state"] != "settled":
        if not entries:
            return f"{rest} never listed"
        if any(cents != rest for cents in open_cents):
            return f"listed with {open_cents}, and {rest} are not in Alma"
        if row["state"] == "new" and not open_cents:
            return "no longer listed"
    return None


def _short_ids(world: World, said: Said) -> list[str]:
    """Where Alma cuts our keys, posting stops at the first that does not come back.

    When its account has gone, the next payment is the first.
    """
    tried = Counter(row["fee_id"] for row in said.payments if row["attempts"])
    gone = sum(world.tally.operations[kind] for kind in ("user purged", "user re-keyed", "EMPLID corrected"))
    posted = sum(row["state"] == "posted" for row in said.payments)
    found = ["payments were posted after one that did not come back"] if posted > 1 + gone else []
    for fee in world.far.alma.fees.values():
        if by_api(fee) > tried[fee.id]:
            found.append(f"fee {fee.id}: {by_api(fee)} payments by us, {tried[fee.id]} were tried")
    return found


def fees(world: World, said: Said) -> list[str]:
    """PeopleSoft's balance of a fee is Alma's, or the list says by how much it is not.

    The ledger's sums are those of both books.
    """
    books = world.far.peoplesoft.books()
    # Of a fee that payments are waiting for, where posting was stopped, only the ledger's sums can be told.
    stopped = {row["fee_id"] for row in said.payments} if world.nature.short_ids else set()
    found = []
    for fee in world.far.alma.fees.values():
        reference = world.far.reference_prefix + fee.id
        charged, credited = books.charged.get(reference, 0), books.credited.get(reference, 0)
        paid, own = books.paid.get(reference, 0), own_paid(fee)
        known = said.positions.get(fee.id)
        sums = (known["charged"], known["credited"], known["received"]) if known else (0, 0, 0)
        expected = charged - credited - own
        due = fee.balance_cents - expected
        entries = said.on_fee(fee.id)
        wrong = []
        if sums != (charged, credited, paid):
            wrong.append(f"the ledger has {sums}")
        on_list = any(row["fee_id"] == fee.id and row["closed_at"] is None for row in said.listed)
        if fee.id in stopped:
            pass
        elif said.out_of_sight(fee):
            if expected and not on_list:
                wrong.append("it can't be seen in Alma, and nothing is listed")
        else:
            if due != sum(entry["amount"] for entry in entries):
                wrong.append(f"due {due}, listed {[(entry['kind'], entry['amount']) for entry in entries]}")
            owed = max(0, charged - credited - paid)
            if fee.balance_cents != owed and not on_list:
                wrong.append(f"PeopleSoft asks for {owed}, and nothing is listed")
        if wrong:
            found.append(
                f"fee {fee.id} ({fee.status}): Alma {fee.balance_cents}, charged {charged}, credited {credited}, paid "
                f"{paid}, of which in Alma {own}: {'; '.join(wrong)}"
            )
    found += [f"PeopleSoft has {reference}, which is no fee" for reference in world.far.books().foreign]
    line = said.balances
    if line is not None and not stopped and (line["unexplained"] or line["on_its_way"]):
        found.append(f"balances: unexplained {line['unexplained']}, on its way {line['on_its_way']}")
    return found


def finished(world: World, said: Said) -> list[str]:
    """Nothing stays between two states."""
    waiting = {
        row["user_id"]
        for row in said.positions.values()
        if row["in_flight"] and (world.nature.short_ids or row["problem"] == _GONE)
    }
    found = []
    for row in said.unfinished:
        by_rights = (row["what"] == "account" and row["name"] in waiting) or (
            row["what"] == "file" and world.nature.short_ids
        )
        if not by_rights:
            found.append(f"{row['what']} {row['name']} is stuck in {row['state']}")
    return found


def moved(world: World) -> None:
    """Count the money that this life moved."""
    cents = world.tally.cents
    for posting in world.far.peoplesoft.postings:
        cents["charges" if posting.cents > 0 else "credits"] += abs(posting.cents)
    for fee in world.far.alma.fees.values():
        cents["payments"] += sum(value for _, value in own_payments(fee))
