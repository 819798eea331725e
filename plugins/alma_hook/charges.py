"""What PeopleSoft must be told of each fee: one formula, its evidence, and what is held back.

    A  balance in Alma                   C  charges sent to PeopleSoft
    Pa payments in the same reading      K  credits sent to PeopleSoft
       that carry our key

    due = A - (C - K - Pa)     above nought: a charge     below: a credit     nought: nothing

C - K - Pa is what Alma's balance would be if nothing had happened but what both sides know.
Whatever else happened is the difference, whatever its cause, so a run that is repeated, late or
doubled sends nothing twice.
"""

from __future__ import annotations

import gc
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd

from alma_hook import brake, charge_file, guard
from alma_hook.campus import Campus
from alma_hook.errors import Fatal, SendingStopped
from alma_hook.fees import NOT_FOUND, USER_GONE
from alma_hook.guard import MarkPlace
from alma_hook.layouts import Layout
from alma_hook.ledger import (
    Lease,
    Ledger,
    Row,
    batches,
    exceptions,
    fees,
    holds,
    instant,
    items,
    moment,
    opening,
    payments,
    reversals,
    shadow,
)
from alma_hook.ledger.batches import Line
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.shadow import Seen
from alma_hook.money import amount

#: A task may read for hours before its plan; a plan cleared days later must not use the old readings.
READING_AGE = timedelta(hours=6)

CREDIT = "credit in Alma"
CREDIT_TYPE = "CREDIT"
NO_ITEM_TYPE = "fee type without item type"
NO_EMPLID = "no EMPLID"
OTHER_SHAPE = "EMPLID of another shape"
# Each begins as `exceptions.LEFT_OUT` says.
FEE_TYPE_LEFT_OUT = "left out: fee type"
OWNER_LEFT_OUT = "left out: owning library"
GROUP_LEFT_OUT = "left out: user group"
NOT_IN_PEOPLESOFT = "left out: not in PeopleSoft"
TOO_LITTLE = "left out: below the minimum"
STUDENT_OWES_LITTLE = "left out: student below the minimum"
TOO_YOUNG = "left out: too young"
TOO_OLD = "left out: too old"
BEFORE_THE_START = "left out: made before the start"


