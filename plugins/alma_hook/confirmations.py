"""Whether PeopleSoft has what was delivered: lines seen in its list of items, lines that are not, lines made void.

PeopleSoft loads a fee's lines in the order of their delivery, and its item then comes to the sum of the
lines loaded. So the lines are seen whose sum, from the first on, is the item's amount. What is longer not
seen than a load can take is listed, and so is an amount that no number of lines explains. Software makes
no line void: a person does, who has asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate

from alma_hook.campus import Items
from alma_hook.errors import Fatal, Fault
from alma_hook.item_file import ItemFile
from alma_hook.ledger import Lease, Ledger, Row, Tx, batches, exceptions, instant, items, moment
from alma_hook.ledger import payments as files
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.items import Paid, Sent
from alma_hook.money import amount as text_of


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an item's amount says of the lines of its fee.

    ``seen``: how many of them it takes in; ``None``, it fits no number of them. ``told``: what the lines
    delivered before the list come to, in cents. ``overdue``: not seen, though delivered long before.
    """

    seen: int | None
    told: int
    confirmed: tuple[Sent, ...] = ()
    overdue: tuple[Sent, ...] = ()


def judge(lines: Sequence[Sent], amount: int, present: bool, as_of: str, days: int) -> Verdict:
    """Compare a fee's lines, in the order of their delivery, with what its items come to.

    ``present``: the list held the fee; else ``amount`` is nought because a complete list lacked it.
    ``as_of``: when the list was written. Where several numbers of lines come to the amount, the most
    lines count as seen: the money is the same, and none of them can be sent a second time.
    """
    sums = list(accumulate((line.cents for line in lines), initial=0))
    inside = next(
        (n for n, line in enumerate(lines) if line.delivered_at is None or line.delivered_at >= as_of),
        len(lines),
    )
    least = max((n for n, line in enumerate(lines, 1) if line.confirmed), default=0)
    fitting = [
        n
        for n in range(least, len(lines) + 1)
        # That an item is not there does not show that its lines were loaded, unless it was there before.
        if sums[n] == amount and (present or least or n == 0)
    ]
    # A line under way, or delivered by another clock's time, may be in the list already.
    seen = max((n for n in fitting if n <= max(inside, least)), default=min(fitting, default=None))
    if seen is None:
        return Verdict(None, sums[inside])
    unseen = lines[seen:inside]
    long_ago = instant(moment(as_of) - timedelta(days=days)) if unseen else ""
    overdue = tuple(line for line in unseen if str(line.delivered_at) < long_ago)
    if present and seen == 0 and overdue:
        # The fee has an item, so it was loaded once: that it comes to nought must be somebody's doing.
        return Verdict(None, sums[inside])
    confirmed = tuple(line for line in lines[: min(seen, inside)] if not line.confirmed)
    return Verdict(seen, sums[inside], confirmed, overdue)


@dataclass(frozen=True, slots=True)
class Judged:
    """How many lines were seen for the first time, and how many entries are listed now."""

    confirmed: int
    listed: int


def take_in(tx: Tx, row: Row, file: ItemFile, settings: Items) -> Judged:
    """Take in a list of items: what it shows is confirmed, what it lacks is listed, where it is complete.

    An older list than the newest changes nothing that a newer one has said.
    """
    items.keep(tx, row, file.items)
    older = items.newer_list(tx, row)
    lacking = items.lacking(tx, row["written_at"])
    doubts = []
    if settings.complete and lacking:
        detail = (
            f"{row['name']} lacks {len(lacking)} items that were there (first: fee {next(iter(lacking))}), so nothing is "
            "concluded from what it lacks; is the query limited in rows, or by a criterion?"
        )
        # A person's word is about these items and no others, however many another time come to the same sum.
        which = hashlib.sha256("\n".join(lacking).encode()).hexdigest()[:16]
        doubts = [
            Listed("list of items not complete", f"list of items {which}", sum(lacking.values()), detail)
        ]
    refused = [
        Listed(
            "item line refused",
            f"item line {line.digest}",
            0,
            f"line {line.line_no} of {row['name']}, {line.field}: {line.text}",
        )
        for line in file.refused
    ]
    # A person may have said that what is lacking is truly gone.
    whole = not refused and all(exceptions.settled_by_a_person(tx, doubt) for doubt in doubts)
    files.move_file(
        tx,
        row["name"],
        row["sha256"],
        "taken",
        lines=file.lines,
        lines_refused=len(refused),
        complete=int(settings.complete and whole),
    )
    if not older:
        _list_only(tx, ("item line refused", "list of items not complete"), refused + doubts)
    return judge_all(tx, settings.confirm_days)


