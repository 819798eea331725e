"""Going live where PeopleSoft holds library charges already: its items are matched with Alma's open fees, once.

An item with our reference is its fee's. Any other is a fee's only if it is the one item of that student, item type and
amount, and the fee the one fee of them. Nothing is guessed: whatever does not agree is held until a person has looked.
An item's balance is what the fee was charged (C), so the formula sends what differs from then on and nothing else; what
was paid on it before is neither charged nor posted.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from alma_hook import charges, fees, guard, layouts, notes
from alma_hook.alma import FeeLists, look_up
from alma_hook.alma_answers import Fee, User
from alma_hook.campus import Campus
from alma_hook.charges import PlanCounts
from alma_hook.errors import Fatal, Fault, SettingsError, UserNotFound
from alma_hook.guard import ArchiveMark, MarkPlace
from alma_hook.ledger import Lease, Ledger, Row, batches, exceptions, institutions
from alma_hook.ledger import fees as entries
from alma_hook.ledger.batches import Line
from alma_hook.ledger.opening import Hold, Loose, Record, Stands
from alma_hook.money import amount
from alma_hook.opening_file import HeldItem
from alma_hook.remote import RemoteFolder

OTHER_BALANCE = "Alma's balance is another"
ANOTHER_EMPLID = "Alma has it under another EMPLID"
NOT_OPEN = "Alma shows no such fee of that student"
SEVERAL = "several items bear its reference"
PAID_THERE = "its item in PeopleSoft is paid, and Alma asks for it"
MAY_BE_THE_ITEMS = "an item of that student stands for no fee, so PeopleSoft may have it"
NO_REFERENCE = "no reference of its own, so payments on it could not be told"
NO_ONE_FEE = "not one fee of that student, item type and amount, and one such item"
NO_USER = "Alma knows no user of that EMPLID"


class Source(FeeLists, Protocol):
    """The two calls that matching needs."""

    def user(self, user_id: str) -> User:
        """Return one user."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """A student's account in Alma: every open fee, and the closed ones that items name."""

    user_id: str
    fees: Mapping[str, Fee]


@dataclass(frozen=True, slots=True)
class Matching:
    """What the items come to. ``lines``: charges that count from now on; ``matched`` of them agree with Alma.

    ``accounts``: by fee. ``settled``: how many items have nothing to pay.
    """

    lines: tuple[Line, ...]
    accounts: Mapping[str, str]
    matched: int
    matched_cents: int
    settled: int
    stands: tuple[Stands, ...]
    holds: tuple[Hold, ...]
    loose: tuple[Loose, ...]


