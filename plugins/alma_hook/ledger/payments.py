"""Payment files, the payments in them, and how far their posting to Alma has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from alma_hook.errors import Fatal, LeaseTaken, SendingStopped
from alma_hook.ledger import exceptions, fees, guard, holds, opening, reversals
from alma_hook.ledger.store import Row, Tx, in_list, instant, moment

#: The state of a payment that a credit delivered later makes up for; it is new again once its fee asks for more.
CREDITED = "credited"
#: What a ledger is bound to with its first file of payments.
IDENTITY = "payments told apart by"


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment as PeopleSoft reported it; ``amount`` in cents, more than nought.

    ``whole``: the key of the payment that this is a part of, where its line names no fee, see ``unassigned``; then
    ``fee_id`` is ``None`` for what belongs to none yet. ``waive``: Alma's code of the reason, where PeopleSoft has waived it.
    ``kind``: what its line says that it is, where the settings tell by that what it means.
    ``gross``: what its line says, where lines of their own have taken something off. ``day_text``: its day as the file writes it.
    """

    payment_key: str
    external_id: str
    fee_id: str | None
    emplid: str
    amount: int
    paid_on: str
    line_no: int
    whole: str | None = None
    waive: str | None = None
    kind: str | None = None
    gross: int | None = None
    day_text: str = ""


def keep_file(
    tx: Tx, name: str, sha256: str, content: bytes, *, kind: str = "payments", modified: int | None = None
) -> bool:
    """Keep a file's bytes; return whether it is new. The same bytes under the same name are the same file.

    ``kind``: ``payments`` or ``items``. ``modified``: when the far side wrote it, in seconds since 1970
    (``None``: just now); a clock there that is ahead counts for no more than now.

    One that lies there again after it was archived or withdrawn is read again: the settings may have
    changed since, and a payment is taken in once anyway. Written again with the same bytes, a list of items
    holds until then.
    """
    written_at = tx.now
    if modified is not None:
        written_at = min(instant(datetime.fromtimestamp(modified, UTC)), tx.now)
    new = tx.run(
        "INSERT INTO payment_file (institution, name, sha256, state, content, found_at, run_id, kind, written_at) "
        "VALUES (:i, :name, :sha, 'found', :content, :now, :run, :kind, :at) "
        "ON CONFLICT (institution, name, sha256) DO NOTHING",
        name=name,
        sha=sha256,
        content=content,
        now=tx.now,
        run=tx.run_id,
        kind=kind,
        at=written_at,
    )
    tx.run(
        # The bytes again, too: they may have been removed since.
        "UPDATE payment_file SET state = 'found', kind = :kind, content = :content, moved_to = NULL, "
        "written_at = CASE WHEN written_at > :at THEN written_at ELSE :at END "
        "WHERE institution = :i AND name = :name AND sha256 = :sha "
        "AND (state IN ('archived', 'withdrawn') OR kind <> :kind)",
        name=name,
        sha=sha256,
        content=content,
        kind=kind,
        at=written_at,
    )
    return bool(new)


def withdraw_absent(tx: Tx, present: set[tuple[str, str]]) -> list[Row]:
    """Drop refused files that are no longer in the folder, and return them."""
    gone = [row for row in files(tx, "refused") if (row["name"], row["sha256"]) not in present]
    for row in gone:
        move_file(tx, row["name"], row["sha256"], "withdrawn")
    return gone


def files(tx: Tx, *states: str) -> list[Row]:
    """Return the files in these states without their bytes, in the order in which they were written."""
    names = ", ".join(f"'{state}'" for state in states)
    return tx.rows(
        "SELECT name, sha256, state, lines, lines_new, lines_refused, found_at, run_id, kind, written_at, moved_to "
        "FROM payment_file "
        f"WHERE institution = :i AND state IN ({names}) ORDER BY written_at, found_at, name"
    )


def file_content(tx: Tx, name: str, sha256: str) -> bytes:
    """Return a file's bytes."""
    sql = "SELECT content FROM payment_file WHERE institution = :i AND name = :name AND sha256 = :sha"
    return bytes(tx.one(sql, name=name, sha=sha256))


def last_taken(tx: Tx, kind: str) -> Row | None:
    """Return name and ``lines`` of the newest file of a kind that was taken in; of two of one second the later name."""
    return tx.row(
        "SELECT name, lines FROM payment_file WHERE institution = :i AND kind = :kind AND state IN ('taken', 'archived') "
        "ORDER BY written_at DESC, name DESC LIMIT 1",
        kind=kind,
    )


