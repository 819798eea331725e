"""What happens on a campus: kinds of events, each a function that does it and says what it did.

A new kind is a function with ``@happens``. One that the present code does not claim to handle stands
here too, with ``off`` and why, so that it is switched on when the code can do it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from alma_hook.campus import TermRow
from alma_hook.errors import AlmaHookError
from alma_hook.ledger import exceptions, payments
from simulator.alma_records import Fee, User
from simulator.campus import FEE_TYPES, UNMAPPED_TYPE
from simulator.money import text_of
from simulator.peoplesoft_records import Item
from tests.simulation.world import DAYS, METHODS, WAIVER, Event, World, own_payments

Act = Callable[[World], str | None]
#: campus: at any moment. day: on some days. run: every day or nearly.
Pace = Literal["campus", "day", "run"]

# Amounts that floats get wrong, besides ordinary ones.
_CENTS = (1, 29, 57, 113, 435, 1005, 1999, 2001, 6949, 11015)
ITEM_TYPES = ("300000000001", "300000000002", "300000000003")


@dataclass(frozen=True)
class Kind:
    """A kind of event. ``weight``: how often, beside others of its pace. ``off``: why it does not happen."""

    name: str
    act: Act
    pace: Pace
    weight: float
    off: str | None


KINDS: dict[str, Kind] = {}


def happens(
    name: str, pace: Pace = "campus", weight: float = 1.0, *, off: str | None = None
) -> Callable[[Act], Act]:
    """Declare a kind of event. Its function returns what it did, or ``None`` where there was nothing to do."""

    def declare(act: Act) -> Act:
        KINDS[name] = Kind(name, act, pace, weight, off)
        return act

    return declare


def script(
    seed: int, switched_on: frozenset[str] = frozenset(), switched_off: frozenset[str] = frozenset()
) -> list[Event]:
    """The events of a life, in their order: some on each day, at odd times."""
    rng = random.Random(f"{seed} script")
    on = [
        kind
        for kind in KINDS.values()
        if (kind.off is None or kind.name in switched_on) and kind.name not in switched_off
    ]
    weights = {kind.name: kind.weight for kind in on}
    campus = [kind.name for kind in on if kind.pace == "campus"]
    days = [kind.name for kind in on if kind.pace == "day"]
    events: list[Event] = []
    for day in range(DAYS):
        kinds = rng.choices(campus, [weights[name] for name in campus], k=rng.randrange(2, 7))
        kinds += rng.choices(days, [weights[name] for name in days], k=rng.randrange(2))
        kinds += [kind.name for kind in on if kind.pace == "run" and rng.random() < kind.weight]
        rng.shuffle(kinds)
        moments = sorted(rng.randrange(86_400) for _ in kinds)
        events += [
            Event(len(events) + n, day * 86_400 + at, kind)
            for n, (at, kind) in enumerate(zip(moments, kinds, strict=True))
        ]
    return events


def told(fee: Fee) -> str:
    """How a trace names a fee."""
    return f"fee …{fee.id[-5:]}"


def money(cents: int) -> str:
    """Cents as a text."""
    return text_of(cents)


# -- the library ---------------------------------------------------------------------------------------------


def _fees(world: World, status: str = "ACTIVE") -> list[Fee]:
    return [
        fee
        for fee in world.far.alma.fees.values()
        if fee.status == status and fee.balance_cents > 0 and not fee.user.purged
    ]


def _users(world: World) -> list[User]:
    return [user for user in world.far.alma.users if user.user_group != "STAFF"]


@happens("fee made", weight=5)
def fee_made(world: World) -> str | None:
    users = _users(world)
    if not users:
        return None
    types = [*FEE_TYPES, UNMAPPED_TYPE]
    fee = world.far.alma.add_fee(
        world.rng.choice(users),
        world.rng.choice(_CENTS) if world.rng.random() < 0.6 else world.rng.randrange(1, 20_000),
        type=world.rng.choices(types, [8, 6, 2, 1])[0],
    )
    return f"{told(fee)} of {money(fee.original_cents)} is made"


@happens("fee raised")
def fee_raised(world: World) -> str | None:
    fees = _fees(world)
    if not fees:
        return None
    fee, cents = world.rng.choice(fees), world.rng.randrange(1, 900)
    world.far.alma.raise_fee(fee.id, cents)
    return f"{told(fee)} is raised by {money(cents)}"


@happens("waived", weight=2)
def waived(world: World) -> str | None:
    fees = _fees(world)
    if not fees:
        return None
    fee = world.rng.choice(fees)
    cents = world.part(fee.balance_cents)
    world.far.alma.waive_at_desk(fee.id, cents)
    return f"{money(cents)} of {told(fee)} are waived"


@happens("paid at the desk", weight=2)
def paid_at_the_desk(world: World) -> str | None:
    fees = _fees(world)
    if not fees:
        return None
    fee = world.rng.choice(fees)
    cents = world.part(fee.balance_cents)
    world.far.alma.pay_at_desk(fee.id, cents)
    return f"{money(cents)} of {told(fee)} are paid at the desk"


@happens("disputed")
def disputed(world: World) -> str | None:
    fees = _fees(world)
    if not fees:
        return None
    fee = world.rng.choice(fees)
    world.far.alma.dispute(fee.id)
    return f"{told(fee)} is disputed"


@happens("restored", weight=1.5)
def restored(world: World) -> str | None:
    fees = _fees(world, "INDISPUTE")
    if not fees:
        return None
    fee = world.rng.choice(fees)
    world.far.alma.restore(fee.id)
    return f"{told(fee)} is no longer disputed"


@happens("exported", weight=0.3)
def exported(world: World) -> str | None:
    fees = _fees(world)
    if not fees:
        return None
    fee, close = world.rng.choice(fees), world.rng.random() < 0.5
    world.far.alma.export(fee.id, close=close)
    return f"{told(fee)} is {'closed' if close else 'taken'} by the bursar export"


@happens("lost book returned", weight=0.7)
def lost_book_returned(world: World) -> str | None:
    """Before or after the student paid: what had been paid becomes a CREDIT fee."""
    fees = [
        fee
        for fee in world.far.alma.fees.values()
        if fee.type.startswith("LOSTITEM") and fee.status in ("ACTIVE", "CLOSED") and not fee.user.purged
        and all(t.reason != "RETURNED" for t in fee.transactions) and fee.comment != "returned"
    ]  # fmt: skip
    if not fees:
        return None
    fee = world.rng.choice(fees)
    credit = world.far.alma.return_lost_item(fee.id)
    fee.comment = "returned"
    return f"{told(fee)}: the book is returned" + (
        f", CREDIT of {money(-credit.balance_cents)}" if credit else ""
    )


@happens("credit used at the desk", weight=0.7)
def credit_used(world: World) -> str | None:
    credits = [
        fee
        for fee in world.far.alma.fees.values()
        if fee.type == "CREDIT" and fee.status == "ACTIVE" and not fee.user.purged
    ]
    if not credits:
        return None
    credit = world.rng.choice(credits)
    owed = [fee for fee in _fees(world) if fee.user is credit.user]
    against = world.rng.choice(owed) if owed and world.rng.random() < 0.7 else None
    world.far.alma.use_credit(credit.id, against=against.id if against else None)
    return f"CREDIT {told(credit)} is used " + (f"for {told(against)}" if against else "up in cash")


def _new_emplid(world: World) -> str:
    """One that PeopleSoft knows and nobody has."""
    number = f"9{world.rng.randrange(10**8):08d}"
    assert world.far.peoplesoft.emplids is not None
    world.far.peoplesoft.emplids.add(number)
    return number


@happens("EMPLID corrected", weight=0.4)
def emplid_corrected(world: World) -> str | None:
    users = _users(world)
    if not users:
        return None
    place = world.rng.randrange(len(users))
    if world.nature.emplid == "primary_id":
        world.far.alma.rekey_user(users[place].primary_id, _new_emplid(world))
    else:
        world.far.alma.set_identifier(users[place].primary_id, "UNIV_ID", _new_emplid(world))
    return f"student {place} has another EMPLID"


@happens("user re-keyed", weight=0.4)
def user_rekeyed(world: World) -> str | None:
    """The primary id changes; where the EMPLID stands in an identifier, that stays."""
    users = _users(world)
    if not users or world.nature.emplid == "primary_id":
        return None
    place = world.rng.randrange(len(users))
    world.far.alma.rekey_user(users[place].primary_id, f"user{world.rng.randrange(10**6)}x")
    return f"student {place} has another primary id"


@happens("user purged", weight=0.1)
def user_purged(world: World) -> str | None:
    users = _users(world)
    if not users:
        return None
    place = world.rng.randrange(len(users))
    world.far.alma.purge_user(users[place].primary_id)
    return f"student {place} is purged"


# -- students, in PeopleSoft -----------------------------------------------------------------------------------


@happens("student pays", weight=8)
def student_pays(world: World) -> str | None:
    """All of an item, or so little that Alma would take it twice."""
    items = world.far.peoplesoft.open_items()
    if not items:
        return None
    item = world.rng.choice(items)
    half = item.balance_cents // 2
    part = world.rng.randrange(1, half + 1) if half and world.rng.random() < 0.6 else item.balance_cents
    return _pay(world, item, part)


@happens("student pays all he owes", weight=0.5)
def student_pays_all(world: World) -> str | None:
    items = world.far.peoplesoft.open_items()
    if not items:
        return None
    made = world.far.peoplesoft.pay(world.rng.choice(items).emplid)
    return f"a student pays {money(sum(payment.amount_cents for payment in made))} on {len(made)} items"


@happens("student pays too much", weight=0.7)
def student_pays_too_much(world: World) -> str | None:
    items = world.far.peoplesoft.open_items()
    if not items:
        return None
    item = world.rng.choice(items)
    return _pay(world, item, item.balance_cents + world.rng.randrange(1, 2000))


@happens("student pays again", weight=0.4)
def student_pays_again(world: World) -> str | None:
    items = [item for item in world.far.peoplesoft.items.values() if item.balance_cents <= 0]
    if not items:
        return None
    return _pay(world, world.rng.choice(items), world.rng.randrange(1, 2000))


def _pay(world: World, item: Item, cents: int) -> str:
    """Or the office waives it, where its output tells what it was."""
    if world.nature.waives and world.rng.random() < 0.3:
        world.far.peoplesoft.pay(item.item_nbr, cents, item_type=WAIVER)
        world.tally.operations["office waives"] += 1
        return f"the office waives {money(cents)} on the item of fee …{item.reference[-5:]}"
    world.far.peoplesoft.pay(item.item_nbr, cents)
    return f"{money(cents)} are paid on the item of fee …{item.reference[-5:]}"


# -- PeopleSoft's office ---------------------------------------------------------------------------------------


@happens("PeopleSoft loads", "run", 0.9)
def peoplesoft_loads(world: World) -> str | None:
    """All that lies there, or not yet all of it."""
    if not world.open:
        return None
    loads = world.far.load_inbound(world.rng.choice([None, None, None, 1]))
    return f"PeopleSoft loads {len(loads)} files" if loads else None


@happens("PeopleSoft stops loading", "day", 0.5)
def peoplesoft_stops(world: World) -> str | None:
    """For some days nothing is loaded: the run is forgotten, or the month is being closed."""
    world.open = False
    return "PeopleSoft loads nothing from here on"


@happens("PeopleSoft loads again", "run", 0.4)
def peoplesoft_loads_again(world: World) -> str | None:
    if world.open:
        return None
    world.open = True
    return "PeopleSoft loads again"


@happens("payments applied anew", weight=0.4)
def payments_applied_anew(world: World) -> str | None:
    """The Payment Applier takes a student's payments off his items and puts them on others."""
    items = list(world.far.peoplesoft.items.values())
    if not items:
        return None
    world.far.peoplesoft.reapply(world.rng.choice(items).emplid)
    return "a student's payments are applied anew"