def read_accounts(
    alma: Source,
    items: Sequence[HeldItem],
    campus: Campus,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Account]:
    """Read the account of every student in the file; one that Alma does not know is left out.

    Raises ``Retriable``, ``Inconsistent`` or ``Refused`` where an account can't be read: nothing could be held on it.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for item in items:
        # A paid item without our reference tells nothing.
        if item.balance or item.fee_id:
            wanted[item.emplid] |= {item.fee_id} if item.fee_id else set()
    found: dict[str, Account] = {}
    for done, (emplid, fee_ids) in enumerate(sorted(wanted.items()), 1):
        try:
            user_id = _user_id(alma, emplid, campus)
            if user_id is not None:
                found[emplid] = Account(user_id, look_up(alma, user_id, frozenset(fee_ids), open_ones=True))
        except UserNotFound:
            pass
        progress(done, len(wanted))
    # A ledger that was at work before must not be opened anew.
    charges.refuse_foreign(
        {
            fee.fee_id: [str(payment.external_id) for payment in fee.own_payments()]
            for account in found.values()
            for fee in account.fees.values()
        },
        frozenset(),
    )
    return found


def _user_id(alma: Source, emplid: str, campus: Campus) -> str | None:
    """Return the account that a run would charge under that EMPLID."""
    source = campus.emplid.source
    if source == "primary_id":
        return emplid
    user = alma.user(emplid)
    return user.primary_id if user.identifiers.get(source.removeprefix("identifier:")) == emplid else None


def match(
    items: Sequence[HeldItem], accounts: Mapping[str, Account], campus: Campus, as_of: date
) -> Matching:
    """Match PeopleSoft's items with Alma's fees."""
    owner = {fee_id: emplid for emplid, account in accounts.items() for fee_id in account.fees}
    ours: dict[str, list[HeldItem]] = defaultdict(list)
    for item in items:
        if item.fee_id is not None:
            ours[item.fee_id].append(item)
    # Whose open fees may be what an item is about that stands for none.
    doubtful: set[str] = set()
    taken: list[tuple[HeldItem, str, Fee | None]] = []
    holds: dict[str, Hold] = {}
    matched: list[HeldItem] = []
    for fee_id, of_fee in ours.items():
        student = owner.get(fee_id, of_fee[-1].emplid)
        account = accounts.get(student)
        fee = account.fees.get(fee_id) if account else None
        taken += [(item, fee_id, fee) for item in of_fee]
        why = _disagreement(of_fee, fee, student, campus)
        if why is None:
            matched += [item for item in of_fee if item.balance]
        else:
            user_id = account.user_id if account else student
            due = (fee.balance if fee else 0) - sum(item.balance for item in of_fee)
            holds[fee_id] = Hold(fee_id, user_id, due, f"{why}; {_lines(of_fee)}")
            if fee is None:
                doubtful |= {item.emplid for item in of_fee if item.balance}
    of_others = [item for item in items if item.fee_id is None and item.balance]
    bearers = Counter(item.reference for item in items)
    nameless = {item.line_no for item in of_others if not item.reference or bearers[item.reference] > 1}
    pairs = _pairs(of_others, accounts, ours.keys(), campus)
    loose: list[Loose] = []
    for item in of_others:
        fee = pairs.get(item.line_no)
        if fee is not None and item.line_no not in nameless:
            taken.append((item, fee.fee_id, fee))
            matched.append(item)
            continue
        why = NO_REFERENCE if fee is not None else NO_ONE_FEE if item.emplid in accounts else NO_USER
        loose.append(Loose(item.line_no, item.balance, why, item.emplid))
        doubtful.add(item.emplid)
    fees_taken = {fee_id for _, fee_id, _ in taken}
    for emplid in doubtful & accounts.keys():
        for fee in accounts[emplid].fees.values():
            if fee.fee_id not in fees_taken and fee.status != "CLOSED" and fee.balance > 0:
                holds[fee.fee_id] = Hold(fee.fee_id, accounts[emplid].user_id, fee.balance, MAY_BE_THE_ITEMS)
    owing = sorted((entry for entry in taken if entry[0].balance), key=lambda entry: entry[0].line_no)
    return Matching(
        lines=tuple(_line(item, fee_id, fee, campus, as_of) for item, fee_id, fee in owing),
        accounts={
            fee_id: accounts[student].user_id if student in accounts else student
            for item, fee_id, _ in taken
            for student in [owner.get(fee_id, item.emplid)]
        },
        matched=len(matched),
        matched_cents=sum(item.balance for item in matched),
        settled=sum(not item.balance for item in items),
        stands=_stands(taken, owing),
        holds=tuple(holds[fee_id] for fee_id in sorted(holds)),
        loose=tuple(loose),
    )


def _disagreement(items: Sequence[HeldItem], fee: Fee | None, student: str, campus: Campus) -> str | None:
    """Return why the items that bear a fee's reference can't stand for it as they are, or ``None``.

    ``student``: the EMPLID on whose account it is.
    """
    owing = [item for item in items if item.balance]
    if fee is None:
        return NOT_OPEN if owing else None
    if not owing:
        return PAID_THERE if fee.balance > 0 and fee.status != "CLOSED" else None
    if len(owing) > 1:
        return SEVERAL
    charged_as = fee.user_id if campus.emplid.source == "primary_id" else student
    if owing[0].emplid != charged_as:
        return ANOTHER_EMPLID
    return OTHER_BALANCE if fee.balance != owing[0].balance else None


def _pairs(
    items: Sequence[HeldItem], accounts: Mapping[str, Account], taken: Container[str], campus: Campus
) -> dict[int, Fee]:
    """Return, by line number, the fee of each item without our reference that can be no other's."""
    alike = Counter((item.emplid, item.item_type, item.balance) for item in items)
    found: dict[tuple[str, str, int], list[Fee]] = defaultdict(list)
    for emplid, account in accounts.items():
        for fee in account.fees.values():
            if fee.status == "CLOSED" or fee.fee_id in taken:
                continue
            if campus.emplid.source == "primary_id" and fee.user_id != emplid:
                continue
            item_type = campus.item_type(fee.type, fee.owner)
            if item_type is not None:
                found[emplid, item_type, fee.balance].append(fee)
    return {
        item.line_no: found[key][0]
        for item in items
        for key in [(item.emplid, item.item_type, item.balance)]
        if alike[key] == 1 and len(found[key]) == 1
    }