def move_file(tx: Tx, name: str, sha256: str, state: str, **counts: int) -> None:
    """Set a file's state and, when taken in, its counts of lines."""
    allowed = {"lines", "lines_new", "lines_refused", "complete"}
    sets = "".join(f", {column} = :{column}" for column in counts if column in allowed)
    tx.run(
        f"UPDATE payment_file SET state = :state{sets} WHERE institution = :i AND name = :name AND sha256 = :sha",
        state=state,
        name=name,
        sha=sha256,
        **counts,
    )
    tx.event(f"file {sha256[:12]}", state)


def about_to_archive(tx: Tx, name: str, sha256: str, moved_to: str) -> None:
    """Note where a file is about to be moved to."""
    tx.run(
        "UPDATE payment_file SET moved_to = :to WHERE institution = :i AND name = :name AND sha256 = :sha",
        to=moved_to,
        name=name,
        sha=sha256,
    )


def require_shape(tx: Tx, shape: str, identity: str) -> None:
    """Keep to one way of telling payments apart: ``id``, ``line`` or ``applied``, and by which words of a line.

    Raises ``SendingStopped`` when the settings change it: every payment taken in before would else be taken for
    a new one, and posted again. Another ``identity`` may be accepted by a person, where only a heading has changed.
    """
    kept = tx.one("SELECT payment_shape FROM institution WHERE institution = :i")
    # An item that our credit pays looks as one that the student has paid.
    if shape == "applied" and tx.one(
        "SELECT 1 FROM line WHERE institution = :i AND state = 'sent' AND credit_item = 1 LIMIT 1"
    ):
        raise SendingStopped(
            "Credits with an item type of their own were sent, and applied amounts can't tell those from what students "
            "paid: they would be posted as payments. Nothing was taken in; let sis_to_alma.shape be payments."
        )
    if kept is None:
        tx.run("UPDATE institution SET payment_shape = :shape WHERE institution = :i", shape=shape)
    elif kept != shape:
        raise SendingStopped(
            "The settings now tell payments apart in another way (sis_to_alma.shape, or sis_to_alma.columns with or "
            "without payment_id) than when the first were taken in: all of them would be posted again. Nothing was "
            "taken in; put it back."
        )
    guard.bind(
        tx,
        IDENTITY,
        identity,
        "Put the settings back: each payment taken in before would else count as a new one, and be posted again. Where "
        "PeopleSoft's file only calls the same things by other names now",
    )


def known(tx: Tx, keys: Sequence[str]) -> dict[str, int]:
    """Return the amounts of those payments that were taken in before, by key."""
    sql = "SELECT payment_key, amount FROM payment WHERE institution = :i AND payment_key"
    return {row["payment_key"]: int(row["amount"]) for row in in_list(tx, sql, keys)}


def gross(tx: Tx, keys: Sequence[str]) -> dict[str, int]:
    """Return what the lines of payments said when they were taken in, before anything was off it, by key."""
    sql = "SELECT payment_key, COALESCE(gross, amount) AS gross FROM payment WHERE institution = :i AND payment_key"
    return {row["payment_key"]: int(row["gross"]) for row in in_list(tx, sql, keys)}


def fees_paid(tx: Tx) -> frozenset[str]:
    """Return the fees of this run's readings on which a payment waits to be posted."""
    rows = tx.rows(
        # Few wait, and a run may have read many. See `fees.readings_of_run`, also for why nothing is made distinct here.
        "SELECT p.fee_id FROM payment_now p CROSS JOIN reading r WHERE r.institution = p.institution "
        "AND r.fee_id = p.fee_id AND p.institution = :i AND r.run_id = :run AND p.state = 'new' AND p.stands > 0",
        run=tx.run_id,
    )
    return frozenset(row["fee_id"] for row in rows)


def correct(tx: Tx, found: Sequence[Payment]) -> None:
    """Take over whose a newer file says that payments are which wait, and of what kind; see ``follow_kinds``.

    An EMPLID may have been wrong in the file before, and so may the reason of a waiver in the settings. Of one in doubt
    what was sent stays as it was, the kind alone is taken over.
    """
    # Few wait, and a file may hold all there ever were.
    sql = (
        "SELECT payment_key, payment_no, emplid, waive, kind, state FROM payment WHERE institution = :i "
        f"AND state IN ('new', '{reversals.DROPPED}', 'posting', 'unknown')"
    )
    before = {row["payment_key"]: row for row in tx.rows(sql)}
    changed = []
    for payment in found:
        row = before.get(payment.payment_key)
        if row is None:
            continue
        in_doubt = row["state"] in ("posting", "unknown")
        told = (
            *((row["emplid"], row["waive"]) if in_doubt else (payment.emplid, payment.waive)),
            payment.kind,
        )
        if (row["emplid"], row["waive"], row["kind"]) != told:
            changed.append((payment, told))
    tx.many(
        "UPDATE payment SET emplid = :emplid, waive = :waive, kind = :kind WHERE institution = :i AND payment_key = :key",
        [
            {"key": payment.payment_key, "emplid": emplid, "waive": waive, "kind": kind}
            for payment, (emplid, waive, kind) in changed
        ],
    )
    tx.events(
        [
            (f"payment {before[p.payment_key]['payment_no']}", "told otherwise", f"line {p.line_no}")
            for p, _ in changed
        ]
    )