@dataclass(slots=True)
class Position:
    """A fee as read, beside what the ledger knows of it. Amounts in cents.

    Nothing changes one. (Frozen, it would take three times as long to make, and a plan makes one of each fee.)
    """

    fee_id: str
    status: str
    type: str
    currency: str | None
    emplid: str
    original: int
    balance: int
    own: tuple[tuple[str, int], ...]
    charged: int
    credited: int
    posted: Mapping[str, int]
    reason: str
    problem: str | None
    sent: Line | None
    #: A charge of it is neither seen in PeopleSoft nor there long enough for a credit to follow it.
    waits: bool = False
    #: Its item in PeopleSoft comes to more than was told.
    above: bool = False
    #: A payment of the student's was taken back in PeopleSoft, and nobody has dealt with it.
    taken_back: bool = False
    #: It did not agree with PeopleSoft's items when the books were opened, and nobody has released it.
    held_since_opening: bool = False
    #: An item of the student's stands for no fee since then, and nobody has dealt with it, nor released this fee.
    loose_item: bool = False
    #: An item of the opening that stood for it was made void.
    opening_void: bool = False
    #: PeopleSoft has told of a payment on it that waits to be posted.
    paid: bool = False
    #: A charge of it that was given up was paid in PeopleSoft all the same.
    given_up_and_paid: bool = False
    #: The library that it is owed to, when Alma made it, its user's group: where they are known.
    owner: str = ""
    made_at: str | None = None
    user_group: str | None = None
    #: What the student's fees that are charged, or may be, come to; ``None``: not asked.
    of_student: int | None = None
    #: Pa.
    own_paid: int = field(init=False)
    #: Alma's balance, if nothing happened but what the ledger knows.
    expected: int = field(init=False)
    #: A - (C - K - Pa).
    due: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out what follows from the other fields."""
        self.own_paid = sum([value for _, value in self.own])
        self.expected = self.charged - self.credited - sum(self.posted.values())
        self.due = self.balance - (self.charged - self.credited - self.own_paid)


def decide(position: Position, campus: Campus, day: date) -> Line | Listed | None:
    """Return the line a fee needs, or why it is held, or ``None``."""
    if position.expected == 0 and (position.problem == USER_GONE or never_seen(position)):
        # PeopleSoft has nothing of it, and nobody can be charged.
        return None
    kind = hold(position, campus, day)
    if kind == CREDIT and campus.alma_to_sis.credits == "ignore":
        return None
    if kind is not None:
        return listed(position, kind)
    if position.due == 0:
        return None
    if position.sent is None or starts_anew(position):
        return first_charge(position, campus, day)
    return further_charge(position, campus, day) if position.due > 0 else credit(position, campus, day)


def never_seen(position: Position) -> bool:
    """Whether only PeopleSoft ever told of a fee: by an item that was there at the opening, and was made void."""
    return position.problem == NOT_FOUND and position.opening_void and not position.posted


def hold(position: Position, campus: Campus, day: date) -> str | None:
    """Return why nothing may be sent for a fee now, or ``None``. The order is that of the evidence."""
    p, due = position, position.due
    if p.problem is not None:
        return p.problem
    if sorted(p.own) != sorted(p.posted.items()):
        return exceptions.OTHER_PAYMENTS
    if due == 0 and p.status != "INDISPUTE":
        return None
    if p.held_since_opening:
        return opening.HELD_SINCE_OPENING
    if p.sent is None and p.own:
        return "paid by us and never charged"
    if p.sent is None and p.paid and due > 0:
        # Its item is in PeopleSoft then, whatever the ledger says: it would be charged twice.
        return "paid in PeopleSoft and never charged"
    if p.given_up_and_paid and due > 0:
        return "paid in PeopleSoft after its charge was given up"
    if p.type == CREDIT_TYPE:
        return CREDIT
    # With something open under another EMPLID the fee is no new one: that is listed below.
    nothing_open = p.charged - p.credited - p.own_paid == 0
    left_out = left_out_by(p, campus, day) if due > 0 and starts_anew(p) and nothing_open else None
    if left_out is not None:
        return left_out
    if p.status == "INDISPUTE":
        return "in dispute"
    if p.status == "EXPORTED":
        return "transferred by Alma's bursar profile"
    if p.balance + p.own_paid > p.original:
        return "balance above the original amount"
    if p.currency not in (campus.currency, None):
        return "other currency"
    if p.sent is not None and p.emplid != p.sent.emplid and p.charged - p.credited - p.own_paid != 0:
        return "EMPLID changed since the charge"
    if due < 0 and (p.sent is None or -due > p.charged - p.credited):
        return "credit above what was charged"
    if due < 0 and p.sent is not None and campus.credit_item_type(p.sent.item_type) is None:
        return "item type without credit item type"
    if due < 0 and p.waits:
        return items.CREDIT_WAITS
    if due > 0 and p.above:
        return "charge waits while its item in PeopleSoft is above what it was told"
    return first_charge_hold(p, campus) if starts_anew(p) else None


def starts_anew(position: Position) -> bool:
    """Whether a charge is the fee's first, or its first to a student of another EMPLID.

    Nothing is open under the old EMPLID then: with something open the fee is held.
    """
    p = position
    return p.sent is None or (p.due > 0 and p.emplid != p.sent.emplid)


def first_charge_hold(position: Position, campus: Campus) -> str | None:
    """Return why a fee may not be charged for the first time. None of this ever holds a credit back."""
    p, rules = position, campus.first_charges
    if campus.item_type(p.type, p.owner) is None:
        return FEE_TYPE_LEFT_OUT if rules.without_item_type == "leave_out" else NO_ITEM_TYPE
    if re.fullmatch(campus.emplid.pattern, p.emplid, re.ASCII) is None:
        if rules.without_emplid == "leave_out":
            return NOT_IN_PEOPLESOFT
        return OTHER_SHAPE if p.emplid else NO_EMPLID
    if p.taken_back:
        return "payment taken back, new fees wait"
    if p.loose_item:
        return opening.NEW_FEES_WAIT
    if p.of_student is not None and p.of_student < rules.minimum_of_student:
        return STUDENT_OWES_LITTLE
    return None


def left_out_by(position: Position, campus: Campus, day: date) -> str | None:
    """Return which rule of the settings leaves a fee out by what it is, or ``None``."""
    p, rules = position, campus.first_charges
    if p.type in rules.fee_types_left_out:
        return FEE_TYPE_LEFT_OUT
    if p.owner in rules.owners_left_out or (rules.owners and p.owner not in rules.owners):
        return OWNER_LEFT_OUT
    if rules.by_user_group:
        if p.user_group is None:
            # The rule is younger than the reading, or Alma's user has none.
            return "Alma does not tell the user's group"
        if p.user_group in rules.user_groups_left_out or (
            rules.user_groups and p.user_group not in rules.user_groups
        ):
            return GROUP_LEFT_OUT
    if p.due < rules.minimum:
        return TOO_LITTLE
    if not rules.minimum_age_days and rules.maximum_age_days is None and rules.since is None:
        return None
    made_on = made_on_day(p, campus)
    if made_on is None:
        return "Alma does not tell when it was made"
    if rules.since is not None and made_on < rules.since:
        return BEFORE_THE_START
    age = (day - made_on).days
    if age < rules.minimum_age_days:
        return TOO_YOUNG
    return TOO_OLD if rules.maximum_age_days is not None and age > rules.maximum_age_days else None


def made_on_day(position: Position, campus: Campus) -> date | None:
    """Return the campus's day on which Alma made a fee, ``None`` where it does not tell."""
    try:
        made_at = datetime.fromisoformat(position.made_at or "")
    except ValueError:
        return None
    return campus.today(made_at if made_at.tzinfo else made_at.replace(tzinfo=UTC))