def _lines(items: Sequence[HeldItem]) -> str:
    said = [f"line {item.line_no} {amount(item.balance)}" for item in items]
    return f"PeopleSoft: {', '.join(said)}"


def _line(item: HeldItem, fee_id: str, fee: Fee | None, campus: Campus, as_of: date) -> Line:
    """Return the charge that PeopleSoft holds as an item, word for word."""
    return Line(
        fee_id=fee_id,
        kind="charge",
        amount=item.balance,
        emplid=item.emplid,
        item_type=item.item_type,
        term=item.term,
        reference=item.reference,
        description=campus.description(fee.type if fee else ""),
        account_type=campus.sfs.account_type,
        effective_date=as_of.isoformat(),
        due_date="",
        reason="opening",
        item_fee=fee_id,
    )


_Taken = Sequence[tuple[HeldItem, str, Fee | None]]


def _stands(taken: _Taken, owing: _Taken) -> tuple[Stands, ...]:
    number = {item.line_no: number for number, (item, _, _) in enumerate(owing, 1)}
    return tuple(
        Stands(
            item.line_no,
            fee_id,
            item.emplid,
            reference="" if item.fee_id else item.reference,
            paid_before=item.applied,
            line_no=number.get(item.line_no, 0),
        )
        for item, fee_id, _ in sorted(taken, key=lambda entry: entry[0].line_no)
    )


def record(matching: Matching, file: str, content: bytes, as_of: date, reason: str) -> Record:
    """Return what is kept of an opening besides its lines."""
    digest = hashlib.sha256(content).hexdigest()
    return Record(as_of.isoformat(), file, digest, reason, matching.stands, matching.holds, matching.loose)


def bring(ledger: Ledger, lease: Lease, campus: Campus, matching: Matching, told: Record) -> None:
    """Open a ledger with what was matched, in one transaction."""
    data = told.text()
    with ledger.write(lease) as tx:
        for fee_id, user_id in sorted(matching.accounts.items()):
            entries.meet(tx, fee_id, user_id)
        institutions.open_with(
            tx, ledger.actor, matching.lines, told, file_name(campus), data, hashlib.sha256(data).hexdigest()
        )