def follow_kinds(tx: Tx, reasons: Mapping[str, str | None], ignored: frozenset[str]) -> frozenset[int]:
    """Let what waits be what the settings say now that its line is; return the numbers of those that were something else.

    ``reasons``: by kind, why Alma is to waive it; ``None``: it is paid. Any other kind drops it, and lists it unless it is
    ``ignored``. No file need tell of it again. One that stands in for another waits as well: it is not in Alma.
    ``reversals.route`` has to follow, and ``reversals.judge``.
    """
    changed = set()
    if reasons:
        reversals.release_covers(tx, frozenset(reasons))
    for row in tx.rows(
        f"SELECT * FROM payment WHERE institution = :i AND state IN ('new', '{reversals.DROPPED}')"
    ):
        kind, number = row["kind"], int(row["payment_no"])
        if kind is not None and not reasons:
            continue
        waits = kind is None or kind in reasons
        waive = row["waive"] if kind is None else reasons.get(kind)
        if waits == (row["state"] == "new") and waive == row["waive"]:
            continue
        changed.add(number)
        tx.run(
            "UPDATE payment SET waive = :waive, posted_to = CASE WHEN :waits = 0 THEN NULL WHEN state = 'new' THEN posted_to "
            "ELSE fee_id END, state = :state WHERE institution = :i AND payment_key = :key",
            waive=waive,
            waits=int(waits),
            state="new" if waits else reversals.DROPPED,
            key=row["payment_key"],
        )
        listed = [exceptions.of_payment(row, exceptions.NO_PAYMENT, int(row["amount"]))]
        exceptions.list_only(tx, [f"payment {number}"], [] if waits or kind in ignored else listed)
        fees.touch(tx, {row["fee_id"], row["posted_to"]} - {None})
        what = "dropped" if not waits else "to be paid" if waive is None else "to be waived"
        tx.event(f"payment {number}", what, "as the settings say of its kind")
    return frozenset(changed)


def take_up_dropped(tx: Tx) -> None:
    """Let what was dropped wait again: an older copy may have dropped what was posted since. ``follow_kinds`` drops the rest."""
    tx.run(
        "UPDATE payment SET state = 'new', posted_to = fee_id WHERE institution = :i AND state = :dropped",
        dropped=reversals.DROPPED,
    )


def set_aside_as_earlier(tx: Tx) -> int:
    """Let what was taken in by now never be posted, nor count for any fee of ours; return how many there were.

    They stay known, so that the next cumulative file brings them in no more. Not those on items with which the books
    are opened: they may have been made after PeopleSoft was asked for these, see ``opening.set_earlier_aside``.
    """
    rows = tx.rows(
        f"SELECT payment_key, payment_no FROM payment WHERE institution = :i AND state IN ('new', '{reversals.DROPPED}') "
        "AND NOT (COALESCE(fee_id, '') "
        "IN (SELECT o.fee_id FROM opening_item o WHERE o.institution = :i) AND EXISTS (SELECT 1 FROM institution n "
        "WHERE n.institution = :i AND n.payment_shape <> 'applied'))"
    )
    for row in rows:
        set_aside(tx, row)
    return len(rows)


def set_aside(tx: Tx, payment: Row, posted: int = 0) -> None:
    """Let a payment be one on a charge of before the books were opened; ``posted``: what somebody else has put into Alma.

    Of one that is already only that may be told anew.
    """
    tx.run(
        "UPDATE payment SET state = :earlier, posted_to = NULL, posted = :posted "
        "WHERE institution = :i AND payment_key = :key "
        f"AND state IN ('new', :earlier, '{reversals.DROPPED}')",
        earlier=reversals.EARLIER,
        posted=posted,
        key=payment["payment_key"],
    )
    exceptions.close_subject(
        tx, f"payment {payment['payment_no']}", "it was taken in before the books were opened"
    )


def emplids(tx: Tx, keys: Iterable[str]) -> frozenset[str]:
    """Return the students who made these payments."""
    sql = "SELECT emplid FROM payment WHERE institution = :i AND payment_key"
    return frozenset(row["emplid"] for row in in_list(tx, sql, sorted(keys)))