def left_out_until(position: Position, campus: Campus, kind: str) -> str | None:
    """Return the day on which a fee that is left out must be looked at again though nothing changed, as ISO text."""
    made_on = made_on_day(position, campus) if kind == TOO_YOUNG else None
    return (
        None
        if made_on is None
        else (made_on + timedelta(days=campus.first_charges.minimum_age_days)).isoformat()
    )


def of_students(positions: Iterable[Position], campus: Campus, day: date) -> dict[str, int]:
    """Return, by EMPLID, what the fees come to that are charged or may be, where a rule asks for it. In cents."""
    found: dict[str, int] = {}
    if not campus.first_charges.minimum_of_student:
        return found
    for p in positions:
        if p.problem is not None or p.type == CREDIT_TYPE:
            continue
        may_be = (
            p.status == "ACTIVE"
            and left_out_by(p, campus, day) is None
            and first_charge_hold(p, campus) is None
        )
        if (p.sent is not None and p.status in ("ACTIVE", "INDISPUTE")) or may_be:
            found[p.emplid] = found.get(p.emplid, 0) + p.balance
    return found


def listed(position: Position, kind: str) -> Listed:
    """Return the list's entry for a held fee; its amount is what would have been sent."""
    told = amount(position.charged - position.credited)
    detail = f"Alma {amount(position.balance)} in {position.status}; PeopleSoft was told {told}"
    if kind == NO_ITEM_TYPE:
        of = f" of {position.owner}" if position.owner else ""
        detail += f"; give {position.type}{of} an item type in the settings"
    return Listed(kind, f"fee {position.fee_id}", position.due, detail, fee_id=position.fee_id)


def first_charge(position: Position, campus: Campus, day: date) -> Line:
    """Return the first charge of a fee, as the settings say today."""
    item_type = campus.item_type(position.type, position.owner)
    assert item_type is not None
    return Line(
        fee_id=position.fee_id,
        kind="charge",
        amount=position.due,
        emplid=position.emplid,
        item_type=item_type,
        term=campus.term(day),
        reference=campus.reference(position.fee_id),
        description=campus.description(position.type),
        account_type=campus.sfs.account_type,
        effective_date=day.isoformat(),
        due_date=campus.due_date(day),
        reason="new",
        item_fee=position.fee_id,
    )


def further_charge(position: Position, campus: Campus, day: date) -> Line:
    """Return one more charge of a fee. Whatever the settings say today, it copies the last one."""
    assert position.sent is not None
    return position.sent._replace(
        amount=position.due,
        effective_date=day.isoformat(),
        due_date=campus.due_date(day),
        reason="raised",
    )


def credit(position: Position, campus: Campus, day: date) -> Line:
    """Return a credit. It copies the charge that it lowers, but for an item type of its own where there is one."""
    assert position.sent is not None
    item_type = campus.credit_item_type(position.sent.item_type)
    assert item_type is not None
    return position.sent._replace(
        kind="credit",
        amount=-position.due,
        item_type=item_type,
        effective_date=day.isoformat(),
        reason=position.reason,
        credit_item=int(campus.sfs.credits_by == "item_type"),
    )