def judge_all(tx: Tx, days: int) -> Judged:
    """Confirm what is seen, list what is not or differs, and take off the list what fits again."""
    rows = items.to_judge(tx)
    lines = items.lines(tx, [row["fee_id"] for row in rows], unseen=True)
    seen: list[tuple[Sent, str]] = []
    listed: list[Listed] = []
    differing: list[tuple[Row, Verdict]] = []
    for row in rows:
        fee_id = row["fee_id"]
        verdict = _verdict(row, lines.get(fee_id, []), days)
        seen += [(line, str(row["file_name"] or "")) for line in verdict.confirmed]
        listed += [_unseen(line, fee_id, row["as_of"]) for line in verdict.overdue]
        if verdict.seen is None:
            differing.append((row, verdict))
    otherwise = items.ever_sent_otherwise(tx, [row["fee_id"] for row, _ in differing])
    for row, verdict in differing:
        where = f"{row['file_name']}" if row["present"] else "no longer in the list of items"
        without = [
            f"{line.batch_id}/{line.line_no}"
            for line in lines.get(row["fee_id"], [])
            if not line.confirmed and not line.credit_item and line.cents == verdict.told - int(row["amount"])
        ]
        if without:
            where += f"; it would fit without line {' or '.join(without)}"
        if row["fee_id"] in otherwise:
            where += (
                f"; was a line loaded that was given up or made void ({', '.join(otherwise[row['fee_id']])})?"
            )
        listed.append(items.differing(row["fee_id"], int(row["amount"]), verdict.told, where))
    items.confirm(tx, seen)
    _list_only(
        tx,
        ("charge not seen in PeopleSoft", "credit not seen in PeopleSoft", items.DIFFERS),
        listed,
    )
    return Judged(len(seen), len(listed))


def _verdict(row: Row, lines: Sequence[Sent], days: int) -> Verdict:
    return judge(_on_item(lines), int(row["amount"]), bool(row["present"]), row["as_of"], days)


def _on_item(lines: Sequence[Sent]) -> list[Sent]:
    """Return the lines that an item comes to. A credit item pays it, and whether it came the item's amount does not show."""
    return [line for line in lines if not line.credit_item]


def _unseen(line: Sent, fee_id: str, as_of: str) -> Listed:
    return Listed(
        "charge not seen in PeopleSoft" if line.kind == "charge" else "credit not seen in PeopleSoft",
        line.subject,
        line.cents,
        f"delivered {str(line.delivered_at)[:16]}, not in the list of items of {as_of[:16]}",
        fee_id=fee_id,
    )


def _list_only(tx: Tx, kinds: Sequence[str], entries: Sequence[Listed]) -> None:
    """List these and nothing else of these kinds."""
    exceptions.list_only(tx, exceptions.judged_subjects(tx, kinds), entries)