@happens("payment taken back", weight=1.5)
def payment_taken_back(world: World) -> str | None:
    """All of it, where the output lists all payments; a part where a payment keeps its id."""
    paid = [number for number, payment in world.far.peoplesoft.payments.items() if payment.amount_cents > 0]
    nature = world.nature
    whole, partly = nature.cumulative, nature.output == "all" and (nature.payment_ids or nature.applied)
    if not paid or not (whole or partly) or nature.short_ids:
        return None
    posted = {(fee.id, cents) for fee in world.far.alma.fees.values() for _, cents in own_payments(fee)}
    prefix, payments = world.far.reference_prefix, world.far.peoplesoft.payments
    there = [
        n for n in paid if (payments[n].reference.removeprefix(prefix), payments[n].amount_cents) in posted
    ]
    # Mostly one that Alma has already.
    number = world.rng.choice(there if there and world.rng.random() < 0.7 else paid)
    payment = world.far.peoplesoft.payments[number]
    cents = payment.amount_cents if whole else 0
    if partly and payment.amount_cents > 1 and (not whole or world.rng.random() < 0.4):
        cents = world.rng.randrange(1, payment.amount_cents)
    if not cents:
        return None
    world.far.peoplesoft.bounce(number, cents)
    return f"{money(cents)} paid on fee …{payment.reference[-5:]} are taken back"