def add(tx: Tx, file_name: str, file_sha256: str, found: Sequence[Payment]) -> None:
    """Take payments in, each once for ever."""
    first = int(tx.one("SELECT last_payment FROM institution WHERE institution = :i")) + 1
    tx.run("UPDATE institution SET last_payment = last_payment + :n WHERE institution = :i", n=len(found))
    tx.many(
        "INSERT INTO payment (institution, payment_key, payment_no, external_id, fee_id, emplid, amount, paid_on, "
        "file_name, file_sha256, line_no, taken_at, run_id, state, posted_to, whole, waive, kind, gross) VALUES (:i, "
        ":payment_key, :no, :external_id, :fee_id, :emplid, :amount, :paid_on, :file, :sha, :line_no, :now, :run, 'new', "
        ":fee_id, :whole, :waive, :kind, :gross)",
        [
            {
                "no": number,
                "file": file_name,
                "sha": file_sha256,
                "now": tx.now,
                "run": tx.run_id,
                **{name: getattr(payment, name) for name in Payment.__slots__},
            }
            for number, payment in enumerate(found, first)
        ],
    )
    tx.events(
        [
            (f"payment {number}", "taken in", f"file {file_sha256[:12]}, line {payment.line_no}")
            for number, payment in enumerate(found, first)
        ]
    )


def restore(
    tx: Tx, fee_id: str, item_fee: str, external_id: str, value: int, at: str | None, *, waiver: bool = False
) -> bool:
    """Bring in a payment, or a waiver, that Alma shows with our key and the ledger has lost; ``False``: it has it.

    ``item_fee``: the fee whose item in PeopleSoft it was paid on, another one where ``fee_id`` was made anew.
    What identifies it in PeopleSoft is told again by its line, see ``adopt``; or was before, then it is posted now.
    """
    known = tx.row("SELECT * FROM payment_now WHERE institution = :i AND external_id = :id", id=external_id)
    # Alma gives our keys back: here one is.
    column = _CANARY[waiver]
    tx.run(f"UPDATE institution SET {column} = COALESCE({column}, :now) WHERE institution = :i", now=tx.now)
    if known is not None:
        # What it is in Alma, whatever the settings say of its kind since.
        tx.run(
            "UPDATE payment SET waive = CASE WHEN :waiver = 1 THEN COALESCE(waive, '') END "
            "WHERE institution = :i AND external_id = :id AND state <> 'posted'",
            waiver=int(waiver),
            id=external_id,
        )
        return known["state"] != "posted" and found_posted(tx, known, value)
    tx.run("UPDATE institution SET last_payment = last_payment + 1 WHERE institution = :i")
    tx.run(
        "INSERT INTO payment (institution, payment_key, payment_no, external_id, fee_id, emplid, amount, paid_on, "
        "file_name, file_sha256, line_no, taken_at, run_id, state, posted, marked_at, posted_to, waive) "
        "SELECT :i, :key, i.last_payment, :external, CAST(:item AS TEXT), COALESCE((SELECT l.emplid FROM line l "
        "WHERE l.institution = :i AND l.fee_id = :item AND l.state = 'sent' AND l.kind = 'charge' "
        "ORDER BY l.batch_id DESC, l.line_no DESC LIMIT 1), ''), CAST(:value AS BIGINT), :paid_on, 'Alma', '', 0, :now, "
        ":run, 'posted', CAST(:value AS BIGINT), :now, CAST(:fee AS TEXT), CAST(:waive AS TEXT) FROM institution i "
        "WHERE i.institution = :i",
        key=f"{reversals.LOST}{external_id}",
        external=external_id,
        fee=fee_id,
        item=item_fee,
        value=value,
        paid_on=(at or "")[:10],
        waive="" if waiver else None,
        now=tx.now,
        run=tx.run_id,
    )
    fees.touch(tx, [fee_id])
    tx.event(f"fee {fee_id}", "payment found in Alma", external_id)
    return True


def any_lost(tx: Tx) -> bool:
    """Whether there are payments that no file of PeopleSoft's has told of since the ledger was rebuilt."""
    sql = f"SELECT 1 FROM payment WHERE institution = :i AND payment_key LIKE '{reversals.LOST}%' LIMIT 1"
    return tx.one(sql) is not None


def found_posted(tx: Tx, payment: Row, value: int) -> bool:
    """Record a payment as posted: it was, before the ledger was lost, so it stands in for no other."""
    settle_posting(tx, payment, "posted", posted=value)
    tx.run(
        "UPDATE reversal SET covered = 0, covered_by = NULL WHERE institution = :i AND covered_by = :key",
        key=payment["payment_key"],
    )
    # PeopleSoft had that much once; what it has taken back since, the next files tell.
    tx.run(
        "UPDATE payment SET amount = :value WHERE institution = :i AND payment_key = :key AND amount < :value",
        value=value,
        key=payment["payment_key"],
    )
    rest = int(payment["stands"]) - value
    listed = [exceptions.of_payment(payment, exceptions.OVERPAID, rest)] if rest > 0 else []
    exceptions.list_only(tx, [f"payment {payment['payment_no']}"], listed)
    return True