def void(
    ledger: Ledger,
    lease: Lease,
    batch_id: str,
    line_no: int | None,
    reason: str,
    *,
    rejected: bool,
    settings: Items | None,
) -> int:
    """Make a delivered line void, or all lines of a batch (``line_no`` ``None``); return how many.

    A void line counts no more, so the next run sends what is due anew. ``rejected``: PeopleSoft's office
    has said that it did not and will not load it; else a list of items must show that.

    Raises ``Fatal``, and makes nothing void, when one of the lines can't be; each is named with its reason.
    """
    if not reason.strip():
        raise Fatal("A void needs a reason, for whoever reads it later. Nothing was made void.")
    with ledger.write(lease) as tx:
        state, rows = _of_batch(tx, batch_id)
        if state != "delivered":
            raise Fatal(f"Batch {batch_id} is {state}, not delivered: there is nothing in it to make void.")
        if line_no is None:
            rows = [row for row in rows if row["state"] != "void"]
        else:
            rows = [row for row in rows if row["line_no"] == line_no]
        if not rows:
            raise Fatal(f"Batch {batch_id} has no such line, or all of it is void already.")
        faults = _faults(tx, batch_id, rows, rejected, settings)
        if faults:
            raise Fatal("\n".join(["Nothing was made void:", *(f"  {fault}" for fault in faults)]))
        evidence = "rejected, by PeopleSoft's office" if rejected else "not seen in PeopleSoft's items"
        items.void(tx, rows, evidence, reason)
        if settings is not None:
            judge_all(tx, settings.confirm_days)
    return len(rows)


def require_not_loaded(tx: Tx, batch_id: str) -> None:
    """Raise ``Fatal`` with the evidence, line by line, when PeopleSoft's output shows that it loaded a batch under way.

    Whoever says that a batch was never delivered may be wrong, and it would be sent a second time.
    """
    rows = batches.lines(tx, batch_id)
    positions, lines, paid = _of_fees(tx, rows)
    since = batches.batch(tx, batch_id)["created_at"]
    otherwise = items.ever_sent_otherwise(tx, list(lines))
    faults = []
    for row in rows:
        fee_id = row["item_fee"]
        why = _paid_for(row, lines[fee_id], paid.get(fee_id, Paid()), since)
        position = positions.get(fee_id)
        if why is None and position is not None and not row["credit_item"] and position["as_of"] is not None:
            why = _taken_in(row, position, lines[fee_id], _verdict(position, lines[fee_id], days=0))
            if why is None and position["present"] and int(position["amount"]) > 0:
                # Nothing else of ours can have made it then, whatever somebody has changed about it since.
                alone = len(lines[fee_id]) == 1 and fee_id not in otherwise
                why = f"{position['file_name']} has an item of it, of another amount" if alone else None
        if why is not None:
            faults.append(_fault(row, why))
    if faults:
        raise Fatal(
            "\n".join(
                [
                    f"Batch {batch_id} stays: PeopleSoft's own output shows that it has the file.",
                    *(f"  {fault}" for fault in faults),
                    "Say mark-delivered. Lines that the office has rejected are then made void with `void --rejected`.",
                ]
            )
        )


def _of_batch(tx: Tx, batch_id: str) -> tuple[str, list[Row]]:
    try:
        return str(batches.batch(tx, batch_id)["state"]), batches.lines(tx, batch_id)
    except LookupError:
        raise Fatal(f"There is no batch {batch_id}.") from None


def _faults(
    tx: Tx, batch_id: str, rows: Sequence[Row], rejected: bool, settings: Items | None
) -> list[Fault]:
    """Return why lines of a batch can't be made void, at most one reason a line."""
    positions, lines, paid = _of_fees(tx, rows)
    since = batches.batch(tx, batch_id)["created_at"]
    faults = []
    for row in rows:
        fee_id = row["item_fee"]
        if row["state"] != "sent":
            faults.append(_fault(row, f"is {row['state']}"))
            continue
        why = _standing(row, positions[fee_id], lines[fee_id], paid.get(fee_id, Paid()), since)
        if why is None and settings is not None:
            why = _seen(tx, row, positions[fee_id], lines[fee_id], settings.confirm_days, rejected)
        elif why is None and not rejected:
            why = "no list of items is set up (sis_to_alma.items) that could show it missing"
        if why is not None:
            faults.append(_fault(row, why))
    return faults


def _of_fees(tx: Tx, rows: Sequence[Row]) -> tuple[dict[str, Row], dict[str, list[Sent]], dict[str, Paid]]:
    """Return, by fee of the item, its position in PeopleSoft, all its lines, and what was paid on it."""
    fee_ids = sorted({row["item_fee"] for row in rows})
    return items.positions(tx, fee_ids), items.lines(tx, fee_ids), items.paid(tx, fee_ids)