@happens("one payment on several items", weight=0.3)
def one_payment_on_several_items(world: World) -> str | None:
    items = world.far.peoplesoft.open_items()
    if not items:
        return None
    world.far.peoplesoft.pay(world.rng.choice(items).emplid, one_payment=True)
    return "a student pays all his items with one payment"


@happens("group reversed by hand", weight=0.2)
def group_reversed(world: World) -> str | None:
    """Which only a list of items shows."""
    if not world.nature.items:
        return None
    groups = [
        load.group_id for load in world.far.peoplesoft.loads if load.kind == "charges" and load.group_id
    ]
    if not groups:
        return None
    lines = world.far.peoplesoft.reverse_group(world.rng.choice(groups))
    return f"a group of {lines} lines is reversed by hand" if lines else None


@happens("EMPLID refused by PeopleSoft", weight=0.3)
def emplid_refused(world: World) -> str | None:
    """Its lines are left out from here on."""
    known = sorted(world.far.peoplesoft.emplids or ())
    if not known:
        return None
    assert world.far.peoplesoft.emplids is not None
    refused = world.rng.choice(known)
    world.far.peoplesoft.emplids.discard(refused)
    world.refused_emplids.add(refused)
    return "PeopleSoft knows one student no more"


@happens("EMPLID known again", weight=0.3)
def emplid_known(world: World) -> str | None:
    if not world.refused_emplids:
        return None
    assert world.far.peoplesoft.emplids is not None
    world.far.peoplesoft.emplids |= world.refused_emplids
    world.refused_emplids.clear()
    return "PeopleSoft knows its students again"