# Where a payment's key stands.
_BY_KEY = (
    ("payment", "payment_key"),
    ("reversal", "payment_key"),
    ("reversal", "covered_by"),
    ("exception_item", "payment_key"),
)


def rename(tx: Tx, before: str, after: str) -> None:
    """Let a payment have another key, wherever it stands."""
    for table, column in _BY_KEY:
        tx.run(
            f"UPDATE {table} SET {column} = :after WHERE institution = :i AND {column} = :before",
            after=after,
            before=before,
        )


def adopt(
    tx: Tx, file_name: str, file_sha256: str, found: Sequence[Payment]
) -> tuple[list[Payment], list[Row]]:
    """Give restored payments what their lines tell of them; return the new ones, and the restored overpaid ones.

    Line and restored payment have the same external id, as it follows from what identifies the payment. A line
    of less than Alma has is one of which a part was taken back since; the next files tell. A payment or a waiver is what
    it was when it was made, whatever the settings say now; a line may tell a waiver's reason.
    """
    lost = {
        row["external_id"]
        for row in in_list(
            tx,
            f"SELECT external_id FROM payment WHERE institution = :i AND payment_key LIKE '{reversals.LOST}%' AND external_id",
            [payment.external_id for payment in found],
        )
    }
    for payment in found:
        if payment.external_id in lost:
            tx.run(
                "UPDATE payment SET emplid = :emplid, paid_on = :paid_on, file_name = :file, "
                "file_sha256 = :sha, line_no = :line, whole = :whole, kind = COALESCE(:kind, kind), "
                "gross = CAST(:gross AS BIGINT), "
                "waive = CASE WHEN waive = '' THEN COALESCE(:waive, '') ELSE waive END, "
                # Nothing is told of a part that was taken back as a whole: it keeps the amount that it had.
                "amount = CASE WHEN posted > :amount THEN posted "
                "WHEN :amount > 0 THEN CAST(:amount AS BIGINT) ELSE amount END "
                "WHERE institution = :i AND external_id = :external",
                emplid=payment.emplid,
                amount=payment.amount,
                paid_on=payment.paid_on,
                file=file_name,
                sha=file_sha256,
                line=payment.line_no,
                whole=payment.whole,
                waive=payment.waive,
                kind=payment.kind,
                gross=payment.gross,
                external=payment.external_id,
            )
            rename(tx, f"{reversals.LOST}{payment.external_id}", payment.payment_key)
    sql = "SELECT * FROM payment WHERE institution = :i AND state = 'posted' AND amount > posted AND external_id"
    return [payment for payment in found if payment.external_id not in lost], in_list(tx, sql, sorted(lost))


def to_post(tx: Tx) -> list[Row]:
    """Return every payment still to be posted, with the fee's account and the EMPLID it was charged to.

    ``account`` is null where no fee of ours is meant, ``charged_emplid`` where it was never charged.
    What PeopleSoft took back is not to be posted: ``stands`` is what it has left of the payment, ``payable``
    what may be posted. One that a single file shows lower waits for the second; of applied amounts that part alone,
    and nothing of one without a fee, for which a person can look all the same.
    """
    emplid = (
        "(SELECT l.emplid FROM line l WHERE l.institution = p.institution AND l.fee_id = {} AND l.state = 'sent' "
        "AND l.kind = 'charge' ORDER BY l.batch_id DESC, l.line_no DESC LIMIT 1)"
    )
    return tx.rows(
        f"SELECT p.*, f.user_id AS account, COALESCE({emplid.format('p.fee_id')}, {emplid.format('c.item_fee')}) "
        "AS charged_emplid FROM (SELECT n.*, (SELECT w.waive FROM payment w WHERE w.institution = n.institution "
        "AND w.payment_key = n.payment_key) AS waive, n.stands - COALESCE((SELECT "
        "CASE WHEN i.payment_shape = 'applied' THEN v.amount WHEN n.fee_id IS NULL THEN 0 ELSE n.stands END FROM reversal v "
        "WHERE v.institution = n.institution AND v.payment_key = n.payment_key AND v.state = 'seen_once'), 0) AS payable "
        "FROM payment_now n JOIN institution i ON i.institution = n.institution) p "
        "LEFT JOIN fee f ON f.institution = p.institution AND f.fee_id = p.fee_id "
        "LEFT JOIN carry c ON c.institution = p.institution AND c.to_fee = p.fee_id "
        "WHERE p.institution = :i AND (p.state IN ('posting', 'unknown') OR (p.state = 'new' AND p.payable > 0)) "
        "ORDER BY f.user_id, p.payment_no"
    )