def _fault(row: Row, why: str) -> Fault:
    return Fault(f"batch {row['batch_id']}", why, line=int(row["line_no"]))


def _standing(row: Row, position: Row, lines: Sequence[Sent], paid: Paid, since: str) -> str | None:
    """Return why a line must stand by what else is known of its fee, or ``None``."""
    others = [line for line in lines if (line.batch_id, line.line_no) != (row["batch_id"], row["line_no"])]
    # What was there at the opening may have been reversed since: that it was seen says nothing then.
    if row["confirmed_at"] is not None and row["batch_id"] != batches.OPENING:
        return f"was seen in PeopleSoft, in {row['confirmed_in'] or 'a list of items'}"
    if any(line.delivered_at is None for line in others):
        return "another line of its fee is under way; try again after the next run"
    why = _paid_for(row, lines, paid, since)
    if why is not None:
        return why
    rest = sum(line.cents for line in others)
    # Unless PeopleSoft shows that it did load the credits, without their charge.
    if rest < 0 and not (position["present"] and position["amount"] == rest):
        return "credits were sent for its fee after it; they have to be made void first"
    return None


def _paid_for(row: Row, lines: Sequence[Sent], paid: Paid, since: str) -> str | None:
    """Return why a charge must be in PeopleSoft: more was paid on its item than the other charges come to.

    ``since``: when it was made. What was paid too much before that does not show it.
    """
    others = sum(
        line.amount
        for line in lines
        if line.kind == "charge" and (line.batch_id, line.line_no) != (row["batch_id"], row["line_no"])
    )
    if row["kind"] != "charge" or paid.cents <= others or paid.heard_at <= since:
        return None
    return f"{text_of(paid.cents)} was paid on its fee in PeopleSoft, which must have it then"


def _taken_in(row: Row, position: Row, lines: Sequence[Sent], verdict: Verdict) -> str | None:
    """Return where an item's amount takes a line in, or ``None``."""
    if verdict.seen is None or _place(row, lines) >= verdict.seen:
        return None
    return f"the amount in {position['file_name']} takes it in"


def _place(row: Row, lines: Sequence[Sent]) -> int:
    return [(line.batch_id, line.line_no) for line in _on_item(lines)].index(
        (row["batch_id"], row["line_no"])
    )


def _seen(tx: Tx, row: Row, position: Row, lines: Sequence[Sent], days: int, rejected: bool) -> str | None:
    """Return why PeopleSoft's items speak against it that a line was never loaded, or ``None``."""
    if row["credit_item"]:
        said = "a list of items shows no credits with an item type of their own; ask PeopleSoft's office, then --rejected"
        return None if rejected else said
    if position["as_of"] is None:
        return None if rejected else "no complete list of items has come that could show it missing"
    verdict = _verdict(position, lines, days)
    why = _taken_in(row, position, lines, verdict)
    if why is not None or rejected:
        return why
    if verdict.seen is None:
        return "its item in PeopleSoft comes to another amount than with it or without it; ask PeopleSoft's office"
    if _on_item(lines)[_place(row, lines)] not in verdict.overdue:
        return (
            f"the newest list of items is of {position['as_of'][:16]}, which is not {days} days after its delivery; "
            "it may be loaded yet"
        )
    if position["as_of"] < instant(moment(tx.now) - timedelta(days=days)):
        return f"the newest list of items is of {position['as_of'][:16]}, too old by now; run the query again"
    other = items.richer_item(tx, position["fee_id"], row["emplid"]) if row["kind"] == "charge" else None
    if other is not None:
        return f"the student's item of fee {other} comes to more than it was told: PeopleSoft may have put it there"
    if not items.seen_since(tx, row["batch_id"]):
        return (
            f"the list of items of {position['as_of'][:16]} shows nothing that was delivered with it or since, so it may be "
            "an older one under a new name; ask PeopleSoft's office, then --rejected"
        )
    return None