@dataclass
class PlanCounts:
    """What a plan came to: lines that go out, and their cents, by kind; lines set aside in ``held`` batches.

    ``stale`` and ``busy`` fees are left to the next run.
    """

    read: int = 0
    charges: int = 0
    credits: int = 0
    charged: int = 0
    credited: int = 0
    listed: int = 0
    stale: int = 0
    busy: int = 0
    held_lines: int = 0
    batches: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


def plan(
    ledger: Ledger,
    lease: Lease,
    campus: Campus,
    layout: Layout,
    target: str,
    live: bool,
    marks: Sequence[MarkPlace],
) -> PlanCounts:
    """Turn this run's readings into batches, all in one transaction.

    Live, the ledger's ``marks`` are looked at first: an older copy of it would charge again.

    A fee is left to the next run when its reading is older than ``READING_AGE`` (Alma's side leaves no
    mark in our books), when its books changed after it was read, when a line of it is not
    delivered yet, or when a payment of it is being posted. Raises ``SendingStopped`` when Alma shows
    payments of ours that this ledger never made: it is then not the ledger that made them.

    What is beyond the brake's limits becomes batches of state ``held``, which a person answers.
    """
    counts = PlanCounts()
    if live:
        guard.check(ledger, marks)
    with _uncollected(), ledger.write(lease) as tx:
        day = campus.today(moment(tx.now))
        oldest = instant(moment(tx.now) - READING_AGE)
        readings = fees.readings_of_run(tx)
        own = {row["fee_id"]: row["own"] for row in readings}
        posted, waived = payments.posted_by_fee(tx)
        if campus.sis_to_alma.waivers_shown_by == "comment":
            waived = {}
        above, waiting = items.above(tx), _waiting(items.unseen_charges(tx), campus, tx.now)
        emplids, accounts = reversals.waiting_students(tx)
        carried = reversals.carried_lines(tx)
        # What dry runs take in was paid on charges of the present process.
        paid = payments.fees_paid(tx) if live else frozenset()
        given_up_and_paid = items.given_up_and_paid(tx)
        held_since_opening, opening_void = opening.held(tx), opening.void_fees(tx)
        loose, released = opening.students_of_loose(tx), frozenset(opening.released(tx))
        strange = not_posted(own, posted)
        refuse_foreign(
            strange, payments.known_external_ids(tx, [key for keys in strange.values() for key in keys])
        )
        lines: dict[str, list[Line]] = {"charge": [], "credit": []}
        held: list[Listed] = []
        considered: list[Position] = []
        seen: list[Seen] = []
        again: set[str] = set()
        users: dict[str, str] = {}
        for row in readings:
            counts.read += 1
            if int(row["fee_version"]) != int(row["version"]) or row["read_at"] < oldest:
                counts.stale += 1
                again.add(row["user_id"])
                continue
            if row["pending"] or row["in_flight"]:
                counts.busy += 1
                again.add(row["user_id"])
                continue
            if row["fee_id"] in waived:
                shown, by_ledger = row["own"], waived[row["fee_id"]]
                own[row["fee_id"]] = with_waivers(shown, by_ledger, int(row["others_waived"]))
            position = position_of(
                row,
                own[row["fee_id"]],
                posted.get(row["fee_id"], {}),
                carried.get(row["fee_id"]),
                waits=row["fee_id"] in waiting,
                above=row["fee_id"] in above,
                held_since_opening=row["fee_id"] in held_since_opening,
                loose_item=row["emplid"] in loose and row["fee_id"] not in released,
                opening_void=row["fee_id"] in opening_void,
                taken_back=row["emplid"] in emplids or row["user_id"] in accounts,
                paid=row["fee_id"] in paid,
                given_up_and_paid=row["fee_id"] in given_up_and_paid,
            )
            considered.append(position)
            users[row["fee_id"]] = row["user_id"]
            if not campus.live:
                seen.append(seen_of(position, int(row["others_paid"])))
        left_out: list[dict[str, Any]] = []
        owed = of_students(considered, campus, day)
        for position in considered:
            if owed:
                position = replace(position, of_student=owed.get(position.emplid))
            decision = decide(position, campus, day)
            if isinstance(decision, Listed):
                held.append(decision)
                if decision.kind.startswith(exceptions.LEFT_OUT):
                    until = left_out_until(position, campus, decision.kind)
                    user = users[position.fee_id]
                    left_out.append(
                        {"fee": position.fee_id, "user": user, "balance": position.balance, "until": until}
                    )
            elif decision is not None:
                lines[decision.kind].append(decision)
        approved = holds.approved(tx, campus.brake.approval_hours)
        doubted = holds.doubted_report(tx)
        drop = brake.drop_in_words(*doubted, campus.brake) if doubted else None
        for kind, of_kind in lines.items():
            fitting, misfits = fit(layout, of_kind)
            held += misfits
            place = batches.Target(
                layout=layout.name,
                file_name=campus.sfs.name_of(f"{kind}s", day),
                file_date=day.isoformat(),
                host=target,
                directory=campus.sfs.directory,
                sent_as=campus.sfs.sent_as(f"{kind}s"),
                done_file=campus.sfs.done_file,
            )
            going: list[Line] = []
            for part in brake.part(fitting, approved, campus.brake, drop):
                batch_id = batches.open_batch(tx, f"{kind}s", live, part.lines, place, held=bool(part.broken))
                if part.broken:
                    holds.set_aside(tx, batch_id, part.broken)
                    counts.held.append(batch_id)
                    counts.held_lines += len(part.lines)
                else:
                    counts.batches.append(batch_id)
                    going += part.lines
            if live and not going and campus.sfs.nothing_to_send == "empty_file":
                counts.batches += batches.open_empty(tx, f"{kind}s", place)
            total = sum(line.amount for line in going)
            if kind == "charge":
                counts.charges, counts.charged = len(going), total
            else:
                counts.credits, counts.credited = len(going), total
        exceptions.list_only_of_run(tx, users, held)
        fees.leave_out(tx, list(users), left_out, campus.charging_rules)
        counts.listed = len(held)
        fees.forget_read(tx, live, sorted(again))
        if not campus.live:
            shadow.keep(tx, seen)
    return counts


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python from looking for cycles: of all that a plan makes none is one, and looking is a fifth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _waiting(unseen: Mapping[str, str], campus: Campus, now: str) -> frozenset[str]:
    """Return the fees whose credits wait; ``unseen``: when each one's last charge not seen was delivered."""
    days = campus.credit_wait_days
    if days is None:
        return frozenset(unseen)
    waited = instant(moment(now) - timedelta(days=days))
    return frozenset(fee_id for fee_id, delivered_at in unseen.items() if delivered_at > waited)