def mark_posting(tx: Tx, payment: Row, amount: int) -> Row:
    """Set the mark that stands before the call, and return the payment as it is then.

    Whoever finds the mark knows that money may have moved.
    """
    marked = tx.run(
        "UPDATE payment SET state = 'posting', trying = :amount, marked_at = :now, attempts = attempts + 1 "
        "WHERE institution = :i AND payment_key = :key AND state = :state AND attempts = :attempts "
        # A person may have said meanwhile that it belongs to another fee.
        "AND posted_to = :fee",
        fee=payment["fee_id"],
        amount=amount,
        now=tx.now,
        key=payment["payment_key"],
        state=payment["state"],
        attempts=payment["attempts"],
    )
    if not marked:
        raise LeaseTaken("Another run posts this payment; it is left to that run.")
    fees.touch(tx, [payment["fee_id"]])
    tx.event(f"payment {payment['payment_no']}", "posting")
    return {
        **payment,
        "state": "posting",
        "trying": amount,
        "marked_at": tx.now,
        "attempts": payment["attempts"] + 1,
    }


def settle_posting(
    tx: Tx,
    payment: Row,
    state: str,
    *,
    posted: int = 0,
    code: str | None = None,
    tracking_id: str | None = None,
) -> Row:
    """Record how a posting ended and return the payment as it is then.

    ``posted``, ``unknown``, ``new`` when surely nothing happened, ``settled`` or ``credited`` when nothing is to be posted.

    ``payment`` is the row as it was read, or as ``mark_posting`` left it: a worker that stood still
    while another took over changes nothing any more.
    """
    settled = tx.run(
        "UPDATE payment SET state = :state, posted = :posted, code = :code, tracking_id = :tracking "
        "WHERE institution = :i AND payment_key = :key AND state = :before AND attempts = :attempts",
        before=payment["state"],
        attempts=payment["attempts"],
        state=state,
        posted=posted,
        code=code,
        tracking=tracking_id,
        key=payment["payment_key"],
    )
    if not settled:
        raise LeaseTaken("Another run took over this payment; it is left to that run.")
    fees.touch(tx, [payment["fee_id"]])
    detail = ", ".join(
        filter(None, [f"code {code}" if code else "", f"trackingId {tracking_id}" if tracking_id else ""])
    )
    tx.event(f"payment {payment['payment_no']}", {"new": "not posted"}.get(state, state), detail)
    return {**payment, "state": state, "posted": posted}


def explained_by_credits(tx: Tx) -> list[Row]:
    """Return the listed payments, not wholly posted, of fees whose credits since then make up for them.

    None of applied amounts: a credit lowers the item, and what is applied to it falls by itself. Nor a waiver: what the
    credit frees of it is no money of the student's, and would pay the next fee.
    """
    return tx.rows(
        "SELECT p.* FROM payment_now p JOIN unposted u ON u.institution = p.institution AND u.fee_id = p.fee_id "
        "JOIN fee_expected e ON e.institution = p.institution AND e.fee_id = p.fee_id "
        "WHERE p.institution = :i AND p.stands > p.posted AND p.state IN ('new', 'posted') "
        "AND NOT EXISTS (SELECT 1 FROM institution i WHERE i.institution = p.institution AND i.payment_shape = 'applied') "
        "AND NOT EXISTS (SELECT 1 FROM payment w WHERE w.institution = p.institution AND w.payment_key = p.payment_key "
        "AND w.waive IS NOT NULL) "
        # While Alma still asks for money the payment may be posted yet: a waiver explains nothing then.
        "AND e.expected <= 0 AND u.credited_since >= u.unposted AND EXISTS (SELECT 1 FROM exception_item x "
        "WHERE x.institution = p.institution AND x.payment_key = p.payment_key AND x.closed_at IS NULL "
        "AND x.kind IN ('fee already settled in Alma', 'paid more than Alma''s balance'))"
    )


def wanted_after_all(tx: Tx) -> list[Row]:
    """Return the payments that a credit made up for, and of whose fee PeopleSoft and Alma ask for money again."""
    return tx.rows(
        "SELECT p.* FROM payment_now p JOIN fee_expected e ON e.institution = p.institution AND e.fee_id = p.fee_id "
        f"WHERE p.institution = :i AND p.state = '{CREDITED}' AND p.stands > 0 AND e.expected > 0"
    )