def file_name(campus: Campus) -> str:
    """What the opening is called in the archive."""
    return f"opening_{campus.institution}.json"


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What the first live run would send and list. ``listed``: rows of ``kind``, ``n`` and ``cents``."""

    counts: PlanCounts
    listed: tuple[Row, ...]


def rehearse(
    campus: Campus,
    alma: fees.FeesSource,
    matching: Matching,
    told: Record,
    retrieve: Callable[[Ledger, Lease], None],
    ledger: Ledger,
) -> FirstRun:
    """Open a ledger that is thrown away, and let a dry run plan from it; the real one is not touched.

    ``retrieve`` lists the accounts as the first run would; those of the file are read in any case.
    """
    with TemporaryDirectory() as folder:
        scratch = Ledger(
            f"sqlite:///{Path(folder) / 'rehearsal.db'}",
            campus.institution,
            run_id="rehearsal",
            actor=ledger.actor,
            clock=ledger.now,
        )
        try:
            scratch.migrate()
            with scratch.lease("out", "rehearsal") as lease:
                bring(scratch, lease, campus, matching, told)
                retrieve(scratch, lease)
                with scratch.write(lease) as tx:
                    users = {*matching.accounts.values(), *(hold.user_id for hold in told.holds)}
                    entries.add_accounts(tx, False, sorted(users), "opening")
                fees.read_accounts(
                    alma, scratch, lease, (), live=False, campus=campus, workers=campus.alma_to_sis.workers
                )
                layout = layouts.load(campus.sfs.layout, campus.folder)
                counts = charges.plan(scratch, lease, campus, layout, "", False, ())
            with scratch.read() as tx:
                return FirstRun(counts, tuple(exceptions.totals(tx)))
        finally:
            scratch.close()


def accept(
    ledger: Ledger,
    out: Lease,
    campus: Campus,
    matching: Matching,
    told: Record,
    archive: RemoteFolder,
    marks: Sequence[MarkPlace],
) -> None:
    """Open the books with what was matched, for good.

    The archive is told first: a ledger lost right after can be repaired from there. Killed before the one
    transaction, nothing was opened and the same may be said again; after it, all was, and the next run tells the
    archive so. Raises ``Fatal`` when the books,
    or those that the archive tells of, are open already; ``SendingStopped`` when the marks are not this ledger's.
    """
    guard.check(ledger, marks)
    path = f"{campus.sfs.archive_directory}/{file_name(campus)}"
    with ledger.read() as tx:
        institutions.require_unopened(tx)
        now = tx.now
    if archive.size(f"{path}{notes.STATE}") is not None:
        raise Fatal(
            f"The archive tells of books that were opened before ({file_name(campus)}), and this ledger knows nothing of them. "
            "Put the right ledger back, or bring this one up to date with `python -m alma_hook repair`."
        )
    data = told.text()
    row = {
        "institution": campus.institution,
        "batch_id": batches.OPENING,
        "run_id": ledger.run_id,
        "created_at": now,
        "layout": "opening",
        "file_name": file_name(campus),
        "file_date": told.as_of,
        "target": "",
        "directory": "",
        "sha256": hashlib.sha256(data).hexdigest(),
        "kind": "charges",
    }
    lines: list[Row] = [
        {
            **line._asdict(),
            "line_no": number,
            "user_id": matching.accounts[line.fee_id],
        }
        for number, line in enumerate(matching.lines, 1)
    ]
    archive.write(path, data)
    archive.write(f"{path}{notes.MANIFEST}", notes.manifest(row, lines))
    bring(ledger, out, campus, matching, told)
    # Outside of a task Airflow takes no variable: the first run puts that mark.
    guard.advance(ledger, [ArchiveMark(archive, campus.sfs.archive_directory, campus.institution)])
    notes.note_batches(ledger, out, archive, campus.sfs.archive_directory)


def require_ready(campus: Campus, as_of: date, now: datetime) -> None:
    """Raise ``Fatal`` or ``SettingsError`` where the settings, or the day of the items, allow no opening with items."""
    if campus.opening is None:
        raise SettingsError(
            "The settings don't tell how PeopleSoft's file of items is read.",
            [
                Fault(
                    "campus.toml", "say which heading is what, see docs/settings.md", field="opening.columns"
                )
            ],
        )
    if not campus.sis_to_alma.names_fees:
        raise Fatal(
            "Where PeopleSoft's output names no reference (sis_to_alma.columns), what was paid before can't be told item by "
            "item. Let the former process's items be settled in PeopleSoft, and begin clean."
        )
    if not campus.archive_can_be_read:
        raise Fatal(
            "The archive can't be read (sfs.read_back, connections.archive), so an opening with items could not be repaired "
            "from there. Name an archive that can be read in connections.archive."
        )
    if as_of > campus.today(now):
        raise Fatal(f"--as-of {as_of} is not over yet: it is the day on which PeopleSoft's query was run.")


def in_words(items: Sequence[HeldItem], matching: Matching) -> list[str]:
    """Say what was matched, by line and fee; no patron."""
    owing = sum(item.balance for item in items)
    said = [
        f"PeopleSoft: {len(items) - matching.settled} items with {amount(owing)} to pay, {matching.settled} settled ones",
        f"matched: {matching.matched} items, {amount(matching.matched_cents)}",
    ]
    held = sum(hold.amount for hold in matching.holds)
    said.append(f"held: {len(matching.holds)} fees, {amount(held)} beside what PeopleSoft has")
    said += [f"  fee {hold.fee_id}: {hold.why}; would send {amount(hold.amount)}" for hold in matching.holds]
    loose = sum(item.balance for item in matching.loose)
    said.append(f"items without a fee: {len(matching.loose)}, {amount(loose)}")
    said += [f"  line {item.line_no}: {amount(item.balance)}, {item.why}" for item in matching.loose]
    return said


def first_run_in_words(first: FirstRun, campus: Campus) -> list[str]:
    """Say what the first live run would send and list, as Alma is now."""
    counts = first.counts
    said = [
        f"the first live run would send: {counts.charges} charges, {amount(counts.charged)}; {counts.credits} credits, "
        f"{amount(counts.credited)}; beyond the brake {counts.held_lines} lines"
    ]
    if campus.alma_to_sis.method != "analytics_report":
        said.append("  of the students in the file; others are found by the first run (no Analytics report)")
    said += [f"  listed: {row['n']} {row['kind']}, {amount(int(row['cents']))}" for row in first.listed]
    return said
