"""PeopleSoft's output into the ledger: payments and lists of items, fetched, taken in line by line, archived.

A payment is taken in once for ever, whatever file it stands in again; of lists of items the newest counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from alma_hook import applied_file, confirmations, guard, item_file, payment_file
from alma_hook.applied_file import AppliedFile
from alma_hook.campus import Campus, Items
from alma_hook.errors import BadFile
from alma_hook.guard import MarkPlace
from alma_hook.item_file import ItemFile
from alma_hook.ledger import Lease, Ledger, Row, Tx, applied, exceptions, moment, reversals
from alma_hook.ledger import payments as entries
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.reversals import Shown
from alma_hook.money import amount
from alma_hook.query_output import RefusedLine
from alma_hook.remote import RemoteFolder


def find_files(folder: RemoteFolder, ledger: Ledger, lease: Lease, campus: Campus) -> tuple[int, int]:
    """Keep the bytes of every file of ours in the folder; return how many lie there and how many are new.

    A file that was refused and is gone or replaced since is off the list of exceptions.
    """
    settings = campus.sis_to_alma
    new = 0
    present = set()
    for kind, pattern in settings.patterns.items():
        for file in folder.files(settings.directory, pattern):
            content = folder.read(f"{settings.directory}/{file.name}")
            digest = hashlib.sha256(content).hexdigest()
            present.add((file.name, digest))
            with ledger.write(lease) as tx:
                new += entries.keep_file(tx, file.name, digest, content, kind=kind, modified=file.modified)
    with ledger.write(lease) as tx:
        for subject in entries.withdraw_absent(tx, present):
            exceptions.close_subject(tx, subject, "the file was taken away or replaced")
    return len(present), new


def archive_files(
    folder: RemoteFolder, ledger: Ledger, lease: Lease, campus: Campus, marks: Sequence[MarkPlace]
) -> int:
    """Move every file that is taken in out of the folder; return how many.

    ``marks`` are renewed before: an older copy of the ledger would never see these files again. A file
    whose bytes have changed since stays: it is another file, for the next run.
    """
    settings = campus.sis_to_alma
    with ledger.read() as tx:
        rows = entries.files(tx, "taken")
    if rows:
        guard.advance(ledger, marks)
    moved = 0
    for row in rows:
        path = f"{settings.directory}/{row['name']}"
        if folder.size(path) is not None:
            if hashlib.sha256(folder.read(path)).hexdigest() != row["sha256"]:
                continue
            stamp = ledger.now().strftime("%Y%m%dT%H%M%S%f")
            archived = f"{settings.archive_directory}/{stamp}_{row['name']}"
            folder.rename(path, archived)
            _keep_if_replaced(folder, archived, row, ledger, lease)
        with ledger.write(lease) as tx:
            entries.move_file(tx, row["name"], row["sha256"], "archived")
        moved += 1
    return moved


def _keep_if_replaced(folder: RemoteFolder, archived: str, row: Row, ledger: Ledger, lease: Lease) -> None:
    """Look at what was moved: a file of the same name may have come in its place just before."""
    content = folder.read(archived)
    digest = hashlib.sha256(content).hexdigest()
    if digest != row["sha256"]:
        with ledger.write(lease) as tx:
            entries.keep_file(tx, row["name"], digest, content, kind=row["kind"])


@dataclass
class TakeInCounts:
    """What a take-in came to: ``lines`` of payments = ``new`` + ``known`` + ``refused``.

    ``confirmed`` are lines of ours seen for the first time in the ``items`` of ``lists``.
    """

    files: int = 0
    files_refused: int = 0
    lines: int = 0
    new: int = 0
    known: int = 0
    refused: int = 0
    lists: int = 0
    items: int = 0
    items_refused: int = 0
    confirmed: int = 0
    faults: list[str] = field(default_factory=list)


def take_in(ledger: Ledger, lease: Lease, campus: Campus) -> TakeInCounts:
    """Take the lines of every file found into the ledger, each payment once for ever.

    A file is taken in one transaction or refused as a whole (listed, left in its place, the others
    go on). A line that is refused is listed by its content, so tomorrow's cumulative file does not
    list it twice. A known payment with a higher amount changes nothing and is listed; one that is lower, or
    lacking where every file lists all, may have been taken back, see ``reversals``. Applied amounts are
    compared with the payments made of them before, see ``ledger.applied``.
    """
    counts = TakeInCounts()
    with ledger.read() as tx:
        waiting = entries.files(tx, "found", "refused")
    for row in waiting:
        settings = campus.sis_to_alma.items
        if row["kind"] == "items" and settings is None:
            continue
        with ledger.read() as tx:
            content = entries.file_content(tx, row["name"], row["sha256"])
        try:
            if row["kind"] == "items" and settings is not None:
                items = item_file.read(row["name"], content, campus, settings)
                levels = (
                    applied_file.read(row["name"], content, campus) if campus.sis_to_alma.one_list else None
                )
                with ledger.write(lease) as tx:
                    if levels is not None:
                        _take_in_applied(tx, row, levels, campus, counts)
                    _take_in_items(tx, row, items, settings, counts)
            elif campus.sis_to_alma.shape == applied.SHAPE:
                levels = applied_file.read(row["name"], content, campus)
                with ledger.write(lease) as tx:
                    _take_in_applied(tx, row, levels, campus, counts)
            else:
                file = payment_file.read(row["name"], content, campus)
                with ledger.write(lease) as tx:
                    entries.require_shape(tx, campus.sis_to_alma.told_apart, campus.payment_identity)
                    reversals.observe(
                        tx, row, _shown(tx, row, file, campus), campus.sis_to_alma.reversal_limit
                    )
                    _take_in_file(tx, row, file, campus, counts)
        except BadFile as error:
            _refuse_file(ledger, lease, row, error)
            counts.files_refused += 1
            counts.faults.append(str(error))
    return counts


def _shown(tx: Tx, row: Row, file: payment_file.PaymentFile, campus: Campus) -> Shown:
    """Return what a file says of known payments; one that is older than another taken in says nothing."""
    if not reversals.newest(tx, row):
        return Shown({}, lacking=False)
    cents: dict[str, int] = {}
    for payment in file.payments:
        cents[payment.payment_key] = max(payment.amount, cents.get(payment.payment_key, 0))
    return Shown(cents, campus.sis_to_alma.cumulative and not file.blind, file.unclear)


def _refuse_file(ledger: Ledger, lease: Lease, row: Row, error: BadFile) -> None:
    with ledger.write(lease) as tx:
        entries.move_file(tx, row["name"], row["sha256"], "refused")
        listed = Listed(
            "list of items refused" if row["kind"] == "items" else "payment file refused",
            f"file {row['sha256'][:12]}",
            0,
            str(error),
        )
        exceptions.open_all(tx, [listed])


def _take_in_items(tx: Tx, row: Row, file: ItemFile, settings: Items, counts: TakeInCounts) -> None:
    judged = confirmations.take_in(tx, row, file, settings)
    exceptions.close_others(tx, [f"file {row['sha256'][:12]}"], [])
    counts.lists += 1
    counts.items += len(file.items)
    counts.items_refused += len(file.refused)
    counts.confirmed += judged.confirmed


def _take_in_applied(tx: Tx, row: Row, file: AppliedFile, campus: Campus, counts: TakeInCounts) -> None:
    """Take in what is applied to each item; a file that is older than another taken in says nothing."""
    entries.require_shape(tx, campus.sis_to_alma.told_apart, campus.payment_identity)
    new = 0
    if reversals.newest(tx, row):
        shown, above = applied.compare(tx, file.items, file.unclear, file.blind)
        lower = reversals.observe(tx, row, shown, campus.sis_to_alma.reversal_limit)
        # Lower on one item and higher on another of one student, it is money moved and perhaps not for long:
        # what is higher waits for the next file, as what is lower does.
        moved = entries.emplids(tx, lower)
        rises = [(item, cents) for item, cents in above if item.emplid not in moved]
        applied.add(tx, row, rises, campus.today(moment(row["written_at"])).isoformat())
        applied.part_rests(tx)
        new = len(rises)
        refused = [_refused(row, line) for line in file.refused]
        exceptions.close_others(tx, exceptions.open_subjects(tx, ["payment line refused"]), refused)
        exceptions.open_all(tx, refused)
    _taken(tx, row, file.lines, new, len(file.refused), counts)


def _subject(payment_key: str) -> str:
    return f"payment line {hashlib.sha256(payment_key.encode()).hexdigest()[:16]}"


def _take_in_file(
    tx: Tx, row: Row, file: payment_file.PaymentFile, campus: Campus, counts: TakeInCounts
) -> None:
    known = entries.known(tx, [p.payment_key for p in file.payments])
    by_key: dict[str, list[entries.Payment]] = {}
    for payment in file.payments:
        by_key.setdefault(payment.payment_key, []).append(payment)
    new, overpaid = entries.adopt(
        tx, row["name"], row["sha256"], [found[0] for key, found in by_key.items() if key not in known]
    )
    entries.add(tx, row["name"], row["sha256"], new)
    listed = [exceptions.overpaid(payment, int(payment["posted"])) for payment in overpaid]
    listed += [
        Listed(
            "payment id twice in one file",
            _subject(key),
            sum(payment.amount for payment in found[1:]),
            f"lines {', '.join(str(payment.line_no) for payment in found)} of {row['name']}; one was taken in",
            fee_id=found[0].fee_id,
            payment_key=key,
        )
        for key, found in by_key.items()
        if len(found) > 1
    ]
    listed += [
        Listed(
            "payment with another amount",
            _subject(key),
            payment.amount - before,
            f"line {payment.line_no} of {row['name']} says {amount(payment.amount)}, taken in before as {amount(before)}",
            fee_id=payment.fee_id,
            payment_key=key,
        )
        for key, (payment, *_) in by_key.items()
        for before in [known.get(key, payment.amount)]
        # Where one file need not hold it again, a lower amount is told before it is seen a second time.
        if payment.amount > before
        or (payment.amount < before and not campus.sis_to_alma.cumulative and reversals.seen_once(tx, key))
    ]
    listed += [_refused(row, line) for line in file.refused]
    exceptions.open_all(tx, listed)
    # What an older file says is no news.
    heard = by_key if reversals.newest(tx, row) else {}
    lower = [key for key, found in heard.items() if found[0].amount <= known.get(key, 0)]
    exceptions.close_kind(
        tx,
        "payment with another amount",
        [_subject(key) for key in lower if not reversals.seen_once(tx, key)],
        "the amount is the known one again, or stands as taken back",
    )
    _taken(tx, row, file.lines, len(new), len(file.refused), counts)


def _refused(row: Row, line: RefusedLine) -> Listed:
    detail = f"line {line.line_no} of {row['name']}, {line.field}: {line.text}"
    return Listed("payment line refused", f"payment line {line.digest}", 0, detail)


def _taken(tx: Tx, row: Row, lines: int, new: int, refused: int, counts: TakeInCounts) -> None:
    exceptions.close_others(tx, [f"file {row['sha256'][:12]}"], [])
    reversals.route(tx)
    reversals.judge(tx)
    entries.move_file(
        tx, row["name"], row["sha256"], "taken", lines=lines, lines_new=new, lines_refused=refused
    )
    counts.files += 1
    counts.lines += lines
    counts.new += new
    counts.known += lines - refused - new
    counts.refused += refused