@happens("file lost by PeopleSoft", weight=0.6)
def file_lost(world: World) -> str | None:
    """Deleted before it was loaded."""
    folder = world.far.path(world.far.folders.inbound)
    names = sorted(file.name for file in folder.glob("*.dat") if file.name not in world.torn)
    if not names:
        return None
    name = world.rng.choice(names)
    world.lost_files[name] = (folder / name).read_bytes()
    (folder / name).unlink()
    return f"PeopleSoft loses {name}"


@happens(
    "lines merged by PeopleSoft",
    "day",
    0.2,
    off="a reference has to make an item of its own (include/peoplesoft): a payment on an item of several fees names one",
)
def lines_merged(world: World) -> str | None:
    """Lines of one student, item type and term fall on one item from here on."""
    world.far.peoplesoft.reference_separates_items = False
    return "PeopleSoft merges lines"


# -- its output --------------------------------------------------------------------------------------------------


@happens("query output", "run", 0.65)
def query_output(world: World) -> str | None:
    """The query is run: its file comes at once or late, whole, first cut short, or while payments are applied anew."""
    if world.nature.applied:
        return list_of_items(world)
    since = None
    if world.nature.output == "days":
        since = world.clock.now().date() - timedelta(days=world.rng.randrange(1, 4))
    path = world.far.path(
        world.far.write_query_output(
            cumulative=world.nature.output != "new only", since=since, bounced=world.nature.taken_back_as
        )
    )
    written = path.stat().st_mtime
    name, content = path.name, path.read_bytes()
    world.outputs.append((name, content))
    fates = ["whole", "late", "cut in a line", "cut at a line's end", "applied anew"]
    fate = world.rng.choices(fates, [7, 2, 1, 1, 1.5 * world.nature.cumulative])[0]
    lines = content.splitlines(keepends=True)
    # Some copies keep a file's time.
    at = written if world.rng.random() < 0.5 else None
    if fate == "late":
        path.unlink()
        world.drawer.append((name, content, at))
    elif fate == "cut in a line" and lines[1:]:
        world.leave(name, content[: -world.rng.randrange(3, len(lines[-1]) + 1)], written)
        world.drawer.append((name, content, at))
    elif fate == "cut at a line's end" and lines[1:]:
        world.leave(name, b"".join(lines[: world.rng.randrange(1, len(lines))]), written)
        world.drawer.append((name, content, at))
    elif fate == "applied anew" and lines[1:]:
        kept = [line for line in lines[1:] if world.rng.random() < 0.5]
        world.leave(name, b"".join([lines[0], *kept]), written)
        world.drawer.append((name, content, at))
    else:
        fate = "whole"
        world.left.append((int(written), name, content))
    return f"PeopleSoft's query: {len(lines) - 1} payments, {fate}"