def left_over_again(tx: Tx) -> list[Row]:
    """Return the payments that were listed as more than Alma's balance, are no more, and of whose fee Alma asks for money."""
    return tx.rows(
        "SELECT p.* FROM payment_now p JOIN fee_expected e ON e.institution = p.institution AND e.fee_id = p.fee_id "
        "WHERE p.institution = :i AND p.state = 'posted' AND p.received > p.posted AND e.expected > 0 "
        "AND p.payment_key IN (SELECT x.payment_key FROM exception_item x WHERE x.institution = :i AND x.kind = :kind "
        "GROUP BY x.payment_key HAVING COUNT(x.closed_at) = COUNT(*))",
        kind=exceptions.OVERPAID,
    )


def resolve(
    tx: Tx,
    exception_id: str,
    by: str,
    reason: str,
    replaced_by: str | None = None,
    *,
    after_opening: bool = False,
) -> None:
    """Settle what a person has dealt with: a payment is then not tried again.

    ``replaced_by``: the fee that was made anew in Alma for a payment taken back, see ``reversals.settle``.
    ``after_opening``: the payment was not in the balances with which the books were opened, so it is posted.

    Raises ``Fatal`` for an exception on a fee: it goes by itself when the numbers meet, and would come
    back if they don't; for a held batch, which has answers of its own; and for a posting whose outcome
    is unclear, which only Alma can tell.
    """
    row = tx.row(
        "SELECT * FROM exception_item WHERE institution = :i AND exception_id = :id AND closed_at IS NULL",
        id=exception_id,
    )
    if row is None:
        raise Fatal(f"There is no open exception {exception_id}.")
    taken_back = row["kind"] == reversals.TAKEN_BACK
    if replaced_by is not None and not taken_back:
        raise Fatal(f"Only `{reversals.TAKEN_BACK}` is settled by a fee made anew; this is `{row['kind']}`.")
    if after_opening and row["kind"] != opening.BEFORE_OR_AFTER:
        raise Fatal(
            f"Only `{opening.BEFORE_OR_AFTER}` is answered with --after-opening; this is `{row['kind']}`."
        )
    if row["kind"] == opening.BEFORE_OR_AFTER:
        opening.say_when(tx, row["payment_key"], after=after_opening)
    if row["kind"] == opening.HELD_SINCE_OPENING:
        opening.release(tx, [row["fee_id"]])
        exceptions.close(tx, exception_id, by, reason)
        return
    if row["kind"] == opening.LESS_APPLIED:
        opening.settle_less_applied(tx, row)
        exceptions.close(tx, exception_id, by, reason)
        # Should as much be taken back once more, it is news.
        exceptions.close_kind(tx, row["kind"], [row["subject"]], reason)
        return
    if row["kind"] == opening.ITEM_WITHOUT_FEE:
        opening.settle_loose(tx, row["subject"])
    if taken_back:
        reversals.settle(tx, row, by, reason, replaced_by)
    if row["kind"] == exceptions.ANOTHER_AMOUNT and int(row["amount"]) < 0:
        reversals.take_word(tx, row["payment_key"], reason)
    if row["kind"] == reversals.BACK:
        reversals.take_up(tx, row)
    if row["subject"].startswith("fee "):
        raise Fatal(
            "An exception on a fee goes by itself when the numbers meet again. Change what is wrong in Alma or in the "
            "settings; the next run sees it."
        )
    if row["kind"] == holds.HELD:
        raise Fatal(f"A held batch is answered with `release` or `refuse`: {row['subject']}.")
    if row["subject"].startswith("batch "):
        raise Fatal("A batch is settled by what is said of it: mark-delivered or mark-not-delivered.")
    payment = tx.row(
        "SELECT * FROM payment_now WHERE institution = :i AND payment_key = :key "
        f"AND state IN ('new', '{reversals.DROPPED}', 'posting', 'unknown')",
        key=row["payment_key"],
    )
    if payment is not None and not after_opening and row["subject"] == f"payment {payment['payment_no']}":
        if payment["state"] in ("posting", "unknown"):
            raise Fatal("Whether Alma has this payment is not known yet; the next runs look for it.")
        settle_posting(tx, payment, "settled")
        # A charge may have waited for that word.
        fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, [payment["fee_id"]])), "payment settled")
    exceptions.close(tx, exception_id, by, reason)


def posted_by_fee(tx: Tx) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Return what this run's readings should show: per fee, our key and cents of each posted payment; and of waivers alone."""
    found: tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]] = ({}, {})
    for row in tx.rows(
        # See `fees.readings_of_run` for the CROSS JOIN.
        "SELECT r.fee_id, p.external_id, p.posted, p.waive FROM reading r CROSS JOIN payment p "
        "WHERE p.institution = r.institution AND p.posted_to = r.fee_id "
        "AND r.institution = :i AND r.run_id = :run AND p.state = 'posted'",
        run=tx.run_id,
    ):
        for of_fee in found[: 1 if row["waive"] is None else 2]:
            of_fee.setdefault(row["fee_id"], {})[row["external_id"]] = int(row["posted"])
    return found


