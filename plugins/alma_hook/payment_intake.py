"""PeopleSoft's output into the ledger: payments and lists of items, fetched, taken in line by line, archived.

A payment is taken in once for ever, whatever file it stands in again; of lists of items the newest counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from alma_hook import applied_file, confirmations, guard, item_file, payment_file, query_forms
from alma_hook.applied_file import AppliedFile
from alma_hook.campus import Campus, Items, SisToAlma
from alma_hook.errors import BadFile, Fault
from alma_hook.guard import MarkPlace
from alma_hook.item_file import ItemFile
from alma_hook.ledger import (
    Lease,
    Ledger,
    Row,
    Tx,
    applied,
    exceptions,
    moment,
    opening,
    reversal_lines,
    reversals,
    unassigned,
)
from alma_hook.ledger import payments as entries
from alma_hook.ledger.exceptions import Listed
from alma_hook.ledger.reversal_lines import Line
from alma_hook.ledger.reversals import Shown
from alma_hook.money import amount
from alma_hook.query_output import RefusedLine
from alma_hook.remote import RemoteFolder

#: So many lines fewer than in the last file are never too many: what each of them told is looked at by itself.
FEW_LINES = 20


def find_files(folder: RemoteFolder, ledger: Ledger, lease: Lease, campus: Campus) -> tuple[int, int]:
    """Keep the bytes of every file of ours in the folder; return how many lie there and how many are new.

    A file that was refused and is gone or replaced since is off the list of exceptions where the next one tells
    all that it told; else it stays there as gone.
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
        for row in entries.withdraw_absent(tx, present):
            _list_gone(tx, row, settings, [digest for name, digest in present if name == row["name"]])
    return len(present), new


def _list_gone(tx: Tx, row: Row, settings: SisToAlma, now: Sequence[str]) -> None:
    """Keep a refused file on the list whose payments may stand nowhere else. ``now``: what lies under its name."""
    subject = _subject_of(row)
    if settings.tells_again(row["kind"]) or not exceptions.is_open(tx, subject) or _grown(tx, row, now):
        exceptions.close_subject(tx, subject, "the file was taken away or replaced")
        return
    gone = Listed(
        exceptions.GONE,
        subject,
        0,
        f"{row['name']}, found {row['found_at'][:16]}, could not be read and was taken away or replaced: none of its payments "
        "were taken in. Let the query be run for its days again, or say with `resolve` that they are in another file",
    )
    exceptions.list_only(tx, [subject], [gone])


def _grown(tx: Tx, row: Row, now: Sequence[str]) -> bool:
    """Whether a file that was refused was being written when it was read, and lies there longer now.

    Without a row of its own it can't be told: every file of that query begins so.
    """
    before = entries.file_content(tx, row["name"], row["sha256"])
    return query_forms.holds_rows(before) and any(
        entries.file_content(tx, row["name"], digest).startswith(before) for digest in now
    )


def archive_files(
    folder: RemoteFolder, ledger: Ledger, lease: Lease, campus: Campus, marks: Sequence[MarkPlace]
) -> int:
    """Move every file that is taken in out of the folder; return how many.

    ``marks`` are renewed before: an older copy of the ledger would never see these files again. A file
    whose bytes have changed since stays: it is another file, for the next run. One that came in its place just
    before it was moved is put back, by the next run if this one dies.
    """
    settings = campus.sis_to_alma
    with ledger.read() as tx:
        rows = entries.files(tx, "taken")
    if rows:
        guard.advance(ledger, marks)
    moved = 0
    for row in rows:
        path = f"{settings.directory}/{row['name']}"
        _put_back_another(folder, row["moved_to"], path, row, ledger, lease)
        if folder.size(path) is not None:
            if hashlib.sha256(folder.read(path)).hexdigest() != row["sha256"]:
                continue
            stamp = ledger.now().strftime("%Y%m%dT%H%M%S%f")
            archived = f"{settings.archive_directory}/{stamp}_{row['name']}"
            with ledger.write(lease) as tx:
                entries.about_to_archive(tx, row["name"], row["sha256"], archived)
            folder.rename(path, archived)
            _put_back_another(folder, archived, path, row, ledger, lease)
        with ledger.write(lease) as tx:
            entries.move_file(tx, row["name"], row["sha256"], "archived")
        moved += 1
    return moved