@happens("list of items", "run", 0.6)
def list_of_items(world: World) -> str | None:
    """Newest first; at once or late, whole or first cut short."""
    if not world.nature.lists:
        return None
    path = world.far.path(world.far.write_query_output(kind="applied"))
    written = path.stat().st_mtime
    head, *lines = path.read_bytes().splitlines(keepends=True)
    whole = b"".join([head, *reversed(lines)])
    if world.nature.applied:
        world.outputs.append((path.name, whole))
    fate = world.rng.choices(["whole", "late", "cut in a line", "cut at a line's end"], [7, 1, 1, 1])[0]
    path.unlink()
    if fate == "cut in a line" and lines:
        world.leave(path.name, whole[: -world.rng.randrange(3, len(lines[0]) + 1)], written)
    elif fate == "cut at a line's end" and lines:
        cut = lines[::-1][: world.rng.randrange(len(lines))]
        world.leave(path.name, b"".join([head, *cut]), written)
    elif fate != "late":
        fate = "whole"
        world.leave(path.name, whole, written)
    if fate != "whole":
        world.drawer.append((path.name, whole, written))
    return f"PeopleSoft's list of {len(lines)} items, {fate}"


@happens("late file comes", "run", 0.4)
def late_file_comes(world: World) -> str | None:
    """In any order; a file that was cut short is replaced by the whole one."""
    if not world.drawer:
        return None
    name, content, at = world.drawer.pop(world.rng.randrange(len(world.drawer)))
    world.leave(name, content, at)
    return f"{name} comes late"


@happens("file sent again", "day")
def file_sent_again(world: World) -> str | None:
    if not world.outputs:
        return None
    name, content = world.rng.choice(world.outputs)
    if world.rng.random() < 0.5:
        name = name.replace("S_", "S_AGAIN_").replace("D_", "D_AGAIN_")
    world.leave(name, content)
    return f"{name} is sent again"


# -- runs --------------------------------------------------------------------------------------------------------


@happens("alma_to_sis", "run", 0.75)
def alma_to_sis(world: World) -> str:
    method, live = world.rng.choice(METHODS), world.rng.random() > 0.08
    if world.rng.random() < 0.8:
        world.far.refresh_analytics()
    if method == "sis_profile" and world.rng.random() < 0.8:
        world.far.write_sis_export(24)
    run = world.new_run("out", method=method, live=live)
    return f"run {run.run_id} by {method}{'' if live else ', dry'}" + world.run(run)


@happens("sis_to_alma", "run", 0.7)
def sis_to_alma(world: World) -> str:
    """Now and then somebody starts a second run soon after the scheduled one."""
    run = world.new_run("back")
    said = f"run {run.run_id}{world.run(run)}"
    if world.rng.random() < 0.3:
        world.wait(world.rng.choice([30, 120, 300]))
        run = world.new_run("back")
        said += f"; soon after {run.run_id}{world.run(run)}"
    return said