def posted_on(tx: Tx, fee_id: str) -> list[tuple[str, int]]:
    """Return the external id and cents of each payment that was posted on a fee, sorted."""
    sql = "SELECT external_id, posted FROM payment_now WHERE institution = :i AND fee_id = :fee AND state = 'posted'"
    return sorted((row["external_id"], int(row["posted"])) for row in tx.rows(sql, fee=fee_id))


def known_external_ids(tx: Tx, ids: Sequence[str]) -> frozenset[str]:
    """Return those of these keys that this ledger made."""
    sql = "SELECT external_id FROM payment WHERE institution = :i AND external_id"
    return frozenset(row["external_id"] for row in in_list(tx, sql, ids))


#: When Alma was first seen to give our key back, in payments and in waivers.
_CANARY = {False: "canary_at", True: "waiver_seen_at"}
_POSTED = (
    "SELECT p.*, f.user_id AS account FROM payment p "
    "JOIN fee f ON f.institution = p.institution AND f.fee_id = p.posted_to "
    "WHERE p.institution = :i AND p.state = 'posted'"
)


def canary_passed(tx: Tx, *, waiver: bool) -> bool:
    """Whether a payment, or a waiver, of this institution was ever read back from Alma."""
    return tx.one(f"SELECT {_CANARY[waiver]} FROM institution WHERE institution = :i") is not None


def all_posted(tx: Tx, *, waiver: bool) -> list[Row]:
    """Return every payment, or waiver, that was posted, the first one first, with its fee's account."""
    which = "IS NOT NULL" if waiver else "IS NULL"
    return tx.rows(f"{_POSTED} AND p.waive {which} ORDER BY p.marked_at, p.payment_no")


def latest_posted(tx: Tx, count: int) -> list[Row]:
    """Return the payments posted last, with their fees' accounts; no waivers, which Alma may not tell from others'."""
    return tx.rows(
        # One that a note alone tells of has no mark: Alma did not show it.
        f"{_POSTED} AND p.waive IS NULL AND p.marked_at IS NOT NULL ORDER BY p.marked_at DESC, p.payment_no DESC LIMIT :n",
        n=count,
    )


def pass_canary(tx: Tx, *, waiver: bool) -> None:
    """Record that the first live payment, or waiver, was read back."""
    tx.run(f"UPDATE institution SET {_CANARY[waiver]} = :now WHERE institution = :i", now=tx.now)
    tx.event("institution", f"first {'waiver' if waiver else 'payment'} read back from Alma")


def settle_doubt(tx: Tx, payment_no: int, quiet_minutes: int, *, waived: bool) -> int:
    """Record what a person has seen in Alma of a waiver whose outcome is unclear; return its cents.

    Raises ``Fatal`` where that is not so, or where the call may still be on its way.
    """
    row = tx.row(
        "SELECT n.*, p.waive FROM payment_now n JOIN payment p ON p.institution = n.institution "
        "AND p.payment_key = n.payment_key WHERE n.institution = :i AND n.payment_no = :no",
        no=payment_no,
    )
    if row is None or row["waive"] is None or row["state"] not in ("posting", "unknown"):
        raise Fatal(f"Payment {payment_no} is no waiver of unclear outcome; `exceptions` names those.")
    until = moment(row["marked_at"]) + timedelta(minutes=quiet_minutes)
    if moment(tx.now) < until:
        raise Fatal(
            f"The call for payment {payment_no} may still be on its way; look again after {instant(until)}."
        )
    state, cents = ("posted", int(row["trying"])) if waived else ("new", 0)
    settle_posting(tx, row, state, posted=cents)
    exceptions.close_subject(
        tx, f"payment {payment_no}", f"a person says it is {'' if waived else 'not '}in Alma"
    )
    rest = int(row["stands"]) - cents
    if waived and rest > 0:
        exceptions.open_all(tx, [exceptions.of_payment(row, exceptions.OVERPAID, rest)])
    fees.add_accounts(tx, True, sorted(fees.accounts_of_fees(tx, [row["fee_id"]])), "waiver settled")
    return int(row["trying"])


def payments_of_fee(tx: Tx, fee_id: str) -> list[dict[str, Any]]:
    """Return every payment on a fee, oldest first."""
    return [
        dict(row)
        for row in tx.rows(
            "SELECT * FROM payment_now WHERE institution = :i AND (fee_id = :fee OR reported_fee_id = :fee) "
            "ORDER BY payment_no",
            fee=fee_id,
        )
    ]