def _put_back_another(
    folder: RemoteFolder, archived: str | None, path: str, row: Row, ledger: Ledger, lease: Lease
) -> None:
    """Look at what was moved: a file of the same name may have come in its place just before, half written yet."""
    if archived is None or folder.size(archived) is None:
        return
    content = folder.read(archived)
    digest = hashlib.sha256(content).hexdigest()
    if digest == row["sha256"]:
        return
    if folder.size(path) is None:
        folder.rename(archived, path)
        return
    # And a third one has come: what was moved can't go back, so its bytes as they are now have to do.
    with ledger.write(lease) as tx:
        entries.keep_file(tx, row["name"], digest, content, kind=row["kind"])


@dataclass
class TakeInCounts:
    """What a take-in came to: ``lines`` of payments = ``new`` + ``known`` + ``refused``.

    ``known`` are also those of a file that is older than one which lists all: nothing of it is taken in.
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


def take_in(ledger: Ledger, lease: Lease, campus: Campus, marks: Sequence[MarkPlace]) -> TakeInCounts:
    """Take the lines of every file found into the ledger, each payment once for ever.

    A file is taken in one transaction or refused as a whole (listed, left in its place, the others
    go on). A line that is refused is listed by its content, so tomorrow's cumulative file does not
    list it twice. A known payment with a higher amount changes nothing and is listed; one that is lower, or
    lacking where every file lists all, may have been taken back, see ``reversals``. Applied amounts are
    compared with the payments made of them before, see ``ledger.applied``. The ledger's ``marks`` are looked at first,
    where it is not being brought up to them: an older copy would take money for new that was dealt with since.
    """
    counts = TakeInCounts()
    if marks:
        guard.check(ledger, marks)
    with ledger.read() as tx:
        waiting = entries.files(tx, "found", "refused")
        campus = campus.knowing(opening.references(tx))
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
                    _accept(tx, row, items.lines, campus)
                    if levels is not None:
                        _take_in_applied(tx, row, levels, campus, counts)
                    _take_in_items(tx, row, items, settings, counts)
            elif campus.sis_to_alma.shape == applied.SHAPE:
                levels = applied_file.read(row["name"], content, campus)
                with ledger.write(lease) as tx:
                    _accept(tx, row, levels.lines, campus)
                    _take_in_applied(tx, row, levels, campus, counts)
            else:
                file = payment_file.read(row["name"], content, campus)
                with ledger.write(lease) as tx:
                    entries.require_shape(tx, campus.sis_to_alma.told_apart, campus.payment_identity)
                    _accept(tx, row, file.lines, campus)
                    known, unclear = file.payments, file.unclear
                    if not campus.sis_to_alma.names_fees:
                        known, unclear = unassigned.as_known(tx, known, unclear)
                    told = replace(file, payments=known, unclear=unclear)
                    _take_in_file(tx, row, told, campus, counts, file.lines)
        except BadFile as error:
            _refuse_file(ledger, lease, row, error)
            counts.files_refused += 1
            counts.faults.append(str(error))
    if campus.sis_to_alma.told_apart == "id" and not campus.sis_to_alma.cumulative:
        with ledger.write(lease) as tx:
            _list_missed(tx, campus.sis_to_alma)
    return counts


def _list_missed(tx: Tx, settings: SisToAlma) -> None:
    """List what lines took off payments, and as their kind is called now should not have; no later file need tell of them."""
    listed = []
    for one in reversal_lines.missed(tx, settings.no_reversals, sums_up=settings.reversals_sum_up):
        # Where the payment was never told of, that was listed.
        if one.fee_id is None and exceptions.ever(tx, exceptions.LINE_REFUSED, _subject(one.payment_key)):
            continue
        detail = (
            f"{amount(one.cents)} of it was taken back by lines of a kind that sis_to_alma.kinds calls something else now. Let "
            "the query be run again for its days"
        )
        subject = f"{_subject(one.payment_key)} not taken back"
        fee_id = one.fee_id or one.payment_key.rpartition(":")[2]
        listed.append(Listed(exceptions.NO_REVERSAL, subject, one.cents, detail, fee_id, one.payment_key))
    exceptions.list_only(tx, exceptions.judged_subjects(tx, [exceptions.NO_REVERSAL]), listed)


class _Shrunken(BadFile):
    """A file that must have all there ever was, and has far less than the one before."""


def _accept(tx: Tx, row: Row, lines: int, campus: Campus) -> None:
    """Take off the list what was wrong with a file before.

    Raises ``BadFile`` where it lists all and yet has far fewer lines than the newest one, unless a person has let it pass.
    """
    _require_not_shrunken(tx, row, lines, campus.sis_to_alma)
    exceptions.close_others(tx, [_subject_of(row)], [])


def _subject_of(row: Row) -> str:
    return f"file {row['sha256'][:12]}"


def _require_not_shrunken(tx: Tx, row: Row, lines: int, settings: SisToAlma) -> None:
    last = entries.last_taken(tx, row["kind"])
    if last is None or not settings.lists_all(row["kind"]) or not reversals.newest(tx, row):
        return
    fewer = int(last["lines"]) - lines
    if fewer <= FEW_LINES or fewer * 100 <= settings.max_drop * int(last["lines"]):
        return
    if exceptions.settled_by_a_person(tx, Listed(exceptions.SHRUNKEN, _subject_of(row), 0, "")):
        return
    said = (
        f"has {lines} lines, and {last['name']}, the last one, had {last['lines']}: fewer by more than "
        f"sis_to_alma.max_drop, {settings.max_drop} percent. Is it cut short, limited in rows, or does it begin with a later "
        "day? If it is right, settle the exception with `resolve`, and the next run takes it in"
    )
    raise _Shrunken("A file of PeopleSoft's output can't be taken in.", [Fault(str(row["name"]), said)])


def _older(tx: Tx, row: Row, cents: Sequence[int], counts: TakeInCounts) -> None:
    """List a file that is older than one that lists all, and tells of more than that one.

    ``cents``: the payments which are not known. PeopleSoft has taken them back since, or the newer file is wrong: the
    next one tells.
    """
    last = entries.last_taken(tx, row["kind"])
    if not cents or last is None:
        return
    detail = (
        f"{row['name']}, written {row['written_at'][:16]}, has {len(cents)} payments that are not known, and is older than "
        f"{last['name']}, which lists all: they were taken back since, or that one lacks them. They were not taken in"
    )
    exceptions.open_all(tx, [Listed(exceptions.OLDER, _subject_of(row), sum(cents), detail)])
    counts.faults.append(detail)


@dataclass(frozen=True)
class _Told:
    """What a file's ``payments`` come to, and by their lines ``alone`` known ones that it does not have.

    Of ``silent`` ones it does not tell what is left of them: it has none of the lines that took them back. By key, what
    their own lines said before.
    """

    payments: tuple[entries.Payment, ...]
    alone: tuple[entries.Payment, ...] = ()
    silent: Mapping[str, int] = field(default_factory=dict)


def _told(
    tx: Tx, file: payment_file.PaymentFile, known: Mapping[str, int], lines: Sequence[Line], campus: Campus
) -> _Told:
    """Take off payments what lines of their own take back: where files hold windows, all such lines that ever were told of.

    A window need not have those of its payments, nor the payments of its lines. Where each file lists all, the lines of
    this one count, and a payment that it lacks says enough.
    """
    settings = campus.sis_to_alma
    keys = [payment.payment_key for payment in (*file.payments, *file.reversals)]
    windows = not settings.cumulative
    if windows:
        off = reversal_lines.taken_off(
            tx, set(keys), settings.no_reversals, sums_up=settings.reversals_sum_up
        )
    else:
        off = Counter()
        for line in lines:
            off[line.payment_key] += line.cents

    def less(payment: entries.Payment, gross: int) -> entries.Payment:
        return replace(payment, amount=max(0, gross - off[payment.payment_key]), gross=gross)

    payments = tuple(less(each, each.amount) if off[each.payment_key] else each for each in file.payments)
    if not windows:
        return _Told(payments)
    there = {payment.payment_key for payment in payments}
    first = {line.payment_key: line for line in reversed(file.reversals) if line.payment_key in known}
    gross = entries.gross(tx, [key for key in off if key in known])
    without = gross.keys() - first.keys()
    return _Told(
        payments,
        tuple(less(line, gross[key]) for key, line in first.items() if key not in there),
        {
            each.payment_key: gross[each.payment_key]
            for each in file.payments
            if each.payment_key in without
            and gross[each.payment_key] <= each.amount < known[each.payment_key] + off[each.payment_key]
        },
    )


def _shown(file: payment_file.PaymentFile, told: _Told, campus: Campus, *, news: bool) -> Shown:
    """Return what a file says of known payments.

    One that is older than another taken in tells by lines that take payments back alone, and where each lists all nothing.
    """
    cumulative = campus.sis_to_alma.cumulative
    by_lines = frozenset() if cumulative else frozenset(line.payment_key for line in file.reversals)
    cents: dict[str, int] = {}
    for payment in (*told.payments, *told.alone):
        key = payment.payment_key
        if (news and key not in told.silent) or key in by_lines:
            cents[key] = max(payment.amount, cents.get(key, 0))
    return Shown(cents, news and cumulative and not file.blind, file.unclear)


def _refuse_file(ledger: Ledger, lease: Lease, row: Row, error: BadFile) -> None:
    with ledger.write(lease) as tx:
        entries.move_file(tx, row["name"], row["sha256"], "refused")
        listed = Listed(
            exceptions.SHRUNKEN
            if isinstance(error, _Shrunken)
            else "list of items refused"
            if row["kind"] == "items"
            else "payment file refused",
            _subject_of(row),
            0,
            str(error),
        )
        # What a person has said of how many lines it has holds when something else is mended.
        shrunken = replace(listed, kind=exceptions.SHRUNKEN)
        said = [shrunken] if exceptions.settled_by_a_person(tx, shrunken) else []
        exceptions.close_others(tx, [listed.subject], [listed, *said])
        exceptions.open_all(tx, [listed])


def _take_in_items(tx: Tx, row: Row, file: ItemFile, settings: Items, counts: TakeInCounts) -> None:
    judged = confirmations.take_in(tx, row, file, settings)
    counts.lists += 1
    counts.items += len(file.items)
    counts.items_refused += len(file.refused)
    counts.confirmed += judged.confirmed


def _take_in_applied(tx: Tx, row: Row, file: AppliedFile, campus: Campus, counts: TakeInCounts) -> None:
    """Take in what is applied to each item; a file that is older than another taken in says nothing."""
    entries.require_shape(tx, campus.sis_to_alma.told_apart, campus.payment_identity)
    new = 0
    older: list[int] = []
    items, short = applied.since_opening(tx, file.items)
    shown, above = applied.compare(tx, items, file.unclear, file.blind)
    if reversals.newest(tx, row):
        exceptions.list_only(tx, exceptions.judged_subjects(tx, [opening.LESS_APPLIED]), short)
        lower = reversals.observe(tx, row, shown, campus.sis_to_alma.reversal_limit)
        # Lower on one item and higher on another of one student, it is money moved and perhaps not for long:
        # what is higher waits for the next file, as what is lower does.
        moved = entries.emplids(tx, lower)
        rises = [(item, cents) for item, cents in above if item.emplid not in moved]
        applied.add(tx, row, rises, campus.today(moment(row["written_at"])).isoformat())
        applied.part_rests(tx)
        new = len(rises)
        refused = [_refused(row, line) for line in file.refused]
        exceptions.list_only(tx, exceptions.judged_subjects(tx, [exceptions.LINE_REFUSED]), refused)
    else:
        older = [cents for _, cents in above]
    _taken(tx, row, file.lines, new, len(file.refused), counts)
    _older(tx, row, older, counts)


def _subject(payment_key: str) -> str:
    return f"payment line {hashlib.sha256(payment_key.encode()).hexdigest()[:16]}"


def _take_in_file(
    tx: Tx, row: Row, file: payment_file.PaymentFile, campus: Campus, counts: TakeInCounts, lines: int
) -> None:
    news = reversals.newest(tx, row)
    known = entries.known(tx, [payment.payment_key for payment in (*file.payments, *file.reversals)])
    back, new_lines = reversal_lines.keep(tx, _lines(file.reversals), campus.sis_to_alma.no_reversals)
    unheard_of = {line.payment_key for line in new_lines}
    told = _told(tx, file, known, back, campus)
    by_key: dict[str, list[entries.Payment]] = {}
    for payment in told.payments:
        by_key.setdefault(payment.payment_key, []).append(payment)
    strange = [
        _of_nothing(row, file, key) for key in sorted(unheard_of) if key not in known and key not in by_key
    ]
    strange += [
        _of_before(row, by_key[key][0], since)
        for key in sorted((unheard_of & by_key.keys()) - known.keys())
        for since in [_back_since_opening(tx, by_key[key][0], file.reversals)]
        if since
    ]
    new, overpaid = entries.adopt(
        tx, row["name"], row["sha256"], [found[0] for key, found in by_key.items() if key not in known]
    )
    # Paid and taken back before it was heard of.
    new = [payment for payment in new if payment.amount]
    shown = _shown(file, told, campus, news=news)
    lower = reversals.observe(tx, row, shown, campus.sis_to_alma.reversal_limit)
    unheard: list[int] = []
    if campus.sis_to_alma.cumulative and not news:
        unheard = [payment.amount for payment in new]
        for payment in new:
            del by_key[payment.payment_key]
        new = []
    entries.add(tx, row["name"], row["sha256"], new)
    opening.set_earlier_aside(tx, row)
    firsts = {key: found[0] for key, found in by_key.items() if key not in told.silent}
    firsts |= {each.payment_key: each for each in told.alone}
    # Its own line alone has grown: that is told, though not what is left of it.
    grown = {
        key: replace(found[0], amount=known[key] + found[0].gross - said)
        for key, found in by_key.items()
        for said in [told.silent.get(key)]
        if said is not None and found[0].gross is not None and found[0].gross > said
    }
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
            exceptions.ANOTHER_AMOUNT,
            _subject(key),
            -once or payment.amount - before,
            f"line {payment.line_no} of {row['name']} says {amount(payment.amount)}, taken in before as {amount(before)}",
            fee_id=payment.fee_id,
            payment_key=key,
        )
        for key, payment in (firsts | grown).items()
        for before in [known.get(key, payment.amount)]
        # Where one file need not hold it again, a lower amount is told before it is seen a second time.
        for once in [
            reversals.seen_once(tx, key)
            if payment.amount < before and not campus.sis_to_alma.cumulative
            else 0
        ]
        if payment.amount > before or once
    ]
    listed += [_refused(row, line) for line in file.refused]
    listed += strange
    # Of known lines more may count than before: the settings said until now that they sum up, or that each file lists all.
    telling = [line for line in back if line in new_lines or line.payment_key in lower]
    listed += _not_together(tx, row, back, telling, campus)
    exceptions.open_all(tx, listed)
    # What an older file says is no news.
    entries.correct(tx, [found[0] for found in by_key.values()] if news else [])
    entries.follow_kinds(tx, campus.sis_to_alma.reasons, campus.sis_to_alma.ignored)
    over = [
        _subject(key)
        for key, cents in {**dict.fromkeys(told.silent.keys() - grown.keys(), 0), **shown.cents}.items()
        if cents <= known.get(key, 0) and not reversals.seen_once(tx, key)
    ]
    exceptions.close_kind(
        tx,
        exceptions.ANOTHER_AMOUNT,
        # A payment that has grown was lower before: an older file does not tell that it is so again.
        over if news else exceptions.listed_below_nought(tx, exceptions.ANOTHER_AMOUNT, over),
        "the amount is the known one again, or stands as taken back",
    )
    _taken(tx, row, lines, len(new), len(file.refused), counts)
    _older(tx, row, unheard, counts)


def _not_together(
    tx: Tx, row: Row, lines: Sequence[Line], telling: Sequence[Line], campus: Campus
) -> list[Listed]:
    """List lines in a window that lacks what took back the same payment before; ``lines``: all of the file.

    ``telling``: those by which more was taken back than before, new ones above all.

    It may be one line that sums up and has grown, which the settings then should say; or the older one is of a day that
    the window leaves out.
    """
    settings = campus.sis_to_alma
    if settings.cumulative:
        over = exceptions.judged_subjects(tx, [exceptions.NOT_TOGETHER])
        exceptions.close_kind(tx, exceptions.NOT_TOGETHER, over, "the lines of the newest file count alone")
        return []
    lacking = (
        Counter() if settings.reversals_sum_up else reversal_lines.apart(tx, lines, settings.no_reversals)
    )
    exceptions.close_kind(
        tx,
        exceptions.NOT_TOGETHER,
        [_line_subject(line) for line in lines if not lacking[line.payment_key]],
        "one file shows them together, or the largest counts",
    )
    return [
        Listed(
            exceptions.NOT_TOGETHER,
            _line_subject(line),
            min(line.cents, lacking[line.payment_key]),
            f"{row['name']} takes {amount(line.cents)} of a payment back and lacks the {amount(lacking[line.payment_key])} "
            "taken back of it before: both count. If the query tells all that was taken back of a payment in one line, which "
            "grows, set sis_to_alma.reversal_lines and let it be run for its days again; if both are true, settle it",
            # Lines that take back name their payment's fee.
            fee_id=line.payment_key.rpartition(":")[2],
            payment_key=line.payment_key,
        )
        for line in telling
        if lacking[line.payment_key]
    ]


def _line_subject(line: Line) -> str:
    return _subject(f"{line.payment_key}\n{line.key}")


def _lines(found: Sequence[entries.Payment]) -> list[Line]:
    """Return lines that take payments back with keys that are the same of the same line in another file."""
    alike: Counter[str] = Counter()

    def key(line: entries.Payment, day: str) -> str:
        said = f"{line.payment_key}\n{line.amount}\n{day}"
        alike[said] += 1
        return hashlib.sha256(f"{said}\n{alike[said]}".encode()).hexdigest()[:16]

    return [
        # A day that is written as the ledger has it is no second line of that day.
        Line(
            line.payment_key,
            key(line, line.paid_on),
            key(line, f"written {line.day_text}"),
            line.amount,
            line.kind,
        )
        for line in found
    ]


def _of_nothing(row: Row, file: payment_file.PaymentFile, key: str) -> Listed:
    lines = [line for line in file.reversals if line.payment_key == key]
    detail = f"line {lines[0].line_no} of {row['name']} takes back a payment that was never told of"
    cents = sum(line.amount for line in lines)
    return Listed(exceptions.LINE_REFUSED, _subject(key), cents, detail, fee_id=lines[0].fee_id)


def _back_since_opening(
    tx: Tx, payment: entries.Payment, lines: Sequence[entries.Payment]
) -> list[entries.Payment]:
    """Return the lines that may take a payment of before the opening back after it: what it was is in Alma then."""
    day = opening.day_of(tx, payment.fee_id, payment.paid_on)
    if day is None:
        return []
    return [line for line in lines if line.payment_key == payment.payment_key and line.paid_on >= day]


def _of_before(row: Row, payment: entries.Payment, lines: Sequence[entries.Payment]) -> Listed:
    detail = (
        f"line {lines[0].line_no} of {row['name']} takes back a payment that may be of before the opening, and was not told of "
        "until now"
    )
    cents = min(payment.gross or 0, sum(line.amount for line in lines))
    return Listed(
        exceptions.LINE_REFUSED, _subject(payment.payment_key), cents, detail, fee_id=payment.fee_id
    )


def _refused(row: Row, line: RefusedLine) -> Listed:
    detail = f"line {line.line_no} of {row['name']}, {line.field}: {line.text}"
    return Listed(exceptions.LINE_REFUSED, f"payment line {line.digest}", 0, detail)


def _taken(tx: Tx, row: Row, lines: int, new: int, refused: int, counts: TakeInCounts) -> None:
    if reversals.newest(tx, row):
        over = exceptions.open_subjects(tx, [exceptions.OLDER])
        exceptions.close_kind(tx, exceptions.OLDER, over, "a newer file tells by itself")
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