@happens("backfill", "day", 0.6)
def backfill(world: World) -> str:
    """Runs of older intervals, one after the other, while the others go on."""
    world.far.write_sis_export(48)
    said = ""
    for days in range(world.rng.randrange(2, 4), 0, -1):
        until = world.clock.now() - timedelta(days=days - 1)
        run = world.new_run("out", method=world.rng.choice(METHODS), until=until)
        said += f"; {run.run_id} by {run.method}{world.run(run)}"
    return "backfill" + said


@happens("task cleared", "day")
def task_cleared(world: World) -> str | None:
    """Somebody clears a task of an old run, and all after it."""
    runs = [run for direction in ("out", "back") for run in world.runs[direction]]
    if not runs:
        return None
    run, first = world.rng.choice(runs[-6:]), world.rng.randrange(4)
    return f"run {run.run_id} again from task {first}" + world.run(run, first)


# -- people with the command line ----------------------------------------------------------------------------------


@happens("batches in doubt decided", "day", 1.5)
def batches_decided(world: World) -> str | None:
    decided = world.people.decide()
    return f"a person decides {decided} batches" if decided else None


@happens("lines made void", "run", 0.4)
def lines_made_void(world: World) -> str | None:
    """The office tells of lines that it rejected; a file that is gone was never loaded."""
    done = world.people.look_after_lines()
    return f"a person makes {done} lines void" if done else None


@happens("held batches answered", "run", 0.5)
def held_answered(world: World) -> str | None:
    return world.people.answer()


@happens("payment taken back settled", "run", 0.8)
def taken_back_settled(world: World) -> str | None:
    return world.people.settle()


@happens("payment settled by a person", "day", 0.5)
def payment_settled(world: World) -> str | None:
    """Money that a fee settled in Alma does not need: the office gives it back or keeps it for the student."""
    ledger = world.bridge.ledger("a person")
    with ledger.read() as tx:
        rows = [
            row
            for row in exceptions.open_items(tx)
            if row["kind"] in ("paid more than Alma's balance", "fee already settled in Alma")
            and world.far.alma.fee(row["fee_id"]).status == "CLOSED"
        ]
    if not rows:
        return None
    row = world.rng.choice(sorted(rows, key=lambda row: (row["subject"], row["kind"])))
    try:
        with ledger.write() as tx:
            payments.resolve(tx, row["exception_id"], "a person", "given back")
    except AlmaHookError:
        return None
    return f"a person settles {row['subject']}: {row['kind']}"


@happens("settings edited", "day")
def settings_edited(world: World) -> str:
    """The table of terms and the map of item types, at a moment when charges are open."""
    campus = world.bridge.campus
    day = world.clock.now().date() + timedelta(days=world.rng.randrange(-20, 20))
    terms = (*campus.terms, TermRow(first=day, term=f"{world.rng.randrange(2200, 2300)}"))
    kinds = [*FEE_TYPES, UNMAPPED_TYPE]
    item_types = {kind: world.rng.choice(ITEM_TYPES) for kind in kinds if world.rng.random() < 0.85}
    world.bridge.campus = campus.model_copy(update={"terms": terms, "item_types": item_types})
    return f"terms and item types are edited: {len(item_types)} types have one"


@happens("older ledger put back", "day", 0.7)
def older_ledger(world: World) -> str | None:
    """Somebody copies the ledger, or restores a copy."""
    return world.people.copy_or_put_back()


@happens("ledger lost", "day", 0.3)
def ledger_lost(world: World) -> str | None:
    # Where Alma cuts our keys nothing is posted after the first, and its key tells nobody.
    return None if world.nature.short_ids else world.people.lose()


@happens("right ledger again", "run", 0.4)
def right_ledger(world: World) -> str | None:
    """The newest one is put back, or a lost one is rebuilt, when the runs have stopped for it."""
    return world.people.put_right()


World.acts = {name: kind.act for name, kind in KINDS.items()}
World.meanwhile = tuple(kind.name for kind in KINDS.values() if kind.pace == "campus" and kind.off is None)