def not_posted(
    own: Mapping[str, Sequence[tuple[str, int]]], posted: Mapping[str, Mapping[str, int]]
) -> dict[str, list[str]]:
    """Return by fee the keys of ours that Alma shows there beside those of payments that were posted on it."""
    found = {
        fee_id: [key for key, _ in pairs if key not in posted.get(fee_id, ())]
        for fee_id, pairs in own.items()
    }
    return {fee_id: keys for fee_id, keys in found.items() if keys}


def refuse_foreign(strange: Mapping[str, Sequence[str]], known: frozenset[str]) -> None:
    """Stop when Alma shows payments with our mark that this ledger has never made; ``known``: those it has."""
    foreign = sorted(fee_id for fee_id, keys in strange.items() if not known.issuperset(keys))
    if foreign:
        raise SendingStopped(
            f"Alma shows payments of ours on {len(foreign)} fees that this ledger does not know (first: fee "
            f"{foreign[0]}). The ledger is older than Alma's books, empty, or not this institution's: nothing was "
            "sent. Put the right ledger back before anything else is run."
        )


def with_waivers(
    shown: Sequence[tuple[str, int]], ours: Mapping[str, int], others_waived: int
) -> tuple[tuple[str, int], ...]:
    """Return what counts as Pa where Alma shows waivers without our key: ``shown`` with it, and ``ours`` by the ledger.

    These only where the reading has so much waived by whomever: else one is not there, and the fee is listed.
    """
    there = {key for key, _ in shown}
    unshown = [(key, cents) for key, cents in ours.items() if key not in there]
    return (*shown, *(unshown if sum(cents for _, cents in unshown) <= others_waived else []))


def position_of(
    row: Row,
    own: tuple[tuple[str, int], ...],
    posted: Mapping[str, int],
    carried: Row | None = None,
    **marks: bool,
) -> Position:
    """Return a fee's position from the ledger's row of it.

    ``own``: key and cents of what counts as ours in Alma. ``carried``: the charge of an older fee whose item in PeopleSoft
    stands for this one; what is carried counts as charged. ``marks``: what else is known of the fee, by the position's fields.
    """
    last = row["charge"] or carried
    sent = to_copy(row["fee_id"], last) if last is not None else None
    return Position(
        fee_id=row["fee_id"],
        status=row["status"],
        type=row["type"],
        owner=row["owner"],
        currency=row["currency"],
        emplid=row["emplid"] or "",
        original=int(row["original"]),
        balance=int(row["balance"]),
        own=own,
        charged=int(row["charged"]) + int(row["carried"]),
        credited=int(row["credited"]),
        posted=posted,
        reason=row["reason"],
        problem=row["problem"],
        sent=sent,
        made_at=row["made_at"],
        user_group=row["user_group"],
        **marks,
    )


def seen_of(position: Position, others_paid: int) -> Seen:
    """Return what is kept of a fee that a dry run has considered, see ``shadow``."""
    p = position
    other_payments = sorted(p.own) != sorted(p.posted.items())
    return Seen(
        p.fee_id, p.emplid, p.status, p.type, p.currency, p.original, p.balance, p.charged - p.credited, p.own_paid,
        others_paid, p.reason, p.problem or (exceptions.OTHER_PAYMENTS if other_payments else None), int(p.taken_back),
        p.owner, p.made_at, p.user_group,
    )  # fmt: skip


def to_copy(fee_id: str, line: Row) -> Line:
    """Return what later lines about a fee copy of a charge that was sent."""
    return Line(
        fee_id=fee_id,
        kind="charge",
        amount=1,
        emplid=line["emplid"],
        item_type=line["item_type"],
        term=line["term"],
        reference=line["reference"],
        description=line["description"],
        account_type=line["account_type"],
        effective_date="",
        due_date="",
        reason="",
        item_fee=line["item_fee"],
    )


def frame(lines: Sequence[Line] | Sequence[Row]) -> pd.DataFrame:
    """Return lines as the table that ``charge_file.write`` takes."""
    rows = pd.DataFrame(list(lines), columns=Line._fields)
    reversals = (rows["kind"] == "credit") & (rows["credit_item"] == 0)
    rows["reversal"] = reversals.map({True: "Y", False: "N"})
    rows["kind"] += "s"
    return rows[list(charge_file.COLUMNS)]


def fit(layout: Layout, lines: Sequence[Line]) -> tuple[list[Line], list[Listed]]:
    """Part the lines that fit the layout from those that don't, so that one can't hold up the others."""
    wrong = charge_file.misfits(layout, frame(lines)) if lines else {}
    misfits = [
        Listed(
            "does not fit the layout",
            f"fee {line.fee_id}",
            line.amount if line.kind == "charge" else -line.amount,
            wrong[line.fee_id],
            fee_id=line.fee_id,
        )
        for line in lines
        if line.fee_id in wrong
    ]
    return [line for line in lines if line.fee_id not in wrong], misfits


def control(row: Row, campus: Campus) -> charge_file.Control:
    """Return what a batch's file says of itself."""
    return charge_file.Control(
        kind=row["kind"],
        line_count=int(row["line_count"]),
        total=int(row["total"]),
        origin_id=campus.sfs.origin_id,
        business_unit=campus.sfs.business_unit,
        currency=campus.currency,
        file_date=date.fromisoformat(row["file_date"]),
    )


def write_file(ledger: Ledger, lease: Lease, campus: Campus, layout: Layout, row: Row) -> bytes:
    """Write one batch's file and keep its bytes in the ledger; return them.

    A rehearsal's file begins with a line that no loader takes for a header. Raises ``Fatal`` where the layout was changed
    since the batch was planned, so that its lines would say something else.
    """
    with ledger.read() as tx:
        lines = batches.lines(tx, row["batch_id"])
    unmarked = (
        row["kind"] == "credits"
        and not layout.marks_credits
        and not all(line["credit_item"] for line in lines)
    )
    if layout.name != row["layout"] or unmarked:
        raise Fatal(
            f"Batch {row['batch_id']} was planned for layout {row['layout']}, and the settings now have "
            f"{'one of that name that does not mark credits' if layout.name == row['layout'] else layout.name}. Nothing was "
            "written. The next run works its fees out anew; or put the layout back and clear this task."
        )
    content = charge_file.write(layout, control(row, campus), frame(lines))
    if row["state"] == "preview":
        content = f"DRY RUN, NOT FOR LOADING{layout.newline}".encode(layout.encoding) + content
    with ledger.write(lease) as tx:
        batches.keep_content(tx, row["batch_id"], content, hashlib.sha256(content).hexdigest())
        if row["state"] == "planned":
            batches.move(tx, row["batch_id"], "planned", "written")
    return content
